"""The docker CLI as nouns: engine, image, network, container, mount.

`docker inspect` comes back as frozen dataclasses; labels tell which things are ours. Nothing here
knows PostgreSQL.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plumbum.commands.base import BaseCommand

from pgherd.errors import Error, Refused, Unreachable
from pgherd.host import NOTHING, Host, OnLine
from pgherd.shell import Result, Script, Tool

docker = Tool("docker")

GROUP_LABEL = "pgherd.group"
NODE_LABEL = "pgherd.node"
SPEC_LABEL = "pgherd.spec"  # a hash of the arguments that the container was made with
HELPER_LABEL = "pgherd.helper"

PULL_TIMEOUT = 1800.0
NO_REGISTRY = re.compile(
    r"no such host|dial tcp|i/o timeout|TLS handshake timeout|connection refused|"
    r"network is unreachable|Client\.Timeout|proxyconnect|temporary failure|no route to host",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mount:
    """A bind mount (`source` is an absolute path) or a named volume (`source` is its name)."""

    source: str
    target: str
    volume: bool = False
    readonly: bool = False

    def option(self) -> str:
        """Return the value of `--mount`: one CSV record, so that any path may stand in it."""
        fields = [f"type={'volume' if self.volume else 'bind'}", f"source={self.source}"]
        fields += [f"target={self.target}"] + ["readonly"] * self.readonly
        record = io.StringIO()
        csv.writer(record, lineterminator="").writerow(fields)
        return record.getvalue()


@dataclass(frozen=True)
class Image:
    """A local image: its id, the volumes that it declares and who it says it is."""

    ref: str
    id: str
    volumes: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Container:
    """A container as `docker inspect` tells it."""

    id: str
    name: str
    status: str  # created, running, paused, restarting, removing, exited, dead
    exit_code: int
    image_ref: str
    image_id: str
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...]
    ports: tuple[tuple[str, int], ...]  # published: address and port
    started_at: str
    planned: bool = False  # with --dry: it will be so once the printed script has run

    @property
    def running(self) -> bool:
        """Whether its process runs (a paused one holds its files as well)."""
        return self.status in {"running", "paused"}

    @property
    def alive(self) -> bool:
        """Whether it runs or Docker is about to start it again."""
        return self.running or self.status == "restarting"


class Engine:
    """The Docker Engine of one host, through its docker CLI."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._planned: dict[str, Container | None] = {}
        self._networks: set[str] = set()  # made in this run
        self._making_network = threading.Lock()

    def run(
        self,
        command: BaseCommand,
        *,
        stdin: Script = NOTHING,
        timeout: float | None = 60.0,
        on_line: OnLine | None = None,
        reads: bool = False,
    ) -> Result:
        """Run a docker command; an engine that does not answer is an error, other exits are not.

        Raises:
            Unreachable: no CLI, no engine, or no permission on its socket.
        """
        result = self.host.run(command, stdin=stdin, timeout=timeout, on_line=on_line, reads=reads)
        if not result.ok:
            _raise_if_unreachable(result)
        return result

    def must(self, command: BaseCommand, **options: Any) -> Result:
        """Run a docker command that has to succeed.

        Raises:
            Error: it did not; the message has the command and its last words.
        """
        result = self.run(command, **options)
        if not result.ok:
            raise Error(f"A docker command failed: {result.complaint()}")
        return result

    # --- images ---

    def image(self, *refs: str) -> Image | None:
        """Return the first of these images that is here, or None."""
        result = self.run(docker["image", "inspect", *refs], reads=True)
        found = json.loads(result.out or "[]")
        for ref, raw in ((ref, raw) for ref in refs for raw in found):
            known = ref.removeprefix("docker.io/").removeprefix("library/")
            if known in (raw.get("RepoTags") or []) or ref == raw["Id"] or len(refs) == 1:
                config = raw["Config"]
                env = dict(item.partition("=")[::2] for item in config.get("Env") or [])
                return Image(ref, raw["Id"], tuple(config.get("Volumes") or {}), env)
        return None

    def pull(self, ref: str, on_line: OnLine) -> bool:
        """Pull an image; return False where no registry answers.

        Raises:
            Refused: a registry answered, and has no such image for us.
        """
        result = self.run(docker["pull", ref], timeout=PULL_TIMEOUT, on_line=on_line)
        if not result.ok and not NO_REGISTRY.search(result.err + result.out):
            raise Refused(f"The image {ref} cannot be had: {result.complaint()}")
        return result.ok

    # --- containers ---

    def containers(self) -> dict[str, Container]:
        """Return every container of the engine by name, stopped ones included.

        With `--dry`, what the printed script will have made or removed is counted in.
        """
        ids = self.must(docker["ps", "--all", "--quiet", "--no-trunc"], reads=True).out.split()
        found: dict[str, Container] = {}
        if ids:
            # One that vanishes meanwhile makes the exit non-zero; the others are still printed.
            result = self.run(docker["container", "inspect", *ids], reads=True)
            found = {c.name: c for c in map(_container, json.loads(result.out or "[]"))}
        for name, planned in self._planned.items():
            found.pop(name, None)
            if planned:
                found[name] = planned
        return found

    def plan(self, name: str, container: Container | None) -> None:
        """With `--dry`: count a container as made, changed or removed from here on."""
        if self.host.trace.dry:
            self._planned[name] = container

    def start(self, container: Container) -> None:
        """Start a stopped container."""
        self.must(docker["start", container.name])
        self.plan(container.name, replace(container, status="running", planned=True))

    def stop(self, container: Container, seconds: int) -> None:
        """Stop a container: its stop signal, and SIGKILL only after `seconds`."""
        self.must(docker["stop", "--time", str(seconds), container.name], timeout=seconds + 30.0)
        self.plan(container.name, replace(container, status="exited", planned=True))

    def remove(self, container: Container) -> None:
        """Remove a stopped container and its anonymous volumes; data directories stay."""
        self.must(docker["rm", "--volumes", container.name])
        self.plan(container.name, None)

    def once(
        self,
        name: str,
        image: Image,
        options: Sequence[str],
        script: Script,
        **run_options: Any,
    ) -> Result:
        """Run a shell script as root in a container that is gone afterwards.

        The name is taken as long as it runs, so that two runs cannot work on one node. When the
        wait for it ends early (a deadline, Ctrl-C) the container is removed.
        """
        command = docker[
            "run", "--rm", "--interactive", "--name", name, "--label", f"{HELPER_LABEL}=1",
            *no_volumes(image, options), *options, "--entrypoint", "sh", image.ref, "-s",
        ]  # fmt: skip
        try:
            return self.run(command, stdin=script, **run_options)
        except BaseException:
            self.host.run(docker["rm", "--force", "--volumes", name])
            raise

    # --- networks and volumes ---

    def make_network(self, name: str, group: str) -> None:
        """Make a bridge network unless it is there.

        Docker's names of networks are not unique: two calls at once would make two of them.
        """
        with self._making_network:
            if name in self._networks or self.network(name):
                return
            self.must(docker["network", "create", "--label", f"{GROUP_LABEL}={group}", name])
            self._networks.add(name)

    def remove_network(self, name: str) -> None:
        """Remove a network that no container uses any more."""
        self.must(docker["network", "rm", name])
        self._networks.discard(name)

    def network(self, name: str) -> dict[str, Any] | None:
        """Return the network's inspect record, or None."""
        result = self.run(docker["network", "inspect", name], reads=True)
        record: dict[str, Any] | None = json.loads(result.out)[0] if result.ok else None
        return record

    def volume_exists(self, name: str) -> bool:
        """Tell whether the named volume exists."""
        return self.run(docker["volume", "inspect", name], reads=True).ok


