"""The conventions of the house: what is where, who may import whom, and that all of it is told."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from types import ModuleType

import pytest
from fakes import ROOT
from invoke.collection import Collection
from invoke.parser import Parser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pgherd.errors import Error, Refused
from pgherd.operations import steps as tutorial
from pgherd.tasks import common

PACKAGE = ROOT / "scripts" / "pgherd"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in [*FILES, ROOT / "tasks.py"]}

# A room imports only from rooms above it.
ROOMS = [
    "errors", "config", "hosts", "security", "docker", "postgres", "group", "client", "operations",
    "checks", "fix", "report", "tasks",
]  # fmt: skip


def module_name(file: object) -> str:
    """Return a file's name as a module: pgherd.docker for pgherd/docker/__init__.py."""
    words = str(file).removeprefix(f"{PACKAGE.parent}/").removesuffix(".py").split("/")
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


MODULES = {module_name(file): TREES[file] for file in FILES}


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield which modules of the package these nodes import; submodules by their own name."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pgherd":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "pgherd")


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: no functions, nothing for type checkers only."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from [node] if not isinstance(node, ast.FunctionDef) else []


# --- rooms ---


def test_all_rooms_are_known() -> None:
    found = {name.split(".")[1] for name in MODULES if "." in name}
    assert found == set(ROOMS)


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_a_room_imports_only_from_rooms_above(name: str) -> None:
    room = ROOMS.index(name.split(".")[1])
    below = [
        other
        for other in imports(ast.walk(MODULES[name]))
        if "." in other and ROOMS.index(other.split(".")[1]) > room
    ]
    assert below == []


def test_operations_and_checks_do_not_import_each_other() -> None:
    """What both ask stands in the rooms below; `doctor --fix` joins them, in a room of its own."""
    crossing = [
        (name, other)
        for name, tree in MODULES.items()
        for other in imports(ast.walk(tree))
        if {*name.split(".")[1:2], *other.split(".")[1:2]} == {"operations", "checks"}
    ]
    assert crossing == []


def test_modules_do_not_import_in_circles() -> None:
    graph = {name: set(imports(at_import_time(tree))) - {name} for name, tree in MODULES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle
    assert set(order) == set(MODULES)


# --- who does what ---


def found_in(pattern: str) -> set[str]:
    """Return in which modules of the package a pattern is."""
    return {module_name(f) for f in FILES if re.search(pattern, f.read_text(encoding="utf-8"))}


def test_only_host_starts_processes() -> None:
    starts = r"\bsubprocess\b|\bpopen\b|\bos\.(exec|spawn|system|fork|posix_spawn)"
    assert found_in(starts) == {
        "pgherd.hosts.process",
        "pgherd.tasks.develop",
    }  # pytest takes its place


def test_only_config_reads_the_environment() -> None:
    assert found_in(r"\bos\.(environ|getenv)") == {"pgherd.config.loader", "pgherd.tasks.develop"}


def test_only_the_trace_and_tasks_print() -> None:
    printing = {
        f"{name}.{getattr(top, 'name', '')}"
        for name, tree in MODULES.items()
        for top in tree.body
        for node in ast.walk(top)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "sys.stdout.write"}
        and not name.startswith("pgherd.tasks.")
    }
    assert printing == {"pgherd.hosts.commands.Trace"}


# --- what is undone ---


def test_what_is_undone_is_undone_whatever_the_fault_is() -> None:
    """A signal is no Error, nor is what the system raises; `head -1` was neither, once."""
    found = {
        f"{name}: {ast.unparse(node.type) if node.type else ''}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and any("cleaning_up()" in ast.unparse(part) for part in node.body)
    }
    found.discard("pgherd.docker.engine: DeadlinePassed")  # it only looks who hangs
    assert {told.partition(": ")[2] for told in found} == {"BaseException"}, found
    assert len(found) >= 4


# --- tasks ---

# Parameters whose name says all.
OBVIOUS = {"tail"}


