"""This machine: commands run by Plumbum, each in a session of its own so that it can be ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from plumbum import CommandNotFound, local
from plumbum.machines.local import LocalCommand

from pgherd.config import local_path
from pgherd.errors import DeadlinePassed, Unreachable
from pgherd.host import NOTHING, OnLine
from pgherd.shell import Result, Script, Trace, argv_of

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

KEPT_LINES = 500  # of each stream, where the lines were handed on
CHUNK = 65536
GRACE = 5.0  # seconds between TERM and KILL


class LocalHost:
    """The machine that runs invoke. Its Docker Engine is the one that the docker CLI finds."""

    name = "local"

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def path(self, data: str) -> str:
        """Return the absolute path with links resolved: how Docker names a mount's source."""
        return os.path.realpath(local_path(data))

    def interactive(self, command: BaseCommand) -> int:
        """Run a command on the user's own terminal and return its exit code."""
        argv = argv_of(command)
        if not self.trace.wants(argv, NOTHING, reads=False):
            return 0
        process = _start(argv, stdin=None, stdout=None, stderr=None)
        while True:
            try:
                return int(process.wait())
            except KeyboardInterrupt:  # it belongs to psql, which has the terminal too
                continue

    def run(
        self,
        command: BaseCommand,
        *,
        stdin: Script = NOTHING,
        timeout: float | None = 60.0,
        on_line: OnLine | None = None,
        reads: bool = False,
    ) -> Result:
        """Run a command to its end: see `Host.run`."""
        argv = argv_of(command)
        if not self.trace.wants(argv, stdin, reads=reads):
            return Result(tuple(argv), self.name, 0, "", "")
        started = time.monotonic()
        child = _Child(argv, stdin.text(), on_line)
        try:
            code = child.wait(timeout)
        except TimeoutError:
            raise DeadlinePassed(
                f"{' '.join(argv[:3])} … did not end within {timeout:g} s and was ended."
                f"\n{child.result(self.name, -1, timeout or 0).complaint()}"
            ) from None
        return child.result(self.name, code, time.monotonic() - started)


def _start(argv: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a program that this machine's PATH has."""
    try:
        started = LocalCommand(local.which(argv[0]), "utf-8").popen(argv[1:], **streams)
        return cast("subprocess.Popen[bytes]", started)  # what Plumbum hands on, with additions
    except CommandNotFound:
        raise Unreachable(
            f"The program '{argv[0]}' is not on this machine's PATH; "
            "./scripts/bootstrap installs what is missing on Debian and Ubuntu."
        ) from None


class _Child:
    """A running command: threads feed and drain it, so that no pipe can fill up and hang."""

    def __init__(self, argv: list[str], stdin: str, on_line: OnLine | None) -> None:
        self.argv = argv
        self.expired = False
        self.fault: Exception | None = None
        self.process = _start(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            new_session=True,
        )
        kept = KEPT_LINES if on_line else None
        self.out: deque[str] = deque(maxlen=kept)
        self.err: deque[str] = deque(maxlen=kept)
        self.threads = [
            threading.Thread(target=self._drain, args=(stream, lines, on_line), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        if stdin:
            self.threads.append(
                threading.Thread(target=_feed, args=(self.process.stdin, stdin), daemon=True)
            )
        for thread in self.threads:
            thread.start()

    def wait(self, timeout: float | None) -> int:
        """Wait for the end; at the timeout, or at Ctrl-C, end the command and its children.

        The wait itself has no timeout: Popen's would poll, and cost every command up to 50 ms.

        Raises:
            TimeoutError: the timeout came first.
        """
        watch = threading.Timer(timeout, self._expire) if timeout else None
        with _live(self):
            if watch:
                watch.daemon = True
                watch.start()
            try:
                code = int(self.process.wait())
            except BaseException:
                self.end()
                raise
            finally:
                if watch:
                    watch.cancel()
        if self.expired:
            raise TimeoutError
        end = time.monotonic() + GRACE
        for thread in self.threads:  # a grandchild may hold the pipe: do not wait for it long
            thread.join(max(0.0, end - time.monotonic()))
        if self.fault:
            raise self.fault
        return code

    def _expire(self) -> None:
        self.expired = True
        self.end()

    def end(self) -> None:
        """End the command and its children: TERM, and KILL for what stays."""
        self._signal(signal.SIGTERM)
        end = time.monotonic() + GRACE
        while self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)  # a child of the command may be deaf to TERM

    def _signal(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sign)

    def _drain(self, stream: IO[bytes], lines: deque[str], on_line: OnLine | None) -> None:
        """Read a stream to its end; a fault of the listener ends the command, see wait."""
        try:
            for raw in _lines(stream.fileno()):
                line = raw.decode("utf-8", "replace")
                lines.append(line)
                if on_line:
                    on_line(line.rstrip("\r\n"))
        except Exception as fault:  # noqa: BLE001 (raised again by wait)
            self.fault = fault
            self._signal(signal.SIGTERM)

    def result(self, host: str, code: int, seconds: float) -> Result:
        """Return what came so far as a result."""
        out, err = "".join(self.out), "".join(self.err)
        return Result(tuple(self.argv), host, code, out, err, seconds)


_running: set[_Child] = set()


@contextlib.contextmanager
def _live(child: _Child) -> Iterator[None]:
    _running.add(child)
    try:
        yield
    finally:
        _running.discard(child)


def end_all() -> None:
    """End every command that runs now: Ctrl-C reaches only the main thread's own wait."""
    for child in list(_running):
        child.end()


def _lines(descriptor: int) -> Iterator[bytes]:
    """Yield lines as they come.

    Not through the stream's own buffer: its lock would be held while we wait for more, and Plumbum
    closes the stream when the command is dropped, which then hangs as long as a grandchild lives.
    """
    rest = b""
    while piece := os.read(descriptor, CHUNK):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


def _feed(stream: IO[bytes], text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        stream.write(text.encode())
        stream.flush()
    with contextlib.suppress(BrokenPipeError, OSError):
        stream.close()
