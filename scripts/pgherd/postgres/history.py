r"""Timelines: where a server's history left another's. Pure; a history file's text comes in.

A promotion begins a timeline and writes its history file, with a line for each timeline before it:
its number, and the WAL position where it was left (timeline.c). So two servers have the same WAL as
long as their histories agree.

>>> old, new = History.parse(1, ""), History.parse(2, "1\t0/5000148\tpromoted")
>>> old.fork(new)
Fork(timeline=1, lsn='0/5000148')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, Self

from pgherd.postgres.conf import lsn_to_int

_LINE = re.compile(r"^[ \t]*([0-9]{1,10})[ \t]+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})\b", re.MULTILINE)


class Fork(NamedTuple):
    """Where two histories part: the last timeline they share, and its end; None: not yet."""

    timeline: int
    lsn: str | None


@dataclass(frozen=True)
class History:
    """The timelines that a server has come through, each with its end; its own has none."""

    timeline: int
    ended: tuple[tuple[int, str], ...]

    @classmethod
    def parse(cls, timeline: int, text: str) -> Self:
        """Read the history file of a timeline; the first one has none. Comments are left out."""
        return cls(timeline, tuple((int(n), lsn) for n, lsn in _LINE.findall(text)))

    def fork(self, other: History) -> Fork | None:
        """Return where this history and the other part.

        None where they never were the same. On one and the same timeline nothing tells where two
        servers of it part: its end is not known.
        """
        shared: Fork | None = None
        for mine, theirs in zip(self._stretches, other._stretches, strict=False):
            if mine[0] != theirs[0]:
                break
            ends = [end for end in (mine[1], theirs[1]) if end is not None]
            shared = Fork(mine[0], min(ends, key=lsn_to_int, default=None))
            if mine[1] != theirs[1]:
                break
        return shared

    @property
    def _stretches(self) -> tuple[tuple[int, str | None], ...]:
        return (*self.ended, (self.timeline, None))
