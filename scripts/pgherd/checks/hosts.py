"""What is wrong with a host's engine, CLI, rights and image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

from pgherd.checks.base import NOTE, PROBLEM, WARNING, Finding
from pgherd.checks.collect import GroupCase, HostCase, NodeCase
from pgherd.config.values import LOCAL
from pgherd.docker.engine import raise_if_unreachable
from pgherd.errors import Unreachable
from pgherd.group.node_status import format_size
from pgherd.group.platforms import SKEW_SECONDS
from pgherd.hosts.commands import Result

OLDEST = (
    20,
    10,
)  # of Docker: --mount, --stop-timeout, docker-init and inspect are as they are used
OLDEST_MAJOR = 14
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
}  # the kernel's and Docker's
_DENIED = re.compile(r"permission denied", re.IGNORECASE)
_MISSING = re.compile(r"docker: (command )?not found")


def answers(host: HostCase) -> Iterator[Finding]:
    """Yield why no engine answers."""
    if host.answers:
        return
    said = host.sheet.complaint or "docker info says nothing"
    code = "engine-down"
    if _MISSING.search(said):
        code = "cli-missing"
    elif _DENIED.search(said):
        code = "socket-denied"
    try:
        raise_if_unreachable(Result(("docker", "info"), host.name, 1, "", said))
    except Unreachable as fault:
        sentence, _, cure = fault.sentence.partition("\n")
        yield host.finding(code, PROBLEM, sentence, cure)
        return
    yield host.finding(code, PROBLEM, f"docker info fails {host.where}: {said}")


def versions(host: HostCase) -> Iterator[Finding]:
    """Yield an engine or a CLI that is too old."""
    engine = str(host.sheet.docker.get("ServerVersion", ""))
    for code, what, version in (
        ("engine-old", "Docker Engine", engine),
        ("cli-old", "docker command", host.sheet.client),
    ):
        found = re.match(r"(\d+)\.(\d+)", version)
        if found and (int(found[1]), int(found[2])) < OLDEST:
            text = f"The {what} {host.where} is {version}, and pgherd needs 20.10 or later"
            yield host.finding(code, PROBLEM, text, "install a newer Docker")


def confined(host: HostCase) -> Iterator[Finding]:
    """Yield an engine whose root is not the host's root: it changes who owns the data."""
    options = [str(option) for option in host.sheet.docker.get("SecurityOptions") or ()]
    if "name=rootless" in options:
        text = (
            f"The engine {host.where} runs without root: the data will belong to a subordinate user"
        )
        cure = "to have it start with the machine: loginctl enable-linger"
        yield host.finding("rootless", NOTE, text, cure)
    elif any(option.startswith("name=userns") for option in options):
        text = f"The engine {host.where} remaps users: the data will belong to a subordinate user"
        yield host.finding("userns", NOTE, text)


def place(host: HostCase) -> Iterator[Finding]:
    """Yield an engine that is another machine's, which does not see the data directories."""
    endpoint = host.sheet.endpoint
    scheme, _, rest = endpoint.partition("://")
    near = rest.startswith(("127.", "localhost", "[::1]"))
    if scheme == "ssh" or (scheme == "tcp" and not near):
        who = "this machine" if host.name == LOCAL else host.name
        text = (
            f"The docker command of {who} works on the engine at {endpoint}, which has other files"
        )
        cure = "say `host` in the topology, or unset DOCKER_HOST (docker context use default)"
        yield host.finding("engine-elsewhere", PROBLEM, text, cure)


def storage(host: HostCase) -> Iterator[Finding]:
    """Yield a storage driver that copies every layer for each container."""
    if host.sheet.docker.get("Driver") == "vfs":
        text = (
            f"The engine {host.where} has the storage driver vfs: each container copies the image"
        )
        yield host.finding("storage-vfs", WARNING, text, "use overlay2")


def image(host: HostCase) -> Iterator[Finding]:
    """Yield an image that is not there, with where it will come from."""
    if host.sheet.image or not host.image_names:
        return
    asked, lacks = host.image_names[0], host.sheet.registry
    text = f"The image {asked} is not {host.where}"
    if host.image_elsewhere:
        yield host.finding(
            "image-absent", NOTE, f"{text}: it will be carried over", "`invoke image`"
        )
    elif lacks == "has":
        yield host.finding("image-absent", NOTE, f"{text}: it will be pulled", "`invoke image`")
    elif re.search(r"manifest unknown|not found|denied|unauthorized|no such manifest", lacks):
        said = lacks.removeprefix("lacks ").splitlines()[0]
        cure = "correct [group] image, or docker login"
        yield host.finding("image-unavailable", PROBLEM, f"{text}, and cannot be had: {said}", cure)
    elif len(host.image_names) > 1:
        built = f"{text} and no registry answers: it will be built from Debian packages"
        yield host.finding("image-absent", NOTE, built, "`invoke image`")
    else:
        cure = f"make a registry reachable, or docker load {asked}"
        yield host.finding("image-unavailable", PROBLEM, f"{text}, and no registry answers", cure)


