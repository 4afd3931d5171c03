"""What runs now, wherever it runs: fed, drained, waited for, and ended when its time is over."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextvars import copy_context
from typing import Any, cast

from plumbum import CommandNotFound, local
from plumbum.machines.local import LocalCommand

from pgherd.errors import DeadlinePassed, Error, Unreachable
from pgherd.hosts import parallel
from pgherd.hosts.base import OnLine, Stdin
from pgherd.hosts.commands import Result, Script

KEPT_LINES = 500  # of each stream, where the lines were handed on
CHUNK = 65536
GRACE = 5.0  # seconds between TERM and KILL, and for what is left in the pipes at the end


class Running(ABC):
    """A running command: threads feed and drain it, so that no pipe can fill up and hang.

    Subclasses start it, and know how to read, write, wait and end on this machine or on another.

    Attributes:
        argv: its arguments, without what carries them to another host.
        host: the name of the host that it runs on.
        expired: its time was over before it ended.
        cancelled: it was given up before it ended.
        fault: what a listener, or the source of its input, raised.
    """

    def __init__(self, argv: list[str], host: str, on_line: OnLine | None) -> None:
        self.argv = argv
        self.host = host
        self.expired = False
        self.cancelled = False
        self.fault: BaseException | None = None
        self.started = time.monotonic()
        self._on_line = on_line
        self._out = deque[str](maxlen=KEPT_LINES if on_line else None)
        self._err = deque[str](maxlen=KEPT_LINES if on_line else None)
        self._threads: list[threading.Thread] = []

    # --- what each kind of host knows ---

    @abstractmethod
    def out(self) -> Iterator[bytes]:
        """Yield stdout in pieces as they come."""

    @abstractmethod
    def err(self) -> Iterator[bytes]:
        """Yield stderr in pieces as they come."""

    @abstractmethod
    def write(self, piece: bytes) -> None:
        """Write to its stdin; an OSError tells that it reads no more."""

    @abstractmethod
    def close_stdin(self) -> None:
        """Tell it that there is no more to read."""

    @abstractmethod
    def code(self) -> int:
        """Wait for its exit and return the exit code; negative where a signal ended it."""

    @abstractmethod
    def end(self) -> None:
        """End the command and its children: TERM, and KILL after GRACE for what stays."""

    # --- what is the same everywhere ---

    def cancel(self) -> None:
        """End it; whoever waits for it is told, lest half of an answer passes for all of it."""
        self.cancelled = True
        self.end()

    def finish(self, stdin: Stdin, timeout: float | None) -> Result:
        """Feed and drain it to its end.

        Raises:
            DeadlinePassed: the timeout came first; it was ended.
            Cancelled: it was given up.
        """
        self._spawn(self._drain, self.out(), self._out)
        self._spawn(self._drain, self.err(), self._err)
        self.feed(stdin)
        try:
            code = self.wait(timeout)
        except TimeoutError:
            raise DeadlinePassed(
                f"{' '.join(self.argv[:3])} … did not end within {timeout:g} s and was ended."
                f"\n{self.result(-1).complaint()}"
            ) from None
        finally:
            parallel.dismiss(self)
        return self.result(code)

    def pieces(self) -> Generator[bytes, None, None]:
        """Yield stdout as it comes; it is ended when the generator is dropped.

        Raises:
            Error: it failed.
        """
        self._spawn(self._drain, self.err(), self._err)
        done = False
        try:
            yield from self.out()
            code = self.wait(None)
            done = True
        finally:
            parallel.dismiss(self)
            if not done:
                if not sys.is_finalizing():  # then no thread begins any more
                    self._spawn(_exhaust, self.out())
                self.end()
        if code:
            raise Error(f"A command failed: {self.result(code).complaint()}")

    def feed(self, stdin: Stdin) -> None:
        """Write its stdin in a thread, or close it where there is nothing to be read."""
        if isinstance(stdin, Script):
            text = memoryview(stdin.text().encode())
            stdin = (bytes(text[at : at + CHUNK]) for at in range(0, len(text), CHUNK))
            if not text:
                self.close_stdin()
                return
        self._spawn(self._feed, stdin)

    def wait(self, timeout: float | None) -> int:
        """Wait for the end; at the timeout, or at Ctrl-C, end the command and its children.

        The wait itself has no timeout: Popen's would poll, and cost every command up to 50 ms.

        Raises:
            TimeoutError: the timeout came first.
            Cancelled: it was given up.
        """
        watch = threading.Timer(timeout, self._expire) if timeout else None
        if watch:
            watch.daemon = True
            watch.start()
        try:
            code = self.code()
        except BaseException:
            self.end()
            raise
        finally:
            if watch:
                watch.cancel()
        if self.cancelled:
            raise parallel.Cancelled
        if self.expired:
            raise TimeoutError
        end = time.monotonic() + GRACE
        for thread in self._threads:  # a grandchild may hold the pipe: do not wait for it long
            thread.join(max(0.0, end - time.monotonic()))
        if self.fault:
            raise self.fault
        return code

    def result(self, code: int) -> Result:
        """Return what came so far as a result."""
        seconds = time.monotonic() - self.started
        out, err = "".join(self._out), "".join(self._err)
        return Result(tuple(self.argv), self.host, code, out, err, seconds)

    def _spawn(self, act: Any, *words: Any) -> None:
        work = copy_context().run  # it belongs to the same scope
        thread = threading.Thread(target=work, args=(act, *words), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _expire(self) -> None:
        self.expired = True
        self.end()

    def _drain(self, pieces: Iterator[bytes], kept: deque[str]) -> None:
        """Read a stream to its end; a fault of the listener ends the command, see wait."""
        try:
            for raw in whole_lines(pieces):
                line = raw.decode("utf-8", "replace")
                kept.append(line)
                if self._on_line:
                    self._on_line(line.rstrip("\r\n"))
        except Exception as fault:  # noqa: BLE001 (raised again by wait)
            self.fault = fault
            self._spawn(self.end)
            _exhaust(pieces)

    def _feed(self, source: Iterable[bytes]) -> None:
        """Write what the source yields. Where that fails, half of it is not to pass for all."""
        try:
            for piece in source:
                try:
                    self.write(piece)
                except OSError:  # it reads no more, which is its own affair
                    break
        except BaseException as fault:  # noqa: BLE001 (raised again by wait)
            self.fault = fault
            self.end()
        else:
            self.close_stdin()
        finally:
            with contextlib.suppress(Exception):
                getattr(source, "close", lambda: None)()


def _exhaust(pieces: Iterable[bytes]) -> None:
    """Read what nobody wants any more: an SSH session ends only after that."""
    with contextlib.suppress(Error, OSError):
        for _ in pieces:
            pass


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with their ends as they come, however the pieces are cut."""
    begun: list[bytes] = []
    for piece in pieces:
        rest, *lines = piece.split(b"\n")
        for line in lines:
            yield b"".join([*begun, rest, b"\n"])
            begun, rest = [], line
        begun.append(rest)
    if last := b"".join(begun):
        yield last


# --- the programs of this machine: nothing else of pgherd starts a process ---

Program = subprocess.Popen[bytes]
ACT = "PGHERD_ACT"
PIPE, NO_STREAM = subprocess.PIPE, subprocess.DEVNULL


def start_program(argv: list[str], act: str = "", **streams: Any) -> Program:
    """Start a program that this machine's PATH has.

    One that changes something has the name of that `act` in its environment.

    Raises:
        Unreachable: it is not there.
    """
    environment = {ACT: act} if act else None  # beside this process's own
    try:
        command = LocalCommand(local.which(argv[0]), "utf-8")
        started = command.popen(argv[1:], env=environment, **streams)
        return cast("Program", started)  # what Plumbum hands on, with additions
    except CommandNotFound:
        raise Unreachable(
            f"The program '{argv[0]}' is not on this machine's PATH; "
            "./scripts/bootstrap installs what is missing on Debian and Ubuntu."
        ) from None


def wait_for_end(program: Program, seconds: float) -> bool:
    """Wait so long for a program's end; tell whether it came."""
    try:
        program.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
