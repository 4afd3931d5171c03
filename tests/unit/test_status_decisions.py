"""What a status tells: each node as it stands, every warning, and how far behind a standby is."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from fakes import (
    SYSTEM,
    FakeHost,
    container,
    facts,
    group,
    observation,
    sender,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.checks import status as checks_status
from pgherd.checks.status import Status, judge
from pgherd.errors import Refused, Unreachable
from pgherd.group.node_status import NodeStatus
from pgherd.group.observation import NodeObservation, Observation
from pgherd.postgres.conf import conninfo, read_conninfo
from pgherd.postgres.facts import Facts
from pgherd.postgres.history import Beyond
from pgherd.report import status as report_status

HISTORY = "1\t0/2000000\tno recovery target specified\n"


def slot(name: str, **changes: Any) -> dict[str, Any]:
    """A slot in use that keeps nothing."""
    given = {"name": name, "active": True, "restart": "0/3000000", "wal_status": "reserved"}
    return given | {"retained": 0, "left": None} | changes


def follows(upstream: str, **changes: Any) -> Facts:
    """A standby that streams from a neighbour, at the primary's position."""
    given = {"primary_conninfo": f"host={upstream} port=5432", "primary_slot": "s1"}
    return standby_facts(**given | changes)


LED = facts(sender("s1", replay_lag=0.25, silent=1.0), slots=(slot("s1"),), sync_names="s1")
FOLLOWS = follows("pa")


def found(sync: str = "s1", **nodes: Facts | None) -> Status:
    """Judge what was found of a group with the standby s1, and of s2 where it is given."""
    names = [name for name in nodes if name != "pa"]
    return judge(group(topology(*names, sync=sync)), observation(**nodes))


def told(status: Status) -> dict[str, str]:
    """Return the warnings' texts by code."""
    assert len({w.code for w in status.warnings}) == len(status.warnings)
    return {w.code: w.text for w in status.warnings}


def with_container(name: str, sync: str = "s1", **changes: Any) -> Status:
    """Judge a sound pair in which one container is otherwise; one that is down says nothing."""
    seen = observation(pa=LED, s1=FOLLOWS)
    made = container(name, **changes)
    its = seen.nodes[name].facts if made.running else None
    nodes = {**seen.nodes, name: NodeObservation(made, its)}
    return judge(group(topology("s1", sync=sync)), Observation(nodes, seen.engines))


# --- all well ---


def test_a_pair_that_is_well() -> None:
    status = found(pa=LED, s1=FOLLOWS)
    assert status.ok
    assert status.nodes == (
        NodeStatus("pa", "local", "primary", 1, conflicts=0),
        NodeStatus(
            "s1", "local", "standby", 1, "pa", "streaming", "sync", 0, 0.0, "s1", 0, 0
        ),
    )  # fmt: skip


def test_swapped_roles_are_well() -> None:
    led = facts(sender("pa"), sync_names="pa", timeline=2, history=HISTORY)
    old = follows("s1", timeline=2, history=HISTORY)
    status = found(pa=old, s1=led)
    assert told(status) == {}
    assert [(n.role, n.upstream) for n in status.nodes] == [("standby", "s1"), ("primary", None)]


def cascade(**changes: Any) -> Status:
    """Judge pa, s1 that follows it and s2 that follows s1."""
    asked = topology("s1", "s2", s2={"upstream": "s1"})
    middle = follows("pa", senders=(sender("s2", sync_state="async", replay_lag=1.5),))
    last = follows("s1", primary_slot="s2", **changes)
    led = replace(LED, sync_names="")
    return judge(group(asked), observation(pa=led, s1=middle, s2=last))


def test_a_cascade_is_seen_by_its_upstream_and_measured_against_the_primary() -> None:
    status = cascade(lsn="0/2FFFF00")
    last = status.nodes[2]
    assert told(status) == {}
    assert (last.upstream, last.sync_state, last.lag_bytes) == ("s1", "async", 256)
    assert last.lag_seconds == 1.5


@pytest.mark.parametrize(
    ("receiver", "upstream"),
    [
        ({"status": "streaming", "sender": "10.0.0.1", "port": 5432}, "pa"),
        ({"status": "streaming", "sender": "10.0.0.9", "port": 5432}, "10.0.0.9:5432"),
    ],
)
def test_an_upstream_on_another_host_is_known_by_its_address(
    receiver: dict[str, Any], upstream: str
) -> None:
    asked = topology("s1", pa={"listen": "10.0.0.1"}, s1={"host": "box", "listen": "10.0.0.2"})
    seen = observation(pa=replace(LED, sync_names=""), s1=follows("pa", receiver=receiver))
    status = judge(group(asked), seen)
    assert status.nodes[1].upstream == upstream


