"""What is refused: one clear sentence, the right exit status, and nothing changed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import INVOKE, MAJORS, ROOT, Herd, MakeHerd, docker, free_port

REFUSED, UNREACHABLE = 2, 3


def state(herd: Herd) -> list[object]:
    """Return what a refusal must leave alone: containers, networks, data and passwords."""
    filters = ["--filter", f"name={herd.name}", "--no-trunc", "--format"]
    places = [*(herd.data(role) for role in herd.nodes), herd.secrets()]
    return [
        sorted(docker("ps", "--all", *filters, "{{.ID}} {{.Names}} {{.State}}").splitlines()),
        docker("network", "ls", *filters, "{{.ID}}"),
        [sorted(place.iterdir()) if place.is_dir() else None for place in places],
    ]


def refused(herd: Herd, *words: str, code: int = REFUSED, **env: str) -> str:
    """Run invoke, which has to refuse and change nothing; return its sentence in one line."""
    before = state(herd)
    said = herd.invoke(*words, code=code, **env)
    assert state(herd) == before
    return " ".join(said.stderr.split())


@contextmanager
def bystander(herd: Herd, *options: str, name: str = "other") -> Iterator[str]:
    """Run somebody else's container."""
    image = herd.invoke("image").stdout.strip()
    full = f"{herd.name}-{name}"
    docker("run", "--detach", "--name", full, *options, "--entrypoint", "sleep", image, "300")
    try:
        yield full
    finally:
        docker("rm", "--force", "--volumes", full)


@pytest.fixture(scope="module")
def blank(make_herd: MakeHerd) -> Herd:
    """A group of which nothing was made."""
    return make_herd("17")


@pytest.fixture(scope="module")
def fifteen(make_herd: MakeHerd) -> Herd:
    """A group of 15 that was taken down: its data lies there."""
    herd = make_herd("15")
    herd.invoke("setup-master", "down")
    return herd


@pytest.fixture(scope="module")
def seventeen(make_herd: MakeHerd) -> Herd:
    """Another group of 17 that was taken down."""
    herd = make_herd("17")
    herd.invoke("setup-master", "down")
    return herd


@pytest.fixture(scope="module")
def live(make_herd: MakeHerd) -> Herd:
    """A pair that streams."""
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    return herd


@pytest.fixture
def borrowed(blank: Herd) -> Iterator[Herd]:
    """The blank group, for a test that changes its topology; it is as it was afterwards."""
    nodes = {role: dict(keys) for role, keys in blank.nodes.items()}
    group = dict(blank.group)
    yield blank
    blank.nodes, blank.group = nodes, group
    blank.write()


# --- names, ports and directories that are another's ---


def test_a_foreign_container_has_the_name(blank: Herd) -> None:
    with bystander(blank, name="master") as foreign:
        said = refused(blank, "setup-master")
        assert f"container named {foreign}" in said
        assert f"docker rename {foreign}" in said
        assert foreign in refused(blank, "start")


def test_a_foreign_container_that_is_stopped_has_the_name(blank: Herd) -> None:
    """It is nobody's to start or remove, though nothing of it runs."""
    name, image = blank.container("master"), blank.invoke("image").stdout.strip()
    docker("create", "--name", name, "--entrypoint", "true", image)
    try:
        for task in ("setup-master", "start"):
            assert f"container named {name}" in refused(blank, task)
        before = state(blank)
        blank.invoke("down")
        blank.invoke("down", "--purge", "--delete-data", "--confirm", blank.name)
        assert state(blank) == before
    finally:
        docker("rm", "--force", "--volumes", name)


def test_a_container_has_the_port(blank: Herd) -> None:
    port = blank.nodes["master"]["port"]
    with bystander(blank, "--publish", f"127.0.0.1:{port}:5432") as other:
        said = refused(blank, "setup-master")
    assert f"Port {port} is taken by the container {other}" in said
    assert "another `port` in the topology" in said


