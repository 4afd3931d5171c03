"""The Docker Engine of one host, through its docker CLI."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from plumbum.commands.base import BaseCommand

from pgherd.docker.model import (
    GROUP_LABEL,
    HELPER_LABEL,
    Container,
    Image,
    Network,
    no_volumes,
    read,
    read_container,
    read_image,
    read_network,
    records,
)
from pgherd.docker.unreachable import network_fault, raise_if_unreachable
from pgherd.errors import Error, Refused
from pgherd.host import NOTHING, Host, OnLine, Stdin
from pgherd.host.scope import cleaning_up
from pgherd.shell import Result, Script, Tool

docker = Tool("docker")

# One round trip to the host, not two.
LIST = """\
ids=$(docker ps --all --quiet --no-trunc) || exit
[ -z "$ids" ] || docker container inspect $ids"""
PULL_TIMEOUT = 1800.0
NO_SUCH = re.compile(r"no such (image|object)|not found", re.IGNORECASE)
NO_REGISTRY = re.compile(
    r"no such host|dial tcp|i/o timeout|TLS handshake timeout|connection refused|"
    r"network is unreachable|Client\.Timeout|proxyconnect|temporary failure|no route to host",
    re.IGNORECASE,
)


class Engine:
    """The Docker Engine of one host, through its docker CLI."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._planned: dict[str, Container | None] = {}
        self._networks: set[str] = set()  # seen or made in this run
        self._making_network = threading.Lock()

    def run(
        self,
        command: BaseCommand,
        *,
        stdin: Stdin = NOTHING,
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
            raise_if_unreachable(result)
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
        found = records(result.out, self.host.name)
        if not result.ok and not found and not NO_SUCH.search(result.err):
            raise Error(f"A docker command failed: {result.complaint()}")
        for ref, raw in ((ref, raw) for ref in refs for raw in found):
            known = ref.removeprefix("docker.io/").removeprefix("library/")
            if known in (raw.get("RepoTags") or []) or ref == raw.get("Id") or len(refs) == 1:
                return replace(read(read_image, raw, self.host.name), ref=ref)
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

    def platform(self) -> str:
        """Return what the engine runs on, as images name it: "linux/amd64"."""
        words = docker["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"]
        return self.must(words, reads=True).out.strip()

    # --- containers ---

    def containers(self) -> dict[str, Container]:
        """Return every container of the engine by name, stopped ones included.

        With `--dry`, what the printed script will have made or removed is counted in.
        """
        result = self.run(Tool("sh")["-c", LIST], reads=True)
        # One that vanishes meanwhile makes the exit non-zero; the others are still printed.
        if not result.ok and not result.out.strip():
            raise Error(f"A docker command failed: {result.complaint()}")
        return self.counted(result.out)

    def counted(self, text: str) -> dict[str, Container]:
        """Return the containers that `docker container inspect` printed, with what is planned."""
        host = self.host.name
        read_all = (read(read_container, record, host) for record in records(text, host))
        found = {c.name: c for c in read_all}
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
        """Stop a container: its stop signal, and SIGKILL only after `seconds`.

        By `-t`, since its long name is --time before Docker 28 and --timeout from then on.
        """
        self.must(docker["stop", "-t", str(seconds), container.name], timeout=seconds + 30.0)
        self.plan(container.name, replace(container, status="exited", planned=True))

    def set_restart(self, container: Container, policy: str) -> None:
        """Set when the engine starts a container by itself: no, unless-stopped, always."""
        self.must(docker["update", "--restart", policy, container.name])
        self.plan(
            container.name, replace(self._planned.get(container.name) or container, restart=policy)
        )

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
        image = image.at(self.host.name)
        command = docker[
            "run", "--rm", "--interactive", "--name", name, "--label", f"{HELPER_LABEL}=1",
            *no_volumes(image, options), *options, "--entrypoint", "sh", image.ref, "-s",
        ]  # fmt: skip
        try:
            result = self.run(command, stdin=script, **run_options)
        except BaseException:
            # With the connection gone the next run clears it away.
            with cleaning_up(), suppress(Error):
                self.host.run(docker["rm", "--force", "--volumes", name])
            raise
        if result.code < 0:  # a signal ended the CLI, and not the container
            with cleaning_up():
                self.host.run(docker["rm", "--force", "--volumes", name])
        return result

    # --- networks and volumes ---

    def make_network(self, name: str, group: str) -> None:
        """Make a bridge network unless it is there.

        Docker's names of networks are not unique: two calls at once would make two of them.
        """
        with self._making_network:
            if name in self._networks:
                return
            if self.check_network(name, group):
                self._networks.add(name)
                return
            made = self.run(docker["network", "create", "--label", f"{GROUP_LABEL}={group}", name])
            if not made.ok:
                raise network_fault(made, name)
            self._networks.add(name)

    def check_network(self, name: str, group: str) -> bool:
        """Tell whether the group's network is there; refuse a foreign one of that name."""
        record = self.network(name)
        if record and record.labels.get(GROUP_LABEL) != group:
            raise Refused(
                f"There is a network {name} that is not of group {group}: remove it "
                f"(docker network rm {name}), or give the group another name."
            )
        return record is not None

    def remove_network(self, name: str) -> None:
        """Remove a network.

        Raises:
            Refused: somebody else's containers are on it.
        """
        result = self.run(docker["network", "rm", name])
        if not result.ok:
            found = self.network(name)
            names = ", ".join(found.containers if found else ()) or result.err.strip()
            raise Refused(f"The network {name} stays, {names} is on it: stop that, then again.")
        self._networks.discard(name)

    def network(self, name: str) -> Network | None:
        """Return the network of that name, or None."""
        result = self.run(docker["network", "inspect", name], reads=True)
        found = records(result.out, self.host.name) if result.ok else []
        return read(read_network, found[0], self.host.name) if found else None

    def volume_exists(self, name: str) -> bool:
        """Tell whether the named volume exists."""
        return self.run(docker["volume", "inspect", name], reads=True).ok