def test_what_was_written_as_a_connection_string_is_read() -> None:
    pairs = {"host": "pa", "passfile": "/etc/my pass", "application_name": "it's \\"}
    assert read_conninfo(conninfo(**pairs)) == pairs
    assert read_conninfo("") == {}


def test_a_connection_string_may_be_a_uri() -> None:
    text = "postgresql://replicator@m1:5433/postgres?application_name=s%201&sslmode=verify-full"
    assert read_conninfo(text) == {
        "user": "replicator", "host": "m1", "port": "5433", "dbname": "postgres",
        "application_name": "s 1", "sslmode": "verify-full",
    }  # fmt: skip
    assert read_conninfo("postgres://[::1]/?nothing=1") == {}


# --- how far behind ---

PAUSED = {"lsn": "0/2FFFF00", "replayed_age": 7.0, "replay_paused": True}


@pytest.mark.parametrize(
    ("mine", "its", "seconds"),
    [
        ({}, {"replay_lag": 9.0}, 0.0),  # all is replayed, whatever was measured last
        ({"replayed_age": 3600.0}, {"replay_lag": None}, 0.0),  # idle
        ({"lsn": "0/2FFFF00"}, {"replay_lag": 0.5}, 0.5),
        ({"lsn": "0/2FFFF00", "replayed_age": 7.0}, {"replay_lag": None}, 7.0),
        (PAUSED, {"replay_lag": 0.1}, 7.0),
        ({"lsn": "0/2FFFF00", "replayed_age": -1.0}, {"replay_lag": None}, 0.0),  # clocks differ
        ({"lsn": "0/2FFFF00"}, {"replay_lag": None}, None),
        ({"lsn": "0/3000100"}, {"replay_lag": 0.1}, 0.0),  # asked a moment later
    ],
)  # fmt: skip
def test_lag_in_seconds(mine: dict[str, Any], its: dict[str, Any], seconds: float | None) -> None:
    led = replace(LED, senders=(sender("s1", **its),))
    status = found(pa=led, s1=replace(FOLLOWS, **mine))
    assert status.nodes[1].lag_seconds == seconds


def test_a_delay_on_purpose_is_no_warning_and_its_lag_is_shown() -> None:
    led = replace(LED, senders=(sender("s1", replay_lag=0.001, replay="0/1000000"),))
    late: dict[str, Any] = {"apply_delay": 3_600_000, "lsn": "0/1000000", "replayed_age": 3600.0}
    status = found(pa=led, s1=replace(FOLLOWS, **late))
    assert status.ok
    assert (status.nodes[1].lag_bytes, status.nodes[1].lag_seconds) == (0x2000000, 3600.0)
    assert "streaming, 1 h late on purpose" in report_status.status_text(status)


# --- primaries ---


def test_no_primary() -> None:
    status = found(pa=FOLLOWS, s1=None)
    assert "no node that answers is primary" in told(status)["no-primary"]
    assert "`invoke failover`" in told(status)["no-primary"]
    assert status.warnings[0].node is None
    assert status.nodes[0].lag_bytes is None


@pytest.mark.parametrize("standby", ["exited", "paused"])
def test_no_primary_goes_by_who_may_be(standby: str) -> None:
    """Where the topology's first node is a standby, the other one was the primary."""
    made = container("s1", status=standby)
    nodes = {
        "pa": NodeObservation(container("pa"), FOLLOWS),
        "s1": NodeObservation(made, None, "no" * (standby[0] == "p")),
    }
    status = judge(group(topology("s1")), Observation(nodes, {"local": {}}))
    texts = told(status)
    if standby == "paused":
        assert texts["no-answer"] == "s1 is paused and answers nobody: `docker unpause s1`"
        assert texts["no-primary"].startswith("no node that answers is primary; s1 may be")
    else:
        assert "(s1 is exited): `invoke start`; if it is lost" in texts["no-primary"]


