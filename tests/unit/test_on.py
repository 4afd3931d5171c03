"""`invoke on HOST`: where it may stand, and what follows from it. Nothing is connected to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pgherd.hosts.commands import Trace, qualify_commands

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verify", "on", "box"], "`on box` comes before all other tasks, and once."),
        (["on", "a", "on", "b", "verify"], "`on b` comes before all other tasks, and once."),
        (["seed-standby", "--rebuild", "on", "box"], "`on box` comes before all other tasks"),
        (["on", "", "down"], "was given an empty word: a variable not set?"),
        (["on", "verify"], "`invoke on verify`: verify is a task, and before it comes a host."),
        (["on", "step.start", "verify"], "step.start is a task, and before it comes a host."),
        (["on", "box"], "`invoke on box` wants the tasks for it"),
        (["on", "-x", "uri"], "It was given '-x';"),
        (["on", "box:99999", "uri"], 'must be "local" or an SSH destination'),
        (["logs", "--tail", "many"], "--tail is a number of lines, not 'many'."),
    ],
)
def test_what_is_misplaced_is_refused_before_anything(words: list[str], sentence: str) -> None:
    """Else the first half would be done on this machine."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *words], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_a_node_may_be_called_on() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "logs", "--node", "on", "--tail", "x"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "--tail is a number" in done.stderr


def test_advice_is_for_the_host_that_the_group_is_on(capsys: pytest.CaptureFixture[str]) -> None:
    said = "pa does not run: `invoke start`, or `invoke on box down`."
    assert qualify_commands(said, "") == said
    assert (
        qualify_commands(said, "box")
        == "pa does not run: `invoke on box start`, or `invoke on box down`."
    )
    Trace(on="box").note("try `invoke start`")
    assert capsys.readouterr().err == "try `invoke on box start`\n"
