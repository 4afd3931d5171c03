"""Servers crash under load, lose their network or their directory; nothing acknowledged is lost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest
from conftest import Herd, MakeHerd, docker
from equal import equal_and_whole, sums_of
from faults import WHOLE, crash, only_root, passes, until
from load import Load, missing, running_load, two_at_once

ROUNDS = 20 if WHOLE else 2
TABLE = "CREATE TABLE kept AS SELECT n, md5(n::text) AS m FROM generate_series(1, 20000) n"

# Not for a moment, as each commit does.
WAITING = """SELECT count(*) FROM pg_stat_activity
    WHERE wait_event = 'SyncRep' AND state_change < clock_timestamp() - interval '4 s'"""
pytestmark = pytest.mark.timeout(1500 if WHOLE else 300)


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    """A synchronous pair, with a table and an index that have to stay as they are."""
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    herd.sql("master", TABLE)
    herd.sql("master", "CREATE INDEX ON kept (m)")
    return herd


@pytest.fixture
def load(herd: Herd) -> Iterator[Load]:
    """Clients that write; when the test is over, all that they were told is there."""
    with running_load(herd.places, herd.password(), herd.directory, clients=2) as load:
        yield load
        load.first(time.monotonic())
    rows = load.acknowledged()
    assert len(rows) > 10
    assert missing(rows, partial(herd.sql, herd.primary())) == set()
    assert two_at_once(rows) == []


def test_the_primary_crashes_again_and_again(herd: Herd, load: Load) -> None:
    """By turns the engine starts it again by itself, and the user does."""
    for number in range(ROUNDS):
        load.first(time.monotonic())  # the one before is over: the standby has caught up, it waits
        if number % 2:
            docker("kill", "--signal", "KILL", herd.container("master"))
            herd.invoke("start")
        else:
            crash(herd, "master")
            until(lambda: herd.sql("master", "SELECT true"), "the primary is back")
        load.first(time.monotonic())
    passes(herd)


def test_the_standby_crashes_under_load(herd: Herd, load: Load) -> None:
    crash(herd, "standby")
    until(lambda: herd.sql("standby", "SELECT true"), "the standby is back")
    load.first(time.monotonic())
    docker("kill", "--signal", "KILL", herd.container("standby"))
    warned = herd.invoke("status", code=1).stdout
    assert herd.container("standby") in warned
    herd.invoke("start")
    passes(herd)


def test_the_network_is_cut_and_there_again(herd: Herd, load: Load) -> None:
    network, standby = f"pgherd-{herd.name}", herd.container("standby")
    docker("network", "disconnect", network, standby)
    until(lambda: herd.sql("master", WAITING), "commits wait for it")
    cut = time.monotonic()
    said = herd.invoke("status", code=1).stdout
    assert standby in said
    docker("network", "connect", network, standby)
    load.first(cut)
    passes(herd)


@pytest.mark.long
@only_root
def test_the_directory_of_a_standby_is_removed(herd: Herd, load: Load) -> None:
    name = herd.container("standby")
    while herd.data("standby").exists():  # the server makes files meanwhile
        shutil.rmtree(herd.data("standby"), ignore_errors=True)
    assert f"{name} " in herd.invoke("status", code=1).stdout  # it may have ended by itself
    crash(herd, "standby")
    until(lambda: herd.status("standby") == "exited", "the engine cannot start it again")
    said = herd.invoke("start", code=1).stderr
    assert f"{name}: not started: its data is gone: `invoke rejoin {name}`" in said
    assert "1 is needed, and 0 run" in said
    herd.invoke("rejoin", name)
    load.first(time.monotonic())
    passes(herd)


def test_all_that_is_left_is_equal_and_whole(herd: Herd) -> None:
    assert equal_and_whole(herd) > 5


@pytest.mark.long
@only_root
def test_that_can_fail(herd: Herd) -> None:
    """A row that only the standby has not, and a page of an index that is not what it was."""
    sums = sums_of(herd, "master", "postgres")
    herd.sql("master", "INSERT INTO kept VALUES (0, 'more')")
    assert sums_of(herd, "master", "postgres")["public.kept"] != sums["public.kept"]
    path = herd.sql("standby", "SELECT pg_relation_filepath('kept_m_idx')")
    herd.sql("master", "CHECKPOINT")
    position = herd.sql("master", "SELECT pg_current_wal_flush_lsn()::text")
    until(lambda: herd.sql("standby", f"SELECT pg_last_wal_replay_lsn() >= '{position}'"), "there")
    herd.sql("standby", "CHECKPOINT")
    docker("stop", herd.container("standby"))
    index = herd.data("standby") / path
    pages = index.read_bytes()
    index.write_bytes(pages[: 5 * 8192] + pages[6 * 8192 : 7 * 8192] + pages[6 * 8192 :])
    herd.invoke("start")
    with pytest.raises((AssertionError, psycopg.Error)):
        equal_and_whole(herd)
