"""Who was primary, by those that answer and by the data of those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from fakes import SYSTEM, facts, group, image, observation, sender, standby_facts, topology
from test_losing import follower

from pgherd.errors import Refused
from pgherd.group import preconditions, primary
from pgherd.group.group import Group
from pgherd.operations import failover
from pgherd.operations.failover import find_lost_primary
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import Instance

LED = Disk(pg_version="17", empty=False, system_identifier=SYSTEM, state="in production",
           timeline=1)  # fmt: skip
FOLLOWED = replace(LED, state="shut down in recovery", standby_signal=True)
MARKED = replace(LED, standby_signal=True)  # by a switchover that was cut short
HISTORY = "1\t0/2000000\tx\n"
PROMOTED = replace(LED, timeline=2, history=HISTORY, reached="0/3000000", checkpoint="0/3000000")
CHAIN = topology("s1", "s2", "s3", s3={"upstream": "s2"})


def lost(
    monkeypatch: pytest.MonkeyPatch,
    made: Group,
    nodes: Mapping[str, Facts | None],
    disks: Mapping[str, Disk] = MappingProxyType({}),
) -> Instance | None:
    """Say who is lost where these lie on disk."""
    monkeypatch.setattr(preconditions, "data_state", lambda _: preconditions.FULL)
    monkeypatch.setattr(Instance, "disk", lambda self, _: disks.get(self.name, Disk()))
    return find_lost_primary(made, observation(**nodes), image())


def test_the_one_that_they_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1", "s2"))
    nodes: dict[str, Facts | None] = {
        "pa": follower(made, "pa", "s1"),
        "s1": None,
        "s2": follower(made, "s2", "s1"),
    }
    assert lost(monkeypatch, made, nodes) is made.instance("s1")
    nodes = {"pa": None, "s1": follower(made, "s1", "pa"), "s2": follower(made, "s2", "pa")}
    assert lost(monkeypatch, made, nodes) is made.master


def test_where_none_tells_it_is_who_leads_by_its_data_or_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = group(topology("s1", "s2"))
    assert lost(monkeypatch, made, {"pa": None, "s1": standby_facts(), "s2": None}) is made.master
    leads = {"s2": LED}
    assert lost(
        monkeypatch, made, {"pa": None, "s1": standby_facts(), "s2": None}, leads
    ) is made.instance("s2")
    one = {"pa": standby_facts(), "s1": standby_facts(), "s2": None}
    assert lost(monkeypatch, made, one) is made.instance("s2")
    with pytest.raises(Refused, match="none tells whether s1, s2 was primary: `invoke start`"):
        lost(monkeypatch, made, {"pa": standby_facts(), "s1": None, "s2": None})


def test_where_all_are_standbys_nobody_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1"))
    assert lost(monkeypatch, made, {"pa": standby_facts(), "s1": standby_facts()}) is None


def test_a_cascade_has_no_say_beside_those_that_follow_the_primary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """s3 follows s2, a standby that is down as well: fenced in its place, pa could come back."""
    made = group(CHAIN)
    its, cascades = follower(made, "s1", "pa"), follower(made, "s3", "s2")
    for order in ({"s3": cascades, "s1": its}, {"s1": its, "s3": cascades}):
        assert lost(monkeypatch, made, {"pa": None, "s2": None, **order}) is made.master


@pytest.mark.parametrize(
    ("disks", "name"),
    [
        ({"pa": LED, "s1": FOLLOWED, "s2": FOLLOWED}, "pa"),
        ({"pa": replace(LED, timeline=2), "s2": FOLLOWED}, "pa"),  # promoted since
        ({"pa": FOLLOWED, "s2": LED}, "s2"),  # s2 was primary
        ({"pa": FOLLOWED, "s2": MARKED}, "s2"),
        ({"pa": replace(LED, timeline=0), "s2": MARKED}, "s2"),  # an old one
        ({"pa": replace(LED, system_identifier="1"), "s2": MARKED}, "s2"),
        ({"s1": Disk(half_copied=True), "pa": FOLLOWED, "s2": FOLLOWED}, "s2"),
        ({"pa": FOLLOWED, "s1": FOLLOWED}, "s2"),  # its own data is gone
        ({"s1": FOLLOWED, "s2": FOLLOWED}, "pa"),  # that of pa is
        ({"s1": FOLLOWED}, "pa"),
    ],
)
def test_where_a_cascade_alone_answers_the_data_tells(
    disks: dict[str, Disk], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = group(CHAIN)
    nodes = {"pa": None, "s1": None, "s2": None, "s3": follower(made, "s3", "s2")}
    assert lost(monkeypatch, made, nodes, disks) is made.instance(name)


def test_several_may_have_been_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(CHAIN)
    nodes = {"pa": None, "s1": None, "s2": None, "s3": follower(made, "s3", "s2")}
    further = replace(LED, reached="0/9000000", timeline=2)
    assert lost(
        monkeypatch, made, nodes, {"pa": LED, "s1": further, "s2": FOLLOWED}
    ) is made.instance("s1")
    with pytest.raises(Refused, match="Any of pa and s1 may have been primary"):
        lost(monkeypatch, made, nodes)


def test_one_whose_host_is_away_may_have_been_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a standby that is down; and where a standby of it answers, whatever lies on disk."""
    near, far = {"listen": "10.0.0.2"}, {"host": "box", "listen": "10.0.0.1"}
    cascade = near | {"upstream": "s2"}
    made = group(topology("s1", "s2", "s3", pa=far, s1=near, s2=near, s3=cascade))
    made.away["box"] = "box cannot be reached by SSH."
    nodes = {"pa": None, "s1": None, "s2": None, "s3": follower(made, "s3", "s2")}
    disks = {"s1": FOLLOWED, "s2": FOLLOWED}
    assert lost(monkeypatch, made, nodes, disks) is made.master
    assert lost(monkeypatch, made, nodes, disks | {"s2": MARKED}) is made.instance("s2")
    assert lost(monkeypatch, made, nodes, {"s1": LED, "s2": FOLLOWED}) is made.instance("s1")
    assert lost(monkeypatch, made, nodes, {"s1": FOLLOWED}) is made.master  # that of s2 is gone
    made.away["local"] = "cut off."
    assert lost(monkeypatch, made, nodes) is made.instance("s2")  # away too, and voted for
    del made.away["local"]
    direct = {"pa": None, "s1": follower(made, "s1", "pa"), "s2": None, "s3": None}
    assert lost(monkeypatch, made, direct, {"s2": LED}) is made.master


