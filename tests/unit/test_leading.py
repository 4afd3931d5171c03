"""Who leads, of several nodes that are primary or would be, by all that is known of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import SYSTEM, facts, sender, standby_facts, topology
from hypothesis import given
from hypothesis import strategies as st

from pgherd.postgres import leadership
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond, Fork, History
from pgherd.postgres.leadership import Known, Leader, Own, leader

FIRST = History.parse(1, "")
FORKED = "0/5000148"
SECOND = History.parse(2, f"1 {FORKED}")


def known(history: History = FIRST, end: str = "0/6000000", **more: Any) -> Known:
    """A primary."""
    given: dict[str, Any] = {"leads": True, "serves": True}
    return Known(SYSTEM, history, end, **given | more)


def follows(history: History = FIRST, end: str = "0/5000000") -> Known:
    """A standby."""
    return known(history, end, leads=False)


PA, STRAY = known(), known(SECOND)
SYNC: dict[str, Any] = {"streaming": ("s1",), "synchronous": ("s1",)}


@pytest.mark.parametrize(
    ("nodes", "own", "leads", "why"),
    [
        ({}, {}, None, ""),
        ({"s1": follows()}, {}, None, ""),
        ({"s1": STRAY, "s2": follows(SECOND)}, {}, "s1", ""),
        # who serves: a stray promotion has the newer timeline, and commits of its own
        ({"pa": replace(PA, **SYNC), "s2": STRAY}, {}, "pa", "s1 streams from it, and its commits"),
        ({"pa": replace(PA, streaming=("s1",)), "s2": STRAY}, {}, "pa", "s1 streams from it"),
        ({"pa": PA, "s2": replace(STRAY, streaming=("s1",))}, {}, "s2", "s1 streams from it"),
        # a synchronous one counts for more than two others
        ({"pa": replace(PA, **SYNC), "s2": replace(STRAY, streaming=("s3", "s4"))}, {}, "pa", "s1"),
        # nobody streams, as after a reboot: who has what one wrote since
        ({"pa": PA, "s2": STRAY, "s1": follows(end="0/5900000")}, {}, "pa", "s1 has what it wrote"),
        ({"pa": PA, "s2": STRAY, "s1": follows(SECOND, "0/5900000")}, {}, "s2", "s1 has what it"),
        ({"pa": PA, "s2": STRAY, "s1": follows(end=FORKED)}, {}, "s2", "it was promoted last"),
        # who has all that the other has
        ({"pa": known(end=FORKED), "s2": STRAY}, {}, "s2", "it has all that the other has"),
        ({"pa": PA, "s2": STRAY}, {("s2", "pa"): Beyond(90, 0)}, "pa", "it has all"),
        ({"pa": PA, "s2": STRAY}, {("pa", "s2"): Beyond(90, 0)}, "s2", "it has all"),
        ({"pa": PA, "s2": STRAY}, {("pa", "s2"): None}, "s2", "it has all"),
        # each has what the other lacks, or neither: the timeline
        ({"pa": PA, "s2": STRAY}, {}, "s2", "it was promoted last (timeline 2)"),
        (
            {"pa": PA, "s2": STRAY},
            {("s2", "pa"): Beyond(90, 0), ("pa", "s2"): Beyond(90, 0)},
            "s2",
            "it was promoted last",
        ),
        # one timeline
        (
            {"pa": PA, "s2": known(end="0/7000000"), "s1": replace(follows(), follows="pa")},
            {},
            "pa",
            "s1 is set to follow it",
        ),
        ({"pa": PA, "s2": replace(PA, serves=False)}, {}, "pa", "it serves"),
        ({"pa": PA, "s2": known(end="0/7000000")}, {}, "s2", "its WAL reaches further"),
        ({"s2": PA, "pa": PA}, {}, "pa", "nothing else tells them apart"),
        ({"s2": PA, "s3": PA}, {}, "s2", "nothing else"),
        # systems
        ({"pa": replace(STRAY, system="9"), "s1": PA, "s2": follows()}, {}, "s1", "of its system"),
        # three
        ({"pa": replace(PA, streaming=("s3",)), "s1": STRAY, "s2": STRAY}, {}, "pa", "s3 streams"),
        (
            {"pa": PA, "s1": STRAY, "s2": known(History.parse(3, f"1 {FORKED}\n2 0/5800000"))},
            {},
            "s2",
            "it was promoted last (timeline 3)",
        ),
    ],
)
def test_who_leads(nodes: dict[str, Known], own: Own, leads: str | None, why: str) -> None:
    found = leader(nodes, own, "pa")
    assert (found.name if found else None) == leads
    assert why in (found.why if found else "")


TIMELINES = st.sampled_from(
    [FIRST, SECOND, History.parse(2, "1 0/4000000"), History.parse(3, f"1 {FORKED}")]
)
ENDS = st.sampled_from([FORKED, "0/5000000", "0/5900000", "0/6000000"])
NODES = st.dictionaries(
    st.sampled_from(["pa", "s1", "s2", "s3"]),
    st.builds(known, TIMELINES, ENDS, leads=st.booleans(), serves=st.booleans()),
)


@given(NODES, st.data())
def test_one_leads_wherever_one_would_and_whoever_asks(
    nodes: dict[str, Known], data: st.DataObject
) -> None:
    """It is one of them, whatever the order in which they are looked at."""
    would = {name for name, node in nodes.items() if node.leads}
    found = leader(nodes, {}, "pa")
    assert (found.name in would) if found else not would
    order = data.draw(st.permutations(list(nodes)))
    again = leader({name: nodes[name] for name in order}, {}, "pa")
    same = found and again and nodes[found.name] == nodes[again.name]  # equal ones: either
    assert same or found is again is None


@given(NODES, st.sampled_from(["pa", "s1", "s2", "s3"]))
def test_the_only_one_that_a_synchronous_standby_streams_from_leads(
    nodes: dict[str, Known], name: str
) -> None:
    nodes |= {name: known(**SYNC)}
    found = leader(nodes, {}, "pa")
    assert found
    assert found.name == name


# --- what one has that another has not ---


@pytest.mark.parametrize(
    ("mine", "theirs", "size"),
    [
        (PA, STRAY, 0x6000000 - 0x5000148),
        (STRAY, PA, 0x6000000 - 0x5000148),
        (known(end=FORKED), STRAY, None),
        (known(SECOND, end=FORKED), PA, 1),  # what it was promoted with
        (PA, PA, 1),  # on one timeline nothing tells where they part
        (known(History.parse(7, "")), PA, 0x6000000),
    ],
)
def test_by_positions(mine: Known, theirs: Known, size: int | None) -> None:
    assert leadership.beyond(mine, theirs) == (None if size is None else Beyond(size, None))


def test_both_directions_are_told() -> None:
    own = {
        ("s2", "pa"): Beyond(400, 2, 350, "2026-01-01 00:00:00 UTC"),
        ("pa", "s2"): Beyond(90, 0),
    }
    assert leadership.describe_difference({"pa": PA, "s2": STRAY}, own, "s2", "pa") == (
        "s2 has 2 commits (350 bytes, the last at 2026-01-01 00:00:00 UTC) that pa has not, and pa "
        "has no commit (90 bytes) that s2 has not"
    )
    other = {"pa": PA, "s2": replace(STRAY, system="9")}
    assert leadership.describe_difference(other, {}, "s2", "pa") == "s2 is of another system"


@pytest.mark.parametrize(
    ("node", "of", "to", "has"),
    [
        (follows(end="0/5900000"), PA, 0x5900000, True),
        (follows(end="0/5900000"), STRAY, 0x5000148, False),
        (follows(SECOND, "0/5900000"), PA, 0x5000148, False),
        (follows(SECOND, "0/5000000"), STRAY, 0x5000000, True),  # it is of that timeline already
        (replace(follows(), system="9"), PA, 0, False),
    ],
)
def test_how_much_of_it_another_has(node: Known, of: Known, to: int, has: bool) -> None:
    assert leadership.shared_to(node, of) == to
    assert leadership.has_after(node, of, Fork(1, FORKED)) is has


# --- what is known ---

TRIO = topology("s1", "s2")


@pytest.mark.parametrize(
    ("row", "its", "streams"),
    [
        ({}, standby_facts(primary_conninfo="host=pa"), True),
        ({}, None, True),  # it does not answer us
        ({"state": "catchup"}, None, False),
        ({"silent": 60.0}, None, False),
        ({"silent": 3.0}, None, True),
        ({}, facts(timeline=2), False),  # it was promoted
        ({}, standby_facts(receiver=None), False),
        ({}, standby_facts(primary_conninfo="host=s2"), False),  # a connection that broke
        ({}, standby_facts(primary_conninfo="host=10.9.9.9"), True),  # the same by another address
    ],
)
def test_a_row_of_pg_stat_replication_counts(
    row: dict[str, Any], its: Facts | None, streams: bool
) -> None:
    answers = {"pa": facts(sender("s1", **row))} | ({"s1": its} if its else {})
    found = leadership.known_of(TRIO, answers)["pa"]
    assert (found.streaming, found.synchronous) == ((("s1",), ("s1",)) if streams else ((), ()))
    assert found.serves


def test_a_standby_of_somebody_else_does_not_count() -> None:
    found = leadership.known_of(TRIO, {"pa": facts(sender("pg_receivewal"))})["pa"]
    assert found.streaming == ()


def test_by_its_data() -> None:
    disk = Disk(system_identifier=SYSTEM, timeline=2, history=f"1 {FORKED}\n", reached="0/6000000")
    assert leadership.of_disk(disk, leads=True) == replace(STRAY, serves=False)


def test_one_that_leads_alone_needs_no_reason() -> None:
    assert leader({"pa": PA}, {}, "pa") == Leader("pa")
