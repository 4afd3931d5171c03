"""A restart of the engine leaves the pair working: on an engine that the test itself started."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd
from engine import Engine
from machine import lacking, until
from rig import rig

LACKING = lacking(ssh=False)
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"no second engine: {LACKING}")


@pytest.fixture(scope="module")
def own_engine() -> Iterator[Engine]:
    with rig(hosts=1, engines=True) as made:
        yield made.hosts["hosta"]


@pytest.fixture(scope="module")
def pair_there(make_herd: MakeHerd, own_engine: Engine) -> Herd:
    """A pair on the test's own engine, that publishes its ports on that engine's address."""
    herd = make_herd("18")
    own_engine.load(herd.invoke("image").stdout.strip())
    for keys in herd.nodes.values():
        keys["listen"] = own_engine.address
    herd.write()
    herd.env["DOCKER_HOST"] = own_engine.docker_host
    herd.invoke("setup-master", "seed-standby", "verify")
    return herd


def passes(herd: Herd) -> bool:
    done = subprocess.run(
        [*INVOKE, "verify"], cwd=ROOT, env=herd.environment(), capture_output=True, check=False
    )
    return done.returncode == 0


def test_a_restart_of_the_engine(pair_there: Herd, own_engine: Engine) -> None:
    own_engine.stop_engine()
    assert "does not answer" in pair_there.invoke("setup-master", code=3).stderr
    own_engine.start_engine()
    until(lambda: passes(pair_there), "verify passes")
    for task in ("setup-master", "seed-standby"):
        assert "already" in pair_there.invoke(task).stderr


def test_a_restart_leaves_what_was_stopped_alone(pair_there: Herd, own_engine: Engine) -> None:
    pair_there.invoke("stop")
    own_engine.stop_engine()
    own_engine.start_engine()
    states = own_engine.docker("ps", "--all", "--format", "{{.State}}").split()
    assert states == ["exited", "exited"]
    pair_there.invoke("start", "verify")


def test_an_engine_that_was_killed(pair_there: Herd, own_engine: Engine) -> None:
    own_engine.stop_engine(signal.SIGKILL)
    own_engine.start_engine()
    # This engine stops what its predecessor left running, and takes that for the user's wish.
    pair_there.invoke("start", "verify")
