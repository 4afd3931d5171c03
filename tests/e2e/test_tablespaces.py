"""What lies outside PGDATA: carried where the topology declares a place for it, else refused."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Herd, MakeHerd, docker, majors
from equal import equal_and_whole
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]

UNDECLARED = "/var/lib/postgresql/ts"
INSIDE = "/srv/fast"
FILL = "SELECT i, repeat(md5(i::text), 10) AS what FROM generate_series(1, 5000) i"


def psql(herd: Herd, role: str, *commands: str, database: str = "postgres") -> str:
    """Run commands as the superuser in a node's container."""
    words = [word for command in commands for word in ("--command", command)]
    start = ["exec", "--user", "postgres", herd.container(role), "psql", "-XAtq", "-d", database]
    return docker(*start, *words)


def rows(herd: Herd, role: str) -> int:
    """Return how many rows a node reads of the table that lies in the tablespace."""
    return int(psql(herd, role, "SELECT count(*), sum(length(what)) FROM kept").split("|")[0])


def state(herd: Herd) -> list[str]:
    """Return all that a refusal may not change: containers, directories, volumes, settings."""
    form = "{{.Names}} {{.ID}} {{.State}}"
    found = docker("ps", "--all", "--filter", f"name={herd.name}", "--format", form).splitlines()
    found += docker("volume", "ls", "--quiet", "--filter", f"name={herd.name}").splitlines()
    found += sorted(path.name for path in herd.directory.iterdir())
    if herd.status("master") == "running":
        started = "SELECT pg_postmaster_start_time(), current_setting('synchronous_standby_names')"
        found += [
            psql(herd, "master", started),
            psql(herd, "master", "SELECT slot_name FROM pg_replication_slots"),
        ]
    return found


def declare(herd: Herd, kind: str = "path") -> None:
    """Declare a place at INSIDE on every node."""
    for role, keys in herd.nodes.items():
        directory = str(herd.directory / f"{role}_fast")
        place = f"volume:{keys['name']}-fast" if kind == "volume" else directory
        keys["tablespaces"] = {INSIDE: place}
    herd.write()