def no_volumes(image: Image, options: Sequence[str]) -> list[str]:
    """Cover every volume that the image declares and no mount of ours does.

    Docker would make an anonymous volume for each (18 declares the parent of PGDATA) and leave
    it behind; an empty tmpfs costs nothing and is gone with the container.
    """
    covered = {f.removeprefix("target=") for o in options for f in o.split(",")}
    bare = [volume for volume in image.volumes if volume not in covered]
    return [w for v in bare for w in ("--mount", f"type=tmpfs,target={v},tmpfs-mode=1777")]


def _container(raw: Mapping[str, Any]) -> Container:
    state, config = raw["State"], raw["Config"]
    bindings = (raw.get("HostConfig") or {}).get("PortBindings") or {}
    return Container(
        id=raw["Id"],
        name=raw["Name"].lstrip("/"),
        status=state["Status"],
        exit_code=state["ExitCode"],
        image_ref=config["Image"],
        image_id=raw["Image"],
        labels=config.get("Labels") or {},
        mounts=tuple(_mount(m) for m in raw["Mounts"] if m["Type"] in {"bind", "volume"}),
        ports=tuple(
            (binding.get("HostIp") or "0.0.0.0", port)  # noqa: S104
            for published in bindings.values()
            for binding in published or []
            for port in _port_range(binding["HostPort"])
        ),
        started_at=state["StartedAt"],
    )


def _port_range(text: str) -> range:
    """Return the host ports of a binding: `8000`, `8000-8010`, or empty for any free one."""
    first, _, last = (text or "0").partition("-")
    return range(int(first), int(last or first) + 1)


def _mount(raw: Mapping[str, Any]) -> Mount:
    volume = raw["Type"] == "volume"
    return Mount(raw["Name" if volume else "Source"], raw["Destination"], volume, not raw["RW"])


def _raise_if_unreachable(result: Result) -> None:
    """Turn the CLI's own complaint about its engine into a sentence with a cure."""
    said = result.err
    if re.search(r"permission denied while trying to connect to the docker", said, re.IGNORECASE):
        raise Unreachable(
            f"The user has no permission on Docker's socket (host {result.host}).\n"
            "Join the group docker (sudo usermod -aG docker $USER, then log in again)."
        )
    if re.search(
        r"cannot connect to the docker daemon|failed to connect to the docker API|"
        r"error during connect|docker\.sock",
        said,
        re.IGNORECASE,
    ):
        raise Unreachable(
            f"The Docker Engine does not answer (host {result.host}): {said.strip()}\n"
            "Start it (sudo systemctl start docker), or let ./scripts/bootstrap do it."
        )
