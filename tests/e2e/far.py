"""Groups of real servers on hosts of the rig; `rigged_far` has their fixtures."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from conftest import INVOKE, ROOT, Herd, docker
from host import Host
from machine import run
from rig import Rig

THREE = ("setup-master", "seed-standby", "verify")
LOCAL = "local"
LOOPBACK = "127.0.0.1"
REFUSED, UNREACHABLE = 2, 3  # exit statuses


@dataclass
class Far(Herd):
    """A group on hosts of the rig: of its own topology, or placed on one by `invoke on`.

    Attributes:
        rig: where the hosts are.
        on: the SSH destination that all of it is placed on; empty if the topology says the hosts.
        roots: where the relative data paths of a destination lie, if not in ~/pgherd.
    """

    rig: Rig = field(kw_only=True)
    on: str = ""
    roots: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write the topology as it is now."""
        super().write()
        with self.topology.open("a", encoding="utf-8") as file:
            for host, root in self.roots.items():
                print(f"\n[hosts.{json.dumps(host)}]\nroot = {json.dumps(root)}", file=file)

    def destination(self, role: str) -> str:
        """The host of a node, as SSH takes it."""
        return self.on or str(self.nodes[role]["host"])

    def host(self, role: str) -> Host:
        """The host of a node."""
        return self.rig.hosts[self.destination(role).rpartition("@")[2]]

    def docker(self, role: str, *words: str, check: bool = True) -> str:
        """Run a docker command on the engine of a node."""
        if self.destination(role) == LOCAL:
            return docker(*words, check=check)
        return self.host(role).docker(*words, check=check).strip()

    def log(self, role: str) -> str:
        """The last words of a node's server."""
        words = ("sh", "-c", 'docker logs --tail 30 "$1" 2>&1', "sh", self.container(role))
        if self.destination(role) == LOCAL:
            return run(*words, check=False)
        return self.host(role).run(*words, check=False)

    def home(self, role: str) -> Path:
        """The home directory of whoever logs in for a node, as it is seen from outside."""
        user, at, _host = self.destination(role).rpartition("@")
        return self.host(role).home(user if at else "root")

    def data(self, role: str) -> Path:
        """The data directory of a node, as it is seen from outside."""
        said = str(self.nodes[role]["data"])
        if self.destination(role) == LOCAL:
            return Path(said)
        if said.startswith("/"):
            return self.host(role).place(said)
        root = self.roots.get(self.destination(role))
        return (self.host(role).place(root) if root else self.home(role) / "pgherd") / said

    def secrets(self) -> Path:
        """The group's passwords on this machine."""
        return ROOT / "data" / "secrets" / (f"{self.name}@{self.on}" if self.on else self.name)

    @property
    def places(self) -> list[tuple[str, int]]:
        """Where clients on this machine reach the nodes that others can reach."""
        return [(str(keys["listen"]), int(keys["port"])) for keys in self.nodes.values()]

    def status(self, role: str) -> str:
        """The state of a node's container; empty if it has none."""
        words = ("inspect", "--format", "{{.State.Status}}", self.container(role))
        return self.docker(role, *words, check=False)

    def primaries(self) -> list[str]:
        """The roles in the topology of the nodes that run and are not in recovery."""
        up = [role for role in self.nodes if self.status(role) == "running"]
        return [role for role in up if self.sql(role, "SELECT pg_is_in_recovery()") == "f"]

    def passwords(self) -> list[str]:
        """What is nowhere to be seen: both passwords."""
        return [file.read_text().strip() for file in sorted(self.secrets().glob("*.password"))]

    def words(self, *words: str) -> list[str]:
        """The words of an invoke on this group; options of invoke itself come first."""
        options = [word for word in words if word in {"--echo", "--dry"}]
        rest = [word for word in words if word not in options]
        return [*options, *(["on", self.on] if self.on else []), *rest]

    def invoke(
        self, *words: str, code: int | None = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `invoke WORDS` as a user would; the exit status has to be `code`, or any if None."""
        return super().invoke(*self.words(*words), code=code, **env)

    def begin(self, *words: str, root: Path = ROOT) -> subprocess.Popen[str]:
        """Start an invoke and do not wait for it."""
        return subprocess.Popen(
            [*INVOKE, *self.words(*words)], cwd=root, env=self.environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def sql(self, role: str, statement: str) -> str:
        """Run SQL by psql in a node's container; return what it prints."""
        words = ("exec", "--user", "postgres", self.container(role), "psql", "-XAtq", "-c")
        return self.docker(role, *words, statement)

    @contextmanager
    def connect(self, role: str, **options: Any) -> Iterator[psycopg.Connection[Any]]:
        """Connect as an application on this machine would, to a node that others can reach."""
        password = (self.secrets() / "postgres.password").read_text(encoding="utf-8").rstrip("\n")
        node = self.nodes[role]
        with psycopg.connect(
            host=node["listen"], port=node["port"], user="postgres", password=password,
            dbname="postgres", connect_timeout=3, autocommit=True, **options,
        ) as connection:  # fmt: skip
            yield connection

    def things(self) -> list[object]:
        """What of this group is on the hosts and here: to see whether anything was changed."""
        found: list[object] = [sorted(self.secrets().rglob("*"))]
        listed = ("--no-trunc", "--filter", f"name={self.name}", "--format")
        for role in self.nodes:
            found += [
                self.docker(role, "ps", "--all", *listed, "{{.ID}} {{.Names}} {{.State}}"),
                self.docker(role, "network", "ls", *listed, "{{.ID}}"),
                sorted(self.data(role).parent.glob("*")),
            ]
        return found

    def helpers(self, role: str) -> str:
        """The containers that work on files of a node."""
        name = f"name=pgherd-{self.name}-"
        return self.docker(role, "ps", "--all", "--filter", name, "--format", "{{.Names}}")

    def clear(self) -> None:
        """Remove what is here, and the containers: what else is on hosts goes with the file."""
        for role in self.nodes:
            for container in (self.container(role), f"pgherd-{self.name}-{self.container(role)}"):
                self.docker(role, "rm", "--force", "--volumes", container, check=False)
            self.docker(role, "network", "rm", f"pgherd-{self.name}", check=False)
        shutil.rmtree(self.secrets(), ignore_errors=True)
        for left in (ROOT / "data" / "secrets").glob(f"{self.name}*_bk_*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in (ROOT / "data").glob(f".{self.name}*"):  # who was at work
            left.unlink()


MakeFar = Callable[..., Far]


def wait_for(run: subprocess.Popen[str], moment: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a run has come to a moment; it must not end before."""
    end = time.monotonic() + seconds
    while not moment():
        assert run.poll() is None, f"it ended before: {run.stdout.read() if run.stdout else ''}"
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.01)


def ended(run: subprocess.Popen[str], seconds: float, code: int) -> str:
    """Wait until a run has ended, with this exit status; return what it said."""
    try:
        said, _ = run.communicate(timeout=seconds)
    finally:
        run.kill()
    assert "Traceback" not in said, said
    assert run.returncode == code, said
    return said
