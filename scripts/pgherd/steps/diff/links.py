"""In what a standby's connection differs from what it ought to be, with the roles as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import connect
from pgherd.steps.diff.containers import Difference
from pgherd.steps.diff.tls import of_connection


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
    told = _told(mine.primary_conninfo)
    if not _leads_to(told, instance, upstream):
        found = _named(group, instance, told)
        asks = f"it follows {upstream.name}"
        yield Difference("upstream", instance.name, asks, f"it follows {found}", command)
        return
    for what, asks, found in _connection(instance, mine, told):
        yield Difference(what, instance.name, asks, found, command)
    if theirs := seen.nodes[upstream.name].facts:
        for what, asks, found in _received(instance, mine, upstream, theirs):
            yield Difference(what, instance.name, asks, found, command)


def _told(text: str) -> dict[str, str]:
    """Read a primary_conninfo; nothing where it cannot be read. A password may be in it."""
    try:
        return {key: str(value) for key, value in conninfo_to_dict(text).items()}
    except ProgrammingError:
        return {}


def _leads_to(told: Mapping[str, str], instance: Instance, upstream: Instance) -> bool:
    asked = _told(connect.conninfo(instance, upstream))
    return _place(told) == _place(asked)


def _place(told: Mapping[str, str]) -> tuple[str, str]:
    return told.get("host", ""), told.get("port", "5432")


def _named(group: Group, instance: Instance, told: Mapping[str, str]) -> str:
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


def _received(
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
