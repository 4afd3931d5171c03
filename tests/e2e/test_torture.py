"""Tasks that are killed and run again, from the same start each time: samples of `invoke torture`.

Those that are cheap to make ready are in test_interrupted.py, changes of primary in
test_changes_interrupted.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from changes import TASKS
from conftest import ROOT, Herd, MakeHerd, docker
from faults import until
from killing import Act, When
from rack import Rack
from trial import group_of

WHOLE = ("Config.Env", "Config.Entrypoint", "Config.Cmd", "Config.Labels", "HostConfig")


@dataclass
class Adding:
    """Two standbys that are added, one behind the other.

    Attributes:
        rack: has the start, as often as it is wanted.
        original: the containers of the start, as pgherd made them.
        again: those that the snapshot made.
    """

    rack: Rack
    original: list[str]
    again: list[str]


def made(herd: Herd) -> list[str]:
    """Return what the containers are made of."""
    names = [herd.container(role) for role in herd.nodes if herd.status(role)]
    shape = " ".join(f"{{{{json .{key}}}}}" for key in WHOLE)
    return docker("inspect", "--format", shape, *names).splitlines()


@pytest.fixture(scope="module")
def adding(make_herd: MakeHerd) -> Adding:
    task = TASKS["add-standby"]
    herd = make_herd("17", **group_of(task))
    rack = Rack.of(task, herd)
    original = made(herd)
    rack.kept.restore()
    return Adding(rack, original, made(herd))


def test_a_snapshot_has_the_containers_that_there_were(adding: Adding) -> None:
    assert len(adding.original) == 2
    assert adding.again == adding.original


@pytest.mark.parametrize(
    ("name", "when"),
    [
        pytest.param("base-backup", "during", id="seeds"),
        pytest.param("run", "after", id="serves", marks=pytest.mark.long),
    ],
)
def test_add_standby_is_killed(adding: Adding, name: str, when: When) -> None:
    """While the second standby is seeded, which follows the first; once its container is made."""
    node = adding.rack.trial.herd.container("standby3")
    adding.rack.cut_short(Act(name, f"*{node} *"), when)
    run = adding.rack.trial.last
    assert run
    assert run.killed


@pytest.mark.long
def test_a_torture_that_is_ended_takes_its_group_away(tmp_path: Path) -> None:
    words = [sys.executable, "benchmarks/torture.py", "--task", "rotate-passwords", "--resume"]
    with subprocess.Popen(
        words, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:  # fmt: skip
        until(lambda: list(tmp_path.glob("*/standby_data")), "it has a group")
        (topology,) = tmp_path.glob("*/topology.toml")
        found = re.search(r'^name = "(\w+)"', topology.read_text(), re.MULTILINE)
        assert found
        run.send_signal(signal.SIGTERM)
        assert run.wait(120) == 143
    for kind in (["ps", "--all"], ["network", "ls"]):
        assert docker(*kind, "--quiet", "--filter", f"name={found[1]}") == ""
    assert not (ROOT / "data" / "secrets" / found[1]).exists()
    assert not topology.exists()
