"""In what a node's TLS differs from what the topology asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgherd.checks.containers import (
    Difference,
    Further,
    look_further,
    of_nobody,
    of_node,
    strangers,
)
from pgherd.errors import quoted
from pgherd.group import node_config, sync_state
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.postgres import conf
from pgherd.postgres.facts import GONE, Facts
from pgherd.postgres.instance import Instance
from pgherd.security.authority import SOON, names

ASKED = {True: "connections are encrypted (TLS)", False: "connections need no TLS"}
FOUND = {True: "the server has TLS, and lets in nobody without", False: "the server has no TLS"}


def of_server(group: Group, instance: Instance, facts: Facts) -> Iterator[Difference]:
    """Yield whether a server has TLS though it ought not to, or no or another certificate."""
    name, on = instance.name, instance.encryption.on
    command = "invoke apply"
    if bool(facts.certificate) != on:
        yield Difference("tls", name, ASKED[on], FOUND[not on], command)
        return
    yield from _certificate(group, instance, facts, command) if on else ()


def _certificate(
    group: Group, instance: Instance, facts: Facts, command: str
) -> Iterator[Difference]:
    kept, node, name = group.certificates, instance.node, instance.name
    known = kept.known(node)
    if known and known.days <= SOON:
        asked, found = f"one for {SOON:.0f} days more", f"it is good until {known.ends:%Y-%m-%d}"
        yield Difference("certificate", name, asked, found, kept.cure(node).strip("`"))
    elif not kept.good(node):
        found = f"one by {known.issuer} for {', '.join(known.names)}" if known else "none is here"
        asked = f"a certificate by {kept.root} for {', '.join(names(node))}"
        yield Difference("certificate", name, asked, found, command)
    elif facts.certificate == GONE:
        asked = f"the certificate in {kept.path(node)}"
        yield Difference(
            "certificate", name, asked, "the server's file is gone", "invoke stop start"
        )
    elif facts.certificate != kept.known_digest(node):
        asked = f"the certificate in {kept.path(node)}"
        yield Difference("certificate", name, asked, "another one", command)


def of_connection(instance: Instance, facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield in what a standby connects by TLS otherwise than it ought to."""
    if not node_config.as_asked(instance, facts):
        both = node_config.parameters(instance), node_config.tls_conninfo(facts)
        asked, found = (" ".join(f"{k}={v}" for k, v in said.items()) or "no TLS" for said in both)
        yield "tls", f"it connects with {asked}", f"it connects with {found}"


# --- A standby's connection, against what it ought to be ---


def of_standby(
    group: Group, instance: Instance, mine: Facts, seen: Observation, leader: str | None
) -> Iterator[Difference]:
    """Yield in what a standby follows otherwise than it ought to now, and how it is connected.

    Args:
        group: the group.
        instance: the standby.
        mine: what its server says.
        seen: the group as it was found.
        leader: the node that is primary now; without one nobody can say whom to follow.
    """
    asked = group.topology.upstream_of(instance.node)
    if leader is None and (asked is None or asked.name == group.master.name):
        return
    upstream = group.upstream_of(instance, [leader] if leader else [], seen)
    command = f"invoke rejoin {instance.name}"
    told = conf.read_conninfo(mine.primary_conninfo)
    if not _leads_to(told, instance, upstream):
        found = _name_of(group, instance, told)
        asks = f"it follows {upstream.name}"
        yield Difference("upstream", instance.name, asks, f"it follows {found}", command)
        return
    for what, asks, found in _connection(instance, mine, told):
        yield Difference(what, instance.name, asks, found, command)
    if theirs := seen.nodes[upstream.name].facts:
        for what, asks, found in _received_from(instance, mine, upstream, theirs):
            yield Difference(what, instance.name, asks, found, command)


def _leads_to(told: Mapping[str, str], instance: Instance, upstream: Instance) -> bool:
    asked = conf.read_conninfo(node_config.conninfo(instance, upstream))
    return _place(told) == _place(asked)


def _place(told: Mapping[str, str]) -> tuple[str, str]:
    return told.get("host", ""), told.get("port", "5432")