# --- a primary serves ---


@pytest.mark.parametrize(
    ("nodes", "disks", "sentence"),
    [
        ({}, {"s2": PROMOTED}, "`docker stop pa`, then `invoke start`, which runs s2"),
        (
            {"s1": {"timeline": 2, "history": HISTORY}},
            {},
            "docker stop pa`, then `invoke failover`",
        ),
        ({"s1": {"timeline": 2, "history": HISTORY}}, {"s2": PROMOTED}, "`invoke start`"),
        ({}, {"s2": LED}, ""),
        ({}, {"s2": replace(PROMOTED, system_identifier="1")}, ""),
        ({"s1": {"streams": True}}, {"s2": PROMOTED}, ""),  # a stray one: this one serves
    ],
)
def test_a_primary_that_does_not_lead_is_not_kept(
    nodes: dict[str, dict[str, Any]],
    disks: dict[str, Disk],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = group(topology("s1", "s2"))
    streams = any(more.pop("streams", False) for more in nodes.values())
    answering = {n: standby_facts(**more) for n, more in nodes.items()}
    led = facts(*([sender("s1")] if streams else []))
    seen = observation(pa=led, **answering)
    monkeypatch.setattr(primary, "_counted", lambda *_: {})
    if not sentence:
        assert failover._contest(made, made.master, led, seen, image(), disks).name == "pa"
        return
    with pytest.raises(
        Refused, match="pa serves as primary, and is not the one to keep"
    ) as refused:
        failover._contest(made, made.master, led, seen, image(), disks)
    assert sentence in refused.value.sentence
