"""What one server is, as PostgreSQL itself says. It reads only."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pgherd.config.values import PGDATA, PRIVATE, within
from pgherd.errors import Error, Refused, escaped, quoted
from pgherd.postgres.conf import lsn_to_int, parse_controldata
from pgherd.postgres.history import History

# --- is it what `sql/facts.sql` answers? Something else may have printed into the output ---

_KINDS: dict[type, tuple[str, ...]] = {
    bool: ("in_recovery", "replay_paused", "marked", "hba_lets_replicator_in"),
    int: ("version_num", "timeline", "apply_delay", "conflicts"),
    str: (
        "system_identifier", "history", "sync_names", "primary_conninfo", "primary_slot",
    ),
}  # fmt: skip
# What stands in each row of these, and which of that are numbers.
_ROWS = {
    "slots": ({"name", "active", "restart", "wal_status"}, {"retained", "left"}),
    "sync_waiters": ({"pid", "since", "query"}, {"seconds"}),
    "clients": ({"pid", "user", "application_name", "state"}, {"transaction"}),
    "holders": ({"pid", "user", "application_name", "state", "query"}, {"seconds"}),
    "tablespaces": ({"name", "path", "lies", "databases"}, set()),
}


def check(answer: Mapping[str, Any]) -> None:
    """Raise ValueError, TypeError or KeyError for what cannot be worked with."""
    for kind, name, value in _plain(answer):
        if type(value) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
    for lsn in _lsns(answer):
        lsn_to_int("0/0" if lsn is None else lsn)
    for name in ("slots", "sync_waiters", "clients"):
        _check_rows(name, answer[name])
    for part in (answer["receiver"], answer["replicator"]):
        dict(part or {})
    float(answer["replayed_age"] or 0)
    _check_waits(answer)


def _check_rows(name: str, rows: Any) -> None:
    keys, numbers = _ROWS[name]
    for row in rows:
        if missing := (keys | numbers) - row.keys():
            raise ValueError(f"a row of {name} lacks {', '.join(sorted(missing))}")
        [float(row[key] or 0) for key in numbers]


def _check_waits(answer: Mapping[str, Any]) -> None:
    """Look at what a switchover may have to wait for, where that is told."""
    if last := answer.get("checkpoint"):
        lsn_to_int(last["redo"])
        float(last["seconds"])
    if held := answer.get("held"):
        _check_rows("holders", held["holders"])
        [str(held["by"]), float(held["seconds"] or 0)]
    if archiver := answer.get("archiver"):
        [int(archiver["files"]), bool(archiver["always"])]
        [float(archiver["seconds"]), float(archiver["fails"] or 0)]
    int(answer.get("prepared") or 0)


def _plain(answer: Mapping[str, Any]) -> Iterator[tuple[type, str, object]]:
    """Yield each value that has to be of a certain kind: that, its name, itself."""
    for kind, names in _KINDS.items():
        yield from ((kind, name, answer[name]) for name in names)
    yield from ((str, "a word of restart_due", word) for word in answer["restart_due"])
    for row in answer["tablespaces"]:
        yield from (
            (str, f"the {key} of a tablespace", row[key]) for key in ("name", "path", "lies")
        )
        yield from ((str, "a database", database["name"]) for database in row["databases"])
        yield from ((bool, "a default", database["default"]) for database in row["databases"])
    for value in dict(answer.get("written") or {}).values():
        yield str, "the value of a setting", value or ""
    for name in ("database", "read_only", "no_alter_system"):
        yield str, name, answer.get(name) or ""
    for sender in answer["senders"]:
        for key in ("application_name", "state", "backend_start"):
            yield str, key, sender[key]


def _lsns(answer: Mapping[str, Any]) -> Iterator[Any]:
    yield answer["lsn"]
    yield answer["received"]
    for sender in answer["senders"]:
        yield from (sender.get(key) for key in ("sent", "write", "flush", "replay"))
        float(sender.get("connected") or 0)


# --- what is, as PostgreSQL itself says: reads only, nothing here changes a server or a file ---

GONE = "gone"  # a file that the server reads, and that is no more there
# In pg_controldata's output; a standby that was promoted has the second first.
TIMELINES = ("Latest checkpoint's TimeLineID", "Min recovery ending loc's timeline")
ENDS = ("Latest checkpoint location", "Minimum recovery ending location")


def _unreadable(fault: Exception, answer: object) -> Error:
    shown = quoted(str(answer)[:200])
    return Error(f"A server's answer cannot be read ({escaped(str(fault))[:200]}): {shown}")


class Outside(NamedTuple):
    """Something of a database that lies outside its data directory.

    Attributes:
        what: in words: `the tablespace fast`, `pg_wal`.
        path: where it is, as its container has it.
        lies: as the server says, in a `mount` of its container, in `memory` (tmpfs), or in the
            `container` only; empty where no server was asked.
        tablespace: the name as SQL has it, where it is a tablespace that a server told of.
        databases: the databases that have something in it, and whether it is their default.
    """

    what: str
    path: str
    lies: str = ""
    tablespace: str = ""
    databases: tuple[tuple[str, bool], ...] = ()

    @property
    def linked(self) -> bool:
        """Whether it is a link of somebody's, and no tablespace of PostgreSQL's."""
        return not self.what.startswith("the tablespace ")


def read_links(text: str) -> Iterator[Outside]:
    """Read the links of a data directory that lead out of it: lines `link`, name, target."""
    for name, target in re.findall(r"^link\t([^\t\n]*)\t(.*)$", text, re.MULTILINE):
        directory, base = posixpath.split(name)
        path = posixpath.normpath(posixpath.join(PGDATA, directory, target))
        if not (within(path, PGDATA) or within(path, PRIVATE)):
            yield Outside(f"the tablespace {base}" if directory else name, path)


@dataclass(frozen=True)
class Sender:
    """A row of pg_stat_replication: whoever receives from a server: a standby, most often."""

    application_name: str
    state: str
    sync_state: str
    sent: str | None
    flush: str | None
    replay: str | None
    backend_start: str
    replay_lag: float | None = None  # seconds; None while idle
    silent: float | None = None  # seconds since it last reported
    tls: str | None = None  # the version, as TLSv1.3; None where it is not encrypted
    cipher: str | None = None
    pid: int = 0
    user: str | None = None
    slot: str | None = None
    plugin: str | None = None  # of logical decoding
    write: str | None = None
    connected: float | None = None  # seconds

    @property
    def confirmed(self) -> int:
        """How far it has confirmed, as a primary that is stopped waits for it (WalSndDone)."""
        return lsn_to_int(self.flush or self.write or "0/0")

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
    timeline: int
    lsn: str | None
    history: str
    received: str | None
    replay_paused: bool
    replayed_age: float | None
    apply_delay: int  # milliseconds
    marked: bool
    settings: str | None
    restart_due: tuple[str, ...]
    conflicts: int
    sync_names: str
    primary_conninfo: str
    primary_slot: str
    receiver: dict[str, Any] | None
    senders: tuple[Sender, ...]
    slots: tuple[dict[str, Any], ...]
    sync_waiters: tuple[dict[str, Any], ...]
    clients: tuple[dict[str, Any], ...]
    tablespaces: tuple[dict[str, Any], ...]
    replicator: dict[str, Any] | None
    hba_lets_replicator_in: bool
    turn: str = ""  # of which run: see `sh/in-turn.sh`
    certificate: str | None = None  # the SHA-256 of its file, or GONE; None without TLS of ours
    written: Mapping[str, str | None] = field(default_factory=dict)  # the settings of pgherd.conf
    database: str = "postgres"  # where the session was that said so
    read_only: str | None = None  # what makes a superuser's transactions so, if anything does
    no_alter_system: str | None = None  # what forbids ALTER SYSTEM, if anything does
    by_files: bool = False  # nobody could log in, so that its files were read instead
    links: tuple[Outside, ...] = ()  # out of the data directory: only a look at the host has them
    checkpoint: Mapping[str, Any] | None = None
    archiver: Mapping[str, Any] | None = None
    held: Mapping[str, Any] | None = None
    prepared: int = 0

    @classmethod
    def parse(cls, text: str) -> Facts:
        """Read the one JSON object that `sql/facts.sql` returns.

        Raises:
            Error: the text is something else.
        """
        try:
            return cls.of(json.loads(text))
        except (ValueError, RecursionError) as fault:
            raise _unreadable(fault, text) from None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Facts:
        """Read the same object where a client library has taken the JSON apart.

        Raises:
            Error: it is another one.
        """
        try:
            raw = {**answer, "senders": tuple(Sender(**row) for row in answer["senders"])}
            for name in ("slots", "sync_waiters", "clients", "tablespaces", "restart_due"):
                raw[name] = tuple(answer[name])
            check(answer)
            found = cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError, Refused) as fault:
            raise _unreadable(fault, answer) from None
        return found

    @classmethod
    def of_files(cls, text: str) -> Facts | None:
        """Read what `sh/running.sh` says of a server that runs and lets nobody in.

        None where that does not tell what it is: it answers nobody at all, or has still to come to
        a consistent state.

        Raises:
            Error: pg_controldata's lines are not what they have to be.
        """
        disk, told = Disk.parse(text), _marks(text)
        serves = told.get("ready") == "0" or (told.get("ready"), told.get("hot_standby")) == (
            "1", "off",
        )  # fmt: skip
        states = {"in production": False, "in archive recovery": True}
        if not serves or disk.state not in states or disk.system_identifier is None:
            return None
        recovers, start = states[disk.state], told.get("start", "0/0")
        last = re.search(r"^beyond=(\S+) ([0-9]{1,10}) ", text, re.MULTILINE)
        return cls(
            in_recovery=recovers,
            system_identifier=disk.system_identifier,
            version_num=int(disk.pg_version or "0") * 10000,
            timeline=_number(told.get("timeline") or str(disk.timeline)),
            lsn=start,
            history=disk.history,
            received=record_end(last[1], int(last[2])) if last else start,
            replay_paused=False,
            replayed_age=None,
            apply_delay=_number(told.get("delay") or "0"),
            marked=disk.standby_signal and not recovers,
            settings=disk.settings or None,
            restart_due=(),
            conflicts=0,
            sync_names=told.get("waits_for", ""),
            primary_conninfo=told.get("conninfo", ""),
            primary_slot=told.get("slot", ""),
            receiver={"status": "streaming"} if "receives" in told else None,
            senders=(),
            slots=(),
            sync_waiters=(),
            clients=(),
            tablespaces=(),
            replicator=None,
            hba_lets_replicator_in=False,
            turn=told.get("turn", ""),
            links=tuple(dict.fromkeys(read_links(text))),
            by_files=True,
        )

    @property
    def position(self) -> tuple[int, int]:
        """How far its history has come: timeline and WAL position; the greater is the newer."""
        return self.timeline, lsn_to_int(self.lsn or "0/0")

    @property
    def end(self) -> str:
        """Where its WAL on disk ends, replayed or not, as far as it was streamed."""
        return max(self.lsn or "0/0", self.received or "0/0", key=lsn_to_int)

    @property
    def rereads(self) -> bool:
        """Whether it replays what it had before its start, so that `end` is less than it has.

        It asks for the stream only once it has read all that, and from then on `received` is
        there (WaitForWALToBecomeAvailable, RequestXLogStreaming).
        """
        return self.in_recovery and self.received is None and bool(self.primary_conninfo)

    @property
    def came_through(self) -> History:
        """The timelines that it has come through."""
        return History.parse(self.timeline, self.history)

    @property
    def outside(self) -> tuple[Outside, ...]:
        """What it has outside its data directory: tablespaces, and what is a link."""
        told = (
            Outside(
                f"the tablespace {row['name']}",
                row["path"],
                row["lies"],
                row["name"],
                tuple((d["name"], bool(d["default"])) for d in row["databases"]),
            )
            for row in self.tablespaces
        )
        return (*told, *self.links)

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
class NoAnswer:
    """Why a server that runs says nothing of itself, and what its files say if that is enough."""

    sentence: str
    files: Facts | None = None


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
    reached: str = "0/0"  # its WAL ends here or later
    checkpointed: str = ""  # when that checkpoint was
    settings: str = ""  # the SHA-256 of its pgherd.conf
    history: str = ""  # the history file of its timeline
    sync_names: str = ""  # whom its commits waited for, by postgresql.auto.conf
    primary_conninfo: str = ""  # whom it is to follow, by the same
    unarchived: tuple[str, ...] = ()  # WAL files that a standby would not archive any more
    rewindable: bool = False  # checksums or wal_log_hints: without them pg_rewind refuses
    outside: tuple[Outside, ...] = ()  # where its links lead
    gone: tuple[str, ...] = ()  # those of them where nothing is, though there is a place for it
    unready: bool = False  # a place for tablespaces is not there, or not the server's own

    @classmethod
    def parse(cls, text: str) -> Disk:
        """Read what `sh/examine.sh` printed.

        Raises:
            Error: pg_controldata's lines are not what they have to be.
        """
        marks = _marks(text)
        control = parse_controldata(text)
        ends = [control.get(key, "0/0") for key in ENDS]
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
            timeline=max(_number(control.get(key, "0")) for key in TIMELINES),
            checkpoint=ends[0],
            reached=max(ends, key=lsn_to_int),
            checkpointed=control.get("Time of latest checkpoint", ""),
            settings=marks.get("settings", ""),
            history=marks.get("history", "").replace(";", "\n"),
            sync_names=_unquoted(marks.get("sync_names", "")),
            primary_conninfo=_unquoted(marks.get("follows", "")),
            unarchived=tuple(marks.get("unarchived", "").split()),
            rewindable=control.get("Data page checksum version", "0") != "0"
            or control.get("wal_log_hints setting") == "on",
            outside=tuple(read_links(text)),
            gone=tuple(re.findall(r"^gone\t(.*)$", text, re.MULTILINE)),
            unready="unready" in marks,
        )

    @property
    def position(self) -> tuple[int, int]:
        """How far its history has come: timeline and WAL position; the greater is the newer."""
        return self.timeline, lsn_to_int(self.checkpoint)

    @property
    def came_through(self) -> History:
        """The timelines that it has come through."""
        return History.parse(self.timeline, self.history)

    @property
    def unfinished(self) -> bool:
        """Whether what lies here is nothing that a server could run on, and ours."""
        return self.half_made or self.half_copied

    @property
    def clean(self) -> bool:
        """Whether the server was stopped in order, so that nothing is left to recover."""
        return self.state in {"shut down", "shut down in recovery"}


def record_end(lsn: str, size: int) -> str:
    """Return where the WAL record ends that begins there, and the next one may begin.

    Each page of 8 kB that it goes on to begins with 24 bytes of its own.
    """
    begin = lsn_to_int(lsn)
    end = begin + size + 24 * ((begin % 8192 + size - 1) // 8192)
    end = (end + 7) & ~7
    return f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"


def _unquoted(text: str) -> str:
    """Return what stands within the quotes of a line of postgresql.auto.conf."""
    return re.sub(r"(['\\])\1", r"\1", text)


def _marks(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z_.]+)=(.*)$", text, re.MULTILINE))


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise Error(f"pg_controldata or postgres tell no number, but {quoted(text)}.")
    return int(text)


def ahead(standby: str | None, primary: str | None) -> bool:
    """Tell whether a standby has WAL that its primary, asked afterwards, has not: it diverged."""
    return bool(standby and primary and lsn_to_int(standby) > lsn_to_int(primary))
