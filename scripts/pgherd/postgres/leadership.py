"""Who leads a group, of the nodes that are primary or would be. Pure: what is known comes in.

Several may be: a standby that was promoted beside a primary that goes on, an old primary that came
back, a copy that was started before it was marked. The first of these that tells them apart
decides:

1. whose system the group's standbys are of
2. who has standbys that stream: synchronous ones first, then any
3. whose WAL the other nodes have, from where the histories of the two part
4. who has all that the other has, so that nothing is lost with it
5. the newer timeline
6. whom standbys are set to follow; who serves, and is not down; the further position; the
   topology's first node

When each wrote last is told to people and decides nothing: a probe writes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pgherd.config.topology import Topology
from pgherd.postgres.conf import lsn_to_int, read_conninfo
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond, Fork, History

SILENT_SECONDS = 20.0  # a standby reports every 10 s (wal_receiver_status_interval)

Own = Mapping[tuple[str, str], Beyond | None]  # what the first node has that the second has not
NOTHING: Own = MappingProxyType({})


@dataclass(frozen=True)
class Known:
    """What is known of a node that has data.

    Attributes:
        system: the identifier of its database.
        history: the timelines that it has come through.
        end: its WAL reaches at least to here.
        leads: it is primary, or would be if it were started.
        serves: it answers.
        follows: of a standby the node that it is set to follow.
        streaming: the standbys that stream from it now.
        synchronous: those of them that its commits wait for.
    """

    system: str | None
    history: History
    end: str
    leads: bool = False
    serves: bool = False
    follows: str | None = None
    streaming: tuple[str, ...] = ()
    synchronous: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leader:
    """The node that leads, and by what; where it is the only one there is nothing to say."""

    name: str
    why: str = ""


def leader(known: Mapping[str, Known], own: Own, first: str) -> Leader | None:
    """Return who leads of those that are primary or would be; None where none is.

    Args:
        known: what is known of each node that has data, of those that follow as well.
        own: what one has that another has not, where that was counted; see `beyond` for the rest.
        first: the topology's first node.
    """
    left = [name for name, node in known.items() if node.leads]
    if len(left) <= 1:
        return Leader(left[0]) if left else None
    decided = Leader(left[0])
    for choose in _STAGES:
        kept, why = choose(_Contest(known, own, first), left)
        if len(kept) < len(left):
            decided = Leader(kept[0], why)
        left = kept
        if len(left) == 1:
            break
    return decided


@dataclass(frozen=True)
class _Contest:
    known: Mapping[str, Known]
    own: Own
    first: str


_Stage = Callable[[_Contest, list[str]], tuple[list[str], str]]  # who is left, and why


def _of_the_standbys_system(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    systems = {node.system for node in of.known.values() if not node.leads}
    kept = [name for name in left if of.known[name].system in systems]
    return kept or left, "the standbys are of its system"


def _synchronous(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    kept = _most(left, lambda name: len(of.known[name].synchronous))
    return kept, f"{_stream(of.known[kept[0]].synchronous)} from it, and its commits wait for that"


def _streaming(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    kept = _most(left, lambda name: len(of.known[name].streaming))
    return kept, f"{_stream(of.known[kept[0]].streaming)} from it"


def _followed_since(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    """Keep those whose WAL no fewer nodes have than another's, from where the two part."""

    def followers(name: str, other: str) -> list[str]:
        fork = of.known[name].history.fork(of.known[other].history)
        return [
            standby
            for standby, node in of.known.items()
            if not node.leads and fork and has_after(node, of.known[name], fork)
        ]

    kept = [
        name
        for name in left
        if not any(len(followers(other, name)) > len(followers(name, other)) for other in left)
    ]
    names = {n for name in kept for other in left for n in followers(name, other)}
    return kept or left, f"{' and '.join(sorted(names))} has what it wrote since they parted"