def test_a_group_that_was_taken_down_is_not_lost() -> None:
    nodes = {"pa": NodeObservation(None, None), "s1": NodeObservation(None, None)}
    seen = Observation(nodes, {"local": {}})
    status = judge(group(topology("s1")), seen, {"pa": "full", "s1": "absent"})
    texts = told_all(status)
    assert texts[0] == (
        "no node has a container, as where the group was taken down; the data is kept: `invoke "
        "start`"
    )
    assert "pa has no container; its data is kept: `invoke start`" in texts
    assert "s1 has no container and no data: `invoke add-standby s1`" in texts


def told_all(status: Status) -> list[str]:
    """Return the warnings' texts."""
    return [warning.text for warning in status.warnings]


def test_two_primaries_of_one_timeline() -> None:
    texts = told(found(pa=LED, s1=facts()))
    assert set(texts) == {"two-primaries"}
    said = "2 nodes are primary at once: pa (timeline 1), s1 (timeline 1). pa leads: nothing else "
    assert texts["two-primaries"].startswith(said)


def test_a_standby_that_was_promoted_beside_a_primary_that_goes_on() -> None:
    """It has the newer timeline, and the one that serves has a standby that streams from it."""
    stray = facts(timeline=2, history=HISTORY)
    asked = topology("s1", "s2", sync="s1")
    own = {
        ("pa", "s2"): Beyond(900, 3, 850, "2026-01-01 00:00:00 UTC"),
        ("s2", "pa"): Beyond(90, 0),
    }
    seen = replace(observation(pa=LED, s1=FOLLOWS, s2=stray), own=own)
    text = told(judge(group(asked), seen))["two-primaries"]
    assert "pa leads: s1 streams from it, and its commits wait for that. s2 has no commit" in text
    assert (
        "pa has 3 commits (850 bytes, the last at 2026-01-01 00:00:00 UTC) that s2 has not" in text
    )
    assert text.endswith("To keep what pa has: `invoke rejoin s2`")


def test_an_old_primary_that_came_back() -> None:
    status = found(sync="", pa=facts(), s1=facts(timeline=2, history=HISTORY))
    assert {w.code: w.node for w in status.warnings} == {"two-primaries": "s1", "old-primary": "pa"}
    assert "`invoke rejoin pa`" in told(status)["old-primary"]


def test_a_primary_that_is_marked() -> None:
    assert "switchover" in told(found(pa=replace(LED, marked=True), s1=FOLLOWS))["marked"]


# --- commits ---


def test_too_few_standbys_stream() -> None:
    led = replace(LED, senders=(sender("s1", state="catchup"),))
    texts = told(found(pa=led, s1=FOLLOWS))
    assert "s1 needs 1 that stream, 0 do" in texts["sync-short"]
    assert "catchup" in texts["not-streaming"]
    assert set(texts) == {"sync-short", "not-streaming"}


def test_a_list_that_can_never_be_met() -> None:
    texts = told(found(pa=replace(LED, sync_names="FIRST 2 (s1)"), s1=FOLLOWS))
    assert "can never be met" in texts["sync-short"]


def test_asynchronous_against_the_topology() -> None:
    texts = told(found(pa=replace(LED, sync_names=""), s1=FOLLOWS))
    assert texts == {
        "sync-off": "pa is asynchronous, and the topology asks FIRST 1 (s1): "
        "`invoke step.require-sync`"
    }


def test_synchronous_against_the_topology() -> None:
    assert set(told(found(sync="", pa=LED, s1=FOLLOWS))) == {"sync-differs"}


@pytest.mark.parametrize(("seconds", "codes"), [(2.0, set()), (60.4, {"commits-hang"})])
def test_commits_that_hang(seconds: float, codes: set[str]) -> None:
    waiter = {"pid": 9, "since": "12:00:00", "seconds": seconds, "query": "COMMIT"}
    texts = told(found(pa=replace(LED, sync_waiters=(waiter,)), s1=FOLLOWS))
    assert set(texts) == codes
    for text in texts.values():
        assert "1 commit hangs on pa, for 60 s" in text
        assert "process 9: COMMIT" in text


def test_commits_that_hang_on_an_old_primary_are_not_to_go_on() -> None:
    waiter = {"pid": 9, "since": "12:00:00", "seconds": 60.4, "query": "COMMIT"}
    old = facts(sync_names="s1", sync_waiters=(waiter,))
    texts = told(found(pa=old, s1=replace(LED, timeline=2, history=HISTORY, senders=())))
    assert "must not be, as s1 is primary now" in texts["commits-hang"]
    assert "--off" not in texts["commits-hang"]


