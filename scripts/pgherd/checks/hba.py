"""What pg_hba.conf lets in that need not come in. Pure: it judges what a server says of its rules.

The first rule that fits a connection decides (client-auth.sgml). `all` among the databases does not
match physical replication; `samenet` has the gateway in it, by which whoever comes through a port
that is published seems to come.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgherd.checks.base import AuditFinding
from pgherd.checks.secrets import Look, NodeLook
from pgherd.group.group import Group
from pgherd.postgres.instance import PGDATA, Instance

EVERYBODY = "all"
REPLICATION = "replication"
_NAMES = {"samenet", "samehost", EVERYBODY}  # of addresses
_WEAK = {"md5": "md5, which is not safe any more", "password": "passwords in clear"}
_UNPROVEN = {"trust", "ident"}


@dataclass(frozen=True)
class Rule:
    """A line of pg_hba.conf, as pg_hba_file_rules tells it."""

    line: int
    type: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str  # empty for the socket; else a network, a name, all, samenet or samehost
    method: str
    file: str = "pg_hba.conf"  # under PGDATA, or by its whole path: rules may be included

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Rule:
        """Read one row."""
        address = raw["address"] or ""
        if raw["netmask"]:
            address = _network(address, raw["netmask"])
        return cls(
            raw["line"],
            raw["type"],
            tuple(raw["databases"] or ()),
            tuple(raw["users"] or ()),
            address,
            raw["method"],
            raw["file"].removeprefix(f"{PGDATA}/"),
        )

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.file}, line {self.line}"

    @property
    def text(self) -> str:
        """The rule, as it may be written in the file."""
        words = (
            self.type, ",".join(self.databases), ",".join(self.users), self.address, self.method,
        )  # fmt: skip
        return " ".join(word for word in words if word)

    @property
    def over_tcp(self) -> bool:
        """Whether it is for more than the container's own socket."""
        return self.type != "local"

    @property
    def from_anywhere(self) -> bool:
        """Whether it is for each address there is."""
        return self.address == EVERYBODY or self.address.endswith("/0")

    @property
    def of_loopback(self) -> bool:
        """Whether it is for what comes from within the container only."""
        return self.address in {"127.0.0.1/32", "::1/128", "samehost"}

    def lets_in(self) -> bool:
        """Tell whether anybody comes in by it."""
        return self.method != "reject"

    def fits(self, role: str, address: str) -> bool:
        """Tell whether it decides on a replication connection of a role from an address.

        Where that cannot be told (a group of roles, a pattern, a host's name, with TLS or without),
        a rule that lets in counts as one that does, and one that rejects as one that does not.
        """
        unsure = self.lets_in()
        if self.type != "host" and not unsure:
            return False
        user = EVERYBODY in self.users or role in self.users
        user = user or (any(name[:1] in {"+", "/"} for name in self.users) and unsure)
        return REPLICATION in self.databases and user and self._meets(address, unsure)

    def _meets(self, address: str, unsure: bool) -> bool:
        if not self.over_tcp or self.address == "samehost":
            return False
        if self.address in {EVERYBODY, "samenet"}:
            return True
        try:
            return ipaddress.ip_address(address) in ipaddress.ip_network(self.address)
        except ValueError:
            return unsure


def _network(address: str, netmask: str) -> str:
    """Write an address and its mask with a length: ipaddress takes masks of IPv4 only."""
    bits = int(ipaddress.ip_address(netmask)).bit_count()
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))


@dataclass(frozen=True)
class Fault:
    """What is wrong with a rule: code and sentence, and what to do."""

    rule: Rule
    code: str
    text: str
    cure: str


def faults(rules: list[Rule], gateways: list[str], streaming: list[str]) -> Iterator[Fault]:
    """Yield what is wrong with a server's rules.

    Args:
        rules: in the order in which the server goes by them.
        gateways: the addresses of its networks' gateways.
        streaming: the roles that may stream.
    """
    for rule in filter(Rule.lets_in, rules):
        yield from _of_method(rule)
        if rule.over_tcp and rule.method not in _UNPROVEN:
            yield from _of_width(rule)
    told: set[Rule] = set()
    for gateway in gateways:
        address = gateway.partition("/")[0]
        for role in streaming:
            first = next((rule for rule in rules if rule.fits(role, address)), None)
            if first and first.lets_in() and first not in told:
                told.add(first)
                yield _is_reached(first, role, address)


def in_clear(rules: list[Rule], laying: str) -> Iterator[Fault]:
    """Yield the first rule that lets in without TLS, for clients and for replication.

    Before it nothing turns away whoever comes without: what pgherd lays for that comes first.
    `laying` is the task that lays pgherd's own rules on that server while it runs.
    """
    for database in (EVERYBODY, REPLICATION):
        for rule in (rule for rule in rules if rule.type in {"host", "hostnossl"}):
            concerns = (REPLICATION in rule.databases) == (database == REPLICATION)
            if not concerns:
                continue
            everybody = database in rule.databases and EVERYBODY in rule.users
            if not rule.lets_in() and everybody and rule.from_anywhere:
                break
            if rule.lets_in():
                text = "a rule lets in without TLS, which the topology asks for"
                cure = f"`invoke {laying}` lays the rules anew; put yours below them, as hostssl"
                yield Fault(rule, "in-clear", text, cure)
                break


