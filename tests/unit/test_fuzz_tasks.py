"""Whatever is typed after a task, or stands in the environment, is taken or refused in words.

The tasks run as Invoke runs them, on hosts that run nothing: every command is recorded.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fakes import ANSWER, ROOT, Call, FakeHost, Said
from fuzzing import NASTY, WORDS, check_shown, fuzz
from hypothesis import given
from hypothesis import strategies as st
from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from pgherd.config import loader
from pgherd.hosts.commands import Result, argv_of
from pgherd.tasks import common, usage

TOPOLOGY = """
[group]
name = "g"
sync = "s1"
[nodes.pa]
port = 5432
data = "data/pa"
[nodes.s1]
port = 5433
data = "data/s1"
upstream = "pa"
[nodes.s2]
port = 5434
data = "data/s2"
upstream = "s1"
"""
NOT_OURS = {
    "test",
    "bench",
    "rig.up",
    "rig.down",
    "torture.kills",
    "torture.faults",
    "torture.soak",
}  # they take this process's place


class Everywhere(FakeHost):
    """A host where each command succeeds and says nothing but what a group has there."""

    calls: list[Call]

    def __init__(self, trace: Any, says: str, calls: list[Call], home: str) -> None:
        super().__init__({}, dry=trace.dry)
        self.trace, self.says, self.calls, self.home = trace, says, calls, home

    def run(self, command: Any, **options: Any) -> Result:
        """Record it, and say what the group has where that is asked for."""
        self.plan = {(): Said()}
        argv = argv_of(command)
        stdin = options.get("stdin")
        text = stdin.text() if stdin is not None and hasattr(stdin, "text") else ""
        if "== ANSWERS" in text:
            self.plan = {(): Said(self.says)}
        elif "docker container inspect" in " ".join(argv):
            self.plan = {(): Said(self.says.partition("== ANSWERS")[0])}
        elif argv[:3] == ["docker", "image", "inspect"]:
            self.plan = {(): Said(IMAGE)}
        return super().run(command, **options)


IMAGE = json.dumps(
    [{"Id": "sha256:17", "RepoTags": ["postgres:17"], "Config": {"Env": ["PG_MAJOR=17"]}}]
)


def living(home: str) -> str:
    """Return what a look at an engine finds where the group runs."""
    names, answers = ["pa", "s1", "s2"], []
    labels = {"pgherd.group": "g", "pgherd.home": home}
    records = [
        {
            "Id": name, "Name": f"/{name}", "Image": "sha256:17", "Mounts": [],
            "State": {"Status": "running", "ExitCode": 0, "StartedAt": "2026"},
            "Config": {"Image": "postgres:17", "Labels": labels | {"pgherd.node": name}},
        }
        for name in names
    ]  # fmt: skip
    for name in names:
        facts = ANSWER | {"in_recovery": name != "pa"}
        answers.append(f"== {name} 0\n{json.dumps(facts)}\n== {name} stderr\n\n")
    return f"{json.dumps(records)}\n== ANSWERS\n{''.join(answers)}"


def _tasks() -> Collection:
    spec = importlib.util.spec_from_file_location("tasks_to_fuzz", ROOT / "tasks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr("signal.signal", lambda *_: None)
        spec.loader.exec_module(module)
    return Collection.from_module(module)


TASKS = _tasks()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of its own, where secrets and locks may be made."""
    made = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", made / "conf")
    (made / "g.toml").write_text(TOPOLOGY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "ROOT", made)
        patch.chdir(made)
        yield made


@dataclass(frozen=True)
class Ran:
    """What came of it: exit status, what it printed, and the commands that it would have run."""

    code: int
    out: str
    err: str
    calls: list[Call]


def no_client(*_words: Any, **_options: Any) -> None:
    raise psycopg.OperationalError("connection refused")


