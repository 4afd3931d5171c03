"""A mistake in what is typed: status 2, one sentence that says what is meant, nothing is run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from fakes import ROOT
from invoke.collection import Collection
from invoke.program import Program

from pgherd.errors import Refused
from pgherd.tasks import usage


@pytest.fixture(scope="module")
def tasks() -> Collection:
    spec = importlib.util.spec_from_file_location("tasks_to_read", ROOT / "tasks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr("signal.signal", lambda *_: None)
        spec.loader.exec_module(module)
    made: Collection = module.ns
    return made


def read(tasks: Collection, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a line as it is read where Invoke has just loaded tasks.py."""
    program = Program()
    program.create_config()
    program.parse_core(["invoke", *line.split()])
    monkeypatch.setattr(usage, "program", program)
    usage.check_words(tasks)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("statsu", "There is no task 'statsu'. Did you mean `status`?"),
        ("zzz", "There is no task 'zzz'. `invoke --list` tells what there is."),
        ("restore x", "There is no task 'restore'. Did you mean `aside.restore`?"),
        ("uri --role any switchovr", "uri takes no further word. Did you mean `switchover`?"),
        ("seed-standby s1", "There is no task 's1', and seed-standby takes no further word."),
        ("seed-standby --rebild", "seed-standby has no option '--rebild'. Did you mean"),
        ("status -x", "status has no option '-x'. `invoke --help status` tells what there is."),
        ("--lst", "invoke has no option '--lst'. Did you mean `--list`?"),
        ("logs --tail", "logs --tail needs a value: how many lines (default: 50)."),
        ("seed-standby --node s1 verify --node", "verify has no option '--node'."),
        ("rejoin", "rejoin needs NAME (the node): `invoke rejoin NAME`."),
        ("rejoin --max-los 5", "rejoin needs NAME (the node): `invoke rejoin NAME`. It was given"),
        ("rejoin --help", "It was given '--help'; `invoke --help rejoin` explains it."),
        ("add-standby", "add-standby needs NAMES (one or several"),
        ("bench --rounds x", "'x' is given where a number is wanted."),
        ("--help statsu", "There is no task 'statsu'. Did you mean `status`?"),
        ("--list stpe", "There is no group of tasks 'stpe'. Did you mean `step`?"),
        ("test --mutants test", "'test' is ambiguous when given after an optional-value flag"),
        ("\x1b[31m", r"There is no task '\x1b[31m'."),
    ],
)
def test_a_mistake_is_told(
    tasks: Collection, line: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused) as caught:
        read(tasks, line, monkeypatch)
    assert sentence in caught.value.sentence


@pytest.mark.parametrize(
    "line",
    [
        "", "--list", "--list step", "--help torture", "torture --list", "seed-standby --help",
        "on box verify --json", "add-standby --all", "add-standby s1,s2", "logs --node on",
        "setup-master seed-standby verify", "--echo step.set-aside --node s1", "test --mutants",
    ],
)  # fmt: skip
def test_what_is_right_is_left_to_invoke(
    tasks: Collection, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(tasks, line, monkeypatch)


def test_it_ends_with_2_and_prints_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "setup-master", "verfy"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "There is no task 'verfy', and setup-master takes no further word. Did you mean `verify`?\n"
    )


def test_the_help_of_a_task_still_tells_its_options() -> None:
    """Invoke takes the texts out of the tasks that it reads: they are read from a copy."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "--help", "step.logs"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "how many lines (default: 50)" in done.stdout
