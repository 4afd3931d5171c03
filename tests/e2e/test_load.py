"""The load clients and what they find, on pairs where the fault is made on purpose."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import Herd, MakeHerd, docker
from load import Row, missing, running_load, two_at_once

SESSIONS = "FROM pg_stat_activity WHERE application_name = 'load'"


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    return herd


def row(begun: float, port: int, timeline: int) -> Row:
    return Row(f"{begun}", begun, begun + 0.5, port, f"{timeline:08X}", "")


def test_one_primary_after_the_other_is_not_two_at_once() -> None:
    one = [row(1, 1, 1), row(2, 1, 1), row(3, 2, 2), row(4, 1, 3)]
    assert two_at_once(one) == []
    under_way = row(2.4, 1, 1)  # it began before the new one had acknowledged anything
    assert two_at_once([*one, under_way]) == []


def test_two_primaries_are_found() -> None:
    old, new, late = row(1, 1, 1), row(2, 2, 2), row(3, 1, 1)
    assert two_at_once([old, new, late]) == [(new, late)]
    twin = row(3, 3, 2)  # both were promoted from the same timeline
    assert two_at_once([old, new, twin]) == [(new, twin)]


def test_rows_are_acknowledged_and_found_in_the_table(herd: Herd, tmp_path: Path) -> None:
    with running_load(herd.places, herd.password(), tmp_path, clients=2) as load:
        begun = time.monotonic()
        time.sleep(2)
        assert load.first(begun).port == herd.nodes["master"]["port"]
        assert load.longest_gap().seconds < 0.5
    rows = load.acknowledged()
    assert 100 <= len(rows) <= 210
    assert load.unknown() == []
    assert missing(rows, lambda statement: herd.sql("standby", statement)) == set()
    herd.sql("master", f"DELETE FROM load_rows WHERE id = '{rows[5].id}'")
    assert missing(rows, lambda statement: herd.sql("master", statement)) == {rows[5].id}


def test_a_restart_is_a_gap_and_the_clients_go_on(herd: Herd, tmp_path: Path) -> None:
    with running_load(herd.places, herd.password(), tmp_path) as load:
        begun = time.monotonic()
        docker("restart", herd.container("master"))
        row = load.first(time.monotonic())
        gap = load.longest_gap(begun)
    assert gap.after
    assert 0.1 < gap.seconds < row.ended - begun
    assert gap.seconds == load.longest_gap().seconds
    assert two_at_once(load.acknowledged()) == []
    assert missing(load.acknowledged(), lambda said: herd.sql("master", said)) == set()


def test_a_commit_that_waits_for_ever_is_given_up(herd: Herd, tmp_path: Path) -> None:
    with running_load(herd.places, herd.password(), tmp_path, give_up=0.5) as load:
        docker("stop", herd.container("standby"))
        stopped = time.monotonic()
        time.sleep(1.5)
        assert [row for row in load.acknowledged() if row.begun > stopped] == []
        assert {row.why for row in load.unknown()} == {"no answer"}
        gap = load.longest_gap()
        assert gap.after is None
        assert gap.seconds > 1.4
        docker("start", herd.container("standby"))
        load.first(time.monotonic())
    assert missing(load.acknowledged(), lambda said: herd.sql("master", said)) == set()


def test_a_commit_that_stops_waiting_is_not_acknowledged(herd: Herd, tmp_path: Path) -> None:
    """The server answers then, with a warning: the standby may not have the row."""
    with running_load(herd.places, herd.password(), tmp_path) as load:
        docker("stop", herd.container("standby"))
        cancel = f"SELECT count(pg_cancel_backend(pid)) {SESSIONS} AND wait_event = 'SyncRep'"
        end = time.monotonic() + 5
        while not herd.sql("master", cancel):
            assert time.monotonic() < end
        docker("start", herd.container("standby"))
        load.first(time.monotonic())
    assert any("canceling wait for synchronous replication" in r.why for r in load.unknown())


@pytest.mark.long
def test_two_real_primaries_are_found(make_herd: MakeHerd, tmp_path: Path) -> None:
    herd = make_herd("17", sync="")
    herd.invoke("setup-master", "seed-standby")
    with running_load(herd.places, herd.password(), tmp_path, clients=2) as load:
        herd.sql("standby", "SELECT pg_promote()")
        herd.sql("master", f"SELECT count(pg_terminate_backend(pid)) {SESSIONS}")
        load.first(time.monotonic(), port=herd.nodes["master"]["port"])
        load.first(time.monotonic(), port=herd.nodes["standby"]["port"])
    assert two_at_once(load.acknowledged())
    assert missing(load.acknowledged(), lambda said: herd.sql("standby", said))
