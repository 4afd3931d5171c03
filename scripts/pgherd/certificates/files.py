"""The files of keys and certificates: each of mode 0600, whole or not there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pgherd import secretfile
from pgherd.errors import Refused
from pgherd.shell import Secret, Trace

if TYPE_CHECKING:  # it takes a fifth of a second to import
    from cryptography.x509 import Certificate


class Files:
    """One directory of this machine; with `--dry` what would be removed is printed."""

    def __init__(self, directory: Path, trace: Trace) -> None:
        self.directory = directory
        self.trace = trace

    def path(self, name: str) -> Path:
        """Return the path of a file, whether it is there or not."""
        return self.directory / name

    def read(self, path: Path) -> str:
        """Return a file's text. Raises Refused where it cannot be read."""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise Refused(f"{path} cannot be read: {fault}") from None

    def certificates(self, path: Path) -> list[Certificate]:
        """Return the certificates of a file. Raises Refused where it has none."""
        from pgherd.certificates import reading  # noqa: PLC0415

        try:
            return reading.read(self.read(path))
        except Refused as fault:
            named = str(path) in fault.sentence
            raise Refused(fault.sentence if named else f"{path}: {fault.sentence}.") from None

    def secret(self, path: Path) -> Secret:
        """Return a file's text, to be laid on a host."""
        return Secret(self.read(path).rstrip("\n"), str(path))

    def write(self, path: Path, text: str) -> None:
        """Write a file. Raises Refused where it cannot be written."""
        secretfile.write(path, text)
        self.trace.note(f"made {path}")

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        if path.exists() and self.trace.dry:
            self.trace.shell(f"rm {shlex.quote(str(path))}")
        elif path.exists():
            path.unlink()
