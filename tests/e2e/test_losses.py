"""A primary is lost with commits that no standby has: told, refused, and kept when it comes back.

The tests follow each other on one group of three. Its commits are to wait for a standby, but do not
when it happens: `sync --off`, and both standbys are cut off, one after the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from asking import until
from conftest import Herd, MakeHerd, docker
from trial import NOWHERE, inside

PGDATA = "/var/lib/postgresql/data"
SEVERAL = 4  # commits that one standby has, and as many that none has
END = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
TOLD = re.compile(r"([0-9]+) bytes of its WAL, ([0-9]+) commits, will be lost")
SLACK = 4096  # bytes: a server writes a record of its own now and then
WITHIN = 150.0  # seconds, for a task of some seconds: the machine may be busy


@dataclass
class Lost:
    """A group whose primary is gone.

    Attributes:
        herd: the group: `standby2` has more than `standby`, and the primary had more than both.
        lacking: bytes of the primary's WAL that `standby2` has not.
    """

    herd: Herd
    lacking: int


def cut_off(herd: Herd, role: str) -> None:
    """Let a standby lose its upstream; it runs on with what it has."""
    inside(herd, role, f"ALTER SYSTEM SET primary_conninfo = '{NOWHERE}'")
    inside(herd, role, "SELECT pg_reload_conf()")
    assert until(lambda: inside(herd, role, "SELECT count(*) FROM pg_stat_wal_receiver") == "0")


def write(herd: Herd, role: str, who: str) -> None:
    """Commit some large rows, each acknowledged by itself."""
    with herd.connect(role) as connection:
        for _ in range(SEVERAL):
            connection.execute(
                "INSERT INTO written SELECT %s, repeat(md5(random()::text), 20) "
                "FROM generate_series(1, 200)",
                [who],
            )


def who_wrote(herd: Herd, role: str) -> set[str]:
    """Return whose rows a server has."""
    names = inside(herd, role, "SELECT DISTINCT who FROM written")
    return set(names.split())


def kept_copies(herd: Herd, role: str) -> list[Path]:
    """Return what was set aside of a node's data."""
    return list(herd.directory.glob(f"{role}_data_bk_*"))


@pytest.fixture(scope="module")
def lost(make_herd: MakeHerd) -> Lost:
    herd = make_herd("17", standbys=2).within(WITHIN)
    herd.invoke("setup-master")
    herd.invoke("add-standby", "--all")
    herd.sql("master", "CREATE TABLE written (who text, words text)")
    write(herd, "master", "all")
    herd.invoke("sync", "--off")
    assert until(lambda: who_wrote(herd, "standby") == {"all"})
    cut_off(herd, "standby")
    write(herd, "master", "two")
    assert until(lambda: who_wrote(herd, "standby2") == {"all", "two"})
    cut_off(herd, "standby2")
    write(herd, "master", "one")
    end = inside(herd, "standby2", END)
    lacking = herd.sql("master", f"SELECT pg_current_wal_flush_lsn() - '{end}'::pg_lsn")
    docker("kill", "--signal", "KILL", herd.container("master"))
    return Lost(herd, int(lacking))


def refused(lost: Lost, *words: str) -> tuple[int, int]:
    """Fail over, which is refused and leaves all standbys as they are; return what it tells."""
    said = " ".join(lost.herd.invoke("failover", *words, code=2).stderr.split())
    found = TOLD.search(said)
    assert found, said
    for role in ("standby", "standby2"):
        assert lost.herd.sql(role, "SELECT pg_is_in_recovery()") is True
    return int(found[1]), int(found[2])


def test_a_failover_that_loses_acknowledged_commits_is_refused(lost: Lost) -> None:
    """It tells the bytes and the commits; who allows one byte less is refused as well."""
    size, commits = refused(lost)
    assert lost.lacking <= size + 8 <= lost.lacking + SLACK  # a record's end may be padded
    assert commits == SEVERAL
    assert refused(lost, "--max-loss", str(size - 1)) == (size, commits)


def test_the_standby_that_has_most_takes_over(lost: Lost) -> None:
    """All that was acknowledged and not told as lost is there, for clients to read."""
    herd = lost.herd
    size, _ = refused(lost)
    said = herd.invoke("failover", "--max-loss", str(size))
    found = TOLD.search(said.stderr)
    assert found, said.stderr
    assert (int(found[1]), int(found[2])) == (size, SEVERAL)
    assert herd.primary() == "standby2"
    assert who_wrote(herd, "standby2") == {"all", "two"}
    assert until(lambda: who_wrote(herd, "standby") == {"all", "two"})


def test_the_lost_primary_is_no_primary_when_somebody_starts_it(lost: Lost) -> None:
    """The engine does not start it, and by hand it comes up as a standby: no second primary."""
    herd, old = lost.herd, lost.herd.container("master")
    policy = docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", old)
    assert policy == "no"
    docker("start", old)
    inside(herd, "master", "SELECT")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        herd.sql("master", "INSERT INTO written VALUES ('second', '')")
    assert herd.primary() == "standby2"


def test_what_it_wrote_alone_is_kept_when_it_is_rewound(lost: Lost) -> None:
    """It gets no new base backup: its directory is the same. The copy that is kept can be read."""
    herd, data = lost.herd, lost.herd.data("master")
    place = data.stat().st_ino
    # Somebody has started it meanwhile, so that it is asked once more.
    said = herd.invoke("rejoin", herd.container("master"), "--max-loss", "any").stderr
    assert data.stat().st_ino == place
    assert who_wrote(herd, "master") == {"all", "two"}
    (copy,) = kept_copies(herd, "master")
    assert f"{SEVERAL} commits of its own are in {copy}" in said
    image = docker("inspect", "--format", "{{.Config.Image}}", herd.container("master"))
    reader = f"{herd.name}-reader"
    mount = f"type=bind,source={copy},target={PGDATA}"
    docker(
        "run", "--detach", "--name", reader, "--mount", mount, "--env", f"PGDATA={PGDATA}", image
    )
    try:
        ready = ["exec", reader, "pg_isready", "--quiet", "--host=127.0.0.1"]
        assert until(lambda: docker(*ready, "--timeout=0", check=False) == "")
        asked = ["psql", "-XAtU", "postgres", "-c", "SELECT count(*) FROM written GROUP BY who"]
        assert until(lambda: docker("exec", reader, *asked, check=False) == "800\n800\n800")
    finally:
        docker("rm", "--force", "--volumes", reader)
    assert all(check["ok"] for check in herd.checks().values())


def test_an_old_primary_with_nothing_of_its_own_follows_as_it_is(lost: Lost) -> None:
    """Neither a base backup nor a rewind: nothing is copied, and nothing is set aside."""
    herd, data = lost.herd, lost.herd.data("standby2")
    place = data.stat().st_ino
    (data / "a_file_of_its_own").touch()
    docker("kill", "--signal", "KILL", herd.container("standby2"))
    herd.invoke("failover")
    herd.invoke("rejoin", herd.container("standby2"))
    assert data.stat().st_ino == place
    assert (data / "a_file_of_its_own").exists()
    assert kept_copies(herd, "standby2") == []
    assert all(check["ok"] for check in herd.checks().values())