# --- slots ---


@pytest.mark.parametrize(
    ("kept", "code", "said"),
    [
        (slot("s1", retained=2_000_000_000, left=8 * 10**9), "slot-retains", "2.0 GB of WAL"),
        (slot("s1", wal_status="unreserved"), "slot-retains", "unreserved"),
        (slot("s1", wal_status="extended", left=10**9), "slot-retains", "1.0 GB more until"),
        (slot("s1", wal_status="lost", retained=None), "slot-lost", "`invoke rejoin s1`"),
        (slot("who", active=False), "slot-unused", "pg_drop_replication_slot('who')"),
    ],
)
def test_slots_that_hurt(kept: dict[str, Any], code: str, said: str) -> None:
    texts = told(found(pa=replace(LED, slots=(kept,)), s1=FOLLOWS))
    assert set(texts) == {code}
    assert said in texts[code]


@pytest.mark.parametrize(
    "kept",
    [slot("who"), slot("s1", active=False), slot("pa", active=False), slot("s1", retained=-9)],
)
def test_slots_that_do_not_hurt(kept: dict[str, Any]) -> None:
    assert told(found(pa=replace(LED, slots=(kept,)), s1=FOLLOWS)) == {}


def test_the_slot_of_a_node_that_is_down_is_shown() -> None:
    seen = observation(pa=replace(LED, slots=(slot("s1", active=False, retained=5),)), s1=None)
    node = judge(group(topology("s1")), seen).nodes[1]
    assert (node.slot, node.retained_bytes) == ("s1", 5)


# --- standbys ---


NO_SENDER = replace(LED, senders=(), sync_names="")


@pytest.mark.parametrize(
    ("led", "mine", "why"),
    [
        (NO_SENDER, {"receiver": None}, "it has no connection to pa"),
        (NO_SENDER, {"receiver": None, "primary_conninfo": ""}, "told to follow nobody"),
        (NO_SENDER, {"receiver": None, "primary_slot": "gone"}, "slot gone is not there on pa"),
        (NO_SENDER, {}, "pa does not know it by the name s1"),
        (NO_SENDER, {"receiver": None, "primary_conninfo": "host=x"}, "x:5432, which is no node"),
        (replace(LED, sync_names=""), {"receiver": None}, "it has no connection to pa"),
    ],
)
def test_a_standby_that_does_not_stream(led: Facts, mine: dict[str, Any], why: str) -> None:
    texts = told(found(sync="", pa=led, s1=replace(FOLLOWS, **mine)))
    assert set(texts) == {"not-streaming"}
    assert why in texts["not-streaming"]
    assert "`invoke rejoin s1`" in texts["not-streaming"]  # as diff says


def test_a_lost_slot_is_why() -> None:
    led = replace(NO_SENDER, slots=(slot("s1", active=False, wal_status="lost"),))
    texts = told(found(sync="", pa=led, s1=replace(FOLLOWS, receiver=None)))
    assert set(texts) == {"not-streaming", "slot-lost"}
    assert "no WAL for it any more" in texts["not-streaming"]


def test_a_standby_whose_upstream_is_silent() -> None:
    asked = topology("s1", "s2", s2={"upstream": "s1"})
    last = follows("s1", primary_slot="s2", receiver=None)
    seen = observation(pa=NO_SENDER, s1=None, s2=last)
    texts = told(judge(group(asked), seen))
    assert "its upstream s1 does not answer" in texts["not-streaming"]


def test_a_standby_that_follows_an_old_primary() -> None:
    asked = topology("s1", "s2")
    old = facts(sender("s2"), slots=(slot("s2"),))
    new = facts(timeline=2, history="1\t0/4000000\tx\n")
    status = judge(group(asked), observation(pa=old, s1=new, s2=follows("pa", primary_slot="s2")))
    assert set(told(status)) == {"two-primaries"}
    assert "pa leads: s2 streams from it" in told(status)["two-primaries"]
    lost = replace(old, senders=(sender("s2", state="catchup"),))
    seen = observation(pa=lost, s1=new, s2=follows("pa", primary_slot="s2"))
    status = judge(group(asked), seen)
    assert set(told(status)) == {"two-primaries", "old-primary", "not-streaming"}


