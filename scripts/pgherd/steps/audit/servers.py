"""What an audit makes of a server: its rules, its roles, how its passwords are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.steps.audit import rules
from pgherd.steps.audit.findings import Finding
from pgherd.steps.audit.looking import Look, NodeLook


def findings(group: Group, looks: list[Look]) -> Iterator[Finding]:
    """Yield what is wrong with the servers; what replication carries along is told once."""
    answering = [
        (group.instances[name], node)
        for look in looks
        for name, node in look.nodes.items()
        if node.server and name in group.instances
    ]
    for instance, node in answering:
        yield from _of_rules(instance, node)
        yield from _of_settings(instance, node.server or {})
        if instance.encryption.on:
            yield from _of_encryption(instance, node.server or {})
    answering.sort(key=lambda pair: bool((pair[1].server or {})["in_recovery"]))  # primaries first
    if answering:
        instance, node = answering[0]
        yield from _of_verifiers(instance, node.server or {})
        yield from _of_superusers(instance, [(i, n.server or {}) for i, n in answering])


def _of_rules(instance: Instance, node: NodeLook) -> Iterator[Finding]:
    server = node.server or {}
    found = [rules.Rule.of(raw) for raw in server["hba"]]
    for fault in rules.faults(found, node.gateways, [role["name"] for role in server["roles"]]):
        where = f"{fault.rule.place}: {fault.rule.text}"
        yield _finding(fault.code, instance, fault.text, where, fault.cure)


def _of_encryption(instance: Instance, server: dict[str, Any]) -> Iterator[Finding]:
    """Find what goes without TLS, where the topology asks for it."""
    cures = "`invoke diff` names what brings servers and standbys to what is asked"
    again = "step.allow-replication"
    if server["in_recovery"]:
        again = f"seed-standby --node {instance.name}"
    if server["ssl"] != "on":
        text = f"{instance.name} has no TLS, which the topology asks for"
        yield _finding("in-clear", instance, text, "ssl", cures)
    else:
        for fault in rules.in_clear([rules.Rule.of(raw) for raw in server["hba"]], again):
            where = f"{fault.rule.place}: {fault.rule.text}"
            yield _finding(fault.code, instance, fault.text, where, fault.cure)
    for sender in server["senders"]:
        if not sender["tls"]:
            text = f"{sender['name']} streams in clear from {instance.name}"
            yield _finding("in-clear", instance, text, "pg_stat_ssl", cures)


def _of_settings(instance: Instance, server: dict[str, Any]) -> Iterator[Finding]:
    if server["password_encryption"] not in {"scram-sha-256", "on"}:
        text = "new passwords would be kept as md5, which is not safe any more"
        cure = "`ALTER SYSTEM RESET password_encryption`, and reload"
        yield _finding("md5", instance, text, "password_encryption", cure)
    places = sorted({c["place"] for c in server["conninfo"] if c["password"]})
    if places:
        text = "primary_conninfo has a password: a reload logs it, and each base backup copies it"
        cure = f"`invoke seed-standby --node {instance.name}` connects it by its passfile"
        yield _finding("conninfo-password", instance, text, ", ".join(places), cure)


def _of_verifiers(instance: Instance, server: dict[str, Any]) -> Iterator[Finding]:
    for role in server["md5_roles"]:
        ours = f"`invoke rotate-passwords --role {role}`"
        other = f"`\\password {role}` in psql, which keeps it as SCRAM"
        cure = ours if role in {"postgres", "replicator"} else other
        text = f"the password of {role} is kept as md5: who reads that can log in with it"
        yield _finding("md5", instance, text, f"pg_authid, {role}", cure)


def _of_superusers(
    first: Instance, servers: list[tuple[Instance, dict[str, Any]]]
) -> Iterator[Finding]:
    """Find roles that stream, or are there for it, and may do more than that."""
    roles = {role["name"]: role for role in servers[0][1]["roles"]}
    used: dict[str, list[str]] = {"replicator": []} if "replicator" in roles else {}
    for instance, server in servers:
        for sender in server["senders"]:
            place = f"pg_stat_replication of {instance.name}, {sender['name']}"
            used.setdefault(sender["role"], []).append(place)
        for connection in server["conninfo"]:
            place = f"primary_conninfo of {instance.name}"
            used.setdefault(connection["user"] or "postgres", []).append(place)
    for name, places in used.items():
        role = roles.get(name, {})
        if not role.get("super") and not role.get("more"):
            continue
        what = (
            "is a superuser" if role["super"] else "may make roles or databases, or read past RLS"
        )
        text = f"{name}, by which standbys stream, {what}: it needs REPLICATION alone"
        cure = (
            f"`ALTER ROLE {name} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS`"
            if name == "replicator"
            else "`invoke seed-standby` connects standbys as replicator"
        )
        where = ", ".join(dict.fromkeys(places)) or f"pg_roles, {name}"
        yield _finding("superuser", first, text, where, cure)


def _finding(code: str, instance: Instance, text: str, where: str, cure: str) -> Finding:
    return Finding(code, instance.name, instance.node.host, text, where, cure)
