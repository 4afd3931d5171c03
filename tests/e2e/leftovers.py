"""What a run of the tests leaves on the engine if it is killed.

An engine has room for 31 networks unless told otherwise, and a container with a restart policy
comes back with the engine, so what is left would make later runs slow first and then fail.

The process that makes a group holds a lock of the kernel's by its name as long as it lives. So what
is cleared away is of a group of this checkout's tests whose process has ended: neither one that has
been at work for hours, nor a user's, whatever it is called.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import suppress
from pathlib import Path

MARKS = Path(__file__).resolve().parents[2] / "data" / ".tests"  # a file for each group
LABEL = "pgherd.group"
_held: dict[str, int] = {}


def claim(group: str) -> None:
    """Hold a group's name while this process lives; until `release`, it has to be cleared away."""
    MARKS.mkdir(parents=True, exist_ok=True)
    _held[group] = os.open(MARKS / group, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(_held[group], fcntl.LOCK_EX)


def release(group: str) -> None:
    """Say that nothing of a group is left."""
    (MARKS / group).unlink(missing_ok=True)
    if group in _held:
        os.close(_held.pop(group))


def left() -> list[str]:
    """Return the groups that are not cleared away, and whose process has ended."""
    return [mark.name for mark in sorted(MARKS.glob("*")) if _is_free(mark)]


def clear() -> None:
    """Remove the containers and networks of those groups; without an engine that is for later."""
    for group in left():
        with suppress(OSError, subprocess.SubprocessError):
            _remove(group)
            release(group)


def _remove(group: str) -> None:
    label = ("--filter", f"label={LABEL}={group}")
    if containers := _docker("ps", "--all", "--quiet", *label).split():
        _docker("rm", "--force", "--volumes", *containers)
    if networks := _docker("network", "ls", "--quiet", *label).split():
        _docker("network", "rm", *networks)


def _is_free(mark: Path) -> bool:
    with suppress(FileNotFoundError):  # another run has just cleared that one away
        file = os.open(mark, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(file)
    return False


def _docker(*words: str) -> str:
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout
