"""This machine, as the rig uses it: its tools, its processes, and one lock for all rigs."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

BASE = Path("/var/lib/pgherd-rig")  # short: the name of a socket has at most 107 characters
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"}
NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts")
TOOLS = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables": "iptables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "mount": "mount",
}
SYSTEM_TOOLS = {"mmdebstrap": "mmdebstrap", "setpriv": "util-linux"}
SSH_TOOLS = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
DEADLINE = 60.0


def which(tool: str) -> str:
    """Return the path of a tool, which may lie in sbin; empty if it is not there."""
    return shutil.which(tool, path=ENVIRONMENT["PATH"]) or ""


@cache
def lacking(*, ssh: bool = True, system: bool = False) -> str:
    """Say what this machine lacks for the rig; empty if nothing.

    Args:
        ssh: the hosts are to be reached by SSH.
        system: they are to have the programs of another Debian.
    """
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root can make a network namespace"
    wanted = TOOLS | (SSH_TOOLS if ssh else {}) | (SYSTEM_TOOLS if system else {})
    missing = [tool for tool in wanted if not which(tool)]
    if missing:
        packages = " ".join(sorted({wanted[tool] for tool in missing}))
        return f"this machine has no {', '.join(missing)} (Debian: apt-get install {packages})"
    done = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "true"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    return f"namespaces may not be made here: {done.stderr.strip()}" if done.returncode else ""


def until(so: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Ask until it is so.

    Raises:
        TimeoutError: it was not so within the time.
    """
    end = time.monotonic() + seconds
    while not so():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {seconds:g} s: {what}")
        time.sleep(0.05)


def run(*words: str, check: bool = True, timeout: float = 120) -> str:
    """Run a command of this machine and return what it printed.

    Raises:
        RuntimeError: it failed, and `check` is asked for.
    """
    done = subprocess.run(
        words, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


# --- processes ---


def birth(stat: str) -> tuple[int, str]:
    """Return a process's number and start time, which name it for good, by its line in /proc."""
    return int(stat.split(maxsplit=1)[0]), stat.rpartition(")")[2].split()[19]


def myself() -> str:
    """Return this process's line in /proc."""
    return Path("/proc/self/stat").read_text(encoding="utf-8")


def lives(stat: str) -> bool:
    """Whether the process that once had this line in /proc still runs."""
    pid, _start = birth(stat)
    try:
        now = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return birth(now) == birth(stat) and now.rpartition(")")[2].split()[0] not in {"Z", "X"}


def end_process(stat: str) -> None:
    """Kill the process that once had this line in /proc, if it still runs, and wait for its end."""
    if lives(stat):
        with suppress(ProcessLookupError):
            os.kill(birth(stat)[0], signal.SIGKILL)
        until(lambda: not lives(stat), f"process {birth(stat)[0]} has ended", 20)


# --- one at a time ---


@contextmanager
def alone(directory: Path = BASE.parent) -> Iterator[None]:
    """Hold the lock of a directory; the kernel drops it with the process."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
