"""Nothing of the rig stays behind, however its run ends; and people have one of their own."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from machine import BASE, lacking, until
from rig import is_up, rig

pytest_plugins = ["rigged"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

RIG = ROOT / "tests" / "rig"


def traces(directory: Path) -> list[str]:
    """What there still is of a rig: files, links, mounts, control groups, processes."""
    name = directory.name
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found = [f"file {directory}"] if directory.exists() else []
    found += [f"link {line}" for line in links.splitlines() if name in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            mounts = (process / "mounts").read_text()
        except OSError:
            continue
        if f"/{name}/" in words + mounts or f"pgherd-rig-{name}" in words:
            found.append(f"process {process.name}: {words}")
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/pgherd-rig-{name}")]
    return found


def test_nothing_stays_of_a_rig_nor_of_its_users() -> None:
    users = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
    with rig(hosts=2) as made:
        directory = made.directory
        made.hosts["hosta"].cut()
        made.hosts["hosta"].small_disk("/srv/small", 1)
        made.hosts["hostb"].stop_engine()
        assert len(traces(directory)) > 3
    assert traces(directory) == []
    assert (Path("/etc/passwd").read_text(), Path("/etc/group").read_text()) == users


def test_nothing_stays_of_a_rig_that_could_not_be_made() -> None:
    before = set(BASE.glob("*"))
    with pytest.raises(RuntimeError, match="No such image"), rig(images=("there-is/none:1",)):
        pass
    assert set(BASE.glob("*")) <= before


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from rig import rig
with rig(hosts=2, images=(sys.argv[2],)) as made:
    made.hosts["hosta"].docker("run", "--detach", sys.argv[2], "sleep", "99")
    print(made.directory, flush=True)
    time.sleep(60)
"""


def test_a_killed_run_takes_its_rig_along_and_the_next_clears_its_files(rig_image: str) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(RIG), rig_image], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout
    directory = Path(killed.stdout.readline().strip())
    killed.kill()
    killed.communicate()
    until(lambda: not [t for t in traces(directory) if "process" in t or "link" in t], "gone", 10)
    assert not is_up(directory)
    assert directory.exists()
    with rig(hosts=1, engines=True):
        assert traces(directory) == []


# --- for people ---


def people(*words: str, code: int = 0) -> str:
    """What `invoke rig.up` and `rig.down` say, on a rig of the test's own."""
    done = subprocess.run(  # the pipes have to close, although the hosts stay
        [sys.executable, str(RIG / "people.py"), *words],
        capture_output=True, text=True, timeout=60, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout


def test_people_have_a_rig_until_they_take_it_away() -> None:
    name = f"t{secrets.token_hex(3)}"
    mine = ("--name", name)
    try:
        first = people("up", "--hosts", "2", *mine)
        assert "invoke on hosta setup-master seed-standby verify" in first
        again = people("up", *mine)
        assert again == first.replace("The rig is up:", "The rig is up already:")
        config = first.split("INVOKE_SSH_CONFIG=")[1].split()[0]
        ssh = subprocess.run(
            ["ssh", "-F", config, "hostb", "docker ps"], capture_output=True, text=True, check=True
        )
        assert "CONTAINER" in ssh.stdout
        with rig(hosts=1, engines=True):
            assert is_up(BASE / name)
    finally:
        assert "gone" in people("down", *mine)
    assert traces(BASE / name) == []
    assert "no rig" in people("down", *mine)


def test_people_are_told_why_there_is_no_rig() -> None:
    done = subprocess.run(
        [sys.executable, str(RIG / "people.py"), "up"],
        env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "No rig can be had: this machine has no docker" in done.stderr
    assert "apt-get install docker.io" in done.stderr