def image_fits(host: HostCase) -> Iterator[Finding]:
    """Yield an image that is of another architecture, too old, or not PostgreSQL's."""
    image = host.sheet.image
    if image is None:
        return
    major = image.env.get("PG_MAJOR", "")
    if not major.isdecimal():
        text = f"The image {image.ref} {host.where} says no PG_MAJOR: is it the postgres image?"
        yield host.finding("image-major", WARNING, text, "choose another [group] image")
    elif int(major) < OLDEST_MAJOR:
        text = f"The image {image.ref} has PostgreSQL {major}, and pgherd needs 14 or later"
        yield host.finding("image-major", PROBLEM, text, "choose another [group] image")
    machine = str(host.sheet.docker.get("Architecture", ""))
    engine, ours = _ARCHITECTURES.get(machine, machine), image.platform.partition("/")[2]
    if engine and ours and engine != ours:
        text = f"The image {image.ref} is for {ours}, and the engine {host.where} runs on {engine}"
        cure = f"docker image rm {image.ref}, then `invoke image`"
        yield host.finding("image-architecture", PROBLEM, text, cure)


CHECKS = (answers,)
FURTHER = (versions, confined, place, storage, image, image_fits)  # of an engine that answers


# --- what is wrong with a machine: memory, kernel limits, clock ---

BUFFERS = 128 * 2**20  # shared_buffers, if nothing is said
LEAST_MEMORY = 200 * 10**6  # bytes
LEAST_SHM = 2**20  # bytes: PostgreSQL's own System V segment has less than 100 (sysv_shmem.c)
PAGE = 4096
FULL = 0.9


def memory(host: HostCase) -> Iterator[Finding]:
    """Yield too little memory: for the servers' buffers, or at all."""
    have, free = host.sheet.memory.get("MemTotal", 0), host.sheet.memory.get("MemAvailable")
    have = int(host.sheet.docker.get("MemTotal") or have)
    buffers = sum(_buffers(node) for node in host.nodes)
    if have and buffers > have / 2:
        text = (
            f"The servers {host.where} have shared_buffers of {format_size(buffers)} in all, and "
            f"the engine {format_size(have)} of memory"
        )
        cure = "give them less: a quarter of the memory is usual (nodes.….settings)"
        yield host.finding("memory-short", WARNING, text, cure)
    if free is not None and free < LEAST_MEMORY:
        left = format_size(free)
        text = f"Only {left} of memory are free {host.where}: the kernel may kill a server"
        yield host.finding("memory-low", WARNING, text, "stop something, or add memory or swap")


def _buffers(node: NodeCase) -> int:
    return node.server.bytes.get("shared_buffers", BUFFERS) if node.server else BUFFERS


def swap(host: HostCase) -> Iterator[Finding]:
    """Yield swap that is used up."""
    have, free = host.sheet.memory.get("SwapTotal", 0), host.sheet.memory.get("SwapFree", 0)
    if have and free < have * (1 - FULL):
        text = f"Swap is used up {host.where}: {format_size(free)} of {format_size(have)} are free"
        yield host.finding("swap-full", WARNING, text, "find what takes the memory (top)")


def overcommit(host: HostCase) -> Iterator[Finding]:
    """Yield settings of the kernel under which a server gets killed, or gets no memory."""
    mode = host.sheet.kernel.get("vm/overcommit_memory")
    limit = host.sheet.memory.get("CommitLimit", 0)
    left = limit - host.sheet.memory.get("Committed_AS", 0)
    if mode == "1":
        text = f"vm.overcommit_memory is 1 {host.where}: short of memory, the kernel kills a server"
        cure = "sudo sysctl -w vm.overcommit_memory=2, as PostgreSQL's documentation advises"
        yield host.finding("overcommit", NOTE, text, cure)
    elif mode == "2" and limit and left < LEAST_MEMORY + len(host.nodes) * BUFFERS:
        size = format_size(max(0, left))
        text = f"vm.overcommit_memory is 2 {host.where}, and {size} may be asked for"
        yield host.finding("overcommit", WARNING, text, "raise vm.overcommit_ratio, or add swap")


def kernel_limits(host: HostCase) -> Iterator[Finding]:
    """Yield limits of the kernel that a server runs into."""
    known = host.sheet.kernel
    most, pages = known.get("kernel/shmmax", ""), known.get("kernel/shmall", "")
    for name, text, count in (("shmmax", most, 1), ("shmall", pages, PAGE)):
        if text.isdecimal() and int(text) * count < LEAST_SHM:
            cure = "remove that line from sysctl.conf: the kernel's own default is without limit"
            yield host.finding("kernel-shm", WARNING, f"kernel.{name} is {text} {host.where}", cure)
    files = known.get("fs/file-nr", "").split()
    if len(files) == 3 and int(files[0]) > int(files[2]) * FULL:  # noqa: PLR2004
        text = f"{files[0]} of {files[2]} files are open {host.where}"
        yield host.finding("files-used-up", WARNING, text, "raise fs.file-max by sysctl")


def clocks(group: GroupCase) -> Iterator[Finding]:
    """Yield hosts whose clocks differ, from each other or from this machine's."""
    known = [(h.name, h.about.skew, h.about.doubt) for h in group.hosts if h.name != LOCAL]
    for (one, here, doubt), (other, there, more) in combinations([(LOCAL, 0.0, 0.0), *known], 2):
        apart = abs(here - there)
        if apart - doubt - more > SKEW_SECONDS:
            first = "this machine" if one == LOCAL else one
            text = (
                f"The clocks of {first} and {other} are {apart:.0f} s apart: lag in seconds, times "
                "in logs and the ends of certificates will mislead"
            )
            cure = "let NTP set them (timedatectl set-ntp true)"
            yield Finding("clock-skew", WARNING, text, cure, host=other)


HOST_CHECKS = (memory, swap, overcommit, kernel_limits)
GROUP_CHECKS = (clocks,)
