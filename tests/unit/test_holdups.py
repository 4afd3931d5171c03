"""What a switchover would wait for: who is late, what archives too slowly, who holds replay."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeHost, facts, group, observation, sender, standby_facts, topology

from pgherd.checks.status import judge
from pgherd.errors import Refused
from pgherd.operations import switchover
from pgherd.operations.switchover import held_up, refuse_held_up, tell_transactions
from pgherd.postgres.facts import Facts, Sender
from pgherd.postgres.instance import Instance
from pgherd.postgres.switchover_waits import Holdup, of_node

CHECKPOINT = {"redo": "0/2000000", "seconds": 100.0}
OURS = sender("s1", pid=7, user="replicator", slot="s1", connected=900.0, silent=0.1)


def consumer(**changes: Any) -> Sender:
    """A logical consumer that has confirmed all."""
    given = {"pid": 9, "user": "ann", "slot": "c", "plugin": "pgoutput", "write": "0/3000000",
             "connected": 900.0, "silent": 1.0, "replay": None, "sync_state": "async"}  # fmt: skip
    return sender("app", **given | changes)


def codes(primary: Facts, standby: Facts | None = None) -> list[str]:
    """Return what a status warns of."""
    seen = observation(pa=primary, s1=standby or standby_facts(primary_conninfo="host=pa"))
    return [w.code for w in judge(group(topology("s1")), seen).warnings]


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({}, False),
        ({"flush": None, "write": None}, True),
        ({"flush": "0/1FFFFFF"}, True),
        ({"flush": "0/2000000"}, False),  # what came since the checkpoint may be of this moment
        ({"flush": None, "write": "0/2000000"}, False),
        ({"flush": "0/1FFFFFF", "connected": 59.0}, False),
        ({"silent": 61.0}, True),
        ({"silent": None}, True),
        ({"silent": None, "connected": 59.0}, False),
        ({"flush": None, "write": None, "state": "backup"}, False),
        ({"flush": None, "write": None, "state": "startup"}, False),
        ({"plugin": None, "slot": None, "flush": "0/1"}, True),  # somebody else's standby
    ],
)
def test_who_is_late(changes: dict[str, Any], late: bool) -> None:
    led = facts(OURS, consumer(**changes), checkpoint=CHECKPOINT)
    assert codes(led) == ["consumer-late"] * late


def test_a_standby_of_the_group_is_no_stranger() -> None:
    """A consumer is one, also where it has a standby's name."""
    late = {"flush": "0/1", "connected": 900.0}
    assert codes(facts(sender("S1", **late), checkpoint=CHECKPOINT)) == []
    logical = sender("s1", plugin="pgoutput", backend_start="2025-01-01", **late)
    assert codes(facts(OURS, logical, checkpoint=CHECKPOINT)) == ["consumer-late"]


@pytest.mark.parametrize(
    ("archiver", "found"),
    [
        (None, []),
        ({"fails": None, "files": 0, "seconds": 0}, []),
        ({"fails": None, "files": 3, "seconds": 60}, []),
        ({"fails": None, "files": 3, "seconds": 61}, ["archive-late"]),
        ({"fails": 2.5, "files": 3, "seconds": 5}, ["archive-fails"]),
        ({"fails": 9e5, "files": 0, "seconds": 0}, []),  # of a time before it was a standby
    ],
)
def test_archiving(archiver: dict[str, Any] | None, found: list[str]) -> None:
    made = {"always": False, **archiver} if archiver else None
    assert codes(facts(OURS, archiver=made)) == found


def held(seconds: float | None, **holder: Any) -> dict[str, Any]:
    """Say that replay is held, by a query unless another is given."""
    given = {"pid": 5, "user": "ann", "application_name": "psql", "state": "active",
             "seconds": 9.0, "query": "SELECT\n  1"}  # fmt: skip
    return {"by": "relation", "seconds": seconds, "holders": [given | holder]}


