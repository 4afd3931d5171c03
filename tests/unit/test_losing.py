"""Who is lost, who has most, and what a failover would lose."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fakes import SYSTEM, facts, group, observation, standby_facts, topology
from hypothesis import given
from hypothesis import strategies as st

from pgherd.config.sync_names import Sync
from pgherd.errors import Refused
from pgherd.group import node_config
from pgherd.group.group import Group
from pgherd.operations import data_loss
from pgherd.operations.data_loss import DataLoss, choose_standby, estimate_loss, read_limit
from pgherd.operations.fencing import Fenced
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond

DISK = Disk(
    pg_version="17", empty=False, sync_names="FIRST 1 (s1)", checkpoint="0/3000000", timeline=1,
    system_identifier=SYSTEM,
)  # fmt: skip


def follower(
    made: Group, name: str, upstream: str, lsn: str = "0/3000000", **more: object
) -> Facts:
    """A standby that is set to follow an upstream."""
    info = node_config.conninfo(made.instance(name), made.instance(upstream))
    return standby_facts(**{"primary_conninfo": info, "lsn": lsn, "received": lsn, **more})


# --- who has most ---


@pytest.mark.parametrize(
    ("first", "second", "best"),
    [
        ({"lsn": "0/3000000"}, {"lsn": "0/3000001"}, "s2"),
        ({"lsn": "0/9"}, {"lsn": "0/10"}, "s2"),  # as numbers
        ({"lsn": "0/2", "received": "0/4"}, {"lsn": "0/3", "received": "0/3"}, "s1"),
        # since it began to stream it has received less than it had before
        ({"lsn": "0/3000148", "received": "0/3000000"}, {"lsn": "0/3000100"}, "s1"),
        ({"lsn": "0/9000000"}, {"lsn": "0/3000000", "timeline": 2}, "s2"),
        ({}, {}, "s1"),
        ({"apply_delay": 60000}, {}, "s2"),
        ({"apply_delay": 60000, "lsn": "0/3000001"}, {}, "s1"),
    ],
)
def test_the_one_that_has_most(
    first: dict[str, object], second: dict[str, object], best: str
) -> None:
    made = group(topology("s1", "s2"))
    seen = observation(pa=None, s1=standby_facts(**first), s2=standby_facts(**second))
    assert choose_standby(made, "", seen).name == best


def test_the_one_that_is_named() -> None:
    made = group(topology("s1", "s2"))
    seen = observation(pa=None, s1=standby_facts(lsn="0/4000000"), s2=standby_facts())
    assert choose_standby(made, "s2", seen).name == "s2"
    with pytest.raises(Refused, match="pa does not run as a standby: choose s1 or s2"):
        choose_standby(made, "pa", seen)
    with pytest.raises(Refused, match="no node 'x'"):
        choose_standby(made, "x", seen)
    with pytest.raises(Refused, match="No standby of g answers, so none can be primary"):
        choose_standby(made, "", observation(pa=None, s1=None, s2=None))


def test_one_that_rereads_may_have_more_than_it_says() -> None:
    """Started anew, it has replayed a part; it asks for the stream only once it has all."""
    made = group(topology("s1", "s2"))
    rereads = follower(made, "s1", "pa", "0/2000000", received=None)
    assert rereads.rereads
    assert not follower(made, "s1", "pa").rereads
    assert not standby_facts().rereads  # it follows nobody
    seen = observation(pa=None, s1=rereads, s2=follower(made, "s2", "pa"))
    with pytest.raises(Refused, match="s1 still replays what was there before its start"):
        choose_standby(made, "", seen)
    assert choose_standby(made, "s2", seen).name == "s2"
    alone = observation(pa=None, s1=rereads, s2=None)
    assert choose_standby(made, "", alone).name == "s1"


# --- up to where acknowledged commits may reach ---


@pytest.mark.parametrize(
    ("sync", "answering", "reached"),
    [
        ("FIRST 1 (s1)", {"s1": 3, "s2": 5}, 3),
        ("FIRST 1 (s1)", {"s2": 5}, None),
        ("FIRST 1 (S1)", {"s1": 3}, 3),  # names are without case
        ("FIRST 1 (s1, s2)", {"s1": 3, "s2": 5}, 5),
        ("FIRST 1 (s1, s2)", {"s2": 5}, None),  # s1 may have acknowledged alone
        ("FIRST 2 (s1, s2)", {"s2": 5}, 5),  # each is on both
        ("FIRST 2 (s1, s2, s3)", {"s2": 5, "s3": 4}, 5),
        ("ANY 1 (s1, s2)", {"s1": 3}, None),
        ("ANY 2 (s1, s2, s3)", {"s1": 3, "s3": 4}, 4),
        ("ANY 2 (s1, s2, s3)", {"s3": 4}, None),
        ("ANY 2 (s1, s2, s9)", {"s1": 3}, None),  # whoever s9 is
        ("ANY 2 (s1, s2, s9)", {"s1": 3, "s2": 2}, 3),
        ("*", {"s1": 1, "s2": 2, "s3": 3}, 3),
        ("*", {"s1": 1, "s2": 2}, None),
        ("ANY 2 (*)", {"s1": 1, "s2": 2}, 2),
        ("FIRST 1 (s9)", {"s1": 3}, None),
    ],
)
def test_reached(sync: str, answering: dict[str, int], reached: int | None) -> None:
    made = group(topology("s1", "s2", "s3"))
    found = data_loss.reached(made, made.master, Sync.parse(sync), answering)
    assert found == (float("inf") if reached is None else reached)


def test_one_that_rereads_tells_no_position() -> None:
    made = group(topology("s1", "s2", sync="s1"))
    rereads = follower(made, "s1", "pa", received=None)
    seen = observation(pa=None, s1=rereads, s2=follower(made, "s2", "pa"))
    loss = estimate_loss(made, made.master, made.instance("s2"), seen, Fenced(DISK, BEYOND))
    assert loss.acknowledged


@given(st.data())
def test_no_acknowledged_commit_is_beyond(data: st.DataObject) -> None:
    """Commits in any order, each flushed by any set that the list allows, and any that answer."""
    names = ["s1", "s2", "s3", "s4"]
    listed = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    count = data.draw(st.integers(1, len(listed)))
    method = data.draw(st.sampled_from(["FIRST", "ANY"]))
    sync = Sync.parse(f"{method} {count} ({', '.join(listed)})")
    ends = dict.fromkeys(names, 0)
    last = 0
    for commit in range(1, data.draw(st.integers(0, 5)) + 1):
        flushed = data.draw(st.lists(st.sampled_from(names), unique=True))
        ends |= dict.fromkeys(flushed, commit)  # a stream has no gaps
        if sum(ends[name] >= commit for name in listed) >= count:
            last = commit
    answering = data.draw(st.lists(st.sampled_from(names), unique=True))
    made = group(topology(*names))
    has = {name: ends[name] for name in answering}
    assert data_loss.reached(made, made.master, sync, has) >= last


# --- what would be lost ---


def weighed(
    fenced: Fenced | None,
    *,
    s1: str = "0/3000000",
    s2: str = "0/2000000",
    successor: str = "s1",
    sync: str = "s1",
    **more: object,
) -> DataLoss:
    made = group(topology("s1", "s2", sync=sync))
    seen = observation(
        pa=None, s1=follower(made, "s1", "pa", s1), s2=follower(made, "s2", "pa", s2, **more)
    )
    return estimate_loss(made, made.master, made.instance(successor), seen, fenced)


BEYOND = Beyond(310, 2)


@pytest.mark.parametrize(
    ("fenced", "loss"),
    [
        (Fenced(DISK, None), DataLoss(0, 0, False, True)),
        # it was written, and no client was told: commits wait for s1, who is the successor
        (Fenced(DISK, BEYOND), DataLoss(310, 2, False, True)),
        (Fenced(replace(DISK, sync_names=""), BEYOND), DataLoss(310, 2, True, True)),
        (Fenced(replace(DISK, sync_names="FIRST 1 (s9)"), BEYOND), DataLoss(310, 2, True, True)),
        # marked by a failover that was cut short: what it says of the list holds all the same
        (Fenced(replace(DISK, sync_names="", standby_signal=True), BEYOND),
         DataLoss(310, 2, True, True)),
        (Fenced(replace(DISK, sync_names="FIRST 1 (s9)", standby_signal=True), BEYOND),
         DataLoss(310, 2, True, True)),
        # its host is away, or its data is gone: nothing tells whether it waited
        (None, DataLoss(None, None, False, True, assumed=True)),
        (Fenced(Disk(), None), DataLoss(None, None, True, True, gone=True)),
        (Fenced(DISK, Beyond(310, None)), DataLoss(None, None, False, True)),
    ],
)  # fmt: skip
def test_weigh(fenced: Fenced | None, loss: DataLoss) -> None:
    assert weighed(fenced) == loss


def test_another_standby_may_have_more() -> None:
    loss = weighed(Fenced(DISK, None), successor="s2")
    assert loss == DataLoss(0x1000000, 0, acknowledged=True, sync=True)
    # a position of an older timeline is none of this one
    older = weighed(Fenced(DISK, None), s2="0/9000000", timeline=0)
    assert older == DataLoss(0, 0, acknowledged=False, sync=True)


def test_what_rests_on_the_topology_is_told_so() -> None:
    said = weighed(None).sentence
    assert "if its commits waited for standbys as the topology asks, which cannot be told" in said
    assert "nothing that was acknowledged is lost" not in said


def test_a_group_that_was_asynchronous_for_a_while_loses_nothing_unasked() -> None:
    loss = weighed(Fenced(replace(DISK, sync_names=""), BEYOND))
    with pytest.raises(Refused, match="2 commits, will be lost, and 0 bytes may be"):
        loss.refuse_above(None, None, group(topology("s1")).instance("s1"))


def test_without_its_data_nothing_is_taken_for_granted() -> None:
    loss = weighed(Fenced(Disk(), None))
    with pytest.raises(Refused, match="--max-loss any"):
        loss.refuse_above(None, None, group(topology("s1")).instance("s1"))


def test_asynchronous_and_unreadable_anything_may_be_lost() -> None:
    assert weighed(None, sync="") == DataLoss(None, None, acknowledged=True, sync=False)


def test_where_nobody_is_lost_another_standby_may_still_have_more() -> None:
    made = group(topology("s1", "s2", sync="s1"))
    seen = observation(
        pa=standby_facts(lsn="0/1"), s1=standby_facts(lsn="0/3"), s2=standby_facts(lsn="0/2")
    )
    found = {n: estimate_loss(made, None, made.instance(n), seen, None) for n in ("s1", "s2")}
    assert found["s1"] == DataLoss(0, None, acknowledged=False, sync=True)
    assert found["s2"] == DataLoss(1, None, acknowledged=True, sync=True)
    with pytest.raises(Refused, match="Another standby: 1 bytes of its WAL will be lost"):
        found["s2"].refuse_above(None, None, made.instance("s2"))


# --- what may be lost ---


@pytest.mark.parametrize(
    ("loss", "limit", "refused"),
    [
        (DataLoss(0, 0, False, True), None, False),
        (DataLoss(310, 2, False, True), None, False),  # nobody was told of it
        (DataLoss(310, 2, False, True), 0, False),
        (DataLoss(310, 2, True, True), None, True),
        (DataLoss(310, 2, True, True), 309, True),
        (DataLoss(310, 2, True, True), 310, False),
        (DataLoss(None, None, True, True), None, True),
        (DataLoss(None, None, True, True), 10**9, True),  # nobody knows how much it is
        (DataLoss(None, None, False, True), 0, False),
        (DataLoss(310, 2, True, False), None, False),  # asynchronous: that is what it means
        (DataLoss(310, 2, True, False), 0, True),
        (DataLoss(None, None, True, False), None, False),
        (DataLoss(None, None, True, False), 5, True),
        (DataLoss(None, None, True, True), math.inf, False),
        (DataLoss(310, 2, True, True), math.inf, False),
    ],
)
def test_what_may_be_lost(loss: DataLoss, limit: float | None, refused: bool) -> None:
    made = group(topology("s1"))
    if not refused:
        loss.refuse_above(limit, made.master, made.instance("s1"))
        return
    with pytest.raises(Refused) as caught:
        loss.refuse_above(limit, made.master, made.instance("s1"))
    said = caught.value.sentence
    assert f"and {limit or 0} bytes may be (--max-loss)" in said
    assert "`invoke start`" in said
    assert f"--to s1 --max-loss {loss.size or 'any'}`" in said


@pytest.mark.parametrize(("text", "limit"), [("", None), ("0", 0), ("310", 310), ("any", math.inf)])
def test_how_much_may_be_lost_as_it_is_typed(text: str, limit: float | None) -> None:
    assert read_limit(text) == limit


@pytest.mark.parametrize("text", ["all", "-1", "1.5", "1MB", "inf", "²"])
def test_words_that_are_no_limit(text: str) -> None:
    with pytest.raises(Refused, match='--max-loss is a number of bytes, or "any", not'):
        read_limit(text)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (DataLoss(0, 0, False, True), "nothing of what it wrote is lost"),
        (DataLoss(310, 1, True, True), "310 bytes of its WAL, 1 commit, will be lost"),
        (
            DataLoss(310, 2, False, True),
            "310 bytes of its WAL, 2 commits, stays behind; nothing that was acknowledged is lost",
        ),
        (DataLoss(310, 0, True, True), "310 bytes of its WAL will be lost"),
        (DataLoss(310, None, True, True), "310 bytes of its WAL will be lost"),
        (
            DataLoss(None, None, True, False),
            "what it wrote last, unknown how much, as its WAL cannot be read, will be lost",
        ),
    ],
)
def test_sentences(loss: DataLoss, sentence: str) -> None:
    assert loss.sentence == sentence


def test_positions_are_numbers() -> None:
    assert facts(lsn="0/2", received="0/10").end == "0/10"
    assert facts(lsn=None, received=None).end == "0/0"
    assert lsn_to_int(facts(lsn="1/0", received="0/FFFFFFFF").end) == 2**32
