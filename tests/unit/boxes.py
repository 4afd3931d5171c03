"""Remote hosts for tests: an sshd on loopback, with a home and a docker command of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sshd import Client, Sshd, client, sshd

from pgherd.hosts.commands import Result, Tool, Trace
from pgherd.hosts.ssh import SshHost

LIMIT = 20.0  # for what ends by itself: reached only if something hangs
PATH = os.environ["PATH"]


@dataclass
class Box:
    """A server, its user's home over there, and the hosts of this side that were made for it."""

    server: Sshd
    client: Client
    home: Path
    programs: Path  # first on the PATH over there
    hosts: list[SshHost] = field(default_factory=list)

    def host(
        self, alias: str = "box", *, dry: bool = False, echo: bool = False, **options: Any
    ) -> SshHost:
        """Return another host that means this box."""
        trace = Trace(dry=dry, echo=echo)
        made = SshHost(alias, trace, config_file=self.client.config, **options)
        self.hosts.append(made)
        return made

    def connections(self) -> list[int]:
        """Return the server's processes that serve connections."""
        return [pid for pid in descendants(self.server.process.pid) if name_of(pid) == "sshd"]

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal to what serves the connections, not to what runs in them."""
        for pid in self.connections():
            os.kill(pid, sign)


@contextmanager
def box(directory: Path, *lines: str, docker: bool = True, path: str = PATH) -> Iterator[Box]:
    """Run a server with these lines in its sshd_config; end it, and what is connected, after."""
    home, programs = directory / "home", directory / "bin"
    home.mkdir()
    programs.mkdir()
    if docker:
        program(programs / "docker", 'echo docker "$@"')
    environment = f"SetEnv HOME={home} PATH={programs}:{path}"
    with sshd(directory / "sshd", *lines, environment) as server:
        user = client(directory / "client")
        server.admit(user.directory / "id")
        user.knows(server.known())
        user.server("box", server)
        made = Box(server, user, home, programs)
        try:
            yield made
        finally:
            for host in made.hosts:
                host.close()
            with suppress(ProcessLookupError):
                made.signal(signal.SIGKILL)


def program(path: Path, script: str) -> None:
    """Write a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def sh(host: SshHost, script: str, *words: str, **options: Any) -> Result:
    """Run shell text over there."""
    return host.run(Tool("sh")["-c", script, "sh", *words], **{"timeout": LIMIT, **options})


# --- processes ---


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found: list[int] = []
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        for child in map(int, text.split()):
            found += [child, *descendants(child)]
    return found


def name_of(pid: int) -> str:
    """Return a process's program."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    return ""


def alive(pid: int) -> bool:
    """Tell whether a process runs: not one that is gone, and not one that is only waited for."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2][1] != "Z"
    return False


def eventually(holds: Callable[[], object], *, seconds: float) -> bool:
    """Ask until it holds."""
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(held)
