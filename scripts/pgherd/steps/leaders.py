"""Who may be primary: of one system only one node, and the one with the newest history."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pgherd.docker import Image
from pgherd.errors import Refused
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.group import Group
from pgherd.postgres.observation import Observation, Seen
from pgherd.steps import guards


def foremost(facts: Mapping[str, Facts], asked: str) -> str | None:
    """Return who counts as primary where several nodes are, and the only one where one is.

    It is one of the system that the standbys are of, since timelines of two systems say nothing
    beside each other; then the one that was promoted last, then the one that has standbys, then
    the one that was asked for.
    """
    systems = {its.system_identifier for its in facts.values() if its.in_recovery}

    def rank(name: str) -> tuple[bool, int, int, bool]:
        its = facts[name]
        return its.system_identifier in systems, its.timeline, len(its.senders), name == asked

    return max((n for n, its in facts.items() if not its.in_recovery), key=rank, default=None)


def writes_refused(name: str, place: str) -> tuple[str, str]:
    """Say that a primary takes no writes from applications, by what is said there; and the cure.

    `place` is as in `Facts.read_only`.
    """
    setting = "default_transaction_read_only"
    text = f"{name} takes no writes from applications: {setting} is on, by "
    file, _, line = place.rpartition(":")
    if file.endswith("/postgresql.auto.conf"):
        sql = f"ALTER SYSTEM RESET {setting}"
        reload = f'`invoke psql --node {name} --command "SELECT pg_reload_conf()"`'
        cure = f'`invoke psql --node {name} --command "{sql}"`, then {reload}'
        return f"{text}ALTER SYSTEM", cure
    if file.startswith("/"):
        where = "in the topology's settings or conf/postgresql.conf, then `invoke setup-master`"
        ours = file.endswith("/pgherd.conf")
        return (
            f"{text}{file}, line {line}",
            f"change it {where if ours else f'there, then `docker kill --signal HUP {name}`'}",
        )
    change = f"BEGIN READ WRITE; ALTER {place} RESET {setting}; COMMIT"
    return (
        f"{text}ALTER {place}",
        f"`invoke psql --node {name} --command {shlex.quote(change)}`",
    )


def alive(node: Seen) -> bool:
    """Tell whether a node's container runs, or is about to."""
    return bool(node.container and node.container.alive)


def refuse_two_primaries(
    group: Group, seen: Observation, image: Image, starting: dict[str, Disk]
) -> None:
    """Refuse to start a server as primary where another node of its system is, or may be, one.

    Of two that are no standbys the one with the newer history is the primary: a greater timeline,
    and on one timeline the one that others may follow. The other is a former primary, or a copy
    that was not marked.

    Raises:
        Refused: with which is which, and what to do.
    """
    leaders = {n: (d.system_identifier, d.position) for n, d in starting.items() if leads(d)}
    if not leaders:
        return
    known = {**_others(group, seen, image, starting), **leaders}
    for name, (system, position) in leaders.items():
        for other, (theirs, its) in known.items():
            if other == name or theirs != system:
                continue
            down = other not in seen.primaries and other not in starting
            copied = group.topology.primary.name == name and its[0] == position[0]
            if down and (copied or its[0] < position[0]):
                continue  # a copy not marked yet, a former primary: down, they keep nobody
            raise Refused(_twins(group, seen, (name, other), position[0], its[0]))
        for other, disk in starting.items():
            refuse_older(other, disk, name, system, position[0])
    for name, node in seen.nodes.items():
        silent = alive(node) and not node.facts and not node.planned
        if name not in starting and silent:
            raise Refused(
                f"{name} runs and does not answer yet, so it is not known who is primary: "
                f"`invoke logs --node {name}`, then again.\n{node.silence}"
            )


def refuse_older(standby: str, disk: Disk, primary: str, system: str | None, timeline: int) -> None:
    """Refuse a primary with less history than its standby: that was promoted, and marked since."""
    if disk.system_identifier == system and disk.timeline > timeline:
        raise Refused(
            f"{has_newer(standby, disk.timeline, primary, timeline)}. It is marked as a standby, "
            f"and with {primary} as primary that would be lost: remove standby.signal from the "
            f"data of {standby}, run it (`invoke step.run-standby --node {standby}`), and let "
            f"{primary} follow (`invoke rejoin {primary}`)."
        )


def has_newer(name: str, timeline: int, other: str, its: int) -> str:
    """Say that a node was promoted after the one that it is to follow, by their timelines."""
    return f"{name} was promoted and has newer data (timeline {timeline}; {other} is at {its})"


def leads(disk: Disk) -> bool:
    """Tell whether a server would run on this data as a primary."""
    return bool(disk.pg_version) and not disk.standby_signal and not disk.unfinished


def _others(
    group: Group, seen: Observation, image: Image, starting: dict[str, Disk]
) -> dict[str, tuple[str | None, tuple[int, int]]]:
    """Return what the nodes that are not to be started are, if they are no standbys."""
    found: dict[str, tuple[str | None, tuple[int, int]]] = {}
    for name, node in seen.nodes.items():
        instance = group.instance(name)
        if node.facts:
            if not node.facts.in_recovery:
                found[name] = (node.facts.system_identifier, node.facts.position)
        elif name not in starting and not alive(node):
            disk = guards.data_of(instance, image)
            if leads(disk):
                found[name] = (disk.system_identifier, disk.position)
    return found


def _twins(group: Group, seen: Observation, both: tuple[str, str], mine: int, theirs: int) -> str:
    """Return the sentence for two nodes of one system that are no standbys, by their timelines.

    Of `both` the first is to be started. Beside a primary that serves, `rejoin` takes the way that
    fits, also where one was cut short.
    """
    name, other = both
    if other in seen.primaries and mine <= theirs:
        return (
            f"{other} is the primary, and {name} is not marked as a standby: beside {other} it "
            f"would be a second primary. `invoke rejoin {name}` brings it back as a standby."
        )
    if mine == theirs:
        if group.instance(other).node.upstream and not group.instance(name).node.upstream:
            name, other = other, name
        return (
            f"The data of {name} is a copy of {other}'s and not marked as a standby: started like "
            "this it would be a second primary, take writes of its own, and never be the same "
            f"again. If it has never run by itself, connect and mark it first (`invoke "
            f"step.connect-standby --node {name} step.mark-standby --node {name}`); else seed it "
            f"anew (`invoke seed-standby --node {name}`)."
        )
    former, leader = (name, other) if mine < theirs else (other, name)
    return (
        f"{former} was primary before {leader} was promoted: beside {leader} it would be a second "
        f"primary. With {former} stopped, `invoke step.run-standby --node {leader}` runs "
        f"{leader}, and `invoke rejoin {former}` makes {former} its standby."
    )
