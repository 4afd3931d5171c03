"""The Docker Engine of one host, through its docker CLI."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from plumbum.commands.base import BaseCommand

from pgherd.config.values import LOCAL
from pgherd.docker.models import (
    GROUP_LABEL,
    HELPER_LABEL,
    LISTED,
    Container,
    Image,
    Network,
    listed_containers,
    no_volumes,
    read,
    read_container,
    read_image,
    read_network,
    records,
)
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable
from pgherd.hosts.base import NOTHING, Host, OnLine, Stdin
from pgherd.hosts.commands import Result, Script, Tool, assignments
from pgherd.hosts.parallel import cleaning_up, run_all

# --- what the CLI says where its engine does not answer, in sentences with a cure ---


def raise_if_unreachable(result: Result) -> None:
    """Turn the CLI's own complaint about its engine into a sentence with a cure."""
    said = result.err
    if re.search(r"docker: (command )?not found", said):
        raise Unreachable(
            "The program 'docker' is not on this machine's PATH; ./scripts/bootstrap installs what "
            "is missing on Debian and Ubuntu."
            if result.host == LOCAL
            else f"{result.host} has no docker command on the PATH of logins without a terminal: "
            "install Docker there (Debian: apt-get install docker.io)."
        )
    if re.search(r"permission denied while trying to connect to the docker", said, re.IGNORECASE):
        raise Unreachable(
            f"The user has no permission on Docker's socket (host {result.host}).\n"
            "Join the group docker (sudo usermod -aG docker $USER, then log in again)."
        )
    if re.search(r"unable to (resolve docker endpoint|parse docker host)|current context ", said):
        there = "" if result.host == LOCAL else f" on {result.host}"
        raise Unreachable(
            f"The docker command{there} cannot tell which engine is meant: {said.strip()}\n"
            "Correct DOCKER_CONTEXT or DOCKER_HOST, or leave them out (`docker context ls` tells "
            "which contexts there are)."
        )
    if re.search(
        r"cannot connect to the docker daemon|failed to connect to the docker API|"
        r"error during connect|docker\.sock",
        said,
        re.IGNORECASE,
    ):
        here = result.host == LOCAL
        raise Unreachable(
            f"The Docker Engine does not answer (host {result.host}): {said.strip()}\n"
            f"Start it{'' if here else ' there'} (sudo systemctl start docker)"
            f"{', or let ./scripts/bootstrap do it' if here else ''}."
        )


def hangs(host: str, seconds: float) -> Unreachable:
    """Return the error for an engine that takes a question and gives no answer."""
    there = "" if host == LOCAL else " there"
    return Unreachable(
        f"The Docker Engine does not answer (host {host}): `docker ps` did not end within "
        f"{seconds:g} s.\nRestart it{there} (sudo systemctl restart docker), then this again."
    )


def network_fault(result: Result, name: str) -> Error:
    """Return why a network could not be made; with the cure, where all address ranges are used."""
    used_up = (  # libnetwork's words, the second since Docker 25
        r"non-overlapping IPv4 address pool|predefined address pools have been fully subnetted"
    )
    if not re.search(used_up, result.err):
        return Error(f"A docker command failed: {result.complaint()}")
    return Error(
        f"The network {name} cannot be made: Docker (host {result.host}) has no address range left "
        "for another one; it has 31, if nothing else is configured. Remove networks that nobody "
        "uses (docker network ls, docker network prune), or widen default-address-pools in "
        "/etc/docker/daemon.json; then this again."
    )


# --- the Docker Engine of one host, through its docker CLI ---

docker = Tool("docker")

# The function `containers` prints what `docker container inspect` tells of the group's, that of
# $group; then, after a line `== OTHERS`, what `docker ps` tells of all others: the engine answers
# that also where the inspect of one of them hangs.
_FORMAT = f'{{{{.ID}}}} {{{{json (.Label "{GROUP_LABEL}")}}}} {LISTED}'
LIST = (
    f"format='{_FORMAT}'\n"
    r"""
listed=$(docker ps --all --no-trunc --format "$format") || exit
ours= others= code=0
while read -r id label container; do
  if [ "$label" = "\"$group\"" ]; then ours="$ours $id"
  elif [ -n "$id" ]; then others="$others$container
"; fi
done <<END-OF-LIST
$listed
END-OF-LIST
containers() {
  [ -z "$ours" ] || docker container inspect $ours || code=$?
  printf '== OTHERS\n%s' "$others"
}
"""
)
LIST_SECONDS = 20.0
ANSWER_SECONDS = 10.0
INSPECT_SECONDS = 5.0
PULL_TIMEOUT = 1800.0
NO_SUCH = re.compile(r"no such (image|object)|not found", re.IGNORECASE)
NO_REGISTRY = re.compile(
    r"no such host|dial tcp|i/o timeout|TLS handshake timeout|connection refused|"
    r"network is unreachable|Client\.Timeout|proxyconnect|temporary failure|no route to host",
    re.IGNORECASE,
)


