"""Sentences that name the cure which fits: for what is fenced, stray, not streaming, or slow."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import (
    FakeHost,
    Said,
    container,
    facts,
    group,
    image,
    observation,
    sender,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.checks.containers import Further, of_node
from pgherd.errors import DeadlinePassed, Error
from pgherd.group.observation import NodeObservation, Observation
from pgherd.group.primary import has_newer
from pgherd.operations import followers, recovery, run_token, start_stop, steps, sync, wait
from pgherd.postgres import scripts


@pytest.mark.parametrize(
    ("leader", "command"), [("pa", "invoke rejoin s1"), ("s1", "invoke start")]
)
def test_a_fenced_node_that_is_down_comes_back_by_rejoin(leader: str, command: str) -> None:
    """`start` leaves it as it is; a primary needs no fence."""
    down = container("s1", status="exited", restart="no")
    seen = Observation({"s1": NodeObservation(down, None)}, {"local": {}})
    made = group(topology("s1"))
    found = of_node(made, made.instance("s1"), seen, Further(), leader)
    assert [d.command for d in found if d.what == "state"] == [command]


def test_what_is_not_started_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restore leaves that restart policy as a failover does."""
    down = container("s1", status="exited", restart="no")
    seen = Observation(
        {"pa": NodeObservation(container("pa"), facts()), "s1": NodeObservation(down, None)},
        {"local": {}},
    )
    made = group(topology("s1"))
    monkeypatch.setattr(made, "observe", lambda: seen)
    monkeypatch.setattr(start_stop, "ensure_image", lambda *_: image())
    monkeypatch.setattr(start_stop, "_startable", lambda *_: ({}, {}))
    monkeypatch.setattr(wait, "wait_for_group", lambda *_: None)
    start_stop.start(made)
    said = capsys.readouterr().err
    assert "its restart policy is `no`, which a failover or a restore leaves: `invoke rej" in said


STREAMS = facts(sender("s1"), sync_names="FIRST 1 (s1)")
CUT = facts(sender("s1", state="catchup"), sync_names="FIRST 1 (s1)")


def test_already_synchronous_and_nothing_streams_is_no_success() -> None:
    made = group(topology("s1", sync="s1"))
    sync.require_sync(made, made.master, STREAMS, defer=False)
    sync.require_sync(made, made.master, CUT, defer=True)
    with pytest.raises(Error, match=r"needs 1 standby that streams, and 0 do, so commits wait: "):
        sync.require_sync(made, made.master, CUT, defer=False)


def follower(of: str, **changes: Any) -> Any:
    """A standby that is told to follow another node."""
    return standby_facts(primary_conninfo=f"host={of} port=5432", receiver=None, **changes)


@pytest.mark.parametrize(
    ("upstream", "wrong"), [("pa", False), ("s2", False), ("gone", True), ("s1", True)]
)
def test_start_tells_of_a_standby_that_follows_another_node(upstream: str, wrong: bool) -> None:
    made = group(topology("s1", "s2"))
    seen = observation(pa=facts(), s1=follower(upstream), s2=follower("pa"))
    assert wait.strays_of(made, seen) == ["s1"] * wrong


def test_a_promotion_that_takes_long_is_told_to_go_on() -> None:
    late = DeadlinePassed("docker exec did not end within 240 s and was ended.")
    made = group(topology("s1"), FakeHost({"docker exec": late, "docker ps": Said()}))
    for act in (run_token.cancel_pending_promotion, recovery.promote):
        with pytest.raises(DeadlinePassed, match="it goes on for up to 3600 s"):
            act(made.instance("s1"))


def test_upstreams_come_before_those_that_follow_them() -> None:
    made = group(topology("s1", "s2", "s3"))
    pa, s1, s2, s3 = (made.instance(name) for name in ("pa", "s1", "s2", "s3"))
    plan = {s1: s2, s2: s3, s3: pa}
    assert followers.downwards(plan) == [s3, s2, s1]


def test_the_steps_go_by_the_roles_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1", sync="s1"), FakeHost({"find": Said()}))
    lets = {"replication": True}
    led = facts(
        sender("pa"), sync_names="pa", replicator=lets, hba_lets_replicator_in=True, timeline=2
    )
    seen = observation(pa=follower("s1"), s1=led)
    monkeypatch.setattr(made, "observe", lambda **_: seen)
    done = {step.task: step.done for step in steps.look(made)}
    assert done["require-sync"] == done["allow-replication"] == done["mark-standby"] == "yes"


def test_newer_data_is_told_in_one_sentence() -> None:
    assert has_newer("s1", 3, "pa", 2) == (
        "s1 was promoted and has newer data (timeline 3; pa is at 2)"
    )


def test_a_look_waits_for_no_lock() -> None:
    text = scripts.look("g", "/h").text()
    assert "lock_timeout=5s" in text
    assert "PGCONNECT_TIMEOUT=10" in text
    assert text.index("-c statement_timeout=0") < text.index("-c statement_timeout=15s")
