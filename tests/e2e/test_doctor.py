"""Doctor on real groups: what is planted is found, and mended where that harms nobody."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Herd, MakeHerd, docker

BAD, UNREACHABLE = 1, 3  # exit statuses
MENDED = {
    "secret-open", "passfile-open", "fenced", "reload-due", "retry-slow", "helper-left",
}  # fmt: skip
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def examined(herd: Herd, *words: str, code: int = 0, **env: str) -> dict[str, Any]:
    """Run doctor; return what it says."""
    answer: dict[str, Any] = json.loads(
        herd.invoke("doctor", "--json", *words, code=code, **env).stdout
    )
    assert answer["ok"] is (code == 0)
    return answer


def codes(answer: dict[str, Any], *levels: str) -> set[tuple[str, str | None]]:
    """Return the code and the node of each finding."""
    chosen = levels or ("problem", "warning", "note")
    return {(f["code"], f["node"]) for f in answer["findings"] if f["level"] in chosen}


def inside(herd: Herd, role: str, *words: str) -> str:
    """Run psql in a node's container, as superuser."""
    statements = [word for statement in words for word in ("-c", statement)]
    user = ("exec", "--user", "postgres", herd.container(role))
    return docker(*user, "psql", "-XAtq", *statements)


@pytest.fixture(scope="module")
def pair(make_herd: MakeHerd) -> Herd:
    """A pair of 17 that streams."""
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    return herd


@pytest.fixture
def blank(make_herd: MakeHerd) -> Herd:
    """A group of which nothing was made."""
    return make_herd("17")


# --- on a living group ---


def test_a_healthy_pair_has_no_problem(pair: Herd) -> None:
    answer = examined(pair)
    assert codes(answer, "problem") == set()
    assert answer["checks"] > 90


@pytest.fixture
def planted(pair: Herd) -> Iterator[tuple[Herd, Path]]:
    """The pair with a good many faults, and the unfinished copy that is one of them."""
    standby = pair.container("standby")
    image = docker("inspect", "--format", "{{.Image}}", standby)
    home = docker("inspect", "--format", '{{index .Config.Labels "pgherd.home"}}', standby)
    (pair.secrets() / "postgres.password").chmod(0o644)
    private = f"type=bind,source={pair.secrets() / standby},target=/p"
    chmod = ("--entrypoint", "chmod", image, "644", "/p/passfile")
    docker("run", "--rm", "--mount", private, *chmod)
    docker("update", "--restart", "no", standby)
    labels = ("pgherd.helper=1", f"pgherd.group={pair.name}", f"pgherd.home={home}")
    options = [word for label in labels for word in ("--label", label)]
    helper = f"pgherd-{pair.name}-{standby}-look-0"
    docker("create", "--name", helper, *options, "--entrypoint", "true", image)
    inside(pair, "standby", "SELECT pg_wal_replay_pause()")
    slow = "ALTER SYSTEM SET wal_retrieve_retry_interval = '5s'"
    inside(pair, "standby", slow, "SELECT pg_reload_conf()")
    inside(pair, "master", "SELECT pg_sleep(1.1)", "ALTER SYSTEM SET work_mem = '256MB'")
    part = Path(f"{pair.data('standby')}_bk_20260101T000000Z.part")
    (part / "base").mkdir(parents=True)
    yield pair, part
    docker("rm", "--force", helper, check=False)
    inside(pair, "standby", "SELECT pg_wal_replay_resume()")
    inside(pair, "master", "ALTER SYSTEM RESET work_mem", "SELECT pg_reload_conf()")


