"""Seeding: the slot that a base backup uses, and who is beyond following."""

from __future__ import annotations

import pytest
from fakes import FakeHost, Said, container, facts, group, image, observation, topology

from pgherd.docker.models import Container
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable, stopped_meanwhile
from pgherd.group import node_config
from pgherd.group.observation import NodeObservation, Observation
from pgherd.hosts.commands import Result
from pgherd.hosts.parallel import Cancelled
from pgherd.operations import connect
from pgherd.operations.copy import BACKUP_NAME, slot_options
from pgherd.operations.seed import FOLLOW_SECONDS, SeedPlan, _why_never
from pgherd.postgres.datadir import ScriptFailed
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance


def slot(status: str) -> dict[str, object]:
    return {"name": "s1", "active": False, "restart": "0/1", "wal_status": status}


MADE, THERE = ["--slot=s1", "--create-slot"], ["--slot=s1"]


@pytest.mark.parametrize(
    ("found", "options", "ensured"),
    [
        (None, MADE, False),  # with --dry
        (facts(), MADE, False),
        (facts(slots=({"name": "s2", "wal_status": "lost"},)), MADE, False),
        (facts(slots=(slot("reserved"),)), THERE, False),
        (facts(slots=(slot("lost"),)), THERE, True),
        (facts(sync_names="FIRST 1 (s1)"), MADE, False),
        (facts(sync_names="*"), [], True),
        (facts(sync_names="ANY 1 (s1, *)", slots=(slot("lost"),)), [], True),
    ],
)
def test_slot_of_a_base_backup(found: Facts | None, options: list[str], ensured: bool) -> None:
    host = FakeHost({"docker exec --interactive --user postgres pa": Said()})
    made = group(topology("s1"), host)
    assert slot_options(made.instance("s1"), made.master, found) == options
    assert ["slots=s1\n" in call.stdin for call in host.calls] == [True] * ensured


def test_a_base_backup_is_not_taken_for_its_standby() -> None:
    made = group(topology("s1"))
    info = node_config.conninfo(made.instance("s1"), made.master, BACKUP_NAME)
    assert "application_name=pgherd-basebackup " in info
    assert "application_name=s1 " in node_config.conninfo(made.instance("s1"), made.master)


# --- beyond following ---


def hopeless(
    monkeypatch: pytest.MonkeyPatch, fault: Error | None, log: str = "", *, dry: bool = False
) -> str:
    """Say why a standby will never stream that gave this fault and wrote this log."""

    def wait(*words: object) -> None:
        assert words[2:] == (FOLLOW_SECONDS,)
        if fault:
            raise fault

    monkeypatch.setattr(connect, "wait_streaming", wait)
    host = FakeHost(
        {"sh -c": Said(""), "docker logs": Said("LOG:  entering standby mode\n", log)}, dry=dry
    )
    made = group(topology("s1"), host)
    seen = observation(pa=facts(), s1=None)
    return _why_never(SeedPlan(made, made.instance("s1"), made.master, image(), seen))


@pytest.mark.parametrize(
    "line",
    [
        "requested WAL segment 000000010000000000000003 has already been removed",
        "requested starting point 0/5000000 on timeline 1 is not in this server's history",
        "requested timeline 2 is not a child of this server's history",
        "new timeline 2 forked off current database system timeline 1 before 0/5000000",
        'can no longer get changes from replication slot "s1"',
        'can no longer access replication slot "s1"',
        "database system identifier differs between the primary and standby",
    ],
)
def test_a_log_that_tells_that_it_never_will(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"FATAL:  could not receive data from WAL stream: ERROR:  {line}"
    log = f"LOG:  before\n{said}\nLOG:  waiting for WAL to become available at 0/5000018\n"
    assert hopeless(monkeypatch, DeadlinePassed("late"), log) == said


@pytest.mark.parametrize(
    "line",
    [
        "highest timeline 1 of the primary is behind recovery timeline 2",
        "requested starting point 0/6000000 is ahead of the WAL flush position of this server",
    ],
)
def test_a_log_that_tells_of_newer_wal(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="has WAL that pa has not"):
        hopeless(monkeypatch, DeadlinePassed("late"), f"FATAL:  {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        'could not connect to the primary server: connection to server at "pa" failed',
        "the database system is starting up",
        "redo in progress, elapsed time: 10.00 s, current LSN: 0/5000018",
        "started streaming WAL from primary at 0/5000000 on timeline 1",
        'replication slot "s1" is active for PID 77',
        "password authentication failed for user replicator",
    ],
)
def test_a_log_that_leaves_hope(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hopeless(monkeypatch, DeadlinePassed("late"), f"LOG:  {line}\n") == ""


def test_one_that_streams_or_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    removed = "FATAL:  requested WAL segment 3 has already been removed\n"
    assert hopeless(monkeypatch, None, removed) == ""
    assert hopeless(monkeypatch, DeadlinePassed("late"), removed, dry=True) == ""
    ended = connect.Ended("s1 does not run.")
    assert hopeless(monkeypatch, ended, "") == "s1 does not run."


@pytest.mark.parametrize(
    "fault",
    [
        Unreachable("The host b cannot be reached."),
        stopped_meanwhile("pa", "local", "log"),
        ScriptFailed("pa", Result(("docker",), "local", 1, "", "container pa is not running")),
        Cancelled(),
        Refused("s1: /d/s1 is in use by another container."),
    ],
)
def test_what_befalls_others_is_no_reason_for_a_new_copy(
    fault: Error, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(fault)) as caught:
        hopeless(monkeypatch, fault, "FATAL:  requested WAL segment 3 has already been removed\n")
    assert caught.value is fault


def box(status: str, code: int) -> Container:
    return container("s1", status=status, exit_code=code)


@pytest.mark.parametrize(
    ("said", "found", "ended"),
    [
        (Said(code=75), box("exited", 1), True),
        (Said(code=75), box("restarting", 1), True),
        (Said(code=75), box("exited", 0), False),  # docker stop
        (Said(code=75), box("exited", 137), False),  # docker kill
        (Said(code=75), None, False),  # docker rm
        (Said(code=137), box("exited", 1), False),  # the upstream stopped
        (Said(err="container pa is not running", code=1), box("exited", 1), False),
        (Unreachable("gone"), box("exited", 1), False),
    ],
)
def test_who_ended_while_it_was_waited_for(
    said: Said | Error, found: Container | None, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Instance, "container", lambda _: found)
    made = group(topology("s1"), FakeHost({"docker exec": said, "docker logs": Said()}))
    with pytest.raises(Error) as caught:
        connect.wait_streaming(made.instance("s1"), made.master, 1)
    assert isinstance(caught.value, connect.Ended) is ended


def test_a_slot_that_was_made_to_follow_is_used_again_for_a_new_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A standby that turned out not to follow has its slot by then, made after the look."""
    made = group(topology("s1"), FakeHost())
    s1 = made.instance("s1")
    seen = Observation(
        {"pa": NodeObservation(container("pa"), facts()), "s1": NodeObservation(None, None)}, {}
    )
    pair = SeedPlan(made, s1, made.master, image(), seen)
    now = facts(slots=(slot("reserved"),))
    monkeypatch.setattr(Instance, "facts", lambda _: now)
    assert slot_options(s1, made.master, pair.theirs) == MADE
    assert slot_options(s1, made.master, pair.observe_upstream_again().theirs) == THERE
    assert pair.observe_upstream_again().mine is None