def _name_of(group: Group, instance: Instance, told: Mapping[str, str]) -> str:
    """Return the node that a standby is told to follow, or the place if it is no node's."""
    others = [i for i in group.instances.values() if i is not instance]
    places = ":".join(_place(told))
    elsewhere = f"{places}, no node of the group" if told else "nobody"
    return next((i.name for i in others if _leads_to(told, instance, i)), elsewhere)


def _connection(
    instance: Instance, mine: Facts, told: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    name, slot = instance.node.application_name, instance.node.slot
    if told.get("application_name") != name:
        found = told.get("application_name", "none")
        yield "application-name", f"application_name {name}", f"application_name {found}"
    if mine.primary_slot != slot:
        yield "slot", f"its slot is {slot}", f"its slot is {mine.primary_slot or 'none'}"
    yield from of_connection(instance, mine)


def _received_from(
    instance: Instance, mine: Facts, upstream: Instance, theirs: Facts
) -> Iterator[tuple[str, str, str]]:
    status = (mine.receiver or {}).get("status")
    if status != "streaming":
        state = f"its receiver is {status}" if status else "it has no receiver"
        yield "streaming", f"it streams from {upstream.name}", f"it does not stream: {state}"
    slot = theirs.slot(instance.node.slot)
    if mine.primary_slot == instance.node.slot and (slot is None or slot["wal_status"] == "lost"):
        found = "there is none" if slot is None else "it has lost its WAL"
        yield "slot", f"a slot {instance.node.slot} on {upstream.name}", found


# --- topology and reality compared: each difference with the command that closes it ---

# Nothing is changed; what is asked for is what the other steps would do.

_NAMED = 5  # settings that differ, of one node
_BACKUP = "pg_basebackup_"  # the slots that pg_basebackup makes for its own time
_BYTES = 1_000_000


@dataclass(frozen=True)
class Note:
    """What is otherwise than the topology has it and no fault; the command that would swap it."""

    sentence: str
    command: str


@dataclass(frozen=True)
class Comparison:
    """All that was found; hosts that cannot be reached by name, each with the reason."""

    group: str
    differences: tuple[Difference, ...]
    notes: tuple[Note, ...]
    away: Mapping[str, str]

    @property
    def same(self) -> bool:
        """Whether there is no difference, as far as could be seen."""
        return not self.differences


def compare(group: Group) -> Comparison:
    """Look at the group once, and once more at what that does not tell; change nothing.

    Raises:
        Unreachable: none of its hosts answers.
    """
    seen = group.observe(tolerant=True)
    further = look_further(group, seen)
    return Comparison(
        group.name,
        tuple(differences(group, seen, further)),
        tuple(notes(group, seen)),
        dict(group.away),
    )


def differences(group: Group, seen: Observation, further: Further) -> Iterator[Difference]:
    """Yield every difference: who is primary, then each node's in their order, then nobody's.

    A node whose host cannot be reached is left out.
    """
    leader = _leading_differences(group, seen)
    yield from _primaries(group, seen, leader)
    for name, instance in group.instances.items():
        if instance.node.host in group.away:
            continue
        yield from of_node(group, instance, seen, further, leader)
        if facts := seen.nodes[name].facts:
            if facts.in_recovery:
                yield from of_standby(group, instance, facts, seen, leader)
            elif name == leader:
                yield from _sync(group, instance, facts)
                yield from _slots(group, instance, facts, seen)
            yield from _settings(instance, facts)
            yield from of_server(group, instance, facts)
    yield from of_nobody(group, seen)


def notes(group: Group, seen: Observation) -> Iterator[Note]:
    """Yield what is no fault: another node is primary than the topology begins with."""
    leader, first = _leading_differences(group, seen), group.master.name
    if leader and leader != first:
        swap = f"invoke switchover --to {first}"
        yield Note(f"{leader} is primary now, and {first} in the topology", swap)


# --- who is primary ---


def _leading_differences(group: Group, seen: Observation) -> str | None:
    leads = group.leader(seen.facts, seen.own)
    return leads.name if leads else None


def _primaries(group: Group, seen: Observation, leader: str | None) -> Iterator[Difference]:
    if leader is None:
        yield from _none(group, seen)
        return
    system = seen.nodes[leader].facts
    for name in seen.primaries:
        facts = seen.nodes[name].facts
        if name == leader or not facts or not system:
            continue
        same = facts.system_identifier == system.system_identifier
        found = f"primary too (timeline {facts.timeline}, {leader} is at {system.timeline})"
        yield Difference(
            "primary", name, f"one primary, and {leader} is the one",
            found if same else "primary too, with a database of its own",
            f"invoke rejoin {name}" if same else f"invoke seed-standby --node {name}",
        )  # fmt: skip


def _none(group: Group, seen: Observation) -> Iterator[Difference]:
    """Say that nobody is primary, where that is known: none is silent or on a host that is away."""
    found = [node.facts for node in seen.nodes.values() if node.facts]
    silent = any(node.silence or node.planned for node in seen.nodes.values())
    if found and not silent and not group.away:
        yield Difference(
            "primary", group.name, "one primary", "none: all that run are standbys",
            "invoke failover" if len(found) == len(seen.nodes) else "invoke start",
        )  # fmt: skip


# --- the primary ---


def _sync(group: Group, instance: Instance, facts: Facts) -> Iterator[Difference]:
    asked = group.topology.sync_for(instance.node)
    names = facts.sync_names.strip()
    if sync_state.read_sync(names) != asked or bool(names) != bool(asked):
        wanted = f"'{asked.render() if asked else ''}'"
        yield Difference(
            "sync", instance.name, f"synchronous_standby_names = {wanted}",
            f"synchronous_standby_names = '{names}'", "invoke step.require-sync",
        )  # fmt: skip


def _slots(
    group: Group, instance: Instance, facts: Facts, seen: Observation
) -> Iterator[Difference]:
    """Yield the slots of the primary that keep WAL for nobody."""
    known = {n.slot for n in group.topology.nodes.values()}
    running = [name for _, container, name in strangers(group, seen) if container.alive]
    for slot in facts.slots:
        name, active = str(slot["name"]), bool(slot["active"])
        if name in known or (active and name.startswith(_BACKUP)):
            continue
        drop = f'"SELECT pg_drop_replication_slot({conf.sql_literal(name)})"'
        command = f"invoke psql --node {instance.name} --command {drop}"
        if active and running:
            command = f"invoke remove-standby {running[0]}"
        kept = f"keeps {int(slot['retained'] or 0) / _BYTES:.0f} MB of WAL"
        found = f"a slot {name}, {'in use' if active else 'not in use'}, {kept}"
        yield Difference("slot", instance.name, "slots of the group's nodes only", found, command)


# --- settings ---


def _settings(instance: Instance, facts: Facts) -> Iterator[Difference]:
    asked = hashlib.sha256(node_config.settings(instance).encode()).hexdigest()
    if facts.settings != asked:
        found = "there is none" if facts.settings is None else _otherwise(instance, facts)
        yield Difference(
            "settings", instance.name, "pgherd.conf as the topology and conf/ have it", found,
            "invoke apply",
        )  # fmt: skip
    if facts.restart_due:
        yield Difference(
            "restart-due", instance.name, "its settings are in force",
            f"a restart is due for {', '.join(facts.restart_due)}", "invoke stop start",
        )  # fmt: skip


def _otherwise(instance: Instance, facts: Facts) -> str:
    """Say in which settings a server's file differs from what is asked for."""
    asked = conf.read_settings(node_config.settings(instance))
    written = {name.lower(): value for name, value in facts.written.items()}
    names = sorted(n for n in asked.keys() | written if asked.get(n) != written.get(n))
    said = []
    for name in names[:_NAMED]:
        has = f"is {quoted(written[name] or '')}" if name in written else "is not set"
        wants = f"{quoted(asked[name])} is asked" if name in asked else "is not asked for"
        said.append(f"{name} {has}, and {wants}")
    if len(names) > _NAMED:
        said.append(f"and {len(names) - _NAMED} more")
    return "; ".join(said) or "its text is another, and its settings are the same"
