"""What is, as PostgreSQL itself says: reads only, nothing here changes a server or a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgherd.errors import Error
from pgherd.postgres.conf import lsn_to_int, parse_controldata

# In pg_controldata's output; a standby that was promoted has the second first.
TIMELINES = ("Latest checkpoint's TimeLineID", "Min recovery ending loc's timeline")


@dataclass(frozen=True)
class Sender:
    """A row of pg_stat_replication: a standby as its upstream sees it."""

    application_name: str
    state: str
    sync_state: str
    sent: str | None
    flush: str | None
    replay: str | None
    backend_start: str

    @property
    def streaming(self) -> bool:
        """Whether it has caught up and gets WAL as it is written."""
        return self.state == "streaming"


@dataclass(frozen=True)
class Facts:
    """What one live server says of itself: see `sql/facts.sql` for each field's source."""

    in_recovery: bool
    system_identifier: str
    version_num: int
    segment_size: int
    timeline: int
    lsn: str | None
    replay_paused: bool
    sync_names: str
    primary_conninfo: str
    primary_slot: str
    receiver: dict[str, Any] | None
    senders: tuple[Sender, ...]
    slots: tuple[dict[str, Any], ...]
    sync_waiters: tuple[dict[str, Any], ...]
    clients: tuple[dict[str, Any], ...]
    tablespaces: tuple[str, ...]
    replicator: dict[str, Any] | None
    hba_lets_replicator_in: bool

    @classmethod
    def parse(cls, text: str) -> Facts:
        """Read the one JSON object that `sql/facts.sql` returns.

        Raises:
            Error: the text is something else.
        """
        try:
            return cls.of(json.loads(text))
        except (ValueError, TypeError, KeyError) as fault:
            raise Error(f"A server's answer cannot be read ({fault}): {text[:200]!r}") from None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Facts:
        """Read the same object where a client library has taken the JSON apart."""
        raw = {**answer, "senders": tuple(Sender(**row) for row in answer["senders"])}
        for name in ("slots", "sync_waiters", "clients", "tablespaces"):
            raw[name] = tuple(answer[name])
        return cls(**raw)

    @property
    def position(self) -> tuple[int, int]:
        """How far its history has come: timeline and WAL position; the greater is the newer."""
        return self.timeline, lsn_to_int(self.lsn or "0/0")

    def sender(self, application_name: str) -> Sender | None:
        """Return the standby of that name; one that streams is preferred to one that does not.

        A connection that broke without a word stays in the view until wal_sender_timeout. Names
        compare without regard to case, as synchronous_standby_names does (syncrep.c).
        """
        rows = [s for s in self.senders if s.application_name.lower() == application_name.lower()]
        return max(rows, key=lambda s: (s.streaming, s.backend_start), default=None)

    def slot(self, name: str) -> dict[str, Any] | None:
        """Return the physical slot of that name."""
        return next((s for s in self.slots if s["name"] == name), None)


@dataclass(frozen=True)
class Disk:
    """What lies in the data directory of a server that is down: see `sh/examine.sh`."""

    pg_version: str | None = None
    empty: bool = True
    standby_signal: bool = False
    connected: bool = False
    half_made: bool = False  # an initialisation of ours was killed here
    half_copied: bool = False  # a copy of ours was
    was_initialised: bool = False  # the node had a database, here or in another directory
    ours: bool = False  # in this very directory
    system_identifier: str | None = None
    state: str | None = None
    timeline: int = 0
    checkpoint: str = "0/0"
    settings: str = ""  # the SHA-256 of its pgherd.conf

    @classmethod
    def parse(cls, text: str) -> Disk:
        """Read what `sh/examine.sh` printed."""
        marks = dict(
            line.split("=", 1) for line in text.splitlines() if "=" in line and ":" not in line
        )
        control = parse_controldata(text)
        return cls(
            pg_version=marks.get("pg_version"),
            empty="empty" in marks,
            standby_signal="standby.signal" in marks,
            connected="connected" in marks,
            half_made="initdb.pending" in marks,
            half_copied="seeding" in marks,
            was_initialised="initdb.done" in marks,
            ours="ours" in marks,
            system_identifier=control.get("Database system identifier"),
            state=control.get("Database cluster state"),
            timeline=max(int(control.get(key, "0")) for key in TIMELINES),
            checkpoint=control.get("Latest checkpoint location", "0/0"),
            settings=marks.get("settings", ""),
        )

    @property
    def position(self) -> tuple[int, int]:
        """How far its history has come: timeline and WAL position; the greater is the newer."""
        return self.timeline, lsn_to_int(self.checkpoint)

    @property
    def unfinished(self) -> bool:
        """Whether what lies here is nothing that a server could run on, and ours."""
        return self.half_made or self.half_copied

    @property
    def clean(self) -> bool:
        """Whether the server was stopped in order, so that nothing is left to recover."""
        return self.state in {"shut down", "shut down in recovery"}


def ahead(standby: str | None, primary: str | None) -> bool:
    """Tell whether a standby has WAL that its primary, asked afterwards, has not: it diverged."""
    return bool(standby and primary and lsn_to_int(standby) > lsn_to_int(primary))
