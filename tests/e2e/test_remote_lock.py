"""Two people at work on one group on hosts, each with a checkout of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import INVOKE, ROOT
from far import REFUSED, Far, MakeFar, wait_for
from machine import lacking
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

SLOW = ["seed-standby", "--max-rate", "1M"]  # some twenty seconds


@pytest.fixture(scope="module")
def far(make_far: MakeFar) -> Far:
    """A master on one host, whose standby on another is not seeded yet."""
    far = make_far("hosta", "member@hostb")
    far.invoke("setup-master")
    return far


@pytest.fixture
def checkout(far: Far, tmp_path: Path) -> Path:
    """Another person's checkout, with what they were given: the passwords."""
    for name in ("scripts", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "tasks.py", tmp_path)
    shutil.copytree(far.secrets(), tmp_path / "data" / "secrets" / far.secrets().name)
    return tmp_path


@pytest.fixture
def first(rigged: Rig, far: Far) -> Iterator[subprocess.Popen[str]]:
    """A run that copies, and stands still."""
    assert rigged
    run = far.begin(*SLOW)
    wait_for(run, (far.data("standby") / "base").is_dir)
    os.kill(run.pid, signal.SIGSTOP)
    yield run
    run.kill()
    run.communicate(timeout=10)


def second(far: Far, checkout: Path, *words: str) -> tuple[int, str]:
    """What comes of a run of the other person."""
    done = subprocess.run(
        [*INVOKE, *words], cwd=checkout, env=far.environment(), capture_output=True, text=True,
        timeout=60, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def test_a_second_run_from_another_checkout_is_refused(
    far: Far, checkout: Path, first: subprocess.Popen[str]
) -> None:
    """And it changes nothing of what the first one is at."""
    assert first.poll() is None
    before = far.things()
    code, said = second(far, checkout, "seed-standby")
    assert code == REFUSED, said
    assert far.things() == before


@pytest.mark.long
def test_a_second_run_waits_for_the_end_of_the_first(
    far: Far, checkout: Path, first: subprocess.Popen[str]
) -> None:
    node = far.container("standby")
    changes = (["switchover", "--to", node], ["failover"], ["rejoin", node])
    for words in (["seed-standby"], ["setup-master"], ["stop"], *changes):
        before = far.things()
        code, said = second(far, checkout, *words)
        assert code == REFUSED, said
        assert f"Another pgherd run (root@{os.uname().nodename}, process {first.pid}," in said
        assert f"is at work on {far.name} at hosta" in said
        assert far.things() == before
    assert second(far, checkout, "hosts")[0] == 0  # looking is allowed
    first.kill()
    first.wait()
    code, said = second(far, checkout, "seed-standby")  # it waits for what is left of the first
    assert code == 0, said
    far.checks()
    assert far.helpers("standby") == ""
    assert "already" in second(far, checkout, "seed-standby")[1]


@pytest.mark.long
def test_the_passwords_of_others_are_not_made_anew(far: Far, checkout: Path) -> None:
    shutil.rmtree(checkout / "data")
    before = far.things()
    code, said = second(far, checkout, "setup-master")
    assert code == REFUSED
    assert "passwords are not here" in said
    assert not (checkout / "data" / "secrets").exists()
    assert far.things() == before
    far.checks()
