"""A lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pgherd.errors import Refused, escaped

MOST = 200  # characters of what a lock file has


def holder() -> str:
    """Say who holds a lock, for those who are refused because of it."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{user}@{socket.gethostname()}, process {os.getpid()}, since {since} UTC"


def is_gone(said: str) -> bool:
    """Tell whether the holder that a lock file names was a process of this machine, and ended."""
    found = re.search(r"@(\S+), process ([0-9]{1,9}),", said)
    if not found or found[1] != socket.gethostname():
        return False
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def refusal(said: str, what: str) -> Refused:
    """Return the refusal of a second run; `said` is what the lock file has."""
    return Refused(
        f"Another pgherd run ({escaped(said.strip()[:MOST]) or 'unknown'}) is at work on {what}: "
        "wait for it, or end it, then run this again."
    )


def _open_lock(path: Path) -> TextIO:
    """Open a lock file; raise OSError for what is none: a link might lead to somebody's file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file")
    return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")


@contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file for this process. It keeps away runs on this machine and checkout only.

    Raises:
        Refused: another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_lock(path)
    except OSError as fault:
        raise Refused(
            f"{path} cannot be written ({fault.strerror}): run this as the owner of the checkout, "
            "or use a copy of your own."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise refusal(file.read(MOST), what) from None
        with suppress(OSError):  # a full disk: the lock is held all the same, though by nobody
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{holder()}\n".encode())
        yield
