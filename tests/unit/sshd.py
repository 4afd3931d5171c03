"""Real SSH servers for tests: sshd on 127.0.0.1 as the current user, with keys of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or ""
ME = pwd.getpwuid(os.getuid()).pw_name
SEPARATION = Path("/run/sshd")  # where root's sshd locks its children up
DEADLINE = 20.0
BITS = {"rsa": "2048"}  # quicker made

needs_sshd = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh-keygen")), reason="OpenSSH's server is not installed"
)


def wait_until(holds: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Return the processes that a process started, and those that these started."""
    pairs = [line.split() for line in run("ps", "-eo", "pid=,ppid=").splitlines()]
    found = [pid]
    for parent in found:  # it grows meanwhile
        found += [int(child) for child, its in pairs if int(its) == parent]
    return found[1:]


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def run(*argv: str | Path) -> str:
    """Run a program that has to succeed, and return its output."""
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "", bits: str = "") -> Path:
    """Make a key pair, FILE and FILE.pub."""
    size = ["-b", bits] if bits else []
    run("ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, "-C", path.name, "-f", path)
    return path


def public(path: Path) -> str:
    """Return `TYPE KEY` of a key pair."""
    return " ".join(Path(f"{path}.pub").read_text(encoding="utf-8").split()[:2])


def fingerprint(path: Path) -> str:
    """Return the fingerprint of a key pair, in OpenSSH's own words."""
    return run("ssh-keygen", "-l", "-f", f"{path}.pub").split()[1]


@dataclass
class Sshd:
    """A running sshd.

    Attributes:
        directory: its own, with host keys, authorized_keys and log.
        port: where it listens on 127.0.0.1.
        process: itself.
        keys: its host keys by type.
    """

    directory: Path
    port: int
    process: subprocess.Popen[bytes]
    keys: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in known_hosts."""
        return f"[127.0.0.1]:{self.port}"

    def admit(self, *keys: Path) -> None:
        """Let users with these keys in."""
        with (self.directory / "authorized_keys").open("a", encoding="utf-8") as file:
            file.writelines(f"{public(key)}\n" for key in keys)

    def known(self, *kinds: str, name: str = "") -> str:
        """Return lines of known_hosts for it, of some types of keys or of all."""
        keys = [self.keys[kind] for kind in kinds or self.keys]
        return "".join(f"{name or self.name} {public(key)}\n" for key in keys)

    def log(self) -> str:
        """Return what it logged so far."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def settled(self) -> bool:
        """Tell whether it listens, or has given up."""
        return f"port {self.port}." in self.log() or self.process.poll() is not None

    def stop(self) -> None:
        """End its connections, which it waits for, and then itself."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for pid in children(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, sign)
            with suppress(AssertionError):
                wait_until(lambda: not children(self.process.pid), "its children end", 3.0)
        self.process.terminate()
        self.process.wait(DEADLINE)


@contextmanager
def sshd(directory: Path, *lines: str, kinds: tuple[str, ...] = ("ed25519",)) -> Iterator[Sshd]:
    """Run an sshd with these lines before its usual configuration (the first of a kind counts)."""
    directory.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    keys = {}
    for kind in kinds:
        path = directory / f"host_{kind}"
        keys[kind] = path if path.exists() else make_key(path, kind, bits=BITS.get(kind, ""))
    (directory / "authorized_keys").touch()
    server = _start(directory, lines, keys)
    try:
        yield server
    finally:
        server.stop()


def _start(directory: Path, lines: tuple[str, ...], keys: dict[str, Path]) -> Sshd:
    """Start an sshd on a port that is free; another process may be faster on it."""
    for _ in range(5):
        port = free_port()
        config = [
            *lines,
            f"ListenAddress 127.0.0.1:{port}",
            *(f"HostKey {key}" for key in keys.values()),
            f"AuthorizedKeysFile {directory}/authorized_keys",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "LogLevel VERBOSE",
        ]
        (directory / "sshd_config").write_text("\n".join([*config, ""]), encoding="utf-8")
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", directory / "sshd_config"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        server = Sshd(directory, port, process, keys)
        wait_until(server.settled, "sshd listens")
        if process.poll() is None:
            return server
        if "Address already in use" not in server.log():
            break
    raise AssertionError(f"sshd does not start: {server.log()}")


@dataclass
class Client:
    """The user's side: a directory with ssh_config, known_hosts and keys, and nothing of ~/.ssh."""

    directory: Path

    @property
    def config(self) -> str:
        """The path of its ssh_config."""
        return str(self.directory / "config")

    @property
    def known_hosts(self) -> Path:
        """Its known_hosts."""
        return self.directory / "known_hosts"

    def knows(self, *lines: str) -> None:
        """Add lines to known_hosts."""
        with self.known_hosts.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def host(self, alias: str, **settings: str | int | Path) -> None:
        """Add an alias to ssh_config, before the settings for all."""
        path = Path(self.config)
        lines = [f"Host {alias}", *(f"  {key} {value}" for key, value in settings.items())]
        path.write_text("\n".join([*lines, "", path.read_text(encoding="utf-8")]), encoding="utf-8")

    def server(self, alias: str, server: Sshd, **settings: str | int | Path) -> None:
        """Add an alias for a server on 127.0.0.1."""
        self.host(alias, HostName="127.0.0.1", Port=server.port, User=ME, **settings)


def client(directory: Path) -> Client:
    """Return the user's side in a directory, with a key in `id`."""
    directory.mkdir(parents=True, exist_ok=True)
    make_key(directory / "id")
    made = Client(directory)
    Path(made.config).write_text(
        f"Host *\n  IdentityFile {directory}/id\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n  GlobalKnownHostsFile none\n",
        encoding="utf-8",
    )
    made.known_hosts.touch()
    return made


@contextmanager
def agent(directory: Path, **environment: str) -> Iterator[Path]:
    """Run an ssh-agent and yield the path of its socket."""
    path = directory / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", path],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(path.exists, "ssh-agent listens")
        yield path
    finally:
        process.terminate()
        process.wait(DEADLINE)