def walk(herd: Herd, said: str, *, left_out: bool = False) -> list[str]:
    """Do what a refusal prints, in its order: the lines into the topology, the commands typed.

    Where a node is `left_out`, what starts the others ends with 1.
    """
    commands = re.findall(r"^  `(.*)`$", said, re.MULTILINE)
    lines = re.findall(r'^  (\[nodes\..*\]|"/.*" = ".*")$', said, re.MULTILINE)
    for command in commands:
        if "down start" in command:
            with herd.topology.open("a", encoding="utf-8") as file:
                file.write("\n".join(["", *lines, ""]))
        words = re.sub(r"^invoke ", f"{shlex.quote(sys.executable)} -m invoke ", command)
        done = subprocess.run(
            ["sh", "-c", words], cwd=ROOT, env=herd.environment(), capture_output=True, text=True,
            timeout=240, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        code = 1 if left_out and command.endswith("start") else 0
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
    return commands


@pytest.mark.parametrize("major", majors("17"))
def test_what_is_not_declared_is_refused_and_the_way_out_leads_out(
    make_herd: MakeHerd, major: str
) -> None:
    """pg_auto_failover 844: a tablespace that no standby got, and nobody was told.

    In 18 the image has a volume there, over which a container of ours has a tmpfs: a stop alone
    loses what is in it.
    """
    herd = make_herd(major)
    herd.invoke("setup-master")
    docker("exec", "--user", "postgres", herd.container("master"), "mkdir", UNDECLARED)
    psql(
        herd,
        "master",
        f"CREATE TABLESPACE \"my 'ts\" LOCATION '{UNDECLARED}'",
        "CREATE DATABASE app",
    )
    psql(herd, "master", 'CREATE DATABASE whole TABLESPACE "my \'ts"')
    table = f'CREATE TABLE kept TABLESPACE "my \'ts" AS {FILL}'
    index = 'CREATE INDEX kept_i ON kept (i) TABLESPACE "my \'ts"'
    for database in ("postgres", "app"):
        psql(herd, "master", table, index, database=database)
    before, standby = state(herd), herd.container("standby")
    where = "memory" if major == "18" else "container only"
    for words in (
        ["seed-standby"],
        ["add-standby", "--all"],
        ["seed-standby", "--method", "copy", "--yes"],
        ["step.base-backup"],
        ["rejoin", standby],
        ["down"],
        ["down", "--purge", "--confirm", herd.name, "--delete-data"],
        *([["stop"]] if major == "18" else []),
    ):
        said = herd.invoke(*words, code=2).stderr
        assert f'the tablespace "my \'ts" is at {UNDECLARED}, in its container' in said, words
        assert where in said, words
        assert state(herd) == before, words
    told = json.loads(herd.invoke("status", "--json", code=1).stdout)["warnings"]
    assert [w["node"] for w in told if w["code"] == "data-outside"] == [herd.container("master")]
    found = json.loads(herd.invoke("doctor", "--json", code=1).stdout)["findings"]
    assert "problem" in [f["level"] for f in found if f["code"] == "data-outside"]
    assert walk(herd, said)[-1].startswith("invoke psql --command ")
    psql(herd, "master", 'ALTER TABLE kept SET TABLESPACE "my \'ts"')
    herd.invoke("seed-standby")
    checks = herd.checks()
    assert UNDECLARED in checks["tablespaces", "standby"]["evidence"]
    assert rows(herd, "standby") == 5000
    herd.invoke("switchover", "--to", standby)
    assert rows(herd, "master") == rows(herd, "standby") == 5000
    assert psql(herd, "master", "SELECT count(*) FROM kept", database="app") == "5000"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_that_a_standby_lacks(make_herd: MakeHerd) -> None:
    """Made on a pair that streams, in directories that somebody made in both containers."""
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    master, standby = herd.container("master"), herd.container("standby")
    for name in (standby, master):
        docker("exec", "--user", "postgres", name, "mkdir", UNDECLARED)
    psql(herd, "master", f"CREATE TABLESPACE fast LOCATION '{UNDECLARED}'")
    psql(herd, "master", f"CREATE TABLE kept TABLESPACE fast AS {FILL}")
    before = state(herd)
    for words in (
        ["switchover", "--to", standby],
        ["seed-standby", "--rebuild", "--allow-async"],
        ["seed-standby", "--rebuild", "--allow-async", "--method", "copy", "--yes"],
        ["remove-standby", standby],
        ["down"],
    ):
        said = herd.invoke(*words, code=2).stderr
        assert "the tablespace fast is at" in said, words
        assert state(herd) == before, words
    failed = [name for (name, _), check in herd.checks(code=1).items() if not check["ok"]]
    assert failed == ["tablespaces"]
    told = json.loads(herd.invoke("status", "--json", code=1).stdout)["warnings"]
    assert [w["node"] for w in told if w["code"] == "data-outside"] == [master, standby]
    # Stopped and started they keep it; what would take the containers away does not.
    herd.invoke("stop")
    for words in (["down"], ["remove-standby", standby], ["step.set-aside"]):
        said = herd.invoke(*words, code=2).stderr
    assert "the tablespace" in said
    found = json.loads(herd.invoke("doctor", "--json", code=1).stdout)["findings"]
    assert len([f for f in found if f["code"] == "data-outside"]) == 2
    herd.nodes["standby"]["listen"] = "127.0.0.2"  # another container is asked for
    herd.write()
    said = herd.invoke("start", code=2).stderr
    assert f"`docker start {standby}` runs it as it is" in said
    herd.nodes["standby"].pop("listen")
    herd.write()
    herd.invoke("start")
    assert rows(herd, "master") == rows(herd, "standby") == 5000
    # What had it is gone by hand: nothing is run on the rest.
    docker("rm", "--force", standby)
    said = herd.invoke("start", code=1).stderr
    assert re.search(rf"{standby}: not started: the tablespace \d+ at {UNDECLARED} is not th", said)
    herd.invoke("sync", "--off")  # as `start` has said: commits wait for the one that is gone
    walk(herd, herd.invoke("down", code=2).stderr, left_out=True)
    assert "is not there" in herd.invoke("rejoin", standby).stderr
    herd.checks()


def make(herd: Herd, role: str, name: str) -> None:
    """Make a directory for a tablespace in its place, and on the primary a table in it."""
    container = herd.container(role)
    docker("exec", "--user", "postgres", container, "mkdir", f"{INSIDE}/{name}")
    if role == "master":
        psql(herd, role, f"CREATE TABLESPACE {name} LOCATION '{INSIDE}/{name}'")
        table = "kept" if name == "fast" else name
        psql(herd, role, f"CREATE TABLE {table} TABLESPACE {name} AS {FILL}")


LIFE = [  # where the data is, where the tablespaces are
    ("path", "path", "17"), ("path", "path", "15"), ("path", "path", "18"),
    ("volume", "volume", "17"), ("volume", "volume", "18"),
    ("volume", "path", "17"), ("path", "volume", "17"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("data", "kind", "major"), LIFE)
def test_the_whole_life_of_what_is_declared(
    make_herd: MakeHerd, data: str, kind: str, major: str
) -> None:
    """bitnami/containers 21548: a standby with a tablespace did not come up again."""
    herd = make_herd(major)
    if data == "volume":
        for keys in herd.nodes.values():
            keys["data"] = f"volume:{keys['name']}-data"
    declare(herd, kind)
    herd.invoke("setup-master")
    master, standby = herd.container("master"), herd.container("standby")
    make(herd, "master", "fast")
    herd.invoke("seed-standby", "verify")
    for role in ("standby", "master"):  # the standby first, which has to have it
        make(herd, role, "deep")
    herd.invoke("switchover", "--to", standby)
    herd.invoke("switchover", "--to", master)
    herd.invoke("seed-standby", "--rebuild", "--allow-async", "--method", "copy", "--yes")
    herd.checks()
    equal_and_whole(herd)
    herd.invoke("seed-standby", "--rebuild", "--allow-async")
    herd.invoke("down", "start", "verify")
    equal_and_whole(herd)
    _rewound(herd)
    _put_back(herd)
    _purged(herd)


def _rewound(herd: Herd) -> None:
    """A failover, and what the old primary wrote by itself is taken back by pg_rewind."""
    master, standby = herd.container("master"), herd.container("standby")
    psql(
        herd, "master", "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()"
    )
    docker("stop", standby)  # one that is paused would have it, in its socket
    psql(
        herd,
        "master",
        "INSERT INTO kept SELECT i, 'lost' FROM generate_series(1, 9) i",
        "CHECKPOINT",
    )
    docker("kill", master)
    docker("start", standby)
    herd.invoke("failover", "--max-loss", "any")
    psql(herd, "standby", "INSERT INTO kept SELECT i, 'new' FROM generate_series(1, 3) i")
    said = herd.invoke("rejoin", master).stderr
    assert "pg_rewind:" in said
    assert rows(herd, "master") == rows(herd, "standby") == 5003
    herd.invoke("switchover", "--to", master)
    equal_and_whole(herd)


def copies(herd: Herd) -> list[dict[str, Any]]:
    """Return what `invoke aside.list` lists, the newest first."""
    found: list[dict[str, Any]] = json.loads(herd.invoke("aside.list", "--json").stdout)["copies"]
    return found


def _put_back(herd: Herd) -> None:
    """What was set aside as one is listed as one, comes back as one, and is deleted as one."""
    standby = herd.container("standby")
    psql(herd, "master", "DELETE FROM kept WHERE i <= 1000")
    herd.invoke("seed-standby", "--rebuild", "--allow-async")
    newest = copies(herd)[0]
    assert (newest["node"], newest["complete"]) == (standby, True)
    herd.invoke("stop")
    said = herd.invoke("aside.restore", newest["name"]).stderr
    assert "already has" in herd.invoke("aside.restore", newest["name"]).stderr
    herd.invoke("start")
    herd.invoke("rejoin", standby)
    herd.invoke("verify")
    equal_and_whole(herd)
    for copy in copies(herd):
        assert copy["complete"], copy
        herd.invoke("aside.delete", copy["name"], "--confirm", copy["name"])
    assert copies(herd) == []
    left = docker("volume", "ls", "--quiet", "--filter", f"name={herd.name}").splitlines()
    left += [path.name for path in herd.directory.iterdir()]
    assert not [name for name in left if "_bk_" in name], said
    assert len(left) == 5  # and the topology


def _purged(herd: Herd) -> None:
    """Set aside as one, put back, and deleted."""
    herd.invoke("down", "--purge", "--confirm", herd.name)
    found = {copy["node"]: copy for copy in copies(herd) if copy["kind"] != "secrets"}
    (secrets,) = (copy["name"] for copy in copies(herd) if copy["kind"] == "secrets")
    assert all(copy["complete"] for copy in found.values())
    for name in (secrets, *(copy["name"] for copy in found.values())):
        herd.invoke("aside.restore", name)
    herd.invoke("start", "verify")
    equal_and_whole(herd)
    herd.invoke("down", "--purge", "--confirm", herd.name, "--delete-data")
    left = docker("volume", "ls", "--quiet", "--filter", f"name={herd.name}").split()
    left += [path.name for path in herd.directory.iterdir() if path != herd.topology]
    assert all("_bk_" in name for name in left)  # copies of volumes stay


def cut_short(herd: Herd, directory: Path, at: int, *words: str) -> str:
    """Run a task whose shell script ends, by SIGKILL, after its Nth renaming."""
    shim = directory / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "count").write_text("")
    text = (
        f"#!/bin/sh\n/bin/mv \"$@\" || exit\necho >>'{shim}/count'\n"
        f"[ $(wc -l <'{shim}/count') -ne {at} ] || kill -KILL $PPID\n"
    )
    (shim / "mv").write_text(text)
    (shim / "mv").chmod(0o755)
    return herd.invoke(*words, code=1, PATH=f"{shim}:{os.environ['PATH']}").stderr


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_between_the_renamings(make_herd: MakeHerd, tmp_path: Path) -> None:
    """Run again it converges, and what was set aside is one."""
    herd = make_herd("17")
    declare(herd)
    herd.invoke("setup-master")
    psql(herd, "master", f"CREATE TABLESPACE fast LOCATION '{INSIDE}'")
    psql(herd, "master", f"CREATE TABLE kept TABLESPACE fast AS {FILL}")
    herd.invoke("seed-standby")
    standby = herd.container("standby")
    again = ["seed-standby", "--rebuild", "--allow-async"]
    assert "cannot be set aside" in cut_short(herd, tmp_path, 1, *again)
    assert not herd.data("standby").exists()
    (broken,) = copies(herd)
    assert (broken["complete"], broken["fault"]) == (False, f"lacks what was at {INSIDE}")
    herd.invoke(*again)
    (whole,) = copies(herd)
    assert (whole["name"], whole["complete"]) == (broken["name"], True)
    assert rows(herd, "standby") == 5000
    # The same, and put back: nothing had gone from where it belongs.
    assert "cannot be set aside" in cut_short(herd, tmp_path, 1, *again)
    newest = copies(herd)[0]
    assert not newest["complete"]
    herd.invoke("aside.restore", newest["name"])
    herd.invoke("rejoin", standby)
    assert rows(herd, "standby") == 5000
    # Put back, cut short after each of its four renamings.
    for at in (1, 2, 3):
        docker("stop", standby)
        chosen = copies(herd)[0]
        assert chosen["complete"], chosen
        assert "cannot be put back" in cut_short(
            herd, tmp_path, at, "aside.restore", chosen["name"]
        )
        assert not herd.data("standby").exists()
        herd.invoke("aside.restore", chosen["name"])
        herd.invoke("rejoin", standby)
        assert rows(herd, "standby") == 5000
        assert all(copy["complete"] for copy in copies(herd)), at
    # Removed, cut short.
    assert "cannot be set aside" in cut_short(
        herd, tmp_path, 1, "remove-standby", standby, "--allow-async"
    )
    herd.invoke("remove-standby", standby, "--allow-async")
    assert all(copy["complete"] for copy in copies(herd))
    left = sorted(p.name for p in herd.directory.glob("standby_data*") if "_bk_" not in p.name)
    assert left == []


@pytest.mark.parametrize("major", majors("17"))
def test_wal_that_is_a_link_is_refused_before_a_server_is_run(
    make_herd: MakeHerd, major: str
) -> None:
    """A database of POSTGRES_INITDB_WALDIR: our container had not that directory, and PANICked."""
    herd = make_herd(major)
    herd.invoke("image")
    image = herd.invoke("image").stdout.split()[-1]
    wal = herd.directory / "wal"
    for path in (herd.data("master"), wal):
        path.mkdir()
    binds = [f"{herd.data('master')}:/var/lib/postgresql/data", f"{wal}:/wal/here"]
    words = [word for bind in binds for word in ("--volume", bind)]
    variables = {
        "PGDATA": "/var/lib/postgresql/data", "POSTGRES_INITDB_WALDIR": "/wal/here/wal",
        "POSTGRES_PASSWORD": "x",
    }  # fmt: skip
    herd.secrets().mkdir(parents=True, mode=0o700)
    (herd.secrets() / "postgres.password").write_text("x\n")
    (herd.secrets() / "postgres.password").chmod(0o600)
    words += [word for item in variables.items() for word in ("--env", "=".join(item))]
    docker("run", "--rm", *words, "--entrypoint", "docker-ensure-initdb.sh", image, "postgres")
    before = state(herd)
    said = herd.invoke("setup-master", code=2).stderr
    assert "pg_wal is at /wal/here/wal" in said
    assert state(herd) == before
    said = re.sub(r'"/wal/here/wal" = ".*_wal"', "", said)  # what it proposes; the mount is above
    for role, keys in herd.nodes.items():
        keys["tablespaces"] = {"/wal/here": str(wal if role == "master" else f"{wal}2")}
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    herd.checks()
    assert list(wal.rglob("0000*"))


@pytest.mark.long
def test_a_place_that_another_container_has_is_refused(make_herd: MakeHerd) -> None:
    """As a data directory is: two servers on one tablespace destroy it."""
    herd = make_herd("17")
    declare(herd)
    place = herd.directory / "master_fast"
    place.mkdir()
    image = herd.invoke("image").stdout.split()[-1]
    other = f"{herd.name}-other"
    docker("run", "--detach", "--rm", "--name", other, "--volume", f"{place}:/x", "--entrypoint",
           "sleep", image, "99")  # fmt: skip
    try:
        said = herd.invoke("setup-master", code=2).stderr
        assert f"{place} is in use by the container {other}" in said
    finally:
        docker("rm", "--force", other)
    # The kernel's lock decides, where nobody was seen.
    held = os.open(place, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    said = herd.invoke("setup-master", code=2).stderr
    assert f"{herd.data('master')} is in use by another container" in said
    os.close(held)
    (place / "mine").write_text("x")
    said = herd.invoke("setup-master", code=2).stderr
    assert f"is not empty: {INSIDE}: mine" in said
    assert (place / "mine").exists()
    (place / "mine").unlink()
    herd.invoke("setup-master")
    psql(herd, "master", f"CREATE TABLESPACE fast LOCATION '{INSIDE}'")
    make(herd, "master", "deep")  # in the other one
    said = herd.invoke("seed-standby", code=2).stderr
    assert "the tablespace deep of" in said
    assert "lies within the tablespace fast" in said
    psql(herd, "master", "DROP TABLE deep", "DROP TABLESPACE deep")
    # In another place it is not: nobody is served the rest.
    herd.nodes["master"]["tablespaces"] = {INSIDE: str(herd.directory / "elsewhere")}
    herd.write()
    answer = json.loads(herd.invoke("diff", "--json", code=1).stdout)["differences"]
    (told,) = (d for d in answer if d["what"] == "tablespaces")
    assert (told["found"], told["command"]) == (f"{place} at {INSIDE}", "invoke down start")
    herd.invoke("down")
    said = herd.invoke("start", code=2).stderr
    assert f"at {INSIDE} is gone: {herd.directory}/elsewhere has no such thing" in said
    assert herd.status("master") == ""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_across_hosts(emptied_rig: Rig, make_far: Any) -> None:
    """A base backup over the network, and rejoining, with places on two hosts."""
    far = make_far("hosta", "hostb")
    assert emptied_rig.hosts
    for role, keys in far.nodes.items():
        keys["tablespaces"] = {INSIDE: f"data/{role}_fast"}
    far.write()
    far.invoke("setup-master")
    for statement in (
        f"CREATE TABLESPACE fast LOCATION '{INSIDE}'",
        f"CREATE TABLE kept TABLESPACE fast AS {FILL}",
    ):
        far.sql("master", statement)
    far.invoke("seed-standby", "verify")
    far.invoke("switchover", "--to", far.container("standby"))
    assert far.sql("standby", "SELECT count(*) FROM kept") == 5000
    far.invoke("seed-standby", "--node", far.container("master"), "--rebuild", "--allow-async")
    assert far.sql("master", "SELECT count(*) FROM kept") == 5000
    far.invoke("down", "start", "verify")
