"""A machine of the rig that is reached by SSH: its sshd, its keys, and who has logged in."""

from __future__ import annotations

import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from engine import Engine
from machine import DEADLINE, lives, run, until, which
from space import IDS

KEYS = {"ed25519": (), "ecdsa": (), "rsa": ("-b", "2048")}
SESSION = ("sshd", "sshd-session", "sshd-auth")  # newer releases have programs of their own
CONFIGURATION = """\
Port 22
ListenAddress {address}
PidFile /run/sshd.pid
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel VERBOSE
"""


def make_key(path: Path, kind: str = "ed25519") -> str:
    """Make a key without a passphrase and return its public half."""
    path.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", kind, *KEYS[kind], "-N", "", "-C", path.name, "-f", str(path))
    return path.with_suffix(".pub").read_text().strip()


class Reached(Engine):
    """A machine with an engine and an sshd; root and two more may log in with one key."""

    _lines: tuple[str, ...] = ()  # what the configuration has besides its own

    def let_in(self, public: str) -> None:
        """Let the owner of a key in, as each of the users, and make the machine's own keys."""
        homes = {self.directory / "root": 0}
        homes |= {self.directory / "home" / name: number for name, number in IDS.items()}
        for home, number in homes.items():
            (home / ".ssh").mkdir(mode=0o700)
            keys = home / ".ssh" / "authorized_keys"
            keys.write_text(f"{public}\n")
            for path in (home / ".ssh", keys):
                os.chown(path, number, number)
        (self.directory / "keys").mkdir()
        for kind in KEYS:
            make_key(self._key(kind), kind)

    def _key(self, kind: str) -> Path:
        return self.directory / "keys" / kind

    def known_as(self) -> list[str]:
        """Return the machine's lines in a known_hosts file."""
        public = [self._key(kind).with_suffix(".pub").read_text().split() for kind in KEYS]
        return [f"{self.address} {words[0]} {words[1]}" for words in public]

    # --- its process ---

    def start_sshd(self) -> None:
        """Start it and wait until it listens."""
        (self.directory / "run" / "sshd").mkdir(mode=0o755, exist_ok=True)
        lines = [*self._lines, *(f"HostKey {self._key(kind)}" for kind in KEYS)]
        configuration = self.directory / "sshd_config"
        configuration.write_text(
            "\n".join(lines) + "\n" + CONFIGURATION.format(address=self.address)
        )
        words = (which("sshd"), "-f", str(configuration))
        self.run(*words, "-t")  # without -E: a fault is told here, not in the log
        self.run(*words, "-E", str(self._sshd_log))
        until(self.listener, f"{self.name}'s sshd listens ({self._sshd_log})", 10)

    @property
    def _sshd_log(self) -> Path:
        return self.directory / "sshd.log"

    def listener(self) -> int:
        """Return the process that listens, as this machine numbers it; 0: none does."""
        try:
            inner = int((self.directory / "run" / "sshd.pid").read_text())
        except (OSError, ValueError):
            return 0
        found = self.processes("sshd").items()
        return next((pid for pid, inside in found if inside == inner), 0)

    def stop_sshd(self) -> None:
        """Let nobody in any more; who is in stays."""
        pid = self.listener()
        if pid:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not self.listener(), f"{self.name}'s sshd has ended", DEADLINE)

    def sshd_with(self, *lines: str) -> None:
        """Have its configuration begin with these lines: sshd takes the first of each kind."""
        self.stop_sshd()
        self._lines = lines
        self.start_sshd()

    def new_host_key(self) -> None:
        """Have other keys than those that are known."""
        old = self.directory / "old-keys"
        if not old.exists():
            shutil.copytree(self.directory / "keys", old)
        for kind in KEYS:
            make_key(self._key(kind), kind)
        self.sshd_with(*self._lines)

    def repair_sshd(self) -> None:
        """Have it as it was in the beginning; frozen sessions end."""
        old = self.directory / "old-keys"
        changed = old.exists() or self._lines
        if old.exists():
            shutil.rmtree(self.directory / "keys")
            old.rename(self.directory / "keys")
        if changed or not self.listener():
            self.sshd_with()
        frozen = [pid for pid in self._sessions() if _state(pid) == "T"]
        self._signal(frozen, signal.SIGKILL)

    # --- who is in ---

    def ssh_log(self) -> str:
        """Return what its sshd said up to now."""
        return self._sshd_log.read_text(errors="replace")

    def logins(self) -> list[str]:
        """Return the user's name for each login that there has been."""
        return re.findall(r"Accepted publickey for (\S+) from", self.ssh_log())

    def sessions(self) -> list[str]:
        """Return a line for each session that has been opened: commands, subsystems, shells."""
        return re.findall(r"Starting session: .*", self.ssh_log())

    def _sessions(self) -> list[int]:
        return [pid for pid in self.processes(*SESSION) if pid != self.listener()]

    def kill_sessions(self) -> None:
        """Drop all connections; the commands that they began run on, as they would."""
        stats = [_stat(pid) for pid in self._sessions()]
        self._signal(self._sessions(), signal.SIGKILL)
        until(lambda: not any(lives(stat) for stat in stats if stat), "they have ended", 10)

    def freeze_sessions(self) -> None:
        """Let all connections fall silent: they stay open, and nothing answers."""
        self._signal(self._sessions(), signal.SIGSTOP)

    def thaw_sessions(self) -> None:
        """Let frozen connections go on."""
        self._signal(self._sessions(), signal.SIGCONT)

    @staticmethod
    def _signal(pids: list[int], sign: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""


def _state(pid: int) -> str:
    return _stat(pid).rpartition(")")[2].strip()[:1]
