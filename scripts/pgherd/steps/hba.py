"""The rules of pg_hba.conf that a node needs: who may stream from it, and who may not come."""

from __future__ import annotations

from pgherd import config
from pgherd.postgres.instance import Instance
from pgherd.steps.tls import laid


def hba_values(instance: Instance) -> dict[str, str]:
    """Return the variables of `sh/hba.sh` for a node."""
    first, rules = hba_rules(instance)
    elsewhere = " ".join(instance.places.elsewhere)
    return {"first_rules": first, "rules": rules, "elsewhere": elsewhere}


def hba_rules(instance: Instance) -> tuple[str, str]:
    """Return the rules of conf/pg_hba.conf that the node needs, without comments.

    First those for the head of the file, which are there with TLS only, then the others.
    `$neighbours` is its network, if others of the group are on it; the node itself fills in
    $gateway and $elsewhere.
    """
    lines = config.conf_file("pg_hba.conf").splitlines()
    rules = [line for line in lines if line.strip() and not line.startswith("#")]
    plain = [rule for rule in rules if rule.startswith("hostnossl")]
    rules = [laid.rule(instance, rule) for rule in rules if rule not in plain]
    if not instance.places.neighbours:
        rules = [rule for rule in rules if "$neighbours" not in rule]
    first = plain if instance.encryption.on else []
    return "\n".join(first), "\n".join(rule.replace("$neighbours", "samenet") for rule in rules)
