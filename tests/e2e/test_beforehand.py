"""What can be told or refused beforehand is, before a server is stopped or a setting changed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from conftest import Herd, MakeHerd, docker, majors
from faults import only_root, until

PairOf = Callable[[str], Herd]


@pytest.fixture(scope="module")
def pair_of(make_herd: MakeHerd) -> PairOf:
    """Return what gives a pair of a major version, made once; each test leaves it sound."""
    made: dict[str, Herd] = {}

    def give(major: str) -> Herd:
        if major not in made:
            made[major] = make_herd(major)
            made[major].invoke("setup-master", "seed-standby")
        return made[major]

    return give


@pytest.fixture
def herd(pair_of: PairOf) -> Herd:
    """A pair for what is the same on every major version."""
    return pair_of("17")


# --- unlogged tables: https://github.com/multigres/multigres/issues/1157 ---

ODD = "o'd d=1"


def make_unlogged(herd: Herd, role: str) -> None:
    """Have three unlogged tables with rows, in two databases."""
    for statement in (
        "CREATE UNLOGGED TABLE one AS SELECT 1 AS n",
        "CREATE UNLOGGED TABLE two (n int PRIMARY KEY, words text)",
        f'CREATE DATABASE "{ODD}"',
    ):
        herd.sql(role, statement)
    with psycopg.connect(
        host="127.0.0.1", port=herd.nodes[role]["port"], user="postgres", dbname=ODD,
        password=herd.password(), autocommit=True,
    ) as connection:  # fmt: skip
        connection.execute("CREATE UNLOGGED TABLE three AS SELECT 3 AS n")


def drop_unlogged(herd: Herd, role: str) -> None:
    """Have none again."""
    for statement in ("DROP TABLE one", "DROP TABLE two", f'DROP DATABASE "{ODD}"'):
        herd.sql(role, statement)


def others(herd: Herd) -> tuple[str, str]:
    """Return the roles of the primary and the standby."""
    primary = herd.primary()
    return primary, next(role for role in herd.nodes if role != primary)


@pytest.mark.parametrize("major", majors("17"))
def test_a_switchover_tells_how_many_tables_it_empties(pair_of: PairOf, major: str) -> None:
    herd = pair_of(major)
    primary, standby = others(herd)
    make_unlogged(herd, primary)
    said = herd.invoke("switchover", "--to", herd.container(standby)).stderr
    told = f"{herd.container(standby)}: 3 unlogged tables in 2 databases will be empty"
    assert told in said
    assert said.index(told) < said.index("stopping it")
    assert herd.sql(standby, "SELECT count(*) FROM one") == 0
    drop_unlogged(herd, standby)


@pytest.mark.long
def test_a_failover_tells_how_many_tables_it_empties(herd: Herd) -> None:
    primary, standby = others(herd)
    make_unlogged(herd, primary)
    docker("kill", herd.container(primary))
    said = herd.invoke("failover").stderr
    told = f"{herd.container(standby)}: 3 unlogged tables in 2 databases will be empty"
    assert told in said
    assert said.index(told) < said.index("promoting it")
    herd.invoke("rejoin", herd.container(primary))
    drop_unlogged(herd, standby)


@pytest.mark.long
def test_without_unlogged_tables_nothing_is_told(herd: Herd) -> None:
    _, standby = others(herd)
    assert "unlogged" not in herd.invoke("switchover", "--to", herd.container(standby)).stderr


# --- allow_alter_system: https://github.com/cloudnative-pg/cloudnative-pg/issues/4244 ---


def say(herd: Herd, role: str, line: str) -> None:
    """Write the last line of a node's postgresql.conf, in place of the one before, and reload."""
    edit = f"sed -i '/^allow_alter_system/d' postgresql.conf; echo '{line}' >>postgresql.conf"
    docker("exec", "--user", "postgres", "--workdir", "/var/lib/postgresql/data",
           herd.container(role), "sh", "-ec", edit)  # fmt: skip
    docker("kill", "--signal", "HUP", herd.container(role))


def state(herd: Herd) -> list[str]:
    """What a refusal leaves as it is: the containers, whom commits wait for, the slots."""
    names = [herd.container(role) for role in herd.nodes]
    shape = "{{.Id}} {{.State.Status}} {{.State.StartedAt}} {{.HostConfig.RestartPolicy.Name}}"
    slots = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots"
    primary = herd.primary()
    return [
        primary, docker("inspect", "--format", shape, *names), str(herd.sql(primary, slots)),
        herd.sql(primary, "SHOW synchronous_standby_names"),
    ]  # fmt: skip


