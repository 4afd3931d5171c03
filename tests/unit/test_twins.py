"""Who must not be started: two of one system of which neither is marked as a standby."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import SYSTEM, FakeHost, Said, container, facts, group, image, standby_facts, topology

from pgherd.errors import Refused
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.observation import Observation, Seen
from pgherd.steps import leaders


def disk(**changes: Any) -> Disk:
    """A database of the group's system that no standby.signal marks."""
    given: dict[str, Any] = {
        "pg_version": "17", "empty": False, "system_identifier": SYSTEM, "timeline": 1,
        "checkpoint": "0/3000028",
    }  # fmt: skip
    return Disk(**given | changes)


def control(found: Disk) -> str:
    """What sh/examine.sh prints of it."""
    return (
        f"pg_version=17\nDatabase system identifier: {found.system_identifier}\n"
        f"Latest checkpoint location: {found.checkpoint}\n"
        f"Latest checkpoint's TimeLineID: {found.timeline}\n"
    )


def refuse(starting: dict[str, Disk], **others: Facts | Disk | str) -> None:
    """Start some nodes; the others run with facts, run without a word (the text), or are down."""
    plan, seen = {"sh -s": Said("absent\n"), "test -d": Said()}, dict[str, Seen]()
    for name in ("pa", "s1"):
        found = others.get(name)
        if isinstance(found, Disk):
            plan |= {"sh -s": Said("full\n"), "docker run": Said(control(found))}
        runs = container(name) if isinstance(found, Facts | str) else None
        silence = found if isinstance(found, str) else ""
        seen[name] = Seen(runs, found if isinstance(found, Facts) else None, silence)
    made = group(topology("s1"), FakeHost(plan))
    leaders.refuse_two_primaries(made, Observation(seen, {}), image(), starting)


OLD, NEW = disk(), disk(timeline=2)
COPY = "The data of s1 is a copy of pa's and not marked as a standby"
PA_IS = "pa is the primary, and s1 is not marked as a standby"
S1_IS = "s1 is the primary, and pa is not marked as a standby"
PA_WAS = "pa was primary before s1 was promoted: "
S1_WAS = "s1 was primary before pa was promoted: "


@pytest.mark.parametrize(
    ("starting", "others", "sentence"),
    [
        ({"pa": OLD, "s1": OLD}, {}, COPY),
        ({"s1": OLD, "pa": OLD}, {}, COPY),
        ({"s1": OLD}, {"pa": facts()}, PA_IS),
        ({"s1": OLD}, {"pa": OLD}, COPY),
        ({"s1": disk(checkpoint="0/4000028")}, {"pa": facts()}, PA_IS),  # it took writes of its own
        ({"pa": OLD, "s1": NEW}, {}, PA_WAS),
        ({"pa": OLD}, {"s1": facts(timeline=2)}, S1_IS),
        ({"pa": OLD}, {"s1": NEW}, PA_WAS),
        ({"pa": NEW, "s1": OLD}, {}, S1_WAS),
        ({"s1": OLD, "pa": NEW}, {}, S1_WAS),
        ({"s1": OLD}, {"pa": facts(timeline=2)}, PA_IS),
        ({"s1": OLD}, {"pa": NEW}, S1_WAS),
    ],
)
def test_twins_are_told_apart(
    starting: dict[str, Disk], others: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refused) as caught:
        refuse(starting, **others)
    assert caught.value.sentence.startswith(sentence)
    node = "pa" if sentence in {PA_WAS, S1_IS} else "s1"
    cure = "seed-standby --node" if sentence is COPY else "rejoin"
    assert f"`invoke {cure} {node}`" in caught.value.sentence


@pytest.mark.parametrize(
    ("starting", "others"),
    [
        ({"pa": OLD, "s1": disk(standby_signal=True)}, {}),
        ({"pa": OLD, "s1": disk(system_identifier="1")}, {}),
        ({"pa": OLD, "s1": disk(half_copied=True)}, {}),
        ({"pa": OLD, "s1": Disk()}, {}),
        ({"s1": OLD}, {"pa": standby_facts()}),
        ({"pa": OLD}, {"s1": facts(system_identifier="1")}),
        ({"pa": OLD}, {"s1": OLD}),  # not started itself, it keeps nobody from being the primary
        ({"pa": NEW}, {"s1": OLD}),
        ({"s1": OLD}, {}),
    ],
)
def test_others_are_let_be(starting: dict[str, Disk], others: dict[str, Any]) -> None:
    refuse(starting, **others)


@pytest.mark.parametrize("name", ["pa", "s1"])
def test_one_that_runs_and_is_silent_keeps_an_unsigned_one_down(name: str) -> None:
    other = {"pa": "s1", "s1": "pa"}[name]
    with pytest.raises(Refused) as caught:
        refuse({name: OLD}, **{other: "psql: the database system is starting up"})
    assert caught.value.sentence == (
        f"{other} runs and does not answer yet, so it is not known who is primary: "
        f"`invoke logs --node {other}`, then again.\npsql: the database system is starting up"
    )
    refuse({name: disk(standby_signal=True)}, **{other: "psql: starting up"})
