"""This machine: commands run by Plumbum, each in a session of its own so that it can be ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, cast

from pgherd.config import loader
from pgherd.config.values import LOCAL, reachable
from pgherd.hosts import parallel
from pgherd.hosts import process as running
from pgherd.hosts.base import NOTHING, About, OnLine, Stdin
from pgherd.hosts.commands import Output, Result, Script, Trace, act, argv_of
from pgherd.hosts.lock import hold_lock
from pgherd.hosts.process import CHUNK, NO_STREAM, PIPE, Running, start_program

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand


class LocalHost:
    """The machine that runs invoke. Its Docker Engine is the one that the docker CLI finds."""

    name = LOCAL
    over: Sequence[str] = ()  # nothing carries a command here

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    @property
    def home(self) -> str:
        """The directory `data` of the project."""
        return str(loader.ROOT / "data")

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
        if not self.trace.wants(argv, stdin, reads=reads):
            return Result(tuple(argv), self.name, 0, "", "")
        nothing = isinstance(stdin, Script) and not stdin.text()
        name = "" if reads else act(argv, stdin)
        return _Child(argv, on_line, name, reads_input=not nothing).finish(stdin, timeout)

    def chunks(self, command: BaseCommand) -> Output:
        """Run a command and yield its output: see `Host.chunks`."""
        argv = argv_of(command)

        def pieces() -> Generator[bytes, None, None]:
            parallel.check()
            self.trace.wants(argv, NOTHING, reads=True)
            yield from _Child(argv, None, "", reads_input=False).pieces()

        return Output(shlex.join(argv), pieces())

    def interactive(self, command: BaseCommand) -> int:
        """Run a command on the user's own terminal and return its exit code."""
        argv = argv_of(command)
        if not self.trace.wants(argv, NOTHING, reads=False):
            return 0
        process = start_program(argv, act(argv), stdin=None, stdout=None, stderr=None)
        # Ctrl-C belongs to psql, which has the terminal too.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            return int(process.wait())
        finally:
            signal.signal(signal.SIGINT, before)

    def paths(self, *data: str) -> list[str]:
        """Return absolute paths with links resolved: how Docker names a mount's source."""
        return [os.path.realpath(loader.local_path(path)) for path in data]

    def reach(self, address: str, port: int) -> tuple[str, int]:
        """Return where a client reaches an address: what listens everywhere, by loopback."""
        return reachable(address), port

    def lease(self, name: str, what: str) -> AbstractContextManager[None]:
        """Hold a lock of this checkout: see `Host.lease`."""
        return hold_lock(loader.ROOT / "data" / f".{name}.lock", what)

    def room(self, wanted: int) -> int:
        """Tell how many commands may run at once: as many as are wanted."""
        return wanted

    def about(self) -> About:
        """Return what sort of machine it is."""
        kernel = os.uname()
        return About(f"{kernel.sysname} {kernel.machine}")


class _Child(Running):
    """A running command of this machine."""

    def __init__(
        self, argv: list[str], on_line: OnLine | None, act: str, *, reads_input: bool
    ) -> None:
        super().__init__(argv, LOCAL, on_line)
        self.process = start_program(
            argv,
            act,
            stdin=PIPE if reads_input else NO_STREAM,
            stdout=PIPE,
            stderr=PIPE,
            new_session=True,
        )
        try:
            parallel.enlist(self)
        except parallel.Cancelled:  # in this very moment
            self.end()
            raise

    def out(self) -> Iterator[bytes]:
        return self._read(self.process.stdout)

    def err(self) -> Iterator[bytes]:
        return self._read(self.process.stderr)

    def write(self, piece: bytes) -> None:
        stdin = cast("IO[bytes]", self.process.stdin)
        stdin.write(piece)
        stdin.flush()

    def close_stdin(self) -> None:
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def code(self) -> int:
        return int(self.process.wait())

    def end(self) -> None:
        self._signal(signal.SIGTERM)
        end = time.monotonic() + running.GRACE
        while self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)  # a child of the command may be deaf to TERM

    def _read(self, stream: IO[bytes] | None) -> Iterator[bytes]:
        """Yield what comes, of a stream that stays open while it is read, since this holds it all.

        Plumbum closes the streams of a command that is dropped: a reader that went on with the bare
        number would read, and lose, what another command prints that was given the same one. Not
        through the stream's own buffer: its lock would be held while we wait for more, and the
        closing would hang as long as a grandchild lives.
        """
        descriptor = cast("IO[bytes]", stream).fileno()
        while piece := os.read(descriptor, CHUNK):
            yield piece

    def _signal(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sign)