def test_what_is_planted_is_found_and_mended(planted: tuple[Herd, Path]) -> None:
    """But a replay that somebody paused stays so, and files are deleted only if told twice."""
    pair, part = planted
    standby, master = pair.container("standby"), pair.container("master")
    found = examined(pair, code=BAD)
    assert codes(found) >= {
        ("secret-open", None), ("helper-left", None), ("passfile-open", standby),
        ("fenced", standby), ("retry-slow", standby), ("replay-paused", standby),
        ("unfinished-copy", standby), ("reload-due", master),
    }  # fmt: skip
    assert {f["code"] for f in found["findings"] if f["fixable"]} == MENDED

    script = pair.invoke("--dry", "doctor", "--fix").stdout
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    assert (pair.secrets() / "postgres.password").stat().st_mode & 0o777 == 0o644

    mended = examined(pair, "--fix")
    assert len(mended["fixed"]) == len(MENDED)
    assert {code for code, _ in codes(mended)} & MENDED == set()
    assert ("replay-paused", standby) in codes(mended)
    assert ("shm-small", master) in codes(mended)  # since the reload
    assert (pair.secrets() / "postgres.password").stat().st_mode & 0o777 == 0o600
    policy = docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", standby)
    assert policy == "unless-stopped"
    assert inside(pair, "standby", "SHOW wal_retrieve_retry_interval") == "100ms"

    assert part.is_dir()
    examined(pair, "--fix", "--delete-parts")
    assert not part.exists()


def test_nothing_is_deleted_without_being_told_twice(pair: Herd) -> None:
    said = pair.invoke("doctor", "--delete-parts", code=2).stderr
    assert "--delete-parts goes with --fix" in said


@pytest.mark.long
def test_what_keeps_a_server_from_starting_is_told(pair: Herd) -> None:
    """Its log says it, its files do: here a setting that no server knows."""
    standby, data = pair.container("standby"), pair.data("standby")
    inside(pair, "standby", "ALTER SYSTEM SET max_connections = 20")
    docker("restart", "--time", "60", standby)
    broken = examined(pair, code=BAD)
    assert ("log-settings", standby) in codes(broken, "problem")
    image = docker("inspect", "--format", "{{.Image}}", standby)
    mount = f"type=bind,source={data},target=/d"
    drop = ("--entrypoint", "sed", image, "-i", "/max_connections/d", "/d/postgresql.auto.conf")
    docker("run", "--rm", "--mount", mount, *drop)
    pair.invoke("start")
    assert codes(examined(pair), "problem") == set()


def test_without_an_engine(pair: Herd) -> None:
    answer = examined(pair, code=UNREACHABLE, DOCKER_HOST="unix:///nonexistent.sock")
    assert ("engine-down", None) in codes(answer, "problem")
    assert answer["unreachable"] == ["local"]


def test_data_of_another_major(pair: Herd) -> None:
    """It comes last: the pair is down afterwards."""
    pair.invoke("down")
    asked = dict(pair.group)
    pair.group["image"] = "postgres:15"
    pair.write()
    pair.invoke("image")
    answer = examined(pair, code=BAD)
    both = {("wrong-major", pair.container(role)) for role in pair.nodes}
    assert codes(answer, "problem") == both
    assert "is a database of PostgreSQL 17, and the image has 15" in answer["findings"][0]["text"]
    pair.group = asked
    pair.write()


# --- before there is one ---


def test_a_group_that_is_not_there_yet_has_no_problem(blank: Herd) -> None:
    assert codes(examined(blank), "problem") == set()


def test_a_port_that_is_taken(blank: Herd) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(blank.nodes["standby"]["port"])))
        taken.listen()
        answer = examined(blank, code=BAD)
    assert codes(answer, "problem") == {("port-taken", blank.container("standby"))}


@as_root
def test_a_file_system_without_room(blank: Herd) -> None:
    place = blank.data("standby").parent / "small"
    place.mkdir()
    blank.nodes["standby"]["data"] = str(place / "data")
    blank.write()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m,nr_inodes=500", "tmpfs", str(place)]
    subprocess.run(mount, check=True)
    try:
        answer = examined(blank, code=BAD)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    standby = blank.container("standby")
    assert codes(answer, "problem") == {("space-short", standby), ("inodes-short", standby)}
    assert ("fleeting-file-system", standby) in codes(answer, "warning")


@as_root
def test_a_file_system_that_is_read_only(blank: Herd) -> None:
    place = blank.data("standby").parent / "fixed"
    place.mkdir()
    blank.nodes["standby"]["data"] = str(place / "data")
    blank.write()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], check=True)
    try:
        answer = examined(blank, code=BAD)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    standby = blank.container("standby")
    assert codes(answer, "problem") >= {("read-only", standby), ("parent-not-writable", standby)}
