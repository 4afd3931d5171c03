"""Timelines: where the histories of two servers part."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.history import Fork, History

FIRST = History.parse(1, "")


def history(timeline: int, *ended: tuple[int, str]) -> History:
    """Read it from a file as PostgreSQL writes it."""
    lines = [f"{number}\t{lsn}\tno recovery target specified\n" for number, lsn in ended]
    return History.parse(timeline, "\n".join(lines))


PROMOTED = history(2, (1, "0/5000148"))


@pytest.mark.parametrize(
    ("mine", "theirs", "fork"),
    [
        (FIRST, FIRST, Fork(1, None)),
        (PROMOTED, PROMOTED, Fork(2, None)),
        (FIRST, PROMOTED, Fork(1, "0/5000148")),
        (FIRST, history(3, (1, "0/5000148"), (2, "0/6000000")), Fork(1, "0/5000148")),
        (PROMOTED, history(3, (1, "0/5000148"), (2, "0/6000000")), Fork(2, "0/6000000")),
        # both were promoted to timeline 2, the one earlier
        (PROMOTED, history(2, (1, "0/7000000")), Fork(1, "0/5000148")),
        # as numbers: as texts 0/9 would be the greater
        (history(2, (1, "0/9000000")), history(2, (1, "0/10000000")), Fork(1, "0/9000000")),
        (history(2, (1, "1/0")), history(3, (1, "0/FF000000")), Fork(1, "0/FF000000")),
        # one skipped a number that was taken already
        (PROMOTED, history(3, (1, "0/5000148")), Fork(1, "0/5000148")),
        (history(7), FIRST, None),
        (history(3, (2, "0/1")), PROMOTED, None),
    ],
)
def test_where_two_part(mine: History, theirs: History, fork: Fork | None) -> None:
    assert mine.fork(theirs) == fork
    assert theirs.fork(mine) == fork


def test_what_a_file_may_have_beside() -> None:
    text = "# 9\t0/9\tnot this\n\n  1\t0/5000148\tbefore 2000-01-01 01:00:00+01\nno line\n"
    assert History.parse(2, text) == PROMOTED
    assert History.parse(2, "1 0/5000148\n") == PROMOTED  # as `sh/examine.sh` tells it


Ended = tuple[tuple[int, int], ...]


@st.composite
def families(draw: st.DrawFn) -> tuple[list[tuple[int, Ended]], tuple[int, int]]:
    """Servers by promotion of one another, each its timeline and what ended before; and two."""
    known: list[tuple[int, Ended]] = [(1, ())]
    for _ in range(draw(st.integers(0, 6))):
        timeline, ended = known[draw(st.integers(0, len(known) - 1))]
        begun = ended[-1][1] if ended else 0
        at = draw(st.integers(begun + 1, begun + 5))
        following = timeline + draw(st.integers(1, 2))
        known.append((following, (*ended, (timeline, at))))
    which = st.integers(0, len(known) - 1)
    return known, (draw(which), draw(which))


def wrote(server: tuple[int, Ended], at: int) -> tuple[int, Ended]:
    """Return the timeline that has a position in a server's WAL, and what that came through."""
    timeline, ended = server
    for count, (number, end) in enumerate(ended):
        if at < end:
            return number, ended[:count]
    return timeline, ended


@given(families())
def test_they_part_where_their_wal_does(
    family: tuple[list[tuple[int, Ended]], tuple[int, int]],
) -> None:
    """Position by position: the first that was not written by the same primary for both."""
    known, (one, other) = family
    mine, theirs = known[one], known[other]
    shared = 0
    while shared < 100 and wrote(mine, shared) == wrote(theirs, shared):
        shared += 1
    forever = shared == 100
    timeline = wrote(mine, shared - 1)[0]
    found = _parsed(mine).fork(_parsed(theirs))
    assert found is not None
    assert found.timeline == timeline
    assert (None if found.lsn is None else lsn_to_int(found.lsn)) == (None if forever else shared)


@given(families())
def test_ends_grow(family: tuple[list[tuple[int, Ended]], tuple[int, int]]) -> None:
    """What the model makes is what PostgreSQL does, and what is read is what was written."""
    for server in family[0]:
        ends = [lsn_to_int(lsn) for _, lsn in _parsed(server).ended]
        assert all(a < b for a, b in pairwise(ends))
        assert ends == [end for _, end in server[1]]


def _parsed(server: tuple[int, Ended]) -> History:
    return history(server[0], *((number, f"0/{end:X}") for number, end in server[1]))