def test_a_process_has_the_port_and_another_one_is_free(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    port = herd.nodes["master"]["port"]
    with socket.create_server(("127.0.0.1", port)):
        said = refused(herd, "setup-master")
        assert f"Port {port} is taken by" in said
        assert f"pid {os.getpid()}" in said
        assert "another `port` in the topology" in said
        herd.nodes["master"]["port"] = free_port()
        herd.write()
        herd.invoke("setup-master")
    assert herd.sql("master", "SELECT 1") == 1


def test_a_container_has_the_data_directory(blank: Herd) -> None:
    blank.data("master").mkdir()
    with bystander(blank, "--volume", f"{blank.data('master')}:/somewhere") as other:
        said = refused(blank, "setup-master")
    blank.data("master").rmdir()
    assert f"{blank.data('master')} is in use by the container {other}" in said


def test_the_data_directory_has_no_database_in_it(blank: Herd) -> None:
    blank.data("master").mkdir()
    (blank.data("master") / "letter.txt").write_text("dear reader")
    said = refused(blank, "setup-master")
    shutil.rmtree(blank.data("master"))
    assert "is not empty and has no PostgreSQL database in it" in said


@pytest.mark.long
def test_the_data_is_of_another_major_version(borrowed: Herd, fifteen: Herd) -> None:
    borrowed.nodes["master"]["data"] = str(fifteen.data("master"))
    borrowed.write()
    said = refused(borrowed, "setup-master")
    assert "a database of PostgreSQL 15" in said
    assert (fifteen.data("master") / "PG_VERSION").read_text() == "15\n"


@pytest.mark.long
def test_the_standbys_data_is_of_another_major_or_system(
    make_herd: MakeHerd, fifteen: Herd, seventeen: Herd
) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    herd.nodes["standby"]["data"] = str(fifteen.data("master"))
    herd.write()
    assert "a database of PostgreSQL 15" in refused(herd, "seed-standby")
    herd.nodes["standby"]["data"] = str(seventeen.data("master"))
    herd.write()
    said = refused(herd, "seed-standby")
    assert "a database of another system" in said
    assert "--set-aside" in said
    herd.invoke("seed-standby", "--set-aside")
    herd.checks()
    (aside,) = seventeen.directory.glob("master_data_bk_*")
    assert (aside / "PG_VERSION").exists()


# --- a data directory that vanished ---


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.long
def test_a_data_directory_that_vanished_is_never_a_new_primary(
    make_herd: MakeHerd, major: str
) -> None:
    herd = make_herd(major)
    herd.invoke("setup-master")
    shutil.rmtree(herd.data("master"))  # while its server runs
    docker("restart", herd.container("master"), check=False)
    time_is_up = time.monotonic() + 1
    while time.monotonic() < time_is_up:  # whatever the restart policy makes of it
        assert not (herd.data("master") / "PG_VERSION").exists()
        answer = docker("exec", herd.container("master"), "pg_isready", check=False)
        assert "accepting" not in answer
    docker("stop", herd.container("master"), check=False)
    for task in ("setup-master", "start"):  # its container is still there
        assert f"The database of {herd.container('master')} is gone" in refused(herd, task)
    herd.invoke("down")
    for task in ("setup-master", "start"):  # only its passwords are
        assert f"The database of {herd.container('master')} is gone" in refused(herd, task)
    assert not (herd.data("master") / "PG_VERSION").exists()
    herd.invoke("down", "--purge", "--confirm", herd.name)
    herd.invoke("setup-master")  # now a new one was asked for


# --- tasks out of their order ---


def test_seed_standby_before_setup_master(blank: Herd) -> None:
    assert "`invoke setup-master`" in refused(blank, "seed-standby")
    assert "`invoke setup-master`" in refused(blank, "seed-standby", "--method", "copy")


@pytest.mark.long
def test_seed_standby_of_the_primary(live: Herd) -> None:
    said = refused(live, "seed-standby", "--node", live.container("master"))
    assert f"{live.container('master')} is the primary" in said


def test_reseeding_the_only_synchronous_standby(live: Herd) -> None:
    said = refused(live, "seed-standby", "--rebuild")
    assert "--allow-async" in said
    assert live.sql("master", "SHOW synchronous_standby_names") == "FIRST 1 (standby1)"


def test_setup_master_on_a_standbys_data(fifteen: Herd) -> None:
    (fifteen.data("master") / "standby.signal").touch()
    said = refused(fifteen, "setup-master")
    (fifteen.data("master") / "standby.signal").unlink()
    assert "never promotes" in said


def test_an_unknown_node_and_an_unknown_method(live: Herd) -> None:
    said = refused(live, "seed-standby", "--node", "nosuch")
    assert "no node 'nosuch'" in said
    assert live.container("standby") in said
    assert "no node 'nosuch'" in refused(live, "logs", "--node", "nosuch")
    said = refused(live, "seed-standby", "--method", "rsync")
    assert "rsync" in said
    assert "basebackup" in said


def test_another_port_for_a_container_that_runs(live: Herd) -> None:
    old = live.nodes["standby"]["port"]
    live.nodes["standby"]["port"] = free_port()
    live.write()
    said = refused(live, "seed-standby")
    live.nodes["standby"]["port"] = old
    live.write()
    assert live.container("standby") in said
    assert "`invoke down`" in said
    live.checks()


def test_a_purge_that_is_not_confirmed(live: Herd) -> None:
    assert f"--confirm {live.name}" in refused(live, "down", "--purge")
    assert f"--confirm {live.name}" in refused(live, "down", "--purge", "--confirm", "pair")
    assert "--purge" in refused(live, "down", "--delete-data")


def test_a_purge_leaves_what_the_group_did_not_make(make_herd: MakeHerd) -> None:
    """The node had a database, in another directory than the topology names now."""
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby", "down")
    made = {role: herd.data(role) for role in herd.nodes}
    for role in herd.nodes:
        precious = herd.directory / f"{role}_precious"
        precious.mkdir()
        (precious / "PG_VERSION").write_text("17\n")
        (precious / "important").touch()
        herd.nodes[role]["data"] = str(precious)
    herd.write()
    purge = ["down", "--purge", "--delete-data", "--confirm", herd.name]
    said = herd.invoke(*purge).stderr
    for role, place in made.items():
        assert f"{herd.data(role)} is not this group's; left alone" in said
        assert (herd.data(role) / "important").exists()
        assert any(place.iterdir())


@pytest.mark.long
def test_a_seed_moves_nothing_that_the_group_did_not_make(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby", "down")
    herd.invoke("setup-master")
    precious = herd.directory / "precious"
    precious.mkdir()
    (precious / "important").touch()
    herd.nodes["standby"]["data"] = str(precious)
    herd.write()
    assert "--set-aside moves it aside first" in refused(herd, "seed-standby")
    assert (precious / "important").exists()


def test_the_method_copy_while_clients_are_connected(live: Herd) -> None:
    docker("stop", live.container("standby"))
    with live.connect("master"):
        said = refused(live, "seed-standby", "--method", "copy", "--rebuild")
    live.invoke("start")
    assert "1 client" in said
    assert "--yes" in said


def test_a_second_run_while_one_is_at_work(live: Herd) -> None:
    first = subprocess.Popen(
        [*INVOKE, "setup-master"], cwd=ROOT, env=live.environment(), stderr=subprocess.PIPE
    )
    assert first.stderr
    assert first.stderr.readline()  # it is at its work
    os.kill(first.pid, signal.SIGSTOP)
    try:
        assert f"process {first.pid}" in refused(live, "seed-standby")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.communicate(timeout=30)
    assert first.returncode == 0


# --- the topology ---


def test_a_topology_with_several_faults_lists_them_all(borrowed: Herd) -> None:
    borrowed.nodes["master"] |= {"prot": 5432, "data": 7}
    borrowed.nodes["standby"] |= {"port": borrowed.nodes["master"]["port"], "upstream": "nosuch"}
    borrowed.write()
    done = borrowed.invoke("setup-master", code=REFUSED)
    master, standby = borrowed.container("master"), borrowed.container("standby")
    port = borrowed.nodes["master"]["port"]
    for where, what in (
        (f"nodes.{master}.prot", "unknown key"),
        (f"nodes.{master}.data", "7"),
        (f"nodes.{standby}.upstream", "nosuch"),
        (".port", str(port)),
    ):
        lines = [line for line in done.stderr.splitlines() if where in line]
        assert any(what in line for line in lines), f"{where}: {done.stderr}"


def test_a_topology_file_that_is_not_there(blank: Herd) -> None:
    said = refused(blank, "verify", INVOKE_TOPOLOGY="conf/nosuch.toml")
    assert "no conf/nosuch.toml" in said
    assert "INVOKE_TOPOLOGY" in said


# --- the engine ---


def test_no_docker_program(blank: Herd, tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    said = refused(blank, "setup-master", code=UNREACHABLE, PATH=str(tmp_path))
    assert "'docker' is not on this machine's PATH" in said
    assert "./scripts/bootstrap" in said


@pytest.mark.parametrize("address", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9"])
def test_an_engine_that_does_not_answer(blank: Herd, address: str) -> None:
    said = refused(blank, "setup-master", code=UNREACHABLE, DOCKER_HOST=address)
    assert "The Docker Engine does not answer" in said
    assert "./scripts/bootstrap" in said


def test_an_image_that_cannot_be_had(borrowed: Herd) -> None:
    borrowed.group["image"] = "nosuch.invalid/thing:1"
    borrowed.write()
    said = refused(borrowed, "setup-master")
    assert "nosuch.invalid/thing:1" in said


def test_a_major_that_cannot_be_built(borrowed: Herd) -> None:
    if docker("image", "ls", "--quiet", "postgres:14") or _registry_answers():
        pytest.skip("postgres:14 can be had on this machine")
    borrowed.group["image"] = "postgres:14"
    borrowed.write()
    said = refused(borrowed, "setup-master")
    assert "No registry answers for postgres:14" in said


def _registry_answers() -> bool:
    try:
        socket.getaddrinfo("registry-1.docker.io", 443)
    except OSError:
        return False
    return True
