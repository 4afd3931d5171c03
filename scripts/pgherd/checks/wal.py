"""Whether a standby's WAL is its primary's, byte for byte: what tells silent divergence.

A standby that took writes of its own before it was marked may be at a position of its primary,
stream on from there, and never complain: only the bytes before tell. They tell as far back as
both still have them.
"""

from __future__ import annotations

from pgherd.checks.client_view import Client
from pgherd.hosts.parallel import run_all
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.history import History

SEGMENTS = 4  # compared at the most, the newest; an md5 of 16 MB takes about 30 ms
WINDOW = 16 * 1024 * 1024  # of each, its end: a segment may have up to 1 GB

# Names greater than the current file's are files put by for later, with old contents.
_COMPLETE = """
SELECT coalesce(array_agg(name), '{}') FROM pg_ls_waldir()
WHERE name ~ '^[0-9A-F]{24}$' AND name < %s
"""
# Where the timelines before this one ended; there is no such file for the first.
_HISTORY = "SELECT pg_read_file('pg_wal/' || %s || '.history', 0, 1000000, true)"
_SUM = "SELECT md5(pg_read_binary_file('pg_wal/' || %s, %s, %s, true))"


def compare_wal(primary: Client, standby: Client, target: str) -> tuple[bool, str]:
    """Compare the WAL files up to a position that both have reached.

    Returns:
        Whether nothing differs, and how much was compared, in words.
    """
    name, length = _last_file(primary, target)
    both = run_all(lambda client: _complete(client, name), [primary, standby])
    older = sorted(both[0] & both[1], reverse=True)[: SEGMENTS - 1]
    size = int(str(primary.ask("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")))
    history = str(primary.ask(_HISTORY, name[:8]) or "")
    compared = []
    lengths = [(file, _length(file, name, history, size)) for file in older]
    for file, bytes_of_it in [(name, length), *lengths]:
        if bytes_of_it <= 0:
            continue
        same = _same(primary, standby, file, bytes_of_it)
        if same is False:
            return False, f"its WAL file {file} is not that of {primary.instance.name}"
        compared += [file] if same else []
    if not compared:
        return True, "no WAL file is left that both have, so none was compared"
    return True, f"its WAL is the same, byte for byte, from file {min(compared)} on"


def _last_file(primary: Client, target: str) -> tuple[str, int]:
    """Return the file with the last byte before a position, and the bytes up to it."""
    row = primary.live.execute(
        "SELECT file_name, file_offset + 1 FROM pg_walfile_name_offset(%s::pg_lsn - 1)", [target]
    ).fetchone()
    if row is None:
        raise ValueError(target)
    return str(row[0]), int(str(row[1]))


def _length(file: str, current: str, history: str, size: int) -> int:
    """Return how much of an older file is WAL of the current file's history; 0 for nothing.

    A timeline ends within a file. What follows there is what the file was recycled from, and
    differs between servers that are sound.
    """
    if file[:8] == current[:8]:
        return size
    for timeline, end in History.parse(int(current[:8], 16), history).ended:
        if timeline == int(file[:8], 16):
            number = int(file[8:16], 16) * (2**32 // size) + int(file[16:], 16)
            return min(size, lsn_to_int(end) - number * size)
    return 0


def _complete(client: Client, before: str) -> set[str]:
    names = client.ask(_COMPLETE, before)
    return set(names) if isinstance(names, list) else set()


def _same(primary: Client, standby: Client, file: str, length: int) -> bool | None:
    """Compare the end of one file; None where one of the two has removed it meanwhile."""
    start = max(0, length - WINDOW)
    both = [primary, standby]
    one, other = run_all(lambda c: c.ask(_SUM, file, start, length - start), both)
    return None if one is None or other is None else one == other
