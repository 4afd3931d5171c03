"""A restart of the engine leaves the pair working, also in the middle of a task.

It is an engine that the test itself started.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd
from engine import Engine
from machine import lacking, until
from rig import rig

LACKING = lacking(ssh=False)
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"no second engine: {LACKING}"),
    pytest.mark.timeout(600),
]


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


@pytest.mark.long
def test_a_restart_of_the_engine(pair_there: Herd, own_engine: Engine) -> None:
    own_engine.stop_engine()
    assert "does not answer" in pair_there.invoke("setup-master", code=3).stderr
    own_engine.start_engine()
    until(lambda: passes(pair_there), "verify passes")
    for task in ("setup-master", "seed-standby"):
        assert "already" in pair_there.invoke(task).stderr


@pytest.mark.long
def test_an_engine_that_takes_questions_and_answers_none(
    pair_there: Herd, own_engine: Engine
) -> None:
    """It is told once, in a sentence: no dump of a script, and no sentence for each node."""
    (process,) = own_engine.processes("dockerd")
    os.kill(process, signal.SIGSTOP)
    try:
        for task in ("status", "setup-master", "doctor", "hosts", "audit"):
            done = pair_there.invoke(task, code=3)
            said = done.stdout + done.stderr
            assert said.count("The Docker Engine does not answer (host local)") == 1, said
            assert "docker ps --" not in said, said
            assert "inspect" not in said, said
    finally:
        os.kill(process, signal.SIGCONT)
    until(lambda: passes(pair_there), "verify passes")


@pytest.mark.long
def test_a_restart_leaves_what_was_stopped_alone(pair_there: Herd, own_engine: Engine) -> None:
    pair_there.invoke("stop")
    own_engine.stop_engine()
    own_engine.start_engine()
    states = own_engine.docker("ps", "--all", "--format", "{{.State}}").split()
    assert states == ["exited", "exited"]
    pair_there.invoke("start", "verify")


@pytest.mark.long
def test_an_engine_that_was_killed(pair_there: Herd, own_engine: Engine) -> None:
    own_engine.stop_engine(signal.SIGKILL)
    own_engine.start_engine()
    # This engine stops what its predecessor left running, and takes that for the user's wish.
    pair_there.invoke("start", "verify")


# --- in the middle ---

SLOW = ["seed-standby", "--rebuild", "--allow-async", "--max-rate", "4M"]
COPY = ["seed-standby", "--rebuild", "--allow-async", "--method", "copy", "--yes"]
COUNT = "SELECT count(*) FROM kept"
# What a refusal names: to start what is down; to have a primary where all are standbys now.
CURE = re.compile(r"`invoke (start|failover)\b")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    ("words", "moment"),
    [
        pytest.param(SLOW, "base backup from", id="basebackup"),
        pytest.param(COPY, "copying the files", id="copy"),
        pytest.param(["switchover", "--to"], "marking it", id="marking"),
        pytest.param(
            ["switchover", "--to"], "stopping it", id="switchover", marks=pytest.mark.long
        ),
        pytest.param(
            ["switchover", "--to"], "is primary now", id="promoted", marks=pytest.mark.long
        ),
        pytest.param(["stop"], "stopping it", id="stop"),
    ],
)
@pytest.mark.long
def test_it_ends_in_the_middle(
    pair_there: Herd, own_engine: Engine, words: list[str], moment: str, sign: signal.Signals
) -> None:
    herd = pair_there
    herd.invoke("start")
    primary = leader(herd, own_engine)
    standby = next(role for role in herd.nodes if role != primary)
    herd.invoke("rejoin", herd.container(standby))  # whatever the last one left
    ask(herd, own_engine, primary, "CREATE TABLE IF NOT EXISTS kept (n int)")
    ask(herd, own_engine, primary, "INSERT INTO kept SELECT generate_series(1, 1000)")
    rows = ask(herd, own_engine, primary, COUNT)
    whom = {"--to": [herd.container(standby)], "seed-standby": ["--node", herd.container(standby)]}
    words = [*words, *whom.get(words[-1], whom.get(words[0], []))]
    with subprocess.Popen(
        [*INVOKE, *words], cwd=ROOT, env=herd.environment(), stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        assert run.stderr
        assert any(moment in line for line in run.stderr)
        own_engine.stop_engine(sign)
        said = run.stderr.read()
    assert "Traceback" not in said
    assert run.returncode != 0
    assert said.strip()
    own_engine.start_engine()
    again(herd, words)
    if words[0] == "stop":
        herd.invoke("start")
    until(lambda: passes(herd), "verify passes")
    assert ask(herd, own_engine, leader(herd, own_engine), COUNT) == rows


def again(herd: Herd, words: list[str]) -> None:
    """Run the task again; where it is refused, do what the refusal says, until it is done."""
    said = []
    for _ in range(3):
        done = tried(herd, words)
        said.append(done.stderr)
        if done.returncode == 0:
            return
        while done.returncode == 2 and (cure := CURE.search(done.stderr)) and len(said) < 9:
            done = tried(herd, [cure[1]])
            said.append(done.stderr)
        assert done.returncode == 0, "\n".join(said)
    pytest.fail("\n".join(["it is not done:", *said]))


def tried(herd: Herd, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a task, whatever comes of it."""
    return subprocess.run(
        [*INVOKE, *words], cwd=ROOT, env=herd.environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def ask(herd: Herd, engine: Engine, role: str, statement: str) -> str:
    """Ask a server in its container."""
    words = ["psql", "-XAtqU", "postgres", "-c", statement]
    inside = ("exec", "--user", "postgres", herd.container(role))
    return engine.docker(*inside, *words, check=False).strip()  # one that is down says nothing


def leader(herd: Herd, engine: Engine) -> str:
    """Return the role of the node that is primary."""
    (found,) = [r for r in herd.nodes if ask(herd, engine, r, "SELECT pg_is_in_recovery()") == "f"]
    return found
