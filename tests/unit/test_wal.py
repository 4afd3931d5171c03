"""Whether two servers have the same WAL: how far back it is compared, and what is left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from fakes import group, topology

from pgherd.checks.client_view import Client
from pgherd.checks.wal import WINDOW, _length, compare_wal

if TYPE_CHECKING:
    from pgherd.client import Connection

SEGMENT = 64 * 2**20


def name(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{0:08X}{number:08X}"


class Server:
    """A connection that answers the questions of compare_wal; file 9 is the one written to."""

    def __init__(self, files: dict[int, str | None]) -> None:
        self.files = {name(number): contents for number, contents in files.items()}
        self.read = list[tuple[str, int, int]]()

    def execute(self, query: bytes | str, values: list[object] | None = None) -> SimpleNamespace:
        """Answer as PostgreSQL would; a file without contents is gone when it is read."""
        text = query if isinstance(query, str) else query.decode()
        row: tuple[object, ...]
        if "walfile" in text:
            row = (name(9), 4096)
        elif "pg_ls_waldir" in text:
            assert values
            row = ([file for file in self.files if file < str(values[0])],)
        elif "wal_segment_size" in text:
            row = (str(SEGMENT),)
        elif "history" in text:
            row = (None,)
        else:
            file, start, length = cast("tuple[str, int, int]", values)
            self.read.append((file, start, length))
            row = (self.files.get(file),)
        return SimpleNamespace(fetchone=lambda: row)


def compared(
    primary: dict[int, str | None], standby: dict[int, str | None]
) -> tuple[bool, str, list[tuple[str, int, int]]]:
    """Compare two servers; also return what was read of the standby."""
    made = group(topology("s1"))
    servers = {"pa": Server(primary), "s1": Server(standby)}
    one, other = (
        Client(made.instance(node), cast("Connection", server)) for node, server in servers.items()
    )
    return *compare_wal(one, other, "0/9001000"), servers["s1"].read


def files(*numbers: int, **changed: str | None) -> dict[int, str | None]:
    """Files with contents of their own; `f8` changes those of file 8."""
    return {n: f"sum {n}" for n in numbers} | {int(key[1:]): c for key, c in changed.items()}


FROM = "its WAL is the same, byte for byte, from file {} on"
OTHER = "its WAL file {} is not that of pa"


@pytest.mark.parametrize(
    ("primary", "standby", "same", "extent"),
    [
        (files(9), files(9), True, FROM.format(name(9))),
        (files(7, 8, 9), files(7, 8, 9), True, FROM.format(name(7))),
        (files(3, 4, 5, 6, 7, 8, 9), files(3, 4, 5, 6, 7, 8, 9), True, FROM.format(name(6))),
        (files(7, 8, 9), files(8, 9), True, FROM.format(name(8))),
        (files(7, 9), files(6, 7, 8, 9), True, FROM.format(name(7))),
        (files(7, 8, 9), files(7, 8, 9, f10="recycled"), True, FROM.format(name(7))),
        (files(9), files(f9="x"), False, OTHER.format(name(9))),
        (files(7, 8, 9), files(8, 9, f7="x"), False, OTHER.format(name(7))),
        (files(7, 8, 9), files(7, 9, f8="x"), False, OTHER.format(name(8))),
        (files(7, 8, 9), files(8, 9, f7=None), True, FROM.format(name(8))),
        (files(8, 9, f7=None), files(8, 9, f7="x"), True, FROM.format(name(8))),
    ],
)
def test_files_that_both_have_are_compared(
    primary: dict[int, str | None], standby: dict[int, str | None], same: bool, extent: str
) -> None:
    assert compared(primary, standby)[:2] == (same, extent)


def test_where_nothing_is_left_that_is_said() -> None:
    found = compared(files(8), files(7))
    assert found[:2] == (True, "no WAL file is left that both have, so none was compared")


def test_the_end_of_each_file_is_read() -> None:
    """Of the last file as far as both have come, of a big one only its end."""
    read = compared(files(8, 9), files(8, 9))[2]
    assert read == [(name(9), 0, 4096), (name(8), SEGMENT - WINDOW, WINDOW)]


HISTORY = f"1\t0/{3 * SEGMENT + 0x1000:08X}\tno recovery target specified\n\n3\t1/1000\tbefore x\n"


@pytest.mark.parametrize(
    ("file", "length"),
    [
        (name(9, timeline=4), SEGMENT),
        (name(2), SEGMENT),
        (name(3), 0x1000),  # the timeline ended in it
        (name(4), 4096 - SEGMENT),  # and this was made ready for later
        (name(9, timeline=2), 0),  # another history, of which this primary knows nothing
        (name(9, timeline=3), SEGMENT),
        ("000000030000000100000000", 0x1000),
    ],
)
def test_a_timeline_ends_within_a_file(file: str, length: int) -> None:
    assert _length(file, name(9, timeline=4), HISTORY, SEGMENT) == length