@pytest.fixture
def tasks_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest has its own handlers
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    spec = importlib.util.spec_from_file_location("tasks_of_this_project", ROOT / "tasks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tasks(tasks_module: ModuleType) -> Collection:
    """The tasks as Invoke finds them."""
    return Collection.from_module(tasks_module)


@pytest.fixture
def readme() -> str:
    """The front page and all others that people read."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_there_are_the_tasks_that_the_users_know(tasks: Collection) -> None:
    assert set(tasks.task_names) == {
        "setup-master", "seed-standby", "add-standby", "remove-standby", "sync", "verify", "demo",
        "status", "diff", "show", "apply", "steps", "logs", "psql", "uri", "stop", "start", "down",
        "switchover", "failover", "rejoin", "aside.list", "aside.restore", "aside.delete", "image",
        "tls", "on", "hosts", "test", "bench", "rig.up", "rig.down", "audit", "doctor",
        "rotate-passwords", "torture.kills", "torture.faults", "torture.soak", "step.run-master",
        "step.run-standby", "step.stop", "step.set-aside", "step.copy-data", "step.base-backup",
        "step.allow-replication", "step.connect-standby", "step.mark-standby", "step.start",
        "step.require-sync", "step.logs", "step.check",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: /x"),
        (OSError(28, "No space left"), "No space left: [Errno 28] No space left"),
    ],
)
def test_a_fault_of_the_system_is_told(fault: OSError, sentence: str) -> None:
    """As a failure: something may have been changed before, which Refused denies."""

    def body() -> None:
        raise fault

    with pytest.raises(Error) as caught:
        common.report_errors(body)()
    assert (caught.value.sentence, isinstance(caught.value, Refused)) == (sentence, False)


def test_every_task_and_parameter_is_explained(tasks: Collection) -> None:
    bare = [
        f"{task.name} {name}"
        for task in tasks.to_contexts()
        for name, argument in task.args.items()
        if not argument.help and name not in OBVIOUS
    ]
    assert bare == []
    for name in tasks.task_names:
        assert re.match(r"[A-Z0-9].*\.(\n|$)", tasks[name].__doc__ or ""), name


def test_a_step_takes_a_node_if_its_operation_does(tasks: Collection) -> None:
    for name, task in tasks.collections["step"].tasks.items():
        operation = getattr(tutorial, name.replace("-", "_"), None)
        if operation is not None:  # else it is another task, under a step's name
            takes = {argument.name for argument in task.get_arguments()}
            assert ("node" in takes) == ("name" in inspect.signature(operation).parameters), name


def test_the_readme_names_every_task(tasks: Collection, readme: str) -> None:
    lines = [line for line in readme.splitlines() if re.search(r"invoke|bootstrap", line)]
    named = {word for line in lines for word in re.findall(r"[a-z]+(?:[.-][a-z]+)*", line)}
    assert set(tasks.task_names) - named == set()


def test_pages_are_short_and_their_links_lead_somewhere() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 200, page
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands(text: str) -> Iterator[str]:
    """Yield the invoke commands of a Markdown text that are meant to be typed as they are."""
    for line in text.splitlines():
        typed = [line.split("  #")[0]] if line.startswith("    ") else re.findall("`([^`]+)`", line)
        for command in typed:
            if (
                found := re.search(r'\binvoke (?!ARGS)((?:"[^"]*"|[^;|)"`])+)', command)
            ) and not re.search(r"…|invoke --(list|help)", command):
                yield re.sub(r"--(echo|dry|debug) ", "", found[1]).strip()


def test_the_readmes_commands_can_be_typed(tasks: Collection, readme: str) -> None:
    found = set(commands(readme))
    assert {"setup-master", "down --purge --confirm pair"} <= found
    for command in found:
        asked = Parser(contexts=tasks.to_contexts()).parse_argv(shlex.split(command))
        assert [context.name for context in asked], command


def test_the_sentences_name_tasks_that_are_there(tasks: Collection) -> None:
    named = {
        word
        for file in FILES
        for word in re.findall(r"`invoke ([a-z]+(?:[.-][a-z]+)*)", file.read_text(encoding="utf-8"))
    }
    assert {"setup-master", "seed-standby", "start"} <= named
    assert named - set(tasks.task_names) == set()


# --- tools ---


@pytest.mark.parametrize(
    "words", ["ruff check .", "ruff format --check .", "mypy --strict"], ids=lambda words: words
)
def test_tools_find_nothing(words: str) -> None:
    command = [sys.executable, "-m", *words.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- what is locked ---

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "")
LOCKED = [line for line in LOCK.splitlines() if line.strip() and not line.startswith("#")]
WANTED = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["dependency-groups"]["dev"],
    *PROJECT["build-system"]["requires"],
]


@pytest.mark.parametrize("wanted", WANTED)
def test_what_the_project_wants_is_locked(wanted: str) -> None:
    requirement = Requirement(wanted)
    names = [requirement.name, *(f"{requirement.name}-{extra}" for extra in requirement.extras)]
    for name in map(canonicalize_name, names):
        versions = [v for v in LOCKED if v.startswith(f"{name}==")]
        assert len(versions) == 1, name
        version = versions[0].split("==")[1].split()[0]
        assert version in requirement.specifier, name


def test_everything_locked_has_its_hashes() -> None:
    assert len(LOCKED) > len(WANTED)
    for line in LOCKED:
        assert re.match(r"[a-z0-9.-]+==\S+ (; [^;]+ )? *--hash=sha256:[0-9a-f]{64}", line), line
