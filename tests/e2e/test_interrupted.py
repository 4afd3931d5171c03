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
from faults import WHOLE
from killing import MOMENTS, Run, acts, count, killed

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


def helpers(herd: Herd) -> str:
    """Return the containers that work on files of the group's nodes."""
    return docker("ps", "--all", "--quiet", "--filter", f"name=pgherd-{herd.name}-")


def sound(herd: Herd) -> None:
    """Whatever was killed, the pair passes now and no helper is left."""
    herd.checks()
    assert helpers(herd) == ""
    assert herd.sql("master", "SELECT count(*) FROM pg_replication_slots") == 1


# --- kill -9, at one command after the other ---


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    return make_herd("17")


def kills(herd: Herd, ready: Callable[[Herd], None], *words: str) -> Iterator[Run]:
    """Kill a task at each command that acts: before one, during the next, after the third.

    What it begins with is made ready each time. Two are tried; all by `invoke test --all`.
    """
    ready(herd)
    commands = count(herd, *words)
    chosen = acts(commands)
    if not WHOLE:
        chosen = [chosen[len(chosen) * part // 3] for part in (1, 2)]
    for place, number in enumerate(chosen):
        ready(herd)
        when = MOMENTS[place % len(MOMENTS)]
        run = killed(herd, number, when, *words)
        print(f"killed: {run.killed}, {when} the last of these:", *run.commands, sep="\n  ")
        yield run


def nothing(herd: Herd) -> None:
    herd.invoke("down", "--purge", "--delete-data", "--confirm", herd.name)


def unseeded(herd: Herd) -> None:
    """A primary that waits for nobody, and no trace of a standby."""
    docker("rm", "--force", herd.container("standby"), check=False)
    for data in herd.directory.glob("standby_data*"):
        subprocess.run(["rm", "-rf", "--", str(data)], check=True)
    herd.invoke("setup-master")
    herd.sql("master", "ALTER SYSTEM SET synchronous_standby_names = ''")
    herd.sql("master", "SELECT pg_reload_conf()")


def seeded(herd: Herd) -> None:
    herd.invoke("setup-master", "seed-standby")


@pytest.mark.long
def test_the_harness_kills_when_it_is_told(herd: Herd) -> None:
    unseeded(herd)
    commands = count(herd, "seed-standby")
    sound(herd)
    copies = acts(commands, "base-backup")[0]
    for when in MOMENTS:
        unseeded(herd)
        run = killed(herd, copies, when, "seed-standby")
        assert run.killed
        assert "base-backup" in run.commands[copies - 1].names
        assert len(run.commands) == copies
        assert bool(helpers(herd)) is (when == "during")
        if when != "during":  # there it may just begin
            assert (herd.data("standby") / "base").is_dir() is (when == "after")
        herd.invoke("seed-standby")
    unseeded(herd)
    assert not killed(herd, len(commands) + 100, "before", "seed-standby").killed
    sound(herd)


@pytest.mark.long
def test_setup_master_is_killed(herd: Herd) -> None:
    for _ in kills(herd, nothing, "setup-master"):
        herd.invoke("setup-master")
        assert helpers(herd) == ""
        assert herd.sql("master", "SELECT 1") == 1
        assert "already" in herd.invoke("setup-master").stderr


def test_seed_standby_is_killed(herd: Herd) -> None:
    for _ in kills(herd, unseeded, "seed-standby"):
        herd.invoke("seed-standby")
        sound(herd)


@pytest.mark.long
def test_the_method_copy_is_killed(herd: Herd) -> None:
    copy = ["seed-standby", "--method", "copy"]
    for _ in kills(herd, seeded, *copy, "--rebuild", "--allow-async"):
        herd.invoke(*copy)
        sound(herd)


@pytest.mark.long
def test_down_is_killed(herd: Herd) -> None:
    for _ in kills(herd, seeded, "down"):
        herd.invoke("down")
        assert [herd.status(role) for role in herd.nodes] == ["", ""]
        assert docker("network", "ls", "--quiet", "--filter", f"name=pgherd-{herd.name}") == ""
    seeded(herd)
    sound(herd)


# --- asked to end ---


@pytest.mark.long
def test_a_run_that_is_asked_to_end_takes_its_helper_along(herd: Herd) -> None:
    herd.invoke("setup-master", "seed-standby")
    slow = ["--rebuild", "--allow-async", "--max-rate", "1M"]  # some twenty seconds
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


@pytest.mark.long
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