def test_of_two_primaries_of_different_systems_the_standbys_one_leads() -> None:
    own = facts(system_identifier="9", timeline=7)
    led = replace(LED, senders=(sender("s2"),), slots=())
    seen = observation(pa=own, s1=led, s2=follows("s1", primary_slot="s2"))
    assert "To keep what s1" in told(judge(group(topology("s1", "s2")), seen))["two-primaries"]


@pytest.mark.parametrize(
    ("led", "mine", "why"),
    [
        (LED, {"system_identifier": "7"}, f"its system is 7, that of pa {SYSTEM}"),
        (LED, {"timeline": 2}, "timeline 2, and pa only at 1"),
        ({"timeline": 2}, {"lsn": "0/2000001", "receiver": None}, "which pa left at 0/2000000"),
        ({"timeline": 3}, {"timeline": 2}, "pa was never at timeline 2"),
        (
            {"timeline": 2},
            {"timeline": 2, "history": "1\t0/1000000\tx\n"},
            "its timeline 2 has another history",
        ),
        (NO_SENDER, {"lsn": "0/3000001", "receiver": None}, "pa is only at 0/3000000"),
        (replace(LED, senders=(sender("s1", replay="0/3000001"),)), {}, "was sent no more than"),
    ],
)
def test_a_standby_that_has_diverged(
    led: Facts | dict[str, Any], mine: dict[str, Any], why: str
) -> None:
    theirs = led if isinstance(led, Facts) else replace(NO_SENDER, history=HISTORY, **led)
    status = found(sync=theirs.sync_names, pa=theirs, s1=replace(FOLLOWS, **mine))
    texts = told(status)
    assert set(texts) == {"diverged"}
    assert why in texts["diverged"]
    assert "`invoke rejoin s1`" in texts["diverged"]


def test_a_standby_on_the_way_to_the_new_timeline_has_not_diverged() -> None:
    led = replace(NO_SENDER, timeline=2, history=HISTORY)
    mine = replace(FOLLOWS, lsn="0/2000000", receiver=None)
    assert set(told(found(sync="", pa=led, s1=mine))) == {"not-streaming"}


def test_one_that_is_asked_after_the_primary_has_not_diverged() -> None:
    assert told(found(pa=LED, s1=replace(FOLLOWS, lsn="0/4000000"))) == {}


def test_paused_replay() -> None:
    texts = told(found(pa=LED, s1=replace(FOLLOWS, replay_paused=True)))
    assert set(texts) == {"replay-paused"}
    assert "pg_wal_replay_resume()" in texts["replay-paused"]


@pytest.mark.parametrize(("silent", "codes"), [(19.0, set()), (21.0, {"silent"})])
def test_a_standby_that_reports_nothing(silent: float, codes: set[str]) -> None:
    led = replace(LED, senders=(sender("s1", silent=silent),))
    assert set(told(found(pa=led, s1=FOLLOWS))) == codes


# --- nodes that are not there ---


@pytest.mark.parametrize(
    ("changes", "role", "state", "code", "said"),
    [
        ({"status": "exited", "exit_code": 1}, "down", "exited", "down", "exit code 1"),
        ({"status": "restarting"}, "down", "restarting", "down", "`invoke start`"),
        ({"labels": {}, "status": "exited"}, "foreign", "exited", "foreign", "docker rename s1"),
    ],
)
def test_a_container_that_does_not_run(
    changes: dict[str, Any], role: str, state: str, code: str, said: str
) -> None:
    status = with_container("s1", **changes)
    assert (status.nodes[1].role, status.nodes[1].state) == (role, state)
    assert said in told(status)[code]


def missing(silence: str = "", **of_container: Any) -> Status:
    """Judge a pair whose standby says nothing."""
    made = container("s1", **of_container) if of_container else None
    nodes = {
        "pa": NodeObservation(container("pa"), NO_SENDER),
        "s1": NodeObservation(made, None, silence),
    }
    return judge(group(topology("s1")), Observation(nodes, {"local": {}}))


@pytest.mark.parametrize(
    ("status", "role", "code", "said"),
    [
        (missing(), "absent", "absent", "`invoke add-standby s1`"),
        (missing("box does not answer."), "unreachable", "unreachable", "box does not answer."),
        (missing("It is starting.", status="running"), "silent", "no-answer", "It is starting."),
        (missing("It is paused.", status="paused"), "silent", "no-answer", "`docker unpause s1`"),
    ],
)
def test_a_node_that_says_nothing(status: Status, role: str, code: str, said: str) -> None:
    assert status.nodes[1].role == role
    texts = told(status)
    assert set(texts) == {code}
    assert said in texts[code]


