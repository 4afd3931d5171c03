"""Who must not be started: two of one system of which neither is marked as a standby."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import (
    SYSTEM,
    FakeHost,
    Said,
    container,
    facts,
    group,
    image,
    sender,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.errors import Refused
from pgherd.group import primary
from pgherd.group.observation import NodeObservation, Observation
from pgherd.postgres.facts import Disk, Facts


def disk(**changes: Any) -> Disk:
    """A database of the group's system that no standby.signal marks."""
    given: dict[str, Any] = {
        "pg_version": "17", "empty": False, "system_identifier": SYSTEM, "timeline": 1,
        "checkpoint": "0/3000028",
    }  # fmt: skip
    given |= changes
    return Disk(**{"reached": given["checkpoint"], **given})


def control(found: Disk) -> str:
    """What sh/examine.sh prints of it."""
    return (
        f"pg_version=17\nDatabase system identifier: {found.system_identifier}\n"
        f"Latest checkpoint location: {found.checkpoint}\n"
        f"Latest checkpoint's TimeLineID: {found.timeline}\n"
        f"Database cluster state: {found.state or 'in production'}\n"
        f"history={found.history.strip().replace(chr(10), ';')};\n"
    )


def refuse(name: str, disk: Disk, **others: Facts | Disk | str) -> None:
    """Start a node; the others run with facts, run without a word (the text), or are down."""
    plan, seen = {"sh -s": Said("absent\n"), "test -d": Said()}, dict[str, NodeObservation]()
    for node in ("pa", "s1"):
        found = others.get(node)
        if isinstance(found, Disk):
            plan |= {"sh -s": Said("full\n"), "docker run": Said(control(found))}
        runs = container(node) if isinstance(found, Facts | str) else None
        silence = found if isinstance(found, str) else ""
        seen[node] = NodeObservation(runs, found if isinstance(found, Facts) else None, silence)
    made = group(topology("s1"), FakeHost(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(primary, "_counted", lambda *_: {})  # positions have to do
        primary.refuse_second(made, Observation(seen, {}), image(), name, disk)


OLD = disk(state="shut down")
NEW = disk(timeline=2, history="1 0/3000100\n", checkpoint="0/4000028")
LEADS = facts(timeline=2, history="1 0/3000100\n", lsn="0/4000000")
COPY = "The data of s1 is a copy of pa's and not marked as a standby"
PA_IS = "pa is the primary, and s1 is not marked as a standby"
S1_IS = "s1 is the primary, and pa is not marked as a standby"
NOT_PA = "pa is not the one to be primary. s1 leads: "
NOT_S1 = "s1 is not the one to be primary. pa leads: "


@pytest.mark.parametrize(
    ("name", "its", "others", "sentence"),
    [
        ("s1", OLD, {"pa": facts()}, PA_IS),
        ("s1", OLD, {"pa": OLD}, COPY),
        ("s1", replace(OLD, state="in production"), {"pa": OLD}, NOT_S1),  # it has run
        ("s1", disk(checkpoint="0/4000028"), {"pa": facts(sender("s1"))}, PA_IS),
        ("pa", OLD, {"s1": LEADS}, S1_IS),
        ("pa", OLD, {"s1": NEW}, NOT_PA),
        ("s1", OLD, {"pa": LEADS}, PA_IS),
        ("s1", OLD, {"pa": NEW}, NOT_S1),
        ("s1", NEW, {"pa": facts()}, "pa serves as primary, and is not the one to keep"),
    ],
)
def test_twins_are_told_apart(name: str, its: Disk, others: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused) as caught:
        refuse(name, its, **others)
    assert caught.value.sentence.startswith(sentence)
    node = "pa" if sentence in {NOT_PA, S1_IS} or "serves" in sentence else "s1"
    cure = "seed-standby --node" if sentence is COPY else "rejoin"
    assert f"`invoke {cure} {node}`" in caught.value.sentence


@pytest.mark.parametrize(
    ("name", "its", "others"),
    [
        ("s1", disk(standby_signal=True), {"pa": facts()}),
        ("s1", disk(half_copied=True), {"pa": facts()}),
        ("s1", Disk(), {"pa": facts()}),
        ("s1", OLD, {"pa": standby_facts(system_identifier="1")}),
        ("pa", OLD, {"s1": facts(system_identifier="1")}),
        ("pa", OLD, {"s1": OLD}),  # not started itself, it keeps nobody from being the primary
        ("pa", NEW, {"s1": OLD}),
        ("s1", NEW, {"pa": OLD}),
        ("s1", OLD, {}),
    ],
)
def test_others_are_let_be(name: str, its: Disk, others: dict[str, Any]) -> None:
    refuse(name, its, **others)


@pytest.mark.parametrize("name", ["pa", "s1"])
def test_one_that_runs_and_is_silent_keeps_an_unsigned_one_down(name: str) -> None:
    other = {"pa": "s1", "s1": "pa"}[name]
    with pytest.raises(Refused) as caught:
        refuse(name, OLD, **{other: "psql: the database system is starting up"})
    assert caught.value.sentence == (
        f"{other} runs and does not answer yet, so it is not known who is primary: "
        f"`invoke logs --node {other}`, then again.\npsql: the database system is starting up"
    )
    refuse(name, disk(standby_signal=True), **{other: "psql: starting up"})


@pytest.mark.parametrize(
    ("status", "restarts", "silence", "failing"),
    [
        ("restarting", 1, "", True),
        ("running", 3, "psql: error: connection to server on socket failed: No such file", True),
        ("running", 0, "psql: error: connection to server on socket failed: No such file", False),
        ("running", 1, "FATAL:  the database system is starting up", False),
        ("paused", 1, "", False),
        ("exited", 1, "", False),
    ],
)
def test_who_ends_again_and_again(status: str, restarts: int, silence: str, failing: bool) -> None:
    node = NodeObservation(container("pa", status=status, restarts=restarts), None, silence)
    assert primary.is_failing(node) is failing


def test_who_answers_does_not_end_again_and_again() -> None:
    assert not primary.is_failing(NodeObservation(container("pa", restarts=5), facts()))
    assert not primary.is_failing(NodeObservation(None, None))
