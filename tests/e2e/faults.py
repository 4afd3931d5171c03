"""What befalls a group, for the tests of faults, and which of them are too long for the suite.

`invoke torture.faults` runs all of them, and more rounds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from conftest import Herd, docker

WHOLE = bool(os.environ.get("PGHERD_LONG"))
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")
PATIENCE = 120.0  # seconds: the machine may be busy


def until(so: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Ask until it is so; where a server does not answer, it is not so yet."""
    end = time.monotonic() + seconds
    while True:
        with suppress(psycopg.Error):
            if so():
                return
        assert time.monotonic() < end, f"not so after {seconds:g} s: {what}"
        time.sleep(0.1)


def passes(herd: Herd) -> None:
    """Wait until the group is as it is to be, and verify it."""
    primary = herd.primary()
    streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    until(lambda: herd.sql(primary, streaming) == len(herd.nodes) - 1, "all stream")
    herd.checks()


def crash(herd: Herd, role: str) -> None:
    """Kill a server's first process as the kernel would, so that the engine sees it crash."""
    pid = int(docker("inspect", "--format", "{{.State.Pid}}", herd.container(role)))
    if pid:  # else it does not run, and 0 would be this very test
        os.kill(pid, signal.SIGKILL)


@contextmanager
def small_disk(herd: Herd, role: str, megabytes: int) -> Iterator[Path]:
    """Put a small file system where a node's data directory is to be; nothing of it exists yet."""
    place, before = herd.directory / f"small-{role}", herd.nodes[role]["data"]
    place.mkdir(exist_ok=True)
    options = f"size={megabytes}m,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    herd.nodes[role]["data"] = str(place / f"{role}_data")
    herd.write()
    try:
        yield place
    finally:
        docker("rm", "--force", "--volumes", herd.container(role), check=False)
        herd.nodes[role]["data"] = before
        herd.write()
        subprocess.run(["umount", str(place)], check=True)


def make_room(place: Path, megabytes: int) -> None:
    """Give it more space."""
    options = f"remount,size={megabytes}m"
    subprocess.run(["mount", "-o", options, str(place)], check=True)