@pytest.mark.parametrize("leads", [True, False])
def test_the_first_primary_that_is_gone_gets_no_new_database(leads: bool) -> None:
    s1 = NO_SENDER if leads else None
    nodes = {
        "pa": NodeObservation(None, None),
        "s1": NodeObservation(container("s1"), s1, "" if leads else "No."),
    }
    status = judge(group(topology("s1")), Observation(nodes, {"local": {}}))
    assert "`invoke seed-standby --node pa`" in told(status)["absent"]


@pytest.mark.parametrize(
    ("node", "status", "said"),
    [
        ("pa", "running", "`docker update --restart unless-stopped pa`"),
        ("s1", "running", "`invoke rejoin s1`"),
        ("s1", "exited", "`invoke rejoin s1`"),
    ],
)
def test_a_fence_that_was_left(node: str, status: str, said: str) -> None:
    assert said in told(with_container(node, status=status, restart="no"))["fenced"]


# --- the look itself ---


def test_a_host_that_was_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = group(topology("s1", sync="s1"))
    herd.away["local"] = "It did not answer."
    asked: list[bool] = []

    def observe(*, tolerant: bool = False) -> Observation:
        asked.append(tolerant and not herd.away)
        return observation(pa=LED, s1=FOLLOWS)

    monkeypatch.setattr(herd, "observe", observe)
    assert checks_status.look(herd).ok
    assert asked == [True]


def test_a_watch_goes_on_where_a_look_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[Observation | None] = [None, observation(pa=LED, s1=FOLLOWS)]
    herd = group(topology("s1", sync="s1"), FakeHost())
    slept: list[float] = []

    def observe(**_: bool) -> Observation:
        if (answer := answers.pop(0)) is None:
            raise Unreachable("local does not answer.")
        return answer

    monkeypatch.setattr(herd, "observe", observe)
    monkeypatch.setattr(time, "sleep", slept.append)
    assert next(checks_status.watch(herd, 2.0)).ok
    assert (slept, capsys.readouterr().err) == ([2.0], "local does not answer.\n")


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "2s"])
def test_an_interval_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="--interval"):
        checks_status.pause(text)


# --- told ---


def test_json_is_one_object() -> None:
    status = found(pa=replace(LED, marked=True), s1=replace(FOLLOWS, lsn="0/2FFFF00"))
    answer = json.loads(report_status.status_json(status))
    keys = ["name", "host", "role", "timeline", "upstream", "state", "sync_state", "lag_bytes"]
    keys += ["lag_seconds", "slot", "retained_bytes", "conflicts"]
    assert list(answer) == ["group", "ok", "nodes", "warnings"]
    assert [list(node) for node in answer["nodes"]] == [keys, keys]
    assert (answer["group"], answer["ok"]) == ("g", False)
    assert (answer["nodes"][1]["lag_bytes"], answer["nodes"][1]["lag_seconds"]) == (256, 0.25)
    assert [(w["code"], w["node"]) for w in answer["warnings"]] == [("marked", "pa")]
    compact = report_status.status_json(status, compact=True)
    assert json.loads(compact) == answer
    assert "\n" not in compact


def test_text() -> None:
    status = found(pa=LED, s1=FOLLOWS)
    assert report_status.status_text(status).splitlines()[1:] == [
        "pa    local  primary  1         -         -          -     -    -       -     -        0",
        "s1    local  standby  1         pa        streaming  sync  0 B  0 s     s1    0 B      0",
        "status of g: all is well",
    ]
    warned = report_status.status_text(found(pa=replace(LED, marked=True), s1=FOLLOWS)).splitlines()
    assert warned[-2].startswith("WARNING  marked: pa is primary, and")
    assert warned[-1] == "status of g: 1 warning"


def test_a_watch_redraws_on_a_terminal_only() -> None:
    assert report_status.redraw("x", clear=True) == "\x1b[H\x1b[2Jx"
    assert report_status.redraw("x", clear=False) == "x"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0 s"), (0.012, "12 ms"), (3.14159, "3.14 s"), (90.0, "1.5 min"), (7200.0, "2 h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert report_status.duration(seconds) == said
