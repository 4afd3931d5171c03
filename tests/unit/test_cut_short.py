"""What a change of primary that was cut short left: who was primary last, and who may be by now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import SYSTEM, FakeHost, Said, container, group, image, standby_facts, topology

from pgherd.errors import Refused, Unreachable
from pgherd.group.observation import NodeObservation, Observation
from pgherd.operations import connect, recovery, run_token
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import Instance

EXEC = "docker exec --interactive --user postgres"
STOPPED = Disk(
    pg_version="17", empty=False, system_identifier=SYSTEM, state="shut down", timeline=1,
    checkpoint="0/3000028", standby_signal=True,
)  # fmt: skip
CRASHED = replace(STOPPED, state="in production", standby_signal=False)
OTHER = replace(STOPPED, system_identifier="1", timeline=9)


def last(
    monkeypatch: pytest.MonkeyPatch,
    disks: dict[str, Disk],
    *,
    away: str = "",
    **nodes: NodeObservation,
) -> str | None:
    """Say who was primary last, where s1 is a standby and these lie on disk."""
    host = FakeHost({"sh -s": Said("full")})
    made = group(topology("s1", "s2"), host)
    made.away = {away: "cut off."} if away else {}
    monkeypatch.setattr(Instance, "disk", lambda self, _: disks.get(self.name, Disk()))
    down = {n: NodeObservation(container(n, status="exited"), None) for n in ("pa", "s2")}
    seen = {"s1": NodeObservation(container("s1"), standby_facts()), **down, **nodes}
    found = recovery.last_primary(made, Observation(seen, {}), image(), standby_facts())
    return found[0].name if found else None


@pytest.mark.parametrize(
    ("disks", "name"),
    [
        ({"pa": STOPPED}, "pa"),
        *(
            ({"pa": replace(CRASHED, standby_signal=True, state=state)}, "pa")  # marked before that
            for state in ("in production", "shutting down", "in crash recovery", "starting up")
        ),
        ({"pa": OTHER, "s2": OTHER}, None),
        ({"pa": Disk(half_copied=True), "s2": OTHER}, None),
        ({"pa": replace(STOPPED, timeline=0), "s2": OTHER}, None),  # an old one, that was fenced
        ({"pa": STOPPED, "s2": replace(STOPPED, checkpoint="0/4000028")}, "s2"),
    ],
)
def test_who_was_primary_last(
    disks: dict[str, Disk], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert last(monkeypatch, disks) == name
    assert (
        last(monkeypatch, disks, pa=NodeObservation(None, None)) == name
    )  # it has no container any more


def test_one_that_was_never_made_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert last(monkeypatch, {"pa": OTHER}, s2=NodeObservation(None, None)) is None


@pytest.mark.parametrize(
    ("disks", "nodes", "sentence"),
    [
        ({"pa": CRASHED}, {}, "pa was not stopped in order"),
        ({"pa": replace(CRASHED, state="shutting down")}, {}, "pa was not stopped in order"),
        ({"pa": replace(CRASHED, state="in crash recovery")}, {}, "pa was not stopped in order"),
        ({"s2": OTHER}, {}, "the data of pa, which is down, cannot be read"),
        (
            {"pa": replace(STOPPED, state="shut down in recovery"), "s2": OTHER},
            {},
            "pa is down and may have more",
        ),
        # s2 was promoted since, and is down: what pa had is not all
        ({"pa": STOPPED, "s2": replace(CRASHED, timeline=2)}, {}, "s2 is at timeline 2"),
        ({"pa": STOPPED, "s2": replace(STOPPED, timeline=2)}, {}, "s2 is at timeline 2"),
        (
            {"pa": STOPPED},
            {"s2": NodeObservation(container("s2"), standby_facts(timeline=2))},
            "s2 is at timeline 2",
        ),
        (
            {"pa": STOPPED},
            {"s2": NodeObservation(container("s2"), None, "psql: too many clients")},
            "s2 runs, and may be primary: it does not answer: psql: too many clients",
        ),
    ],
)
def test_another_may_be_or_was(
    disks: dict[str, Disk], nodes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match=sentence):
        last(monkeypatch, disks, **nodes)


def test_a_host_that_is_away_may_have_the_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="cut off"):
        last(monkeypatch, {"pa": STOPPED}, away="far")


@pytest.mark.parametrize(
    ("disk", "said", "has"),
    [
        (STOPPED, "has the shutdown\n", True),
        (STOPPED, "", False),
        (replace(STOPPED, state="in production"), "has the shutdown\n", False),
    ],
)
def test_whether_a_standby_has_all(disk: Disk, said: str, has: bool) -> None:
    host = FakeHost({f"{EXEC} s1 sh": Said(said)})
    made = group(topology("s1"), host)
    assert recovery.has_all(made.instance("s1"), disk) is has
    for call in host.calls:
        assert "checkpoint=0/3000028\ntimeline=1\n" in call.stdin


def test_the_old_primary_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeHost(dict.fromkeys(["docker run", "docker start", "docker update", EXEC], Said()))
    made = group(topology("s1"), host)
    box = container("pa", status="exited", restart="no")
    monkeypatch.setattr(Instance, "container", lambda _: box)
    recovery.resume_primary(made, made.master, image())
    assert [call.argv[1] for call in host.calls] == ["run", "update", "start", "exec"]
    undone = host.calls[0].stdin
    assert 'rm -f "$PGDATA/standby.signal"' in undone
    assert connect.as_before() in undone


def test_as_before_it_follows_nobody_and_waits_for_whom_it_did() -> None:
    dropped = connect.as_before().splitlines()[0].split("'")[1].split("|")
    assert {"primary_conninfo", "primary_slot_name"} < set(dropped)
    assert "synchronous_standby_names" not in dropped
    assert len(connect.as_before().splitlines()) == 2  # and no line is put in their place


def test_unmarked_in_no_other_runs_turn() -> None:
    host = FakeHost({f"{EXEC} pa sh": Said()})
    recovery.unmark(group(topology("s1"), host).master)
    script = host.calls[0].stdin
    order = [script.index(text) for text in ("flock -n 9", "standby.signal", "RESET primary_slot")]
    assert order == sorted(order)


def test_promoted_only_in_our_turn() -> None:
    host = FakeHost({f"{EXEC} s1 sh": Said()})
    recovery.promote(group(topology("s1"), host).instance("s1"))
    script = host.calls[0].stdin
    assert f"turn={run_token.RUN_TOKEN}\n" in script
    order = [script.index(text) for text in ("flock -s 9", "pg_ctl promote", "rm -f /tmp/pgherd")]
    assert order == sorted(order)
