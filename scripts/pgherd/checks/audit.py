"""An audit: every place where a secret of the group can be seen, and who may come in needlessly.

It is one round trip for each host, side by side; a node that is down costs a container more. No
lock is taken and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.checks import hba, secrets
from pgherd.checks.base import Audit, AuditFinding
from pgherd.checks.secrets import Look, SecretPatterns, at_home, at_site
from pgherd.config import loader
from pgherd.config.values import LOCAL
from pgherd.errors import Error, Unreachable
from pgherd.group.group import Group
from pgherd.hosts.parallel import run_each
from pgherd.postgres.instance import PRIVATE
from pgherd.security.x509 import private_keys

PASSFILE = f"{PRIVATE}/passfile"
ROLES = {"postgres": "the superuser's password", "replicator": "the password of replicator"}


def audit(group: Group) -> Audit:
    """Look everywhere on each host of the group, and at the files here.

    What it does not look at: the environments of processes of other users than the one who looks
    (root sees all), tables, WAL, and the insides of containers that are not the group's.

    Raises:
        Unreachable: no host answers.
        Error: a host answers, and cannot be looked at.
    """
    every = _secret_patterns(group)
    sought = [one for one in every if not one.weak]
    looks, away = _looks(group, sought)
    found = [f for one in every if one.weak for f in _weak(one)]
    files = loader.texts(group.topology.source)
    found += secrets.in_topology(files, sought)
    for look in looks:
        found += _of_host(group, look, sought)
    found += hba.findings(group, looks)
    looked = sum(not node.failed for look in looks for node in look.nodes.values())
    notes = tuple(_notes(group, looks, every))
    return Audit(group.name, tuple(dict.fromkeys(found)), notes, tuple(away.items()), looked)


def _secret_patterns(group: Group) -> list[SecretPatterns]:
    """Return the passwords, new ones that are not in use yet, and the private keys."""
    known = {role: group.passwords.known(role) for role in ROLES}
    passwords = {role: (ROLES[role], secret) for role, secret in known.items() if secret}
    for role, secret in group.passwords.replacing().items():
        passwords[f"{role}_new"] = (f"the new password of {role}", secret)
    found = [
        SecretPatterns(label, name, secret, (PASSFILE,) if label.startswith("replicator") else ())
        for label, (name, secret) in passwords.items()
    ]
    for number, (file, key) in enumerate(private_keys(group.secrets).items()):
        node = file.removesuffix(".pem").removesuffix(".client")
        places = (f"{node}:{PRIVATE}/server.pem", f"{node}:{PRIVATE}/client.pem")
        found.append(SecretPatterns(f"key_{number}", f"the private key of {file}", key, places))
    return found


def _looks(group: Group, sought: list[SecretPatterns]) -> tuple[list[Look], dict[str, str]]:
    sites = list(group.sites.values())
    answers = run_each(lambda site: at_site(group, site, sought), sites)
    away: dict[str, str] = {}
    looks: list[Look] = []
    for site, answer in zip(sites, answers, strict=True):
        if isinstance(answer, Unreachable):
            away[site.name] = answer.sentence
        elif isinstance(answer, Error):
            raise answer
        else:
            looks.append(answer)
    if not looks:
        raise Unreachable(next(iter(away.values())))
    if LOCAL not in group.sites:
        looks.append(at_home(group, sought))
    return looks, away


def _of_host(group: Group, look: Look, sought: list[SecretPatterns]) -> Iterator[AuditFinding]:
    yield from secrets.in_docker(group, look, sought)
    yield from secrets.in_processes(group, look, sought)
    yield from secrets.in_logs_and_files(group, look, sought)
    yield from secrets.open_files(group, look)
    yield from secrets.ports(group, look)
    yield from secrets.unseen(group, look)


def _weak(one: SecretPatterns) -> Iterator[AuditFinding]:
    text = f"{one.name} is short or common: it is guessed, and stands in too many places to be told"
    cure = f"`invoke rotate-passwords --role {one.label.removesuffix('_new')}`"
    yield AuditFinding("weak", "", LOCAL, text, one.secret.path, cure)


def _notes(group: Group, looks: list[Look], every: list[SecretPatterns]) -> Iterator[str]:
    for role in ROLES:
        if role not in {one.label for one in every}:
            yield f"there is no password of {role} in {group.secrets}, so it was not looked for"
    for look in looks:
        for word, *fields in look.lines:
            if word == "down":
                yield f"{fields[0]} is down: its files were searched, its server was not asked"
            elif word == "user":
                yield (
                    f"{look.host}: {fields[0]} sees the environments of their own processes only; "
                    "root sees all"
                )
