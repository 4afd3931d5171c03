"""A lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgherd.errors import Refused


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file for this process. It keeps away runs on this machine and checkout only.

    Raises:
        Refused: another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
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
            holder = file.read().strip() or "unknown"
            raise Refused(
                f"Another pgherd run (process {holder}) is at work on {what}: "
                "wait for it, or end it, then run this again."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
