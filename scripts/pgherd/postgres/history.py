r"""Timelines: where a server's history left another's, and what lies beyond. Pure: texts come in.

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

_BEYOND = re.compile(r"^beyond=(\S+) ([0-9]{1,10}) ([0-9]{1,18})$", re.MULTILINE)
_LAST = re.compile(r"^last=(\S+) ([0-9]{1,10}) ?([0-9: .A-Z-]*)$", re.MULTILINE)


class Fork(NamedTuple):
    """Where two histories part: the last timeline they share, and its end; None: not yet."""

    timeline: int
    lsn: str | None


@dataclass(frozen=True)
class Beyond:
    """What a database has in its WAL from a position on: how many bytes, and how many commits.

    Where that WAL is not there any more, `size` is the least that it was, and `commits` None.

    Attributes:
        size: bytes.
        commits: transactions that a client may have been told of; prepared ones count as well.
        committed: bytes up to the end of the last commit; what comes after it nobody misses.
        last: when that was, as the server tells it; empty without one.
    """

    size: int = 0
    commits: int | None = 0
    committed: int = 0
    last: str = ""

    @classmethod
    def read(cls, text: str, start: str) -> Self | None:
        """Read what `sh/beyond.sh` printed; None where there is nothing from `start` on."""
        found = _BEYOND.search(text)
        if found is None:
            return None
        size, last = _reach(found[1], found[2], start), _LAST.search(text)
        committed = _reach(last[1], last[2], start) if last else 0
        return cls(size, int(found[3]), committed, last[3] if last else "")

    @property
    def counted(self) -> str:
        """What it is, in words."""
        if self.commits is None:
            last = f", the last at {self.last}" if self.last else ""
            return f"{counted(None)}{last}"
        if not self.commits:
            return f"no commit ({self.size} bytes)"
        last = f", the last at {self.last}" if self.last else ""
        return f"{counted(self.commits)} ({self.committed} bytes{last})"


def _reach(lsn: str, length: str, start: str) -> int:
    """Return the bytes from a position to the end of a record, which may begin before it."""
    return max(lsn_to_int(lsn) + int(length) - lsn_to_int(start), int(length))


def counted(commits: int | None) -> str:
    """Return how many commits, in words; None where they cannot be counted."""
    if commits is None:
        return "an unknown number of commits"
    return "1 commit" if commits == 1 else f"{commits} commits"


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
