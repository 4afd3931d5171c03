"""The group's passwords, in files that nobody else may read."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import shutil
import tempfile
from pathlib import Path

from pgherd.config import loader
from pgherd.errors import Refused
from pgherd.hosts.commands import Secret, Trace

# --- files that nobody else may read: written whole or not at all ---


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


# --- the group's passwords ---

# One that is made is a generated one, or what INVOKE_POSTGRES_PASSWORD or
# INVOKE_REPLICATOR_PASSWORD says. New ones in place of those in use lie in a directory of their own
# until they are in use.

LONGEST = 900  # bytes: in a passfile libpq reads lines of 1024 (passwordFromFile, before 14 320)
LENGTH = 32  # letters and digits: 190 bits, and nothing that any format would have to escape
PENDING = ".rotation"  # no node's name begins with a dot
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Passwords:
    """The files `<role>.password` of one group, on the machine that runs invoke."""

    def __init__(self, directory: Path, trace: Trace) -> None:
        self.directory = directory
        self.pending = directory / PENDING
        self._printed: set[Path] = set()
        self._trace = trace
        self._told = False
        self._taken: set[str] = set()

    def path(self, role: str) -> str:
        """Return the path of the role's password file, whether it is there or not."""
        return str(self.directory / f"{role}.password")

    def of(self, role: str) -> Secret:
        """Return the role's password; make it, and its file, where there is none.

        With `--dry` the file is made by the printed script, and the value is empty until then.

        Raises:
            Refused: the file is there but cannot be read or is not one line of text, or the
                environment says another one.
        """
        path = self.directory / f"{role}.password"
        if not os.path.lexists(path):  # a link that leads nowhere is somebody's, to be told
            if self._trace.dry:
                if path not in self._printed:
                    self._print_making(path, role)
                self._printed.add(path)
                return Secret("", str(path))
            self._make(path, role)
        return self._checked(role, path)

    def known(self, role: str) -> Secret | None:
        """Return the role's password if its file is there; make nothing."""
        path = self.directory / f"{role}.password"
        return self._checked(role, path) if os.path.lexists(path) else None

    def _checked(self, role: str, path: Path) -> Secret:
        value, asked = self._read(path), loader.password_asked(role)
        if any(self.pending.glob("*.password")):
            if not self._told:
                self._told = True
                self._trace.note(
                    "A change of passwords was cut short: `invoke rotate-passwords` completes it"
                )
            new = self.pending / f"{role}.password"
            if role in self._taken and new.exists():
                return Secret(self._read(new), str(new))
        elif asked and asked != value:
            raise Refused(
                f"{loader.password_variable(role)} is another password than {path} has: `invoke "
                "rotate-passwords` changes it to that one; else take the variable away."
            )
        return Secret(value, str(path))

    # --- new ones in place of those in use ---

    def former(self, role: str) -> Secret:
        """Return the password that is being replaced; empty where its file is lost."""
        path = self.directory / f"{role}.password"
        return Secret(self._read(path) if os.path.lexists(path) else "", str(path))

    def replacing(self) -> dict[str, Secret]:
        """Return the new passwords, by role, that a run was to put into use and did not."""
        paths = sorted(self.pending.glob("*.password"))
        return {path.stem: Secret(self._read(path), str(path)) for path in paths}

    def taken(self, role: str) -> None:
        """Take note that a role has its new password, though the change was cut short.

        From here on in this run that is the one to go by.
        """
        self._taken.add(role)

    def replace(self, roles: list[str]) -> dict[str, Secret]:
        """Make new passwords for some roles, all of them or none; return them.

        Raises:
            Refused: the environment says the one that is in use.
        """
        for role in roles:
            asked = _asked(role)
            if asked and asked == self.former(role).value:
                raise Refused(
                    f"{loader.password_variable(role)} is the password that {role} has already: "
                    "say a new one there, or take the variable away for a generated one."
                )
        paths = {role: self.pending / f"{role}.password" for role in roles}
        if self._trace.dry:
            for role, path in paths.items():
                self._print_making(path, role)
            return {role: Secret("", str(path)) for role, path in paths.items()}
        self._make_directory()
        for left in self.directory.glob(f"{PENDING}-*"):  # by a run that was killed right here
            shutil.rmtree(left)
        made = Path(tempfile.mkdtemp(dir=self.directory, prefix=f"{PENDING}-"))  # mode 0700
        for role in roles:
            self._make(made / f"{role}.password", role, self.pending)
        made.rename(self.pending)
        return self.replacing()

    def replaced(self, role: str) -> None:
        """Take note that a new password is in use: its file takes the place of the former."""
        new, file = self.pending / f"{role}.password", self.directory / f"{role}.password"
        if self._trace.dry:
            words = shlex.join(["mv", str(new), str(file)])
            self._trace.shell(f"{words}; rmdir {shlex.quote(str(self.pending))} 2>/dev/null || :")
            return
        new.rename(file)
        if not any(self.pending.iterdir()):  # killed before this, an empty one is nothing
            self.pending.rmdir()

    # --- files ---

    def _read(self, path: Path) -> str:
        try:
            value = _first(path, LONGEST + 3).decode().removesuffix("\n").removesuffix("\r")
        except OSError as fault:
            reason = fault.strerror or fault
            raise Refused(f"The password file {path} cannot be read: {reason}.") from None
        except UnicodeDecodeError:
            raise Refused(f"The password file {path} is not UTF-8 text.") from None
        if not value or re.search(r"[\n\r\0]", value) or len(value.encode()) > LONGEST:
            raise Refused(
                f"The password file {path} must hold one line, the password, of at most {LONGEST} "
                "bytes."
            )
        return value

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as fault:
            raise Refused(f"{self.directory} cannot be made: {fault.strerror}") from None

    def _make(self, path: Path, role: str, shown: Path | None = None) -> None:
        asked = _asked(role)
        self._make_directory()
        value = asked or "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        write(path, f"{value}\n")
        self._trace.note(f"made {(shown or path.parent) / path.name}")

    def _print_making(self, path: Path, role: str) -> None:
        directory, file = shlex.quote(str(path.parent)), shlex.quote(str(path))
        generated = f"head -c 96 /dev/urandom | base64 | tr -dc A-Za-z0-9 | cut -c -{LENGTH}"
        asked = f"printf '%s\\n' \"${loader.password_variable(role)}\""
        made = asked if loader.password_asked(role) else generated
        self._trace.shell(f"(umask 077; mkdir -p {directory}; [ -s {file} ] || {made} > {file})")


def _asked(role: str) -> str:
    """Return what the environment says for a role; what could not be read again is refused."""
    value = loader.password_asked(role)
    if len(value.encode()) > LONGEST:
        raise Refused(f"{loader.password_variable(role)} may have at most {LONGEST} bytes.")
    return value


def _first(path: Path, size: int) -> bytes:
    """Read the beginning of a file; raise OSError for what is none."""
    if not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no file")
    with path.open("rb") as file:
        return file.read(size)
