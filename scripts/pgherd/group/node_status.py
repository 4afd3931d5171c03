"""How each node stands: role, whom it follows, how far behind it is. Decided, nothing is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Facts, Sender
from pgherd.postgres.leadership import followed

PRIMARY, STANDBY, DOWN, ABSENT = "primary", "standby", "down", "absent"
SILENT, FOREIGN, UNREACHABLE = "silent", "foreign", "unreachable"
STREAMING = "streaming"
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


@dataclass(frozen=True)
class NodeStatus:
    """One node as it stands. None is what it has not, or what cannot be told.

    Attributes:
        name: the node.
        host: where it lives.
        role: primary, standby; down (its container does not run), absent (it has none), silent (it
            runs and does not answer), foreign (somebody else's container has its name),
            unreachable (its host does not answer).
        timeline: of its history.
        upstream: the node that it follows now, or the address where that is none of the group.
        state: of a standby as its upstream has it (startup, catchup, streaming, backup, stopping),
            or `waiting` where it receives nothing; of a node that gives no facts its container's.
        sync_state: as its upstream has it: async, potential, sync, quorum.
        lag_bytes: WAL that the primary has and it has not replayed.
        lag_seconds: how long ago the primary had what it has replayed: 0 if that is all.
        slot: its slot where that is, on its upstream if it can be.
        retained_bytes: the WAL that the slot keeps.
        conflicts: queries that recovery has cancelled here, since the statistics were reset.
        delay: seconds by which it replays later on purpose.
    """

    name: str
    host: str
    role: str
    timeline: int | None = None
    upstream: str | None = None
    state: str | None = None
    sync_state: str | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    slot: str | None = None
    retained_bytes: int | None = None
    conflicts: int | None = None
    delay: float = 0.0


class ReplicationView:
    """An observation with what follows from it: who leads, who follows whom, whose slot is where.

    Attributes:
        group: the topology, and whose a container is.
        seen: what was found.
        data: what lies in the directories of nodes without a container: a word of `guards`.
        leader: the node that counts as primary, see `leading` where several are.
    """

    def __init__(
        self, group: Group, seen: Observation, data: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.group = group
        self.seen = seen
        self.data = data
        leads = group.leader(self.facts, seen.own)
        self.leader = leads.name if leads else None

    @cached_property
    def facts(self) -> dict[str, Facts]:
        """What the servers say that answer."""
        return self.seen.facts

    @property
    def led(self) -> Facts | None:
        """What the leader says."""
        return self.facts[self.leader] if self.leader else None

    @cached_property
    def upstreams(self) -> dict[str, str]:
        """Whom each standby follows now: a node's name, else the address."""
        standbys = {n: f for n, f in self.facts.items() if f.in_recovery}
        found = {n: followed(self.group.topology, n, f) for n, f in standbys.items()}
        return {name: upstream for name, upstream in found.items() if upstream}

    def sender(self, name: str) -> Sender | None:
        """Return a standby as its upstream has it."""
        upstream = self.facts.get(self.upstreams.get(name, ""))
        application = self.group.topology.node(name).application_name
        return upstream.sender(application) if upstream else None

    def slot(self, name: str) -> dict[str, Any] | None:
        """Return a node's slot: on its upstream, else where it keeps the most WAL."""
        slot = self.group.topology.node(name).slot
        upstream = self.facts.get(self.upstreams.get(name, ""))
        if upstream and (found := upstream.slot(slot)):
            return found
        others = (f.slot(slot) for other, f in self.facts.items() if other != name)
        return max((s for s in others if s), key=retained, default=None)

    def root(self, name: str) -> str | None:
        """Return whom a standby follows in the end; None where that cannot be seen."""
        passed: list[str] = []
        while name in self.upstreams and name not in passed:
            passed.append(name)
            name = self.upstreams[name]
        known = name in self.facts or name not in self.seen.nodes
        return name if passed and known and name not in passed else None

    def role(self, name: str) -> str:
        """Return what a node is: see `NodeStatus.role`."""
        node = self.seen.nodes[name]
        if node.facts:
            return STANDBY if node.facts.in_recovery else PRIMARY
        if node.container is None:
            return UNREACHABLE if node.silence else ABSENT
        if not node.planned and not self.group.owns(node.container, self._host(name)):
            return FOREIGN
        return SILENT if node.container.running else DOWN

    def _host(self, name: str) -> str:
        return self.group.topology.node(name).host

    def standing(self) -> Iterator[NodeStatus]:
        """Yield each node as it stands, in the topology's order."""
        for name, node in self.seen.nodes.items():
            if node.facts and node.facts.in_recovery:
                yield self._standby(name, node.facts)
            else:
                yield self._other(name, node)

    def _other(self, name: str, node: NodeObservation) -> NodeStatus:
        facts, container = node.facts, node.container
        told = facts or node.files
        slot = None if facts else self.slot(name)
        return NodeStatus(
            name=name,
            host=self._host(name),
            role=self.role(name),
            timeline=told.timeline if told else None,
            state=container.status if container and not facts else None,
            slot=str(slot["name"]) if slot else None,
            retained_bytes=retained(slot) if slot else None,
            conflicts=facts.conflicts if facts else None,
        )

    def _standby(self, name: str, facts: Facts) -> NodeStatus:
        sender, slot = self.sender(name), self.slot(name)
        behind = lag_bytes(facts, self.led)
        return NodeStatus(
            name=name,
            host=self._host(name),
            role=STANDBY,
            timeline=facts.timeline,
            upstream=self.upstreams.get(name),
            state=sender.state if sender else str((facts.receiver or {}).get("status", "waiting")),
            sync_state=sender.sync_state if sender else None,
            lag_bytes=behind,
            lag_seconds=lag_seconds(facts, sender, behind),
            slot=str(slot["name"]) if slot else None,
            retained_bytes=retained(slot) if slot else None,
            conflicts=facts.conflicts,
            delay=facts.apply_delay / 1000,
        )


def retained(slot: dict[str, Any]) -> int:
    """Return the bytes of WAL that a slot keeps."""
    return max(0, int(slot["retained"] or 0))


def format_size(count: int) -> str:
    """Return bytes for people."""
    found = next(((unit, name) for unit, name in _UNITS if count >= unit), None)
    return f"{count / found[0]:.1f} {found[1]}" if found else f"{count} B"


def lag_bytes(standby: Facts, primary: Facts | None) -> int | None:
    """Return the WAL that the primary has flushed and the standby has not replayed."""
    if primary is None or primary.lsn is None or standby.lsn is None:
        return None
    return max(0, lsn_to_int(primary.lsn) - lsn_to_int(standby.lsn))


def lag_seconds(standby: Facts, sender: Sender | None, behind: int | None) -> float | None:
    """Return how far behind in time a standby is that has `behind` bytes to replay.

    The upstream's own measure is the best there is; but it is taken as WAL gets replayed, so that
    it stands still at its last value where replay is paused or waits on purpose. The age of the
    last transaction that was replayed is never too low; after a pause in writing it is too high.
    """
    if behind == 0:
        return 0.0
    waits = standby.replay_paused or standby.apply_delay
    if sender and sender.replay_lag is not None and not waits:
        return max(0.0, sender.replay_lag)
    return None if standby.replayed_age is None else max(0.0, standby.replayed_age)
