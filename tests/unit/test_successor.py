"""Who may take the primary's place, and what an interrupted switchover has left."""

from __future__ import annotations

from contextlib import nullcontext

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

from pgherd.errors import Refused, Unreachable
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.operations import connect, switchover
from pgherd.operations.switchover import (
    attach_to_primary,
    candidate,
    refuse_few_sessions,
    refuse_unfit,
)
from pgherd.postgres.facts import Facts

EXEC = "docker exec --interactive --user postgres"
NEAR = sender("s1", flush="0/3000000", replay="0/3000000")


# --- who is meant ---


def test_one_has_to_be_named() -> None:
    made = group(topology("s1", "s2"))
    with pytest.raises(Refused, match=r"Say --to s1 or --to s2\."):
        candidate(made, "", observation(pa=facts(), s1=standby_facts(), s2=standby_facts()))
    with pytest.raises(Refused, match="no node 'x'"):
        candidate(made, "x", observation(pa=facts(), s1=None, s2=None))


def test_a_group_of_one_has_nobody_to_name() -> None:
    with pytest.raises(Refused, match=r"g has no standby that .*`invoke add-standby NAME`\.$"):
        candidate(group(topology()), "", observation(pa=facts()))


def test_one_that_is_paused() -> None:
    made, words = group(topology("s1")), "Error response from daemon: Container s1 is paused"
    stands = NodeObservation(container("s1", status="paused"), None, words)
    seen = Observation(
        {"pa": NodeObservation(container("pa"), facts()), "s1": stands}, {"local": {}}
    )
    with pytest.raises(Refused) as caught:
        candidate(made, "s1", seen)
    assert caught.value.sentence == "s1 is paused and answers nobody: `docker unpause s1`."


def test_one_that_does_not_run() -> None:
    made = group(topology("s1"))
    seen = {"pa": NodeObservation(container("pa"), facts()), "s1": NodeObservation(None, None)}
    with pytest.raises(Refused, match="s1 does not run: `invoke start`"):
        candidate(made, "s1", Observation(seen, {"local": {}}))
    seen["s1"] = NodeObservation(container("s1"), None, "psql: starting up")
    with pytest.raises(Refused, match="s1 does not answer: psql: starting up"):
        candidate(made, "s1", Observation(seen, {"local": {}}))
    seen["s1"] = NodeObservation(container("s1", planned=True), None)
    assert candidate(made, "s1", Observation(seen, {"local": {}})).name == "s1"


def test_one_whose_host_is_away_and_one_that_is_somebody_elses() -> None:
    made = group(topology("s1"))
    seen = observation(pa=facts(), s1=standby_facts())
    foreign = Observation(seen.nodes, {"local": {"s1": container("s1", labels={})}})
    with pytest.raises(Refused, match="not of group g"):
        candidate(made, "s1", foreign)
    made.away["local"] = "local cannot be reached."
    with pytest.raises(Unreachable, match="local cannot be reached"):
        candidate(made, "s1", seen)


# --- who is fit ---


def fitness(primary: Facts, standby: Facts, **others: NodeObservation) -> str:
    """Say why it is not fit; empty if it is. Nothing is run."""
    made = group(topology("s1", "s2"), FakeHost())
    seen = observation(pa=primary, s1=standby, s2=standby_facts())
    seen = Observation({**seen.nodes, **others}, seen.engines)
    try:
        refuse_unfit(made.instance("s1"), made.master, seen)
    except Refused as fault:
        return fault.sentence
    return ""


@pytest.mark.parametrize(
    ("primary", "standby", "sentence"),
    [
        (facts(NEAR), standby_facts(), ""),
        (facts(NEAR), standby_facts(apply_delay=60000), "s1 replays 60 s late on purpose"),
        (facts(NEAR), standby_facts(system_identifier="1"), "s1 is of another system than pa"),
        (facts(NEAR), standby_facts(replay_paused=True), "SELECT pg_wal_replay_resume()"),
        (facts(), standby_facts(receiver=None), "s1 does not stream from pa (not connected)"),
        (
            facts(sender("s1", state="catchup")),
            standby_facts(),
            "s1 does not stream from pa (catchup), so it would lack something: `invoke rejoin s1`",
        ),
        (facts(NEAR, lsn="0/4000000"), standby_facts(), ""),  # 16 MiB
        (facts(NEAR, lsn="0/4000001"), standby_facts(), "s1 has still to receive 17 MB"),
        (
            facts(sender("s1", replay="0/1000000"), lsn="0/3000000"),
            standby_facts(),
            "s1 has still to replay 34 MB",
        ),
        (facts(sender("s1", flush=None, replay=None)), standby_facts(), "still to receive 50 MB"),
    ],
)
def test_who_is_fit(primary: Facts, standby: Facts, sentence: str) -> None:
    said = fitness(primary, standby)
    assert sentence in said
    assert bool(sentence) is bool(said)