def run(root: Path, argv: list[str], says: str, **environ: str) -> Ran:
    """Run Invoke on these words."""
    calls: list[Call] = []
    out, err, code = io.StringIO(), io.StringIO(), 0

    def local(trace: Any) -> Everywhere:
        return Everywhere(trace, says, calls, str(root / "data"))

    def remote(name: str, trace: Any, *_: Any) -> Everywhere:
        made = local(trace)
        made.name, made.over = name, ("ssh", name)
        return made

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("pgherd.group.group.LocalHost", local)
        patch.setattr("pgherd.group.group.open_host", remote)
        patch.setattr("psycopg.connect", no_client)
        patch.setattr("signal.signal", lambda *_: None)
        patch.setattr(sys, "argv", ["invoke", *argv])
        patch.setattr(sys, "stdin", io.StringIO())
        patch.setattr(sys, "excepthook", sys.excepthook)
        for name in [name for name in os.environ if name.startswith("INVOKE_")]:
            patch.delenv(name)
        for name, value in {"INVOKE_TOPOLOGY": str(root / "g.toml"), **environ}.items():
            patch.setenv(name, value)
        common._open_group.cache_clear()
        reader = Program()  # the one that has just loaded tasks.py
        patch.setattr(usage, "program", reader)
        try:
            reader.create_config()
            reader.parse_core(["invoke", *argv])
            common.register_tasks(TASKS)
            Program(namespace=TASKS, name="invoke").run(["invoke", *argv])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Exit as end:  # Invoke prints it and ends so
            code = end.code
            print(end.message, file=err)
        except ParseError as end:
            code = 1
            print(end, file=err)
    return Ran(code, out.getvalue(), err.getvalue(), calls)


def check(ran: Ran, typed: list[str]) -> None:
    """See that it ended in words that can be shown, and that no shell was given what was typed."""
    assert ran.code in {0, 1, 2, 3, 4}
    check_shown(ran.err)
    assert "not foreseen" not in ran.err
    assert ran.code == 0 or ran.err.strip() or ran.out.strip()
    if ran.code == 2:
        assert [call.argv for call in ran.calls if not call.reads] == []
    for call in ran.calls:
        if "-c" in call.argv and call.argv[0] == "sh":  # its text is never made of what was typed
            text = call.argv[call.argv.index("-c") + 1]
            assert not [word for word in typed if "touch X" in word and word in text]


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Return a task with nasty words for some of what it takes."""
    contexts = [c for c in TASKS.to_contexts() if c.name not in NOT_OURS]
    argv = draw(st.sampled_from([[], [], ["--dry"], ["--echo"], ["on", draw(WORDS)]]))
    context = draw(st.sampled_from(contexts))
    argv = [*argv, str(context.name)]
    for name, argument in context.args.items():
        if argument.positional:
            argv.append(draw(WORDS | st.sampled_from(["s1", "pa", "s1,s2", "new"])))
        elif draw(st.integers(0, 2)) == 0 and name != "watch":  # that would never end
            words = WORDS | st.sampled_from(["s1", "pa", "g", "new", "s1,s2", "32M", "any"])
            flag = argument.names[0].replace("_", "-")
            argv += [f"--{flag}={draw(words)}"] if argument.takes_value else [f"--{flag}"]
    return [*argv, draw(WORDS)] if draw(st.integers(0, 9)) == 0 else argv


@fuzz(40)
@given(argv=lines())
def test_what_is_typed_where_there_is_nothing(root: Path, argv: list[str]) -> None:
    check(run(root, argv, ""), argv)


@fuzz(40)
@given(argv=lines())
def test_what_is_typed_where_the_group_lives(root: Path, argv: list[str]) -> None:
    check(run(root, argv, living(str(root / "data"))), argv)


VARIABLES = ["TOPOLOGY", "HOST", "SSH_CONFIG", "RUN_ECHO", "RUN_DRY", "PGHERD_ON", "X"]


@fuzz(20)
@given(environ=st.dictionaries(st.sampled_from(VARIABLES), WORDS.filter(bool), min_size=1))
def test_the_environment(root: Path, environ: dict[str, str]) -> None:
    named = {f"INVOKE_{name}": value for name, value in environ.items()}
    check(run(root, ["uri"], "", **named), list(environ.values()))


@pytest.mark.parametrize("word", [word for word in NASTY if word not in {"pa", "s1", "PA"}])
@pytest.mark.parametrize("task", ["switchover --to", "failover --to", "step.set-aside --node"])
def test_an_unknown_node_changes_nothing(root: Path, task: str, word: str) -> None:
    ran = run(root, [*task.split(), word], living(str(root / "data")))
    check(ran, [word])
    assert ran.code in {1, 2}
    assert len(ran.err) < 1000