class Engine:
    """The Docker Engine of one host, through its docker CLI."""

    def __init__(self, host: Host, group: str = "") -> None:
        """Take the group whose containers are inspected; of others is known what is listed."""
        self.host = host
        self.group = group
        self._inspected: dict[str, Container] = {}  # of others, by id
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
        try:
            result = self.host.run(
                command, stdin=stdin, timeout=timeout, on_line=on_line, reads=reads
            )
        except DeadlinePassed:
            with cleaning_up():
                self._answer(docker["ps", "--quiet"])  # it may be the engine
            raise
        if not result.ok:
            raise_if_unreachable(result)
        return result

    def _answer(self, command: BaseCommand) -> Result:
        """Ask for what an engine that is well tells within 0.1 s.

        Raises:
            Unreachable: it does not answer.
        """
        try:
            result = self.host.run(command, timeout=ANSWER_SECONDS, reads=True)
        except DeadlinePassed:
            raise hangs(self.host.name, ANSWER_SECONDS) from None
        if not result.ok:
            raise_if_unreachable(result)
            raise Error(f"A docker command failed: {result.complaint()}")
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

        Of those that are not the group's only what `docker ps` tells is known. With `--dry`, what
        the printed script will have made or removed is counted in.
        """
        script = f'{assignments(group=self.group)}{LIST}containers\nexit "$code"'
        try:
            result = self.run(Tool("sh")["-c", script], timeout=LIST_SECONDS, reads=True)
        except DeadlinePassed:
            return self.containers_one_by_one()
        # One that vanishes meanwhile makes the exit non-zero; the others are still printed.
        if not result.ok and not result.out.strip():
            raise Error(f"A docker command failed: {result.complaint()}")
        return self.counted(result.out)

    def containers_one_by_one(self) -> dict[str, Container]:
        """Do what `containers` does where an inspect of one of the group's own does not answer."""
        found = self._list()
        ours = [c for c in found if c.labels.get(GROUP_LABEL) == self.group]
        known = dict(zip((c.id for c in ours), run_all(self._inspect, ours), strict=True))
        return self._with_planned(seen for c in found if (seen := known.get(c.id, c)))

    def _list(self) -> list[Container]:
        """Return every container as `docker ps` tells it."""
        command = docker["ps", "--all", "--no-trunc", "--format", LISTED]
        return listed_containers(self._answer(command).out, self.host.name)

    def counted(self, text: str) -> dict[str, Container]:
        """Return the containers that the function of `LIST` printed, with what is planned."""
        host = self.host.name
        inspected, _, others = text.partition("== OTHERS\n")
        ours = [read(read_container, record, host) for record in records(inspected, host)]
        return self._with_planned([*ours, *listed_containers(others, host)])

    def _with_planned(self, containers: Iterable[Container]) -> dict[str, Container]:
        found = {c.name: c for c in containers}
        for name, planned in self._planned.items():
            found.pop(name, None)
            if planned:
                found[name] = planned
        return found

    def inspect(self, containers: Iterable[Container]) -> dict[str, Container]:
        """Inspect containers that were only listed, one by one; return them by id.

        Who does not answer soon is named, and is `silent`; who is gone by now is left out.
        """
        asked = list(containers)
        new = [c for c in asked if c.id not in self._inspected]
        for one, found in zip(new, run_all(self._inspect, new), strict=True):
            if found:
                self._inspected[one.id] = found
        return {c.id: self._inspected[c.id] for c in asked if c.id in self._inspected}

    def _inspect(self, container: Container) -> Container | None:
        answer = self._inspect_one(container)
        if answer is None:
            return replace(container, silent=True)
        return read(read_container, answer[0], self.host.name) if answer else None

    def _inspect_one(self, container: Container) -> list[dict[str, Any]] | None:
        """Return what is told of a container; nothing of one that is gone, None if no answer comes.

        One that does not answer is named.
        """
        command = docker["container", "inspect", container.id]
        try:
            result = self.run(command, timeout=INSPECT_SECONDS, reads=True)
        except DeadlinePassed:
            self.host.trace.note(
                f"{container.name}: `docker inspect {container.name}` (host {self.host.name}) does "
                "not answer: only what `docker ps` tells of it is known. If it stays so, restart "
                "Docker there"
            )
            return None
        return records(result.out, self.host.name)

    def records(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return all that `docker inspect` tells of every container, and who does not answer."""
        listed = self._list()
        if not listed:
            return [], []
        command = docker["container", "inspect", [c.id for c in listed]]
        try:
            result = self.run(command, timeout=LIST_SECONDS, reads=True)
            return records(result.out, self.host.name), []
        except DeadlinePassed:
            answers = run_all(self._inspect_one, listed)
        found = [record for answer in answers for record in answer or ()]
        return found, [c.name for c, a in zip(listed, answers, strict=True) if a is None]

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
            with cleaning_up(), suppress(Exception):
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

    def connect(self, container: Container, network: str) -> None:
        """Put a container on a network, under its own name, with the ports that it publishes.

        A stopped one may know a network of that name that is gone: it forgets that first.
        """
        if container.networks and network in container.networks:
            self.run(docker["network", "disconnect", "--force", network, container.name])
        self.must(docker["network", "connect", network, container.name])

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