@pytest.mark.parametrize("major", majors("17")[1:])
def test_where_alter_system_is_not_allowed_tasks_refuse(pair_of: PairOf, major: str) -> None:
    herd = pair_of(major)
    primary, standby = others(herd)
    name = herd.container(standby)
    say(herd, primary, "allow_alter_system = off")
    until(lambda: herd.sql(primary, "SHOW allow_alter_system") == "off", "it is off")
    before = state(herd)
    for words in (
        ["seed-standby", "--node", name, "--rebuild", "--allow-async"],
        ["sync", "--off"],
        ["switchover", "--to", name],
        ["remove-standby", name, "--allow-async"],
        ["rejoin", name],
        ["step.require-sync"],
    ):
        told = herd.invoke(*words, code=2).stderr
        assert f"{herd.container(primary)} takes no ALTER SYSTEM (allow_alter_system is off" in told
        assert state(herd) == before
    cure = f"docker kill --signal HUP {herd.container(primary)}"
    assert cure in told
    say(herd, primary, "allow_alter_system = on")
    until(lambda: herd.sql(primary, "SHOW allow_alter_system") == "on", "it is on")
    herd.invoke("switchover", "--to", name)


@pytest.mark.long
def test_a_failover_refuses_before_it_stops_anybody(herd: Herd) -> None:
    primary, standby = others(herd)
    say(herd, standby, "allow_alter_system = off")
    docker("kill", herd.container(primary))
    told = herd.invoke("failover", code=2).stderr
    assert f"{herd.container(standby)} takes no ALTER SYSTEM" in told
    say(herd, standby, "allow_alter_system = on")
    herd.invoke("failover")
    herd.invoke("rejoin", herd.container(primary))


def test_a_topology_that_takes_alter_system_away_is_refused(make_herd: MakeHerd) -> None:
    herd = make_herd()
    herd.nodes["master"]["settings"] = {"allow_alter_system": False}
    herd.write()
    told = herd.invoke("setup-master", code=2).stderr
    assert "settings.allow_alter_system: cannot be off: pgherd sets" in told
    assert (herd.status("master"), herd.data("master").exists()) == ("", False)


# --- what cannot be renamed: https://github.com/hapostgres/pg_auto_failover/issues/64 ---


