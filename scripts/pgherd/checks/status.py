"""How a group is, from one look: each node as it stands, and what hurts. Nothing is changed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pgherd.checks import replication
from pgherd.checks.containers import look_at_data
from pgherd.checks.replication import Warning_
from pgherd.errors import Error, Refused, quoted
from pgherd.group.group import Group
from pgherd.group.node_status import NodeStatus, ReplicationView
from pgherd.group.observation import Observation

LONGEST_PAUSE = 86400.0  # seconds


@dataclass(frozen=True)
class Status:
    """A group at one moment: its nodes in the topology's order, and what hurts, the worst first."""

    group: str
    nodes: tuple[NodeStatus, ...]
    warnings: tuple[Warning_, ...]

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.warnings


def look(group: Group) -> Status:
    """Look at the group once: one round trip for each host, and no lock.

    A host that was away before is asked again. Where a node has no container, it takes another one
    to see whether its data is there.

    Raises:
        Unreachable: no host answers.
    """
    group.away.clear()
    seen = group.observe(tolerant=True)
    return judge(group, seen, look_at_data(group, seen))


def watch(group: Group, seconds: float) -> Iterator[Status]:
    """Look again and again, with a pause after each look, for ever.

    A look that fails, as where no host answers any more, is told and does not end it.
    """
    while True:
        try:
            yield look(group)
        except Error as fault:
            group.trace.note(fault.sentence)
        time.sleep(seconds)


def pause(text: str) -> float:
    """Read the seconds between two looks. Raises Refused for what is no such number."""
    seconds = float(text) if re.fullmatch(r"[0-9]{0,9}\.?[0-9]{1,9}", text) else 0.0
    if not 0 < seconds <= LONGEST_PAUSE:
        raise Refused(f"--interval is seconds, more than 0 and at most a day, not {quoted(text)}.")
    return seconds


def judge(
    group: Group, seen: Observation, data: Mapping[str, str] = MappingProxyType({})
) -> Status:
    """Decide from what was found how each node stands and what hurts."""
    picture = ReplicationView(group, seen, data)
    warnings = (
        *replication.of_primaries(picture),
        *replication.of_commits(picture),
        *replication.of_nodes(picture),
        *replication.of_standbys(picture),
        *replication.of_encryption(picture),
        *replication.of_slots(picture),
        *replication.of_data(picture),
        *replication.of_holdups(picture),
    )
    return Status(group.name, tuple(picture.standing()), warnings)