@pytest.mark.parametrize(
    ("seconds", "age", "warned"),
    [(4.0, 900.0, False), (6.0, None, True), (None, 6.0, True), (None, None, False)],
)
def test_replay_that_is_held(seconds: float | None, age: float | None, warned: bool) -> None:
    follows = standby_facts(
        primary_conninfo="host=pa", held=held(seconds), replayed_age=age, lsn="0/2FFFFFF"
    )
    assert codes(facts(OURS), follows) == ["replay-held"] * warned


def test_what_ends_it() -> None:
    """A cancel frees no idle transaction, and says that it did."""

    def told(**holder: Any) -> Holdup:
        (found,) = of_node(topology("s1"), "s1", standby_facts(held=held(9.0, **holder)))
        return found

    running = told()
    assert running.text == (
        "replay on s1 is held for 9 s by process 5 (psql of ann, active: SELECT 1)"
    )
    assert '--command "SELECT pg_cancel_backend(5)"' in running.cure
    idle = told(state="idle in transaction")
    assert '--command "SELECT pg_terminate_backend(5)"' in idle.cure


# --- before a switchover ---


def look(
    monkeypatch: pytest.MonkeyPatch, *looks: tuple[Facts, Facts], seconds: int = 30
) -> list[Holdup]:
    """Return what is found of the primary and the standby, which are asked again and again."""
    monkeypatch.setattr(switchover, "PAUSE_SECONDS", 0.01)
    later = {"pa": [a for a, _ in looks[1:]], "s1": [b for _, b in looks[1:]]}
    monkeypatch.setattr(Instance, "facts", lambda self: later[self.name].pop(0))
    made = group(topology("s1"), FakeHost())
    seen = observation(pa=looks[0][0], s1=looks[0][1])
    return held_up(made, made.instance("s1"), made.master, seen, seconds)


WELL = standby_facts()
LATE = facts(OURS, consumer(flush="0/2FFFFFF"), checkpoint=CHECKPOINT, lsn="0/3000000")


def test_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, (facts(OURS, consumer()), WELL)) == []


def test_one_that_comes_along_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    further = facts(OURS, consumer(), checkpoint=CHECKPOINT, lsn="0/4000000")
    assert look(monkeypatch, (LATE, WELL), (LATE, WELL), (further, WELL)) == []
    said = capsys.readouterr().err
    assert said.startswith("process 9 (app of ann, slot c, pgoutput) on pa has not confirmed what")
    assert said.count("waiting for up to 30 s") == 1


def test_one_that_does_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, (LATE, WELL), seconds=0)
    assert [holdup.pid for holdup in found] == [9]
    with pytest.raises(Refused, match="pg_terminate_backend\\(9\\)") as caught:
        refuse_held_up(group(topology("s1")).instance("s1"), found)
    assert "`invoke switchover --to s1 --force` ends them" in caught.value.sentence


@pytest.mark.parametrize(
    ("primary", "standby", "what"),
    [
        (facts(OURS, consumer(flush="0/1"), checkpoint=CHECKPOINT), WELL, "100 s ago"),
        (facts(OURS, consumer(plugin=None, state="backup")), WELL, "takes a base backup"),
        (facts(OURS, sender("s1", pid=8, silent=21.0)), WELL, "has told nothing for 21 s"),
        (
            facts(OURS, archiver={"always": False, "fails": 1, "files": 1, "seconds": 1}),
            WELL,
            "archiving on pa fails",
        ),
        (facts(OURS), standby_facts(held=held(6.0)), "replay on s1 is held for 6 s"),
    ],
)
def test_what_is_sure_is_refused_at_once(
    primary: Facts, standby: Facts, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = look(monkeypatch, (primary, standby))
    assert what in found.text


def test_transactions_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"pid": 4, "user": "ann", "application_name": "", "state": "active"}
    led = facts(clients=({**row, "transaction": 61.0}, {**row, "transaction": None}), prepared=2)
    made = group(topology("s1"))
    tell_transactions(made, made.master, observation(pa=led, s1=WELL))
    assert capsys.readouterr().err == (
        "pa: the transaction of process 4 (no name of ann) has gone on for 61 s, and is ended\n"
        "pa: 2 prepared transactions go on afterwards\n"
    )
