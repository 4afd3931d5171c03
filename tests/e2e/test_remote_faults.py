"""What may befall hosts while a standby is seeded, and while it streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from far import UNREACHABLE, Far, MakeFar, ended, wait_for
from machine import lacking, until
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

TABLE = (
    "CREATE TABLE many AS SELECT id, repeat(md5(id::text), 30) FROM generate_series(1, 60000) id"
)
SLOW = ["seed-standby", "--max-rate", "4M"]  # some twenty seconds
# A partition of seconds is to be one for PostgreSQL, too.
IMPATIENT = {
    "wal_sender_timeout": "2s",
    "wal_receiver_timeout": "2s",
    "wal_retrieve_retry_interval": "500ms",
}


@pytest.fixture(scope="module")
def spanning(make_far: MakeFar) -> Far:
    """A master with a table of some 60 MB on one host; its standby is to be on another."""
    far = make_far("hosta", "member@hostb")
    for node in far.nodes.values():
        node["settings"] = IMPATIENT
    far.write()
    far.invoke("setup-master")
    far.sql("master", TABLE)
    return far


@pytest.fixture
def far(rigged: Rig, spanning: Far) -> Far:
    """The same without a standby, whatever came of the last one."""
    assert rigged
    spanning.invoke("setup-master")
    spanning.sql("master", "ALTER SYSTEM RESET synchronous_standby_names")
    spanning.sql("master", "SELECT pg_reload_conf()")
    host = spanning.host("standby")
    host.docker("rm", "--force", "--volumes", spanning.container("standby"), check=False)
    host.run("rm", "-rf", *(f"{p}/pgherd/{spanning.name}" for p in ("/root", "/home/member")))
    return spanning


def begun(far: Far) -> bool:
    """Whether files of a base backup have arrived."""
    return (far.data("standby") / "base").is_dir()


def sound(far: Far) -> None:
    """Whatever happened, the same command comes to a good end and leaves nothing besides."""
    far.invoke("seed-standby")
    far.checks()
    assert far.sql("standby", "SELECT count(*) FROM many") == "60000"
    assert [far.helpers(role) for role in far.nodes] == ["", ""]
    assert far.sql("master", "SELECT count(*) FROM pg_replication_slots") == "1"
    assert "already" in far.invoke("seed-standby").stderr


# --- while it is seeded ---


@pytest.mark.long
def test_a_connection_that_is_dropped(far: Far) -> None:
    run = far.begin(*SLOW)
    wait_for(run, lambda: begun(far))
    far.host("standby").kill_sessions()
    said = ended(run, 10, UNREACHABLE)
    assert "The connection to member@hostb was lost: it was closed from there" in said
    assert "run this again" in said
    sound(far)


@pytest.mark.long
def test_a_connection_that_falls_silent(far: Far) -> None:
    run = far.begin(*SLOW)
    wait_for(run, lambda: begun(far))
    far.host("standby").freeze_sessions()
    began = time.monotonic()
    said = ended(run, 20, UNREACHABLE)
    assert time.monotonic() - began > 3  # it was not for another reason
    assert "The connection to member@hostb was lost" in said
    assert "without an answer" in said
    far.host("standby").thaw_sessions()
    sound(far)


@pytest.mark.long
def test_the_connection_to_the_master_that_is_dropped(far: Far) -> None:
    run = far.begin("seed-standby", "--max-rate", "20M")  # it is noticed after the base backup
    wait_for(run, lambda: begun(far))
    far.host("master").kill_sessions()
    said = ended(run, 20, UNREACHABLE)
    assert "The connection to hosta was lost" in said
    sound(far)


@pytest.mark.long
def test_a_disk_that_is_full(far: Far) -> None:
    host, small = far.host("standby"), "/srv/small"
    before = far.nodes["standby"]["data"]
    host.small_disk(small, 40, user="member")
    far.nodes["standby"]["data"] = f"{small}/standby_data"
    far.write()
    try:
        said = far.invoke("seed-standby", code=1).stderr
        assert f"On {far.container('standby')}" in said
        assert "No space left on device" in said
        assert far.helpers("standby") == ""
        far.sql("master", "CREATE TABLE goes_on (id int)")
        host.run("mount", "-o", "remount,size=600m", small)
        sound(far)
    finally:
        far.docker("standby", "rm", "--force", far.container("standby"), check=False)
        far.nodes["standby"]["data"] = before
        far.write()


# --- while it streams ---


@contextmanager
def writing(far: Far) -> Iterator[list[int]]:
    """Write rows one after the other; yield the numbers of those that were acknowledged."""
    acknowledged: list[int] = []
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            with suppress(psycopg.OperationalError), far.connect("master") as connection:
                while not over.is_set():
                    number += 1
                    connection.execute("INSERT INTO rows VALUES (%s)", [number])
                    acknowledged.append(number)

    far.sql("master", "CREATE TABLE rows (id int)")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield acknowledged
    finally:
        over.set()
        writer.join(30)
    assert not writer.is_alive()


def test_a_partition_loses_nothing_that_was_acknowledged(far: Far) -> None:
    far.invoke("seed-standby")
    master, standby = far.host("master"), far.host("standby")
    with writing(far) as acknowledged:
        until(lambda: len(acknowledged) > 100, "rows are written")
        standby.block(master)
        master.block(standby)
        time.sleep(0.5)  # what is under way arrives
        count = len(acknowledged)
        senders = "SELECT count(*) FROM pg_stat_replication"
        until(lambda: far.sql("master", senders) == "0", "the master has given it up", 20)
        assert len(acknowledged) <= count + 1  # commits wait for the standby
        standby.mend()
        master.mend()
        until(lambda: len(acknowledged) > count + 100, "rows are written again", 30)
    wanted = set(acknowledged)
    far.checks()
    for role in far.nodes:
        assert wanted <= {int(line) for line in far.sql(role, "SELECT id FROM rows").split()}
    assert len(wanted) == len(acknowledged)
