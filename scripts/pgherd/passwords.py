"""The group's passwords: generated once, one bare line in a file of mode 0600, used again."""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
from pathlib import Path

from pgherd.errors import Refused
from pgherd.shell import Secret, Trace

LENGTH = 32  # letters and digits: 190 bits, and nothing that any format would have to escape
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Passwords:
    """The files `<role>.password` of one group, on the machine that runs invoke."""

    def __init__(self, directory: Path, trace: Trace) -> None:
        self.directory = directory
        self._printed: set[Path] = set()
        self._trace = trace

    def path(self, role: str) -> str:
        """Return the path of the role's password file, whether it is there or not."""
        return str(self.directory / f"{role}.password")

    def of(self, role: str) -> Secret:
        """Return the role's password; make it, and its file, where there is none.

        With `--dry` the file is made by the printed script, and the value is empty until then.

        Raises:
            Refused: the file is there but cannot be read or is not one line of text.
        """
        path = self.directory / f"{role}.password"
        if not path.exists():
            if self._trace.dry:
                if path not in self._printed:
                    self._print_making(path)
                self._printed.add(path)
                return Secret("", str(path))
            self._make(path)
        return Secret(self._read(path), str(path))

    def known(self, role: str) -> Secret | None:
        """Return the role's password if its file is there; make nothing."""
        path = self.directory / f"{role}.password"
        return Secret(self._read(path), str(path)) if os.path.lexists(path) else None

    def _read(self, path: Path) -> str:
        try:
            value = path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as fault:
            raise Refused(f"The password file {path} cannot be read: {fault}") from None
        if not value or "\n" in value or "\0" in value:
            raise Refused(f"The password file {path} must hold one line, the password.")
        return value

    def _make(self, path: Path) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as fault:
            raise Refused(f"{self.directory} cannot be made: {fault.strerror}") from None
        value = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        handle, name = tempfile.mkstemp(dir=self.directory, prefix=f".{path.name}")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{value}\n")
        Path(name).rename(path)  # whole or not at all, even if we are killed here
        self._trace.note(f"made {path}")

    def _print_making(self, path: Path) -> None:
        directory, file = shlex.quote(str(self.directory)), shlex.quote(str(path))
        self._trace.shell(
            f"(umask 077; mkdir -p {directory}; [ -s {file} ] || "
            f"head -c 96 /dev/urandom | base64 | tr -dc A-Za-z0-9 | cut -c -{LENGTH} > {file})"
        )
