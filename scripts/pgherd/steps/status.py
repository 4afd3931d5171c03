"""How a group is, from one look: each node as it stands, and what hurts. Nothing is changed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pgherd.errors import Error, Refused, quoted
from pgherd.postgres.group import Group
from pgherd.postgres.observation import Observation
from pgherd.steps import standby_warnings, warning
from pgherd.steps.diff.containers import look_at_data
from pgherd.steps.standing import NodeStatus, Picture
from pgherd.steps.tls import tls_warnings
from pgherd.steps.warning import Warning_

LONGEST_PAUSE = 86400.0  # seconds

__all__ = ["NodeStatus", "Status", "Warning_", "judged", "look", "pause", "watched"]


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
    return judged(group, seen, look_at_data(group, seen))


def watched(group: Group, seconds: float) -> Iterator[Status]:
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


def judged(
    group: Group, seen: Observation, data: Mapping[str, str] = MappingProxyType({})
) -> Status:
    """Decide from what was found how each node stands and what hurts."""
    picture = Picture(group, seen, data)
    warnings = (
        *warning.of_primaries(picture),
        *warning.of_commits(picture),
        *warning.of_nodes(picture),
        *standby_warnings.of_standbys(picture),
        *tls_warnings.of_encryption(picture),
        *warning.of_slots(picture),
        *warning.of_data(picture),
        *warning.of_holdups(picture),
    )
    return Status(group.name, tuple(picture.standing()), warnings)
