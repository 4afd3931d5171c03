"""What is wrong with a machine: memory, kernel limits, clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from pgherd.host import LOCAL
from pgherd.steps.doctor.case import GroupCase, HostCase, NodeCase
from pgherd.steps.doctor.finding import NOTE, WARNING, Finding
from pgherd.steps.hosts import SKEW_SECONDS
from pgherd.steps.standing import size

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
            f"The servers {host.where} have shared_buffers of {size(buffers)} in all, and the "
            f"engine {size(have)} of memory"
        )
        cure = "give them less: a quarter of the memory is usual (nodes.….settings)"
        yield host.finding("memory-short", WARNING, text, cure)
    if free is not None and free < LEAST_MEMORY:
        text = f"Only {size(free)} of memory are free {host.where}: the kernel may kill a server"
        yield host.finding("memory-low", WARNING, text, "stop something, or add memory or swap")


def _buffers(node: NodeCase) -> int:
    return node.server.bytes.get("shared_buffers", BUFFERS) if node.server else BUFFERS


def swap(host: HostCase) -> Iterator[Finding]:
    """Yield swap that is used up."""
    have, free = host.sheet.memory.get("SwapTotal", 0), host.sheet.memory.get("SwapFree", 0)
    if have and free < have * (1 - FULL):
        text = f"Swap is used up {host.where}: {size(free)} of {size(have)} are free"
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
        text = f"vm.overcommit_memory is 2 {host.where}, and {size(max(0, left))} may be asked for"
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
