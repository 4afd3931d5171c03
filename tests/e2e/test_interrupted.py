"""Tasks that are killed, ended, run at once or out of space: the next run comes to the same end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker

Moment = Callable[[Herd], object]


def begin(herd: Herd, *words: str) -> subprocess.Popen[str]:
    """Start an invoke and do not wait for it."""
    return subprocess.Popen(
        [*INVOKE, *words], cwd=ROOT, env=herd.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(herd: Herd, run: subprocess.Popen[str], moment: Moment) -> None:
    """Wait until a run has come to a moment; it must not end before."""
    end = time.monotonic() + 60
    while not moment(herd):
        assert run.poll() is None, f"it ended before: {run.stdout.read() if run.stdout else ''}"
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.002)


def killed_at(herd: Herd, words: list[str], *moments: Moment) -> None:
    """Run invoke and kill it, with no word of warning, when it has come past these moments."""
    run = begin(herd, *words)
    for moment in moments:
        wait_for(herd, run, moment)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=10)
    assert run.returncode == -signal.SIGKILL


def helpers(herd: Herd) -> str:
    """Return the containers that work on files of the group's nodes."""
    return docker("ps", "--all", "--quiet", "--filter", f"name=pgherd-{herd.name}-")


def status(herd: Herd, role: str) -> str:
    """Return the state of a node's container; empty if it has none."""
    return docker("inspect", "--format", "{{.State.Status}}", herd.container(role), check=False)


def ready(herd: Herd, role: str) -> bool:
    """Tell whether a server answers."""
    return "accepting" in docker("exec", herd.container(role), "pg_isready", check=False)


def sound(herd: Herd) -> None:
    """Whatever was killed, the pair passes now and no helper is left."""
    herd.checks()
    assert helpers(herd) == ""
    assert herd.sql("master", "SELECT count(*) FROM pg_replication_slots") == 1


# --- kill -9, at one moment after the other ---


SETUP_MASTER: dict[str, Moment] = {
    "the helper works": helpers,
    "the database is being made": lambda herd: (herd.data("master") / "base").is_dir(),
    "the container is made": lambda herd: status(herd, "master"),
}
SEED_STANDBY: dict[str, Moment] = {
    "the helper works": helpers,
    "files are being copied": lambda herd: (herd.data("standby") / "base").is_dir(),
    "the container is made": lambda herd: status(herd, "standby"),
    "the standby serves": lambda herd: ready(herd, "standby"),
}
COPY: dict[str, tuple[Moment, ...]] = {
    "the master is stopped": (lambda herd: status(herd, "master") == "exited",),
    "files are being copied": (
        lambda herd: status(herd, "master") == "exited",
        lambda herd: (herd.data("standby") / "base").is_dir(),
    ),
    "the master is started again": (
        lambda herd: status(herd, "master") == "exited",
        lambda herd: status(herd, "master") == "running",
    ),
}
DOWN: dict[str, Moment] = {
    "the master is stopped": lambda herd: status(herd, "master") == "exited",
    "the master is removed": lambda herd: not status(herd, "master"),
}


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    return make_herd("17")


@pytest.mark.parametrize("moment", SETUP_MASTER)
def test_setup_master_is_killed(herd: Herd, moment: str) -> None:
    herd.invoke("down", "--purge", "--delete-data", "--confirm", herd.name)
    killed_at(herd, ["setup-master"], SETUP_MASTER[moment])
    herd.invoke("setup-master")
    assert helpers(herd) == ""
    assert herd.sql("master", "SELECT 1") == 1
    assert "already" in herd.invoke("setup-master").stderr


@pytest.mark.parametrize("moment", SEED_STANDBY)
def test_seed_standby_is_killed(herd: Herd, moment: str) -> None:
    if status(herd, "standby"):
        docker("rm", "--force", herd.container("standby"))
    for data in herd.directory.glob("standby_data*"):
        subprocess.run(["rm", "-rf", "--", str(data)], check=True)
    herd.invoke("setup-master")
    herd.sql("master", "ALTER SYSTEM SET synchronous_standby_names = ''")
    herd.sql("master", "SELECT pg_reload_conf()")
    killed_at(herd, ["seed-standby"], SEED_STANDBY[moment])
    herd.invoke("seed-standby")
    sound(herd)


