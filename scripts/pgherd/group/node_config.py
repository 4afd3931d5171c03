"""What a node is asked to have: its settings, its rules, and how it connects to another."""

from __future__ import annotations

import re

from pgherd.config import loader
from pgherd.config.values import NEEDS_ALTER_SYSTEM, OFF, Setting
from pgherd.errors import Refused
from pgherd.postgres import conf
from pgherd.postgres.conf import read_conninfo
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import PRIVATE, Instance


def hba_values(instance: Instance) -> dict[str, str]:
    """Return the variables of `sh/hba.sh` for a node."""
    first, rules = hba_rules(instance)
    elsewhere = " ".join(instance.places.elsewhere)
    return {"first_rules": first, "rules": rules, "elsewhere": elsewhere}


def hba_rules(instance: Instance) -> tuple[str, str]:
    """Return the rules of conf/pg_hba.conf that the node needs, without comments.

    First those for the head of the file, which are there with TLS only, then the others.
    `$neighbours` is its network, if others of the group are on it; the node itself fills in
    $gateway and, where others are on other hosts, $elsewhere.
    """
    lines = loader.conf_file("pg_hba.conf").splitlines()
    rules = [line for line in lines if line.strip() and not line.startswith("#")]
    plain = [rule for rule in rules if rule.startswith("hostnossl")]
    rules = [tls_rule(instance, rule) for rule in rules if rule not in plain]
    if not instance.places.neighbours:
        rules = [rule for rule in rules if "$neighbours" not in rule]
    if not instance.places.elsewhere:
        rules = [rule for rule in rules if "$elsewhere" not in rule]
    first = plain if instance.encryption.on else []
    return "\n".join(first), "\n".join(rule.replace("$neighbours", "samenet") for rule in rules)


_PARAMETERS = ("sslmode", "sslrootcert", "channel_binding", "sslcert", "sslkey")


def tls_settings(instance: Instance) -> dict[str, Setting]:
    """Return the settings of a node.

    `ssl_ca_file` only where client certificates are asked for: with it a server asks everybody for
    one, and refuses a client that has one of somebody else's in ~/.postgresql.
    """
    if not instance.encryption.on:
        return {}
    pem = f"{PRIVATE}/server.pem"
    found: dict[str, Setting] = {"ssl": True, "ssl_cert_file": pem, "ssl_key_file": pem}
    if instance.encryption.client_certificates:
        found["ssl_ca_file"] = f"{PRIVATE}/ca.crt"
    least = "ssl_min_protocol_version"
    if least not in map(str.lower, instance.node.settings):
        found[least] = "TLSv1.2"
    return found


def tls_rule(instance: Instance, text: str) -> str:
    """Return a rule of conf/pg_hba.conf as it is for the node: who is let in, by TLS only."""
    if not instance.encryption.on or text.rsplit(maxsplit=1)[-1] == "reject":
        return text
    shows = " clientcert=verify-full" if instance.encryption.client_certificates else ""
    return re.sub(r"^host\b", "hostssl", text) + shows


def parameters(instance: Instance) -> dict[str, str]:
    """Return what a node's connection string to another node says of TLS."""
    if not instance.encryption.on:
        return {}
    found = {
        "sslmode": "verify-full",
        "sslrootcert": f"{PRIVATE}/ca.crt",
        "channel_binding": "require",
    }
    if instance.encryption.client_certificates:
        found |= {"sslcert": f"{PRIVATE}/client.pem", "sslkey": f"{PRIVATE}/client.pem"}
    return found


def tls_conninfo(facts: Facts) -> dict[str, str]:
    """Return what a standby's connection string says of TLS."""
    said = read_conninfo(facts.primary_conninfo)
    return {name: said[name] for name in _PARAMETERS if name in said}


def as_asked(instance: Instance, facts: Facts) -> bool:
    """Tell whether a standby connects with TLS, or without it, as the topology asks."""
    return tls_conninfo(facts) == parameters(instance)


DELAY = "recovery_min_apply_delay"


def is_delayed(instance: Instance) -> bool:
    """Tell whether the topology asks the node to replay later than it receives."""
    return any(name.lower() == DELAY for name in instance.node.settings)


def settings(instance: Instance) -> str:
    """Return the text of the node's pgherd.conf."""
    tls = tls_settings(instance)
    extra = {"cluster_name": instance.name, **tls, **instance.node.settings}
    return conf.render_settings(base_settings(), extra)


def base_settings() -> str:
    """Return the settings of every node, as conf/postgresql.conf has them.

    Raises:
        Refused: one of them is none that a node can have.
    """
    base = loader.conf_file("postgresql.conf")
    if re.fullmatch(OFF, conf.read_settings(base).get("allow_alter_system", "on").lower()):
        raise Refused(
            f"conf/postgresql.conf: allow_alter_system cannot be off: {NEEDS_ALTER_SYSTEM}."
        )
    return base


CONNECT_SECONDS = 10


def conninfo(
    instance: Instance, upstream: Instance, application_name: str = "", **other: str
) -> str:
    """Return how this node reaches its upstream; the password is in the passfile, never here.

    `other` stands in place of the role and the passfile for replication, or beside them.
    """
    node, beside = upstream.node, upstream.node.host == instance.node.host
    # Beside each other they meet in Docker's network; an address that is not there is given up.
    far: dict[str, str | int] = {} if beside else {"connect_timeout": CONNECT_SECONDS}
    chosen: dict[str, str | int | None] = {
        "host": upstream.name if beside else node.reached_at or node.listen,
        "port": 5432 if beside else node.port,
        "user": "replicator",
        "application_name": application_name or instance.node.application_name,
        "passfile": f"{PRIVATE}/passfile",
    }
    return conf.conninfo(**chosen | far | other | parameters(instance))


def leads_to(text: str, instance: Instance, upstream: Instance) -> bool:
    """Tell whether a connection string of a node leads to that upstream, whatever else it says."""
    told, asked = (conf.read_conninfo(info) for info in (text, conninfo(instance, upstream)))
    return (told.get("host"), told.get("port", "5432")) == (asked["host"], asked["port"])
