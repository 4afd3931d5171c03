"""Files that nobody else may read: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pgherd.errors import Refused


def write(path: Path, text: str) -> None:
    """Write a file of mode 0600; its directory is made with 0700 where it is missing.

    It does not flush to the disk: it outlives a kill, not a loss of power right after.

    Raises:
        Refused: it cannot be written; what was there before still is.
    """
    name = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).rename(path)  # whole or not at all, even if we are killed here
    except OSError as fault:
        if name:
            Path(name).unlink(missing_ok=True)
        raise Refused(f"{path} cannot be written: {fault.strerror}") from None