@pytest.mark.parametrize("moment", COPY)
def test_the_method_copy_is_killed(herd: Herd, moment: str) -> None:
    copy = ["seed-standby", "--method", "copy", "--reseed", "--async-meanwhile"]
    herd.invoke("setup-master", "seed-standby")
    killed_at(herd, copy, *COPY[moment])
    herd.invoke("seed-standby", "--method", "copy")
    sound(herd)


@pytest.mark.parametrize("moment", DOWN)
def test_down_is_killed(herd: Herd, moment: str) -> None:
    herd.invoke("setup-master", "seed-standby")
    killed_at(herd, ["down"], DOWN[moment])
    herd.invoke("down")
    assert [status(herd, role) for role in herd.nodes] == ["", ""]
    assert docker("network", "ls", "--quiet", "--filter", f"name=pgherd-{herd.name}") == ""
    herd.invoke("setup-master", "seed-standby")
    sound(herd)


# --- asked to end ---


def test_a_run_that_is_asked_to_end_takes_its_helper_along(herd: Herd) -> None:
    herd.invoke("setup-master", "seed-standby")
    slow = ["--reseed", "--async-meanwhile", "--max-rate", "1M"]  # some twenty seconds
    for sign in (signal.SIGINT, signal.SIGTERM):
        run = begin(herd, "seed-standby", *slow)
        wait_for(herd, run, lambda herd: helpers(herd) and (herd.data("standby") / "base").is_dir())
        os.kill(run.pid, sign)
        said, _ = run.communicate(timeout=15)
        assert run.returncode != 0
        assert "Traceback" not in said
        assert helpers(herd) == ""
    herd.invoke("seed-standby")
    sound(herd)


# --- two at once ---


def test_of_two_at_once_one_does_it_and_the_other_is_refused(herd: Herd) -> None:
    herd.invoke("down", "--purge", "--delete-data", "--confirm", herd.name)
    runs = [begin(herd, "setup-master") for _ in range(2)]
    said = {run.wait(60): run.communicate()[0] for run in runs}
    assert sorted(said) == [0, 2], said
    assert "Another pgherd run" in said[2]
    herd.invoke("seed-standby")
    sound(herd)
    networks = docker("network", "ls", "--quiet", "--filter", f"name=^pgherd-{herd.name}$")
    assert len(networks.split()) == 1


# --- no space left ---


@pytest.fixture
def small(herd: Herd) -> Iterator[Path]:
    """A file system of 30 MB; the standby's data lies on it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    place, before = herd.directory / "small", herd.nodes["standby"]["data"]
    herd.invoke("down")
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m,mode=755", "tmpfs", str(place)]
    subprocess.run(mount, check=True)
    herd.nodes["standby"]["data"] = str(place / "standby_data")
    herd.write()
    yield place
    docker("rm", "--force", herd.container("standby"), check=False)
    herd.nodes["standby"]["data"] = before
    herd.write()
    subprocess.run(["umount", str(place)], check=True)


def test_the_disk_is_full_while_a_standby_is_seeded(herd: Herd, small: Path) -> None:
    herd.invoke("setup-master")
    herd.sql("master", "ALTER SYSTEM SET synchronous_standby_names = ''")
    herd.sql("master", "SELECT pg_reload_conf()")
    said = herd.invoke("seed-standby", code=1).stderr
    assert f"On {herd.container('standby')}" in said
    assert "No space left on device" in said
    assert helpers(herd) == ""
    herd.sql("master", "CREATE TABLE IF NOT EXISTS goes_on (id int)")
    herd.invoke("seed-standby", code=1)  # not better, and not worse, as long as nothing changed
    subprocess.run(["mount", "-o", "remount,size=600m", str(small)], check=True)
    herd.invoke("seed-standby")
    sound(herd)
