"""The disk of a node is full: while it is made or seeded, while it streams; then there is room.

While a standby is seeded by a base backup: test_interrupted.py.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from conftest import Herd, MakeHerd, docker
from equal import equal_and_whole
from faults import make_room, only_root, passes, small_disk, until
from load import Load, missing, running_load

pytestmark = [only_root, pytest.mark.long, pytest.mark.timeout(1500)]
FULL = "The disk of local is full: make room there, then this again."
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
LOCAL = "-c synchronous_commit=local"
BIG = "INSERT INTO big SELECT repeat(md5(n::text), 30) FROM generate_series(1, 20000) n"  # 20 MB
ONLY_WAL = "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 900000))"
MEGABYTE = 1024 * 1024


def fill(place: Path, megabytes: int) -> None:
    """Leave so much room, and no more."""
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    (place / "filler").write_bytes(bytes(free - megabytes * MEGABYTE))


def fails(herd: Herd, statement: str) -> str:
    """Do that on the master until it fails, and tell how; empty if it never does."""
    try:
        with herd.connect("master") as connection:
            for _ in range(200):
                connection.execute(statement.encode())
    except psycopg.Error as fault:
        return str(fault)
    return ""


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    """A pair that has not been set up."""
    return make_herd("17")


@pytest.fixture
def small(herd: Herd, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 30 MB for the node of that role; all is gone afterwards."""
    with small_disk(herd, str(request.param), 30) as place:
        yield place
    herd.clear()
    for data in herd.directory.glob("*_data*"):
        shutil.rmtree(data)


def kept(herd: Herd, load: Load) -> None:
    """What was acknowledged is there, and on both the same."""
    load.end()
    assert missing(load.acknowledged(), partial(herd.sql, herd.primary())) == set()
    assert equal_and_whole(herd) > 3


@pytest.mark.parametrize("small", ["standby"], indirect=True)
def test_the_standbys_disk(herd: Herd, small: Path) -> None:
    name = herd.container("standby")
    herd.invoke("setup-master")
    said = herd.invoke("seed-standby", "--method", "copy", code=1).stderr
    assert FULL in said
    assert herd.sql("master", "SELECT 'serves again'") == "serves again"
    make_room(small, 160)
    herd.invoke("seed-standby", "--method", "copy")
    passes(herd)
    with running_load(herd.places, herd.password(), herd.directory) as load:
        herd.sql("master", "CREATE TABLE big (t text)")
        fill(small, 4)
        with herd.connect("master", options=LOCAL) as connection:
            connection.execute(BIG)
        until(lambda: herd.sql("master", WAITING), "commits wait")
        time.sleep(3)  # the engine starts it again and again
        said = herd.invoke("status", code=1).stdout
        assert "commits on" in said
        assert f"{name} " in said
        assert FULL in herd.invoke("start", code=1).stderr
        assert FULL in herd.invoke("rejoin", name, code=1).stderr
        make_room(small, 600)
        waited = time.monotonic()
        herd.invoke("rejoin", name)
        load.first(waited)
        passes(herd)
        kept(herd, load)


@pytest.mark.parametrize("small", ["master"], indirect=True)
def test_the_masters_disk(herd: Herd, small: Path) -> None:
    name = herd.container("master")
    assert FULL in herd.invoke("setup-master", code=1).stderr
    make_room(small, 160)
    herd.invoke("setup-master", "seed-standby")
    with running_load(herd.places, herd.password(), herd.directory) as load:
        herd.sql("master", "CREATE TABLE big (t text)")
        fill(small, 4)
        assert "No space left" in fails(herd, BIG)
        said = herd.invoke("switchover", "--to", herd.container("standby"), code=1).stderr
        assert FULL in said
        assert herd.primary() == "master"
        assert fails(herd, ONLY_WAL)
        time.sleep(3)  # it has crashed, and does so again and again
        said = herd.invoke("status", code=1).stdout
        assert name in said
        refused = herd.invoke("start", code=1).stderr
        assert FULL in refused
        make_room(small, 600)
        herd.invoke("start")
        load.first(time.monotonic())
        passes(herd)
        herd.invoke("switchover", "--to", herd.container("standby"))
        passes(herd)
        kept(herd, load)


@pytest.mark.parametrize("small", ["master"], indirect=True)
def test_a_primary_without_space_is_failed_over(herd: Herd, small: Path) -> None:
    make_room(small, 160)
    herd.invoke("setup-master", "seed-standby")
    with running_load(herd.places, herd.password(), herd.directory) as load:
        fill(small, 1)
        assert fails(herd, ONLY_WAL)
        docker("kill", herd.container("master"), check=False)
        herd.invoke("failover", "--to", herd.container("standby"))
        load.first(time.monotonic())
        said = herd.invoke("rejoin", herd.container("master"), code=1).stderr
        assert FULL in said
        make_room(small, 600)
        herd.invoke("rejoin", herd.container("master"))
        passes(herd)
        kept(herd, load)