def _of_method(rule: Rule) -> Iterator[Fault]:
    if rule.over_tcp and rule.method in _UNPROVEN:
        text = f"a rule lets in over TCP without a password ({rule.method})"
        yield Fault(rule, "hba-trust", text, "put scram-sha-256 in its place, and reload")
    if rule.method in _WEAK:
        text = f"a rule asks for {_WEAK[rule.method]}"
        yield Fault(rule, "md5", text, "put scram-sha-256 in its place, and reload")


def _of_width(rule: Rule) -> Iterator[Fault]:
    """The image's own rule lets in clients from anywhere, by SCRAM, to any database: `all`."""
    everything = EVERYBODY in rule.databases and EVERYBODY in rule.users
    remove = "name the database, the role and the network, or remove the rule, and reload"
    if everything and rule.from_anywhere and rule.address != EVERYBODY:
        yield Fault(rule, "hba-wide", "a rule lets in everybody from everywhere", remove)
    streams = REPLICATION in rule.databases and not rule.of_loopback
    if streams and (rule.from_anywhere or EVERYBODY in rule.users):
        who = "any role" if EVERYBODY in rule.users else ", ".join(rule.users)
        whence = "from everywhere" if rule.from_anywhere else f"from {rule.address}"
        text = f"a rule lets {who} stream {whence}"
        yield Fault(rule, "hba-wide", text, remove)


def _is_reached(rule: Rule, role: str, address: str) -> Fault:
    return Fault(
        rule,
        "gateway",
        f"{role} may stream through the published port: whoever comes by it has the gateway's "
        f"address, {address}, and this rule lets that in",
        f"put `host replication {role} {address}/32 reject` before it, and reload",
    )


# --- what an audit makes of a server: its rules, its roles, how its passwords are kept ---


def findings(group: Group, looks: list[Look]) -> Iterator[AuditFinding]:
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


def _of_rules(instance: Instance, node: NodeLook) -> Iterator[AuditFinding]:
    server = node.server or {}
    found = [Rule.of(raw) for raw in server["hba"]]
    for fault in faults(found, node.gateways, [role["name"] for role in server["roles"]]):
        where = f"{fault.rule.place}: {fault.rule.text}"
        yield _finding(fault.code, instance, fault.text, where, fault.cure)


def _of_encryption(instance: Instance, server: dict[str, Any]) -> Iterator[AuditFinding]:
    """Find what goes without TLS, where the topology asks for it."""
    cures = "`invoke diff` names what brings servers and standbys to what is asked"
    again = "step.allow-replication"
    if server["in_recovery"]:
        again = f"seed-standby --node {instance.name}"
    if server["ssl"] != "on":
        text = f"{instance.name} has no TLS, which the topology asks for"
        yield _finding("in-clear", instance, text, "ssl", cures)
    else:
        for fault in in_clear([Rule.of(raw) for raw in server["hba"]], again):
            where = f"{fault.rule.place}: {fault.rule.text}"
            yield _finding(fault.code, instance, fault.text, where, fault.cure)
    for sender in server["senders"]:
        if not sender["tls"]:
            text = f"{sender['name']} streams in clear from {instance.name}"
            yield _finding("in-clear", instance, text, "pg_stat_ssl", cures)


def _of_settings(instance: Instance, server: dict[str, Any]) -> Iterator[AuditFinding]:
    if server["password_encryption"] not in {"scram-sha-256", "on"}:
        text = "new passwords would be kept as md5, which is not safe any more"
        cure = "`ALTER SYSTEM RESET password_encryption`, and reload"
        yield _finding("md5", instance, text, "password_encryption", cure)
    places = sorted({c["place"] for c in server["conninfo"] if c["password"]})
    if places:
        text = "primary_conninfo has a password: a reload logs it, and each base backup copies it"
        cure = f"`invoke seed-standby --node {instance.name}` connects it by its passfile"
        yield _finding("conninfo-password", instance, text, ", ".join(places), cure)


def _of_verifiers(instance: Instance, server: dict[str, Any]) -> Iterator[AuditFinding]:
    for role in server["md5_roles"]:
        ours = f"`invoke rotate-passwords --role {role}`"
        other = f"`\\password {role}` in psql, which keeps it as SCRAM"
        cure = ours if role in {"postgres", "replicator"} else other
        text = f"the password of {role} is kept as md5: who reads that can log in with it"
        yield _finding("md5", instance, text, f"pg_authid, {role}", cure)


def _of_superusers(
    first: Instance, servers: list[tuple[Instance, dict[str, Any]]]
) -> Iterator[AuditFinding]:
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


def _finding(code: str, instance: Instance, text: str, where: str, cure: str) -> AuditFinding:
    return AuditFinding(code, instance.name, instance.node.host, text, where, cure)