@contextmanager
def mounted(directory: Path) -> Iterator[None]:
    """Make a directory a mount point, of itself."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextmanager
def immutable(directory: Path) -> Iterator[None]:
    """Let nobody rename a directory, nor make files in it."""
    subprocess.run(["chattr", "+i", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(directory)], check=True)


@only_root
def test_a_directory_that_cannot_be_renamed_is_seen_before_anybody_is_stopped(herd: Herd) -> None:
    _, standby = others(herd)
    name, data = herd.container(standby), herd.data(standby)
    beside = sorted(data.parent.iterdir())
    before = state(herd)
    with mounted(data):
        for words in (
            ["seed-standby", "--node", name, "--rebuild", "--allow-async"],
            ["remove-standby", name, "--allow-async"],
            ["down", "--purge", "--confirm", herd.name],
        ):
            told = herd.invoke(*words, code=2).stderr
            assert f"{name}: {data} is a mount point, and cannot be renamed" in told
            assert state(herd) == before
    assert sorted(data.parent.iterdir()) == beside


@only_root
@pytest.mark.long
def test_other_reasons_are_told_in_the_systems_words(herd: Herd) -> None:
    _, standby = others(herd)
    before = state(herd)
    rebuild = ["seed-standby", "--node", herd.container(standby), "--rebuild", "--allow-async"]
    with immutable(herd.data(standby)):
        told = herd.invoke(*rebuild, code=2).stderr
    assert "cannot be renamed (Operation not permitted)" in told
    assert state(herd) == before
    herd.invoke(*rebuild)


@only_root
@pytest.mark.long
def test_a_copy_is_not_put_back_where_that_cannot_be(make_herd: MakeHerd) -> None:
    herd = make_herd()
    herd.invoke("setup-master", "seed-standby")
    name, data = herd.container("standby"), herd.data("standby")
    herd.invoke("seed-standby", "--node", name, "--rebuild", "--allow-async")
    (copy,) = data.parent.glob("standby_data_bk_*")
    herd.invoke("stop")
    policy = ["inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", name]
    with mounted(data):
        assert "is a mount point" in herd.invoke("aside.restore", copy.name, code=2).stderr
    assert (copy.is_dir(), docker(*policy)) == (True, "unless-stopped")
    assert len(list(data.parent.glob("*_bk_*"))) == 1
    herd.invoke("start", "verify")


@only_root
@pytest.mark.long
def test_the_way_out_of_a_mount_point(make_herd: MakeHerd) -> None:
    """As it is told: a directory in it, and nothing is copied anew."""
    herd = make_herd()
    herd.invoke("setup-master", "seed-standby")
    data = herd.data("standby")
    herd.sql("master", "CREATE TABLE kept AS SELECT 1 AS n")
    herd.invoke("down")
    with mounted(data):
        files = list(data.iterdir())
        (data / "data").mkdir(mode=0o700)
        os.chown(data / "data", data.stat().st_uid, data.stat().st_gid)
        for file in files:
            file.rename(data / "data" / file.name)
        herd.nodes["standby"]["data"] = str(data / "data")
        herd.write()
        herd.invoke("start", "verify")
        rebuild = ["seed-standby", "--node", herd.container("standby"), "--rebuild"]
        herd.invoke(*rebuild, "--allow-async")
        herd.checks()
        herd.clear()


# --- a setting that was corrected ---


@pytest.mark.parametrize("seconds", [0.0, pytest.param(3.0, marks=pytest.mark.long)])
def test_a_server_that_ends_again_and_again_gets_the_corrected_settings(
    make_herd: MakeHerd, seconds: float
) -> None:
    herd = make_herd(standbys=0, sync="")
    herd.nodes["master"]["settings"] = {"shared_preload_libraries": "not_there"}
    herd.write()
    assert "not_there" in herd.invoke("setup-master", code=1).stderr
    time.sleep(seconds)
    herd.nodes["master"]["settings"] = {"work_mem": "7MB"}
    herd.write()
    said = herd.invoke("setup-master").stderr
    assert "already runs" not in said
    assert herd.sql("master", "SHOW work_mem") == "7MB"


# --- a server that nobody reaches ---


def off_the_network(herd: Herd, role: str) -> str:
    """Take a node from the group's network; return the network's name."""
    network = f"pgherd-{herd.name}"
    docker("network", "disconnect", network, herd.container(role))
    return network


def test_a_server_that_was_taken_from_the_network_is_told_and_connected(herd: Herd) -> None:
    """By the primary all else is well: it answers in its container, and its port refuses."""
    primary, _ = others(herd)
    name = herd.container(primary)
    network = off_the_network(herd, primary)
    told = herd.invoke("status", code=1).stdout
    assert f"off-network: {name} is not on the network {network}" in told
    said = herd.invoke("start").stderr
    assert f"{name}: is not on the network {network}: connecting it" in said
    herd.checks()


@pytest.mark.long
def test_diff_and_doctor_tell_of_it_too(herd: Herd) -> None:
    _, standby = others(herd)
    off_the_network(herd, standby)
    found = json.loads(herd.invoke("diff", "--json", code=1).stdout)["differences"]
    known = {(one["what"], one["node"]): one["command"] for one in found}
    assert known["network", herd.container(standby)] == "invoke start"
    findings = json.loads(herd.invoke("doctor", "--json", code=1).stdout)["findings"]
    assert ("off-network", herd.container(standby)) in {(f["code"], f["node"]) for f in findings}
    herd.invoke("rejoin", herd.container(standby))
    herd.checks()


@pytest.mark.long
def test_a_server_that_is_started_once_the_network_is_gone(herd: Herd) -> None:
    """Docker knows the network by an id, so that another one of the same name does not do."""
    _, standby = others(herd)
    names = [herd.container(role) for role in herd.nodes]
    herd.invoke("stop")
    docker("network", "rm", f"pgherd-{herd.name}")
    assert herd.invoke("start").stderr.count("connecting it") == 2
    herd.checks()
    network = off_the_network(herd, standby)  # and one that somebody started without any
    docker("restart", herd.container(standby))
    assert "connecting it" in herd.invoke("start").stderr
    herd.checks()
    docker("stop", *names)
    docker("network", "disconnect", network, names[0])
    docker("start", *names)
    herd.invoke("start", "verify")