def _has_all(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    """Leave out those that have nothing which another one has not, where that has something."""

    def has_all(name: str, other: str) -> bool:
        lacks = what_has(of.known, of.own, other, name)
        return lacks is None or lacks.commits == 0

    def beaten(name: str) -> bool:
        return any(has_all(o, name) and not has_all(name, o) for o in left if o != name)

    kept = [name for name in left if not beaten(name)]
    return kept or left, "it has all that the other has"


def _newest(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    kept = _most(left, lambda name: of.known[name].history.timeline)
    return kept, f"it was promoted last (timeline {of.known[kept[0]].history.timeline})"


def _set_to_follow(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    """Keep those whom most standbys are set to follow, which may be down or connecting."""
    standbys = {name: node.follows for name, node in of.known.items() if not node.leads}
    kept = _most(left, lambda name: sum(follows == name for follows in standbys.values()))
    names = [name for name, follows in standbys.items() if follows in kept]
    return kept, f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} set to follow it"


def _serves(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    return _most(left, lambda name: of.known[name].serves), "it serves, and the other is down"


def _furthest(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    kept = _most(left, lambda name: lsn_to_int(of.known[name].end))
    return kept, f"its WAL reaches further ({of.known[kept[0]].end})"


def _asked_first(of: _Contest, left: list[str]) -> tuple[list[str], str]:
    return [of.first] if of.first in left else left[:1], "nothing else tells them apart"


_STAGES: tuple[_Stage, ...] = (
    _of_the_standbys_system, _synchronous, _streaming, _followed_since, _has_all, _newest,
    _set_to_follow, _serves, _furthest, _asked_first,
)  # fmt: skip


def _most(names: list[str], rank: Callable[[str], int]) -> list[str]:
    best = max(map(rank, names))
    return [name for name in names if rank(name) == best]


def _stream(names: tuple[str, ...]) -> str:
    return f"{' and '.join(names)} stream{'s' if len(names) == 1 else ''}"


# --- what one has that another has not ---


def what_has(known: Mapping[str, Known], own: Own, name: str, other: str) -> Beyond | None:
    """Return what a node has that another has not: as it was counted, else by positions."""
    if (name, other) in own:
        return own[name, other]
    return beyond(known[name], known[other])


def beyond(mine: Known, theirs: Known) -> Beyond | None:
    """Return what one has that the other has not, as far as positions tell; None for nothing.

    On one and the same timeline nothing tells where two primaries part.
    """
    fork = mine.history.fork(theirs.history)
    if fork is None:
        return Beyond(lsn_to_int(mine.end), None)
    if fork.lsn is None:
        return Beyond(max(1, lsn_to_int(mine.end) - lsn_to_int(theirs.end)), None)
    size = lsn_to_int(mine.end) - lsn_to_int(fork.lsn)
    if mine.history.timeline != fork.timeline:
        size = max(1, size)  # what it was promoted with
    return Beyond(size, None) if size > 0 else None


def describe_difference(known: Mapping[str, Known], own: Own, name: str, leads: str) -> str:
    """Say what a node and the one that leads have of their own; empty where nothing compares."""
    if known[name].system != known[leads].system:
        return f"{name} is of another system"
    mine, theirs = (what_has(known, own, *pair) for pair in ((name, leads), (leads, name)))
    return (
        f"{name} has {mine.counted if mine else 'nothing'} that {leads} has not, and {leads} has "
        f"{theirs.counted if theirs else 'nothing'} that {name} has not"
    )


def has_after(node: Known, of: Known, fork: Fork) -> bool:
    """Tell whether a node has WAL that another wrote after its history left a third one's."""
    shared = node.history.fork(of.history)
    if shared is None or node.system != of.system or fork.lsn is None:
        return False
    if shared.timeline != fork.timeline:
        return shared.timeline > fork.timeline
    return shared_to(node, of) > lsn_to_int(fork.lsn)


def shared_to(node: Known, of: Known) -> int:
    """Return the position to which a node's WAL is the same as another's; 0 where none is."""
    shared = node.history.fork(of.history)
    if shared is None or node.system != of.system:
        return 0
    ends = [node.end, *([shared.lsn] if shared.lsn else [])]
    return min(map(lsn_to_int, ends))


# --- what is known ---


def known_of(topology: Topology, facts: Mapping[str, Facts]) -> dict[str, Known]:
    """Return what is known of the nodes whose servers answer."""
    return {name: _of_facts(topology, name, facts) for name in facts}


def _of_facts(topology: Topology, name: str, facts: Mapping[str, Facts]) -> Known:
    its = facts[name]
    streaming = {
        other: row.sync_state in {"sync", "quorum"}
        for other, node in topology.nodes.items()
        if (row := its.sender(node.application_name))
        and row.streaming
        and (row.silent is None or row.silent < SILENT_SECONDS)
        and _may_stream(topology, other, name, facts)
    }
    return Known(
        its.system_identifier,
        its.came_through,
        its.end,
        not its.in_recovery,
        True,
        followed(topology, name, its) if its.in_recovery else None,
        tuple(streaming),
        tuple(other for other, waited_for in streaming.items() if waited_for),
    )


def _may_stream(topology: Topology, name: str, upstream: str, facts: Mapping[str, Facts]) -> bool:
    """Tell whether a standby may stream from there by its own word, if it says one.

    A connection that broke without a word stays with the upstream until wal_sender_timeout.
    """
    its = facts.get(name)
    if its is None:
        return name != upstream
    follows = followed(topology, name, its)
    elsewhere = follows in topology.nodes and follows != upstream
    return its.in_recovery and its.receiver is not None and not elsewhere


def of_disk(disk: Disk, *, leads: bool, follows: str | None = None) -> Known:
    """Return what is known of a node by its data; `leads`: it would be primary."""
    return Known(disk.system_identifier, disk.came_through, disk.reached, leads, follows=follows)


def followed(topology: Topology, name: str, facts: Facts) -> str | None:
    """Return whom a standby follows: a node's name, else the address; None where nobody."""
    if facts.receiver and facts.receiver.get("sender"):
        host, port = str(facts.receiver["sender"]), str(facts.receiver.get("port") or 5432)
        return _node_at(topology, name, host, port)
    return set_to_follow(topology, name, facts.primary_conninfo)


def set_to_follow(topology: Topology, name: str, conninfo: str) -> str | None:
    """Return whom a standby is told to follow: a node's name, else the address, if anybody."""
    asked = read_conninfo(conninfo)
    return _node_at(topology, name, asked.get("host", ""), asked.get("port", "5432"))


def _node_at(topology: Topology, name: str, host: str, port: str) -> str | None:
    """Return whose place that is, seen from a node: a node's name, else the address."""
    if not host:
        return None
    here = topology.node(name).host
    for other in topology.nodes.values():
        beside = other.host == here and (host, port) == (other.name, "5432")
        if beside or (port == str(other.port) and host in {other.reached_at, other.listen}):
            return other.name
    return f"{host}:{port}"
