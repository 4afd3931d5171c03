"""The docker CLI's complaints about its engine, as sentences with a cure."""

from __future__ import annotations

import re

from pgherd.errors import Error, Unreachable
from pgherd.host import LOCAL
from pgherd.shell import Result


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
