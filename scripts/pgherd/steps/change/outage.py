"""How long writes are refused while the primary changes, as a client sees it.

Through the published ports it commits an empty message (`pg_logical_emit_message`) every few
milliseconds: a commit like any other, that waits for synchronous standbys, and needs no table.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg

from pgherd import config
from pgherd.client import Connection, connect, cut
from pgherd.errors import Unreachable
from pgherd.host.together import side_by_side
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance

NAME = "pgherd switchover"
BEFORE_SECONDS = 0.01  # between two commits while the old primary serves
AFTER_SECONDS = 0.004  # between two tries on the new one
LATE_SECONDS = 30.0  # for the first commit after all else is done
COMMIT = "SELECT pg_logical_emit_message(true, 'pgherd', '')"
TRY = f"SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE ({COMMIT}) END"


class Outage:
    """A client that watches two nodes while the one takes the other's place.

    It never fails: where it cannot connect, it tells nothing.
    """

    def __init__(self, group: Group, old: Instance, new: Instance) -> None:
        self._group = group
        self._nodes = [old, new]
        self._connections: list[Connection] = []
        self._over = threading.Event()
        self._resumed = threading.Event()
        self._last = self._first = 0.0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._group.trace.dry:
            return self
        config.forget_libpq_variables()
        with suppress(psycopg.Error, Unreachable):
            self._connections = side_by_side(
                lambda instance: connect(self._group, instance, NAME), self._nodes
            )
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        for connection in self._connections:
            cut(connection)
            connection.close()
        if self._thread:
            self._thread.join()

    def seconds(self) -> float | None:
        """Return the time between the last commit on the old primary and the first on the new.

        It waits for that first commit. None where it could not be watched, or did not come.
        """
        if self._thread is None or not self._resumed.wait(LATE_SECONDS) or not self._last:
            return None
        return self._first - self._last

    @property
    def resumed_at(self) -> float:
        """When the first commit on the new primary was acknowledged, by the monotonic clock."""
        return self._first

    def _watch(self) -> None:
        old, new = self._connections
        with suppress(psycopg.Error):
            while not self._over.wait(BEFORE_SECONDS):
                old.execute(COMMIT.encode())
                self._last = time.monotonic()
        with suppress(psycopg.Error):
            while not self._over.wait(AFTER_SECONDS):
                row = new.execute(TRY.encode()).fetchone()
                if row and row[0] is not None:
                    self._first = time.monotonic()
                    self._resumed.set()
                    return
