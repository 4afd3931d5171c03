"""What a server says of itself, and what lies in the directory of one that is down."""

from __future__ import annotations

import json

import pytest
from fakes import ANSWER, SYSTEM, facts, sender

from pgherd.errors import Error, Refused
from pgherd.postgres.facts import Disk, Facts, ahead

FAST = {"name": "fast", "path": "/srv/fast", "lies": "mount", "databases": []}

CONTROL = f"""\
pg_control version number:            1700
Database system identifier:           {SYSTEM}
Database cluster state:               %s
pg_control last modified:             Thu Jan  1 12:34:56 2026
Latest checkpoint location:           0/3000028
Latest checkpoint's TimeLineID:       2
Min recovery ending loc's timeline:   0
Mock authentication nonce:            a=b
"""


def test_facts_are_read() -> None:
    row = {
        "application_name": "s1", "state": "streaming", "sync_state": "sync",
        "sent": "0/3", "flush": "0/3", "replay": None, "backend_start": "2026-01-01",
    }  # fmt: skip
    found = Facts.parse(json.dumps(ANSWER | {"senders": [row], "tablespaces": [FAST]}))
    assert found == facts(sender("s1", sent="0/3", flush="0/3", replay=None), tablespaces=(FAST,))
    assert found.position == (1, 0x3000000)


@pytest.mark.parametrize(
    "text", ["", "psql: error", "[]", '"x"', "{}", json.dumps(ANSWER | {"senders": None}),
             json.dumps(ANSWER | {"more": 1}), json.dumps(ANSWER | {"senders": [{"state": "x"}]})],
)  # fmt: skip
def test_other_answers_are_an_error(text: str) -> None:
    with pytest.raises(Error, match="A server's answer cannot be read"):
        Facts.parse(text)


def test_of_two_rows_the_one_that_streams_counts() -> None:
    broken = sender("s1", state="startup", backend_start="2026-03-01")
    older = sender("s1", backend_start="2026-01-01")
    newer = sender("S1", backend_start="2026-02-01")
    assert facts(broken, older, newer, sender("s2")).sender("s1") is newer
    assert facts(broken, older).sender("S1") is older
    assert facts(broken).sender("s1") is broken
    assert facts(broken).sender("s") is None


def test_slot() -> None:
    slot = {"name": "s1", "active": False, "restart": None, "wal_status": "lost"}
    assert facts(slots=({"name": "s0"}, slot)).slot("s1") == slot
    assert facts().slot("s1") is None


# --- a directory ---


@pytest.mark.parametrize(
    ("state", "clean"),
    [
        ("shut down", True),
        ("shut down in recovery", True),
        ("in production", False),
        ("in archive recovery", False),
        ("shutting down", False),
    ],
)
def test_a_database(state: str, clean: bool) -> None:
    disk = Disk.parse(f"pg_version=17\ninitdb.done=1\n{CONTROL % state}")
    assert disk == Disk(
        pg_version="17",
        empty=False,
        was_initialised=True,
        system_identifier=SYSTEM,
        state=state,
        timeline=2,
        checkpoint="0/3000028",
        reached="0/3000028",
    )
    assert disk.clean is clean
    assert disk.position == (2, 0x3000028)


def test_a_standbys() -> None:
    disk = Disk.parse("pg_version=17\nstandby.signal=1\nsettings=0a1b\nconnected=1\n")
    assert (disk.standby_signal, disk.settings, disk.connected) == (True, "0a1b", True)
    assert (disk.unfinished, disk.was_initialised) == (False, False)
    assert disk.position == (0, 0)


def test_the_timeline_of_one_that_was_promoted_just_now() -> None:
    """Its checkpoint is the former primary's yet."""
    promoted = (CONTROL % "in production").replace("timeline:   0", "timeline:   3")
    assert Disk.parse(promoted).timeline == 3


def test_an_empty_one() -> None:
    assert Disk.parse("empty=1\n") == Disk()
    assert Disk.parse("empty=1\ninitdb.done=1\n") == Disk(was_initialised=True)
    assert Disk.parse("").empty is False  # something lies there that is no database
    assert not Disk().clean


@pytest.mark.parametrize(
    ("marks", "made", "copied"),
    [
        ("initdb.pending=1\n", True, False),
        ("seeding=1\n", False, True),
        ("seeding=1\n" + CONTROL % "in production", False, True),
        (CONTROL % "in production", False, False),  # a user's own backup
        ("initdb.done=1\n" + CONTROL % "shut down", False, False),
    ],
)
def test_an_unfinished_one(marks: str, made: bool, copied: bool) -> None:
    disk = Disk.parse(f"pg_version=17\n{marks}")
    assert (disk.half_made, disk.half_copied) == (made, copied)
    assert disk.unfinished is (made or copied)


# --- positions ---


@pytest.mark.parametrize(
    ("standby", "primary", "diverged"),
    [
        ("0/3000001", "0/3000000", True),
        ("0/3000000", "0/3000000", False),
        ("0/FFFFFFFF", "1/0", False),
        ("A/0", "9/FFFFFFFF", True),
        (None, "0/1", False),
        ("0/1", None, False),
    ],
)
def test_ahead(standby: str | None, primary: str | None, diverged: bool) -> None:
    assert ahead(standby, primary) is diverged


def test_ahead_of_what_is_no_position() -> None:
    with pytest.raises(Refused, match="no WAL position"):
        ahead("x", "0/1")


# --- marks of a database that may come back ---


@pytest.mark.parametrize(
    ("mark", "field", "value"),
    [
        ("history=1 0/5000148;2 0/6000000;", "history", "1 0/5000148\n2 0/6000000\n"),
        ("", "history", ""),
        ("sync_names=FIRST 1 (s1)", "sync_names", "FIRST 1 (s1)"),
        ("sync_names=FIRST 1 (\"it''s\", \"a\\\\b\")", "sync_names",
         "FIRST 1 (\"it's\", \"a\\b\")"),
        ("sync_names=", "sync_names", ""),
        ("", "sync_names", ""),
        ("Data page checksum version:           1", "rewindable", True),
        ("Data page checksum version:           0", "rewindable", False),
        ("wal_log_hints setting:                on", "rewindable", True),
        ("wal_log_hints setting:                off", "rewindable", False),
        ("", "rewindable", False),
    ],
)  # fmt: skip
def test_marks(mark: str, field: str, value: object) -> None:
    assert getattr(Disk.parse(f"pg_version=17\n{mark}\n"), field) == value


def test_the_history_of_what_lies_there() -> None:
    disk = Disk.parse(CONTROL % "shut down" + "history=1 0/5000148;\n")
    assert disk.came_through.fork(facts(timeline=1).came_through) == (1, "0/5000148")


@pytest.mark.parametrize(
    ("lsn", "received", "end"),
    [("0/3", "0/4", "0/4"), ("0/10", "0/9", "0/10"), ("0/3", None, "0/3"), (None, None, "0/0")],
)
def test_end(lsn: str | None, received: str | None, end: str) -> None:
    assert facts(lsn=lsn, received=received).end == end