@pytest.mark.parametrize(
    ("room", "apart", "least"),
    [(1, False, 4), (2, False, 4), (3, False, 0), (1, True, 3), (2, True, 0)],
)
def test_a_host_that_lets_one_command_run_at_a_time(
    monkeypatch: pytest.MonkeyPatch, room: int, apart: bool, least: int
) -> None:
    monkeypatch.setattr(FakeHost, "room", lambda _, wanted: min(wanted, room))
    made = group(topology("s1"))
    if apart:
        other = FakeHost()
        made = Group(
            topology(
                "s1",
                pa={"address": "10.0.0.1", "listen": "10.0.0.1"},
                s1={"host": "b", "address": "10.0.0.2", "listen": "10.0.0.2"},
            ),
            other.trace,
            {"local": FakeHost(), "b": other},
        )
    if not least:
        refuse_few_sessions(made.instance("s1"), made.master)
        return
    with pytest.raises(Refused, match=f"MaxSessions in its sshd_config to {least} or more"):
        refuse_few_sessions(made.instance("s1"), made.master)


def test_one_that_is_paused_would_hold_up_the_stop() -> None:
    stopped = NodeObservation(container("s2", status="paused"), None)
    said = fitness(facts(NEAR), standby_facts(), s2=stopped)
    assert said == (
        "s2 is paused: pa would wait for it when it is stopped. `docker unpause s2`, or "
        "`docker stop s2`, first."
    )


def test_one_that_cascades_follows_the_primary_first(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeHost({f"{EXEC} pa sh": Said(), f"{EXEC} s2 sh": Said()})
    made = group(topology("s1", "s2", s2={"upstream": "s1"}), host)
    waited: list[str] = []
    monkeypatch.setattr(
        connect, "wait_streaming", lambda one, other, _: waited.append(f"{one.name}<{other.name}")
    )
    seen = observation(pa=facts(NEAR), s1=standby_facts(), s2=standby_facts())
    refuse_unfit(made.instance("s2"), made.master, seen)
    assert host.calls == []  # it only refuses
    attach_to_primary(made, made.instance("s2"), made.master, seen)
    assert [call.argv[5] for call in host.calls] == ["pa", "s2"]
    assert "slots=s2\n" in host.calls[0].stdin
    assert "host=pa " in host.calls[1].stdin
    assert waited == ["s2<pa"]


def test_one_that_is_near_already_is_left() -> None:
    host = FakeHost()
    made = group(topology("s1"), host)
    seen = observation(pa=facts(NEAR), s1=standby_facts())
    attach_to_primary(made, made.instance("s1"), made.master, seen)
    planned = Observation(
        {**seen.nodes, "pa": NodeObservation(container("pa", planned=True), None)}, {}
    )
    attach_to_primary(made, made.instance("s1"), made.master, planned)
    assert host.calls == []


def test_refused_before_one_that_cascades_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switchover was cut short, and a host is away: nothing is changed."""
    host = FakeHost()
    here, far = {"listen": "10.0.0.1"}, {"host": "far", "listen": "10.0.0.3"}
    asked = topology("s1", "s2", "s3", pa=here, s1=here, s2={"upstream": "s1"}, s3=far)
    made = group(asked, host)
    nodes = {"pa": facts(NEAR, marked=True), "s1": standby_facts(), "s2": standby_facts()}
    seen = observation(**nodes, s3=None)
    monkeypatch.setattr(Group, "locked", lambda *_, **__: nullcontext())
    monkeypatch.setattr(Group, "observe", lambda _: seen)
    monkeypatch.setattr(switchover, "ensure_image", lambda *_: image())
    made.away["far"] = "far cannot be reached."
    with pytest.raises(Refused, match="was cut short, and s3 cannot be asked"):
        switchover.switchover(made, "s2")
    assert host.calls == []
