"""Another machine, reached by SSH: one login in a run, and a session for each command."""

from __future__ import annotations

import atexit
import posixpath
import shlex
import sys
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pgherd.errors import Error, Refused, Unreachable
from pgherd.hosts import parallel, ssh_login, supervisor
from pgherd.hosts.base import NOTHING, About, OnLine, Stdin
from pgherd.hosts.commands import Output, Result, Tool, Trace, argv_of
from pgherd.hosts.local import LocalHost
from pgherd.hosts.remote_lock import Leases
from pgherd.hosts.ssh_session import Link, Remote
from pgherd.hosts.tunnel import Tunnels

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

NOT_FOUND = 127  # a shell's exit code for a program that is not there
RESOLVE = supervisor.RESOLVE + 'for path; do resolve "$path"; done\n'


class SshHost:
    """A machine that is logged in to when something is first asked of it.

    Attributes:
        logins: how often it was logged in to.
        round_trips: how often it was asked something.
    """

    def __init__(
        self,
        destination: str,
        trace: Trace,
        *,
        root: str = "~/pgherd",
        config_file: str | None = None,
    ) -> None:
        """Take a destination as `hops.connect` does; `root` is where relative paths lie there."""
        self.name = destination
        self.trace = trace
        self.logins = 0
        self.round_trips = 0
        self._root = root
        self._config_file = config_file
        self._opening, self._counting = threading.Lock(), threading.Lock()
        self._link: Link | None = None
        self._failed: tuple[float, Error] | None = None
        self._leases = Leases(destination, trace, self._count)
        self._paths: dict[str, str] = {}
        self._tunnels = Tunnels(destination, self.link, self._count)
        atexit.register(self.close)

    # --- the connection ---

    def link(self, *, acts: bool = False) -> Link:
        """Return the open connection; one that was lost is opened anew.

        Raises:
            Unreachable: it cannot be; or a lock was lost with it, and the command acts.
            Cancelled: what wants it was given up.
        """
        if acts:
            self._leases.check()
        asked = time.monotonic()
        with self._opening:
            parallel.check()
            if self._link and not self._link.lost:
                return self._link
            if self._failed and self._failed[0] > asked:  # while this thread waited
                raise self._failed[1]
            try:
                self._link = self._open()
            except parallel.Cancelled:  # of this thread only: others open it
                raise
            except Error as fault:
                self._failed = (time.monotonic(), fault)
                raise
            return self._link

    def _open(self) -> Link:
        note = self.trace.note
        connected = ssh_login.connect(self.name, note=note, config_file=self._config_file)
        self.logins += 1
        self._count()
        return Link(connected, self.name, self._root, note)

    def _count(self) -> None:
        with self._counting:
            self.round_trips += 1

    def close(self) -> None:
        """Close the connection, if there is one, and end what runs on it."""
        atexit.unregister(self.close)
        with self._opening:
            link, self._link = self._link, None
        self._tunnels.close()
        if link:
            link.close()

    # --- commands ---

    def run(
        self,
        command: BaseCommand,
        *,
        stdin: Stdin = NOTHING,
        timeout: float | None = 60.0,
        on_line: OnLine | None = None,
        reads: bool = False,
    ) -> Result:
        """Run a command to its end: see `Host.run`."""
        argv = argv_of(command)
        parallel.check()
        if not self.trace.wants(argv, stdin, reads=reads, over=self.over):
            return Result(tuple(argv), self.name, 0, "", "")
        result = self._run(argv, stdin, timeout, on_line, acts=not reads)
        if result.code == NOT_FOUND:
            self._check_program(argv[0])
        return result

    def _run(
        self,
        argv: list[str],
        stdin: Stdin,
        timeout: float | None = 60.0,
        on_line: OnLine | None = None,
        *,
        acts: bool = False,
    ) -> Result:
        link = self.link(acts=acts)
        self._count()
        with link.session() as channel:
            return Remote(link, channel, argv, on_line, timeout).finish(stdin, timeout)

    def _check_program(self, program: str) -> None:
        """Raise Unreachable if it was the program itself that was not found."""
        found = self._run(["sh", "-c", 'command -v "$1"', "sh", program], NOTHING)
        if not found.ok:
            raise Unreachable(
                f"The program '{program}' is not on the PATH of {self.name}, as logins without a "
                "terminal have it: install it there."
            )

    def chunks(self, command: BaseCommand) -> Output:
        """Run a command and yield its output: see `Host.chunks`."""
        argv = argv_of(command)

        def pieces() -> Generator[bytes, None, None]:
            parallel.check()
            self.trace.wants(argv, NOTHING, reads=True, over=self.over)
            link = self.link()
            self._count()
            with link.session() as channel:
                remote = Remote(link, channel, argv, None, None)
                remote.close_stdin()
                yield from remote.pieces()

        return Output(shlex.join([*self.over, shlex.join(argv)]), pieces())

    def interactive(self, command: BaseCommand) -> int:
        """Run a command on the user's own terminal, by ssh; return its exit code.

        It is another login. There is a terminal over there if there is one here.
        """
        terminal = "-t" if sys.stdin.isatty() and sys.stdout.isatty() else "-T"
        ssh, *words = ssh_login.ssh_argv(
            self.name, terminal, "-o", "StrictHostKeyChecking=yes", config_file=self._config_file
        )
        return LocalHost(self.trace).interactive(Tool(ssh)[words, shlex.join(argv_of(command))])

    @property
    def over(self) -> list[str]:
        """The command that carries another one to that host, where it is shown."""
        return ssh_login.ssh_argv(self.name, config_file=self._config_file)

    # --- places ---

    @property
    def home(self) -> str:
        """The root on that host, absolute; it may not be there yet."""
        return self.link().told.root

    def paths(self, *data: str) -> list[str]:
        """Return absolute paths of that host: see `Host.paths`."""
        asked = {path: self._absolute(path) for path in data}
        missing = [path for path in asked if path not in self._paths]
        if missing:
            words = [asked[path] for path in missing]
            result = self._run(["sh", "-c", RESOLVE, "sh", *words], NOTHING)
            found = result.out.removesuffix("\n").split("\n")
            if not result.ok or len(found) != len(missing):
                raise Error(f"Paths cannot be resolved: {result.complaint()}")
            self._paths |= zip(missing, found, strict=True)
        return [self._paths[path] for path in data]

    def _absolute(self, data: str) -> str:
        told = self.link().told
        home, slash, rest = data.partition("/")
        if home == "~":
            data = f"{told.home}{slash}{rest}"
        elif home.startswith("~"):
            raise Refused(f"{data}: no home directories of others are known: write it in full")
        return posixpath.normpath(posixpath.join(told.root, data))

    def reach(self, address: str, port: int) -> tuple[str, int]:
        """Return where a client on this machine reaches it, by a tunnel or directly: see `Host`."""
        return self._tunnels.reach(address, port)

    # --- the rest ---

    def lease(self, name: str, what: str) -> AbstractContextManager[None]:
        """Hold a lock on that host: see `Host.lease`."""
        return self._leases.hold(self.link, name, what)

    def room(self, wanted: int) -> int:
        """Tell how many commands may run at once: see `Host.room`."""
        return self.link().room(wanted)

    def about(self) -> About:
        """Return what sort of machine it is."""
        return self.link().told.about
