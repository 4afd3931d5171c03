"""Clients that insert rows all the time, and know which of them a server has acknowledged.

    with running_load(places, password, directory) as load:
        ...  # switch over, fail over
    assert missing(load.acknowledged(), sql_on_the_primary) == set()
    assert two_at_once(load.acknowledged()) == []

They run in a process of their own (load_client.py). Each inserts a row every 20 ms, in autocommit,
and after any error connects anew, to whichever node takes writes. An insert that got an error, a
warning or no answer is unknown: it may be there or not.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

TABLE = "CREATE TABLE IF NOT EXISTS load_rows (id text PRIMARY KEY)"
CLIENT = Path(__file__).with_name("load_client.py")
EVERY = 0.02  # seconds
GIVE_UP = 5.0
PAUSE = 0.005
END_SECONDS = 30.0

Place = tuple[str, int]  # address and port


@dataclass(frozen=True)
class Row:
    """One insert. Times are seconds of time.monotonic(), which all processes share.

    Attributes:
        id: made by the client.
        begun: when it was sent.
        ended: when the answer came, or was given up.
        port: the node's.
        timeline: of the WAL that it was committed in; empty if it was not acknowledged.
        why: it was not acknowledged.
    """

    id: str
    begun: float
    ended: float
    port: int
    timeline: str
    why: str


@dataclass(frozen=True)
class Gap:
    """A time without an acknowledgement: between two rows, or up to now if `after` is None."""

    seconds: float
    before: Row
    after: Row | None

    def __str__(self) -> str:
        to = f"port {self.after.port}" if self.after else "nobody"
        return f"{self.seconds:.3f} s, after {self.before.id}: port {self.before.port}, then {to}"


@dataclass
class Load:
    """Clients at work, or done: what became of their rows so far."""

    file: Path
    process: subprocess.Popen[str]
    _rows: list[Row] = field(default_factory=list)
    _at: int = 0
    _ended: float = 0.0

    def rows(self) -> list[Row]:
        """Return all rows so far, in the order of the answers."""
        if self.file.exists():
            with self.file.open("rb") as lines:
                lines.seek(self._at)
                whole = lines.read().rpartition(b"\n")[0]
            self._at += len(whole) + 1 if whole else 0
            self._rows += [Row(**json.loads(line)) for line in whole.splitlines()]
            self._rows.sort(key=lambda row: row.ended)
        assert self._ended or self.process.poll() is None, "the load clients have ended"
        return self._rows

    def acknowledged(self) -> list[Row]:
        """Return the rows that are committed for certain, in the order of the answers."""
        return [row for row in self.rows() if not row.why]

    def unknown(self) -> list[Row]:
        """Return the rows that may be committed or not."""
        return [row for row in self.rows() if row.why]

    def longest_gap(self, since: float = 0.0) -> Gap:
        """Return the longest time between two acknowledgements, or since the last one.

        Rows that were acknowledged before `since` do not count, but for the last of them.
        """
        rows = self.acknowledged()
        late = [row for row in rows if row.ended >= since]
        counted = rows[: len(rows) - len(late)][-1:] + late
        assert counted, "nothing was acknowledged"
        gaps = [Gap(two.ended - one.ended, one, two) for one, two in pairwise(counted)]
        last = Gap((self._ended or time.monotonic()) - counted[-1].ended, counted[-1], None)
        return max([*gaps, last], key=lambda gap: gap.seconds)

    def first(self, since: float, *, port: int | None = None, seconds: float = 60.0) -> Row:
        """Wait for the first row that began after `since` and is acknowledged, by this port."""
        end = time.monotonic() + seconds
        while True:
            late = (row for row in self.acknowledged() if row.begun >= since)
            if row := next((row for row in late if port in {None, row.port}), None):
                return row
            assert time.monotonic() < end, f"nothing was acknowledged for {seconds:g} s: {self}"
            time.sleep(0.01)

    def end(self) -> None:
        """End the clients and wait for them; the rows stay."""
        try:
            self.process.communicate(timeout=END_SECONDS)  # stdin ends
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._ended = time.monotonic()

    def __str__(self) -> str:
        unknown = self.unknown()
        last = f"; the last: {unknown[-1].why}" if unknown else ""
        return f"{len(self.acknowledged())} rows acknowledged, {len(unknown)} unknown{last}"


@contextmanager
def running_load(
    places: Sequence[Place],
    password: str,
    directory: Path,
    *,
    clients: int = 1,
    every: float = EVERY,
    give_up: float = GIVE_UP,
    pause: float = PAUSE,
) -> Iterator[Load]:
    """Make the table where it is missing, and insert into it until the block ends.

    With several clients each begins its search for a primary at another node. An insert without an
    answer is given up after `give_up` seconds; without a primary each looks again every `pause`.
    """
    _make_table(places, password)
    run = secrets.token_hex(3)
    file = directory / f"load-{run}.jsonl"
    process = subprocess.Popen([sys.executable, str(CLIENT)], stdin=subprocess.PIPE, text=True)
    assert process.stdin
    orders = {
        "run": run, "places": list(places), "password": password, "clients": clients,
        "every": every, "give_up": give_up, "pause": pause, "file": str(file),
    }  # fmt: skip
    process.stdin.write(json.dumps(orders) + "\n")
    process.stdin.flush()
    load = Load(file, process)
    try:
        load.first(0.0)
        yield load
    finally:
        load.end()


def _make_table(places: Sequence[Place], password: str) -> None:
    hosts, ports = ",".join(a for a, _ in places), ",".join(str(p) for _, p in places)
    with psycopg.connect(
        host=hosts, port=ports, user="postgres", password=password, dbname="postgres",
        connect_timeout=5, target_session_attrs="read-write", autocommit=True,
    ) as connection:  # fmt: skip
        connection.execute(TABLE)


def missing(acknowledged: Iterable[Row], sql: Callable[[str], Any]) -> set[str]:
    """Return the ids that were acknowledged and are not in the table.

    `sql` runs a statement on the primary and returns the first column of its first row.
    """
    there = sql("SELECT coalesce(json_agg(id), '[]') FROM load_rows")
    return {row.id for row in acknowledged} - set(there)


def two_at_once(acknowledged: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Return pairs of rows that two primaries acknowledged although only one may.

    A timeline has one primary; and once a row of a later one was acknowledged, none of an earlier
    one may be that began after that.
    """
    port_of: dict[str, Row] = {}
    newest: Row | None = None
    found = []
    for row in sorted(acknowledged, key=lambda row: row.ended):
        own = port_of.setdefault(row.timeline, row)
        if own.port != row.port:
            found.append((own, row))
        if newest is None or row.timeline > newest.timeline:
            newest = row
        elif row.timeline < newest.timeline and row.begun > port_of[newest.timeline].ended:
            found.append((port_of[newest.timeline], row))
    return found
