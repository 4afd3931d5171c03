"""A group's state, kept, so that it can be had again in a second or two, as often as is needed.

    kept = Snapshot.take(herd)   # stops what runs, copies all files, and starts it again
    ...                          # whatever
    kept.restore()               # the same files, containers made anew, standbys that stream

What the runs of before left at work is ended first. A data directory is the same one as before,
wherever it was moved meanwhile: who knows it as its own goes by that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from conftest import Herd, docker
from killing import end_what_goes_on

READY_SECONDS = 120.0
SECRETS, PARKED = "secrets", "parked"
T = TypeVar("T")
STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"


@dataclass(frozen=True)
class Made:
    """A container: what makes it again, and how it is to be.

    Attributes:
        role: of the node.
        words: the arguments of `docker create`.
        running: it is to run.
        policy: when the engine starts it by itself.
        streaming: how many standbys stream from it.
    """

    role: str
    words: tuple[str, ...]
    running: bool
    policy: str
    streaming: int


@dataclass(frozen=True)
class Snapshot:
    """What there is of a group, beside its topology file.

    Attributes:
        herd: the group.
        place: where the copies lie.
        containers: those that it has.
        network: it has one.
        inodes: of the data directories, by their names.
    """

    herd: Herd
    place: Path
    containers: tuple[Made, ...]
    network: bool
    inodes: dict[str, int]

    @classmethod
    def take(cls, herd: Herd) -> Snapshot:
        """Keep what there is now; the servers are stopped for it in order, and started again."""
        found = [_inspected(herd, role) for role in herd.nodes]
        made = tuple(
            _made(herd, role, raw) for role, raw in zip(herd.nodes, found, strict=True) if raw
        )
        # A primary that stops last has no standby left to wait for, and ships all it has.
        for one in sorted(made, key=lambda one: -one.streaming):
            if one.running:
                docker("stop", "--time", "60", herd.container(one.role))
        inodes = {path.name: path.stat().st_ino for path in _data(herd)}
        kept = cls(herd, herd.directory / "kept", made, bool(_network(herd)), inodes)
        shutil.rmtree(kept.place, ignore_errors=True)
        kept.place.mkdir()
        for path in _data(herd):
            _copy(path, kept.place / path.name)
        if herd.secrets().exists():
            _copy(herd.secrets(), kept.place / SECRETS)
        kept._start()
        return kept

    def restore(self) -> None:
        """Have that again, whatever there is now."""
        end_what_goes_on(self.herd)
        name = f"name={self.herd.name}-"  # of the nodes' and of the helpers' containers
        there = docker("ps", "--all", "--quiet", "--filter", name).split()
        _together(lambda one: docker("rm", "--force", "--volumes", one), there)
        self._park()
        for kept in self.place.iterdir():
            if kept.name != SECRETS:
                self._empty(kept.name)
            _copy(kept, self.herd.secrets() if kept.name == SECRETS else self._at(kept.name))
        shutil.rmtree(self._at(PARKED))
        name = f"pgherd-{self.herd.name}"
        if (meeting := bool(_network(self.herd))) and not self.network:
            docker("network", "rm", name)
        elif self.network and not meeting:
            docker("network", "create", "--label", f"pgherd.group={self.herd.name}", name)
        _together(self._make, self.containers)
        self._start()

    def _at(self, name: str) -> Path:
        return self.herd.directory / name

    def _park(self) -> None:
        """Take all data out of the way, and the passwords, those of before a purge as well."""
        secrets = self.herd.secrets()
        for path in [secrets, *secrets.parent.glob(f"{secrets.name}_bk_*")]:
            shutil.rmtree(path, ignore_errors=True)
        self._at(PARKED).mkdir()
        for path in _data(self.herd):
            path.rename(self._at(PARKED) / path.name)

    def _empty(self, name: str) -> None:
        """Put a data directory back to its place, with nothing in it."""
        parked = {path.stat().st_ino: path for path in self._at(PARKED).iterdir()}
        found = parked.get(self.inodes[name])
        assert found, f"the directory {name} was deleted, so that it cannot be had again"
        found.rename(self._at(name))
        for path in self._at(name).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _make(self, one: Made) -> None:
        docker("create", "--restart", one.policy, *one.words)

    def _start(self) -> None:
        running = [one for one in self.containers if one.running]
        if running:
            docker("start", *(self.herd.container(one.role) for one in running))
        end = time.monotonic() + READY_SECONDS
        for one in running:
            _until(lambda one=one: self._ready(one), end, one.role)  # type: ignore[misc]

    def _ready(self, one: Made) -> bool:
        with suppress(psycopg.OperationalError):
            return int(self.herd.sql(one.role, STREAMING)) >= one.streaming
        return False


def _inspected(herd: Herd, role: str) -> dict[str, Any] | None:
    done = subprocess.run(
        ["docker", "container", "inspect", herd.container(role)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout or "[]")
    return dict(found[0]) if found else None


def _made(herd: Herd, role: str, raw: dict[str, Any]) -> Made:
    """Read from a container's record what makes another like it: what `docker run` was given."""
    config, host = raw["Config"], raw["HostConfig"]
    running = raw["State"]["Status"] == "running"
    words = ["--name", herd.container(role), "--hostname", config["Hostname"]]
    words += [w for item in config["Labels"].items() for w in ("--label", "=".join(item))]
    words += ["--network", host["NetworkMode"], "--shm-size", str(host["ShmSize"])]
    words += ["--stop-timeout", str(config["StopTimeout"])]
    for port, bindings in host["PortBindings"].items():
        for binding in bindings:
            words += ["--publish", f"{binding['HostIp']}:{binding['HostPort']}:{port}"]
    words += ["--env", next(e for e in config["Env"] if e.startswith("PGDATA="))]
    words += [word for option in host["DnsOptions"] or () for word in ("--dns-opt", option)]
    words += [word for mount in host["Mounts"] for word in ("--mount", _mount(mount))]
    streaming = int(herd.sql(role, STREAMING)) if running else 0
    policy = host["RestartPolicy"]["Name"] or "no"
    # The option takes one word; Docker puts the others before those of the command.
    entry, *rest = config["Entrypoint"]
    words += ["--entrypoint", entry, config["Image"], *rest, *config["Cmd"]]
    return Made(role, tuple(words), running, policy, streaming)


def _mount(raw: dict[str, Any]) -> str:
    parts = [f"type={raw['Type']}", f"target={raw['Target']}"]
    if raw["Type"] == "tmpfs":
        return ",".join([*parts, "tmpfs-mode=1777"])
    return ",".join([*parts, f"source={raw['Source']}", *["readonly"] * raw.get("ReadOnly", False)])


def _data(herd: Herd) -> list[Path]:
    """Return the data directories, and what was set aside of them."""
    return [path for path in herd.directory.glob("*_data*") if path.is_dir()]


def _network(herd: Herd) -> str:
    return docker("network", "ls", "--quiet", "--filter", f"name=^pgherd-{herd.name}$")


def _copy(original: Path, copy: Path) -> None:
    """Copy a directory, sharing its blocks where the file system can."""
    words = ["cp", "--archive", "--reflink=auto", "--no-target-directory"]
    subprocess.run([*words, str(original), str(copy)], check=True)


def _together(act: Callable[[T], object], things: Iterable[T]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(act, things))


def _until(so: Callable[[], bool], end: float, what: str) -> None:
    while not so():
        assert time.monotonic() < end, f"{what} does not come up as it was"
        time.sleep(0.05)
