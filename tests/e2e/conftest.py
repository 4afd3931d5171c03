"""Groups of real servers, each with names, ports and directories of its own."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import leftovers
import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
INVOKE = [sys.executable, "-m", "invoke"]
INVOKE_SECONDS = 240.0
MAJORS = ("15", "17", "18")  # those that can be had without a registry; 18 has another layout


def majors(core: str) -> list[Any]:
    """Return all; only `core` is always tested, the others by `invoke test --all`."""
    long = pytest.mark.long
    return [m if m == core else pytest.param(m, marks=long) for m in MAJORS]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in this folder, so that it can be chosen; leave out what takes long unasked."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
        if (core := item.get_closest_marker("core")) and _major_of(item) not in core.args:
            item.add_marker(pytest.mark.long)
    if not os.environ.get("PGHERD_LONG"):
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def _major_of(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    return str(item.callspec.params["pair"])


def docker(*words: str, check: bool = True, env: dict[str, str] | None = None) -> str:
    """Run a docker command and return what it printed."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=120, check=False, env=env
    )
    assert not check or done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Herd:
    """A topology in a file, its nodes' names and ports, and `invoke` on it."""

    name: str
    directory: Path
    nodes: dict[str, dict[str, Any]]  # by role: "master", "standby", …; each with its keys
    group: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)  # what runs a command where the nodes are
    seconds: float = INVOKE_SECONDS  # that an invoke may take

    @property
    def topology(self) -> Path:
        """The topology file."""
        return self.directory / "topology.toml"

    def write(self) -> None:
        """Write the topology as it is now; JSON's literals are TOML's as well."""
        lines = [
            "[group]",
            *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in self.group.items()),
        ]
        for keys in self.nodes.values():
            lines += ["", f"[nodes.{keys['name']}]"]
            lines += [f"{k} = {_toml(v)}" for k, v in keys.items() if k != "name"]
        self.topology.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def container(self, role: str) -> str:
        """The container's name of a node."""
        return str(self.nodes[role]["name"])

    def data(self, role: str) -> Path:
        """The data directory of a node."""
        return Path(self.nodes[role]["data"])

    def secrets(self) -> Path:
        """The group's passwords."""
        return ROOT / "data" / "secrets" / self.name

    def password(self) -> str:
        """The superuser's password."""
        return (self.secrets() / "postgres.password").read_text(encoding="utf-8").rstrip("\n")

    @property
    def places(self) -> list[tuple[str, int]]:
        """Where clients reach the nodes."""
        return [(self.address(role), int(self.nodes[role]["port"])) for role in self.nodes]

    def address(self, role: str) -> str:
        """Where a node's port is published."""
        return str(self.nodes[role].get("listen", "127.0.0.1"))

    def primary(self) -> str:
        """The role in the topology of the one node that takes writes."""
        names = ["ps", "--filter", "status=running", "--format", "{{.Names}}"]
        words = (*names, "--filter", f"name={self.name}-")
        running = docker(*words, env=self.environment()).splitlines()
        up = [role for role in self.nodes if self.container(role) in running]
        leading = [role for role in up if self.sql(role, "SELECT NOT pg_is_in_recovery()")]
        assert len(leading) == 1, leading
        return leading[0]

    def status(self, role: str) -> str:
        """The state of a node's container; empty if it has none."""
        words = ("inspect", "--format", "{{.State.Status}}", self.container(role))
        return docker(*words, check=False, env=self.environment())

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of an invoke on this group."""
        return {**os.environ, "INVOKE_TOPOLOGY": str(self.topology), **self.env, **more}

    def within(self, seconds: float) -> Self:
        """Return the same group, whose tasks have to end in so many seconds."""
        return replace(self, seconds=seconds)

    def invoke(
        self, *words: str, code: int | None = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `invoke WORDS` as a user would; the exit status has to be `code`, or any if None."""
        try:
            done = subprocess.run(
                [*self.inside, *INVOKE, *words], cwd=ROOT, env=self.environment(**env),
                capture_output=True, text=True, timeout=self.seconds, stdin=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            told = (late.stderr or b"").decode(errors="replace")
            late_by = f"did not end within {self.seconds:g} s; it said:\n{told}"
            pytest.fail(f"invoke {' '.join(words)} {late_by}", pytrace=False)
        said = f"invoke {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, said
        assert code in {None, done.returncode}, said
        return done

    def checks(self, code: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
        """Run verify and return its checks by name and role."""
        answer = json.loads(self.invoke("verify", "--json", code=code).stdout)
        roles = {keys["name"]: role for role, keys in self.nodes.items()}
        assert answer["ok"] is (code == 0)
        return {(check["name"], roles[check["node"]]): check for check in answer["checks"]}

    @contextmanager
    def connect(self, role: str, **options: Any) -> Iterator[psycopg.Connection[Any]]:
        """Connect as an application would: to the published port, with the password."""
        with psycopg.connect(
            host=self.address(role), port=self.nodes[role]["port"], user="postgres",
            dbname="postgres", password=self.password(), connect_timeout=5, autocommit=True,
            **options,
        ) as connection:  # fmt: skip
            yield connection

    def sql(self, role: str, statement: str) -> Any:
        """Run one statement as an application; return the first column of its first row.

        What a standby's replay cancels is asked once more, as an application has to.
        """
        try:
            return self._once(role, statement)
        except psycopg.errors.SerializationFailure:
            return self._once(role, statement)

    def _once(self, role: str, statement: str) -> Any:
        with self.connect(role) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def clear(self) -> None:
        """Remove everything of this group, whatever state it is in."""
        names = [str(keys["name"]) for keys in self.nodes.values()]
        helpers = [f"pgherd-{self.name}-{name}" for name in names]
        for container in [*names, *helpers]:
            docker("rm", "--force", "--volumes", container, check=False)
        docker("network", "rm", f"pgherd-{self.name}", check=False)
        volumes = docker("volume", "ls", "--quiet", "--filter", f"label=pgherd.group={self.name}")
        for volume in volumes.split():
            docker("volume", "rm", volume, check=False)
        shutil.rmtree(self.secrets(), ignore_errors=True)
        for left in (ROOT / "data" / "secrets").glob(f"{self.name}_bk_*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in (ROOT / "data").glob(f".{self.name}*"):  # who was at work
            left.unlink()
        leftovers.release(self.name)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def new_herd(directory: Path, major: str = "17", standbys: int = 1, **group: Any) -> Herd:
    """Write the topology of a group of its own; none of it exists yet, and `clear` ends it."""
    name = f"t{secrets.token_hex(3)}"
    nodes: dict[str, dict[str, Any]] = {"master": {"name": f"{name}-master"}}
    for number in range(1, standbys + 1):
        role = "standby" if number == 1 else f"standby{number}"
        nodes[role] = {
            "name": f"{name}-{role}",
            "upstream": f"{name}-master",
            "application_name": f"standby{number}",
        }
    for role, keys in nodes.items():
        keys |= {"port": free_port(), "data": str(directory / f"{role}_data")}
    asked = {"name": name, "image": f"postgres:{major}", "sync": "FIRST 1 (standby1)"}
    herd = Herd(name, directory, nodes, asked | group)
    leftovers.claim(name)
    herd.write()
    return herd


MakeHerd = Callable[..., Herd]
_images: set[str] = set()  # the major versions whose images this process has seen


@pytest.fixture(scope="session", autouse=True)
def engine() -> str:
    """The version of the engine that answers; without one there is nothing to test with.

    What an earlier run of the tests left that was killed is cleared away: networks are few. Not at
    the session's begin, which a folder below the one that is tested does not hear of.
    """
    done = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"No Docker Engine answers, see `./scripts/bootstrap`: {done.stderr.strip()}")
    leftovers.clear()
    return done.stdout.strip()


@pytest.fixture(scope="module")
def make_herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeHerd]:
    """Return a maker of groups; what it made is gone when the module is done."""
    made: list[Herd] = []

    def make(major: str = "17", standbys: int = 1, **group: Any) -> Herd:
        herd = new_herd(tmp_path_factory.mktemp("herd"), major, standbys, **group)
        made.append(herd)
        with (tmp_path_factory.getbasetemp().parent / "image.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several workers, and building one takes a minute
            if major not in _images:
                herd.invoke("image")
                _images.add(major)
        return herd

    yield make
    for herd in made:
        herd.clear()


@pytest.fixture(scope="module", params=MAJORS)
def pair(request: pytest.FixtureRequest, make_herd: MakeHerd) -> Herd:
    """A master and a standby that streams, on each major version in turn."""
    herd = make_herd(request.param)
    herd.invoke("setup-master", "seed-standby")
    return herd


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, show the servers' last words."""
    report = yield
    if report.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Herd):
                for role in value.nodes:
                    words = ("logs", "--tail", "30", value.container(role))
                    tail = docker(*words, check=False, env=value.environment())
                    report.sections.append((f"log of {value.container(role)}", tail))
    return report
