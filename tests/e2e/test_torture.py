"""Tasks that are killed and run again, from the same start each time: samples of `invoke torture`.

Those that are cheap to make ready are in test_interrupted.py, changes of primary in
test_changes_interrupted.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from changes import TASKS
from conftest import Herd, MakeHerd, docker
from killing import When
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
    ("pattern", "when"),
    [
        pytest.param(
            "run --rm --interactive --name pgherd-{0}-{0}-standby3 *", "during", id="seeds"
        ),
        pytest.param(
            "run --detach --name {0}-standby3 *", "after", id="serves", marks=pytest.mark.long
        ),
    ],
)
def test_add_standby_is_killed(adding: Adding, pattern: str, when: When) -> None:
    """While the second standby is seeded, which follows the first; once its container is made."""
    adding.rack.cut_short(pattern.format(adding.rack.trial.herd.name), when)
    run = adding.rack.trial.last
    assert run
    assert run.killed
