"""One command on a session of an SSH connection: what a process is on this machine."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import paramiko

from pgherd.errors import Unreachable
from pgherd.host import OnLine, running, scope
from pgherd.host.link import Link
from pgherd.host.running import CHUNK, Running

LAST_WORDS = 2.0  # seconds for the host to tell that what was ended is ended
PACKET = 32768  # what fits in one message of paramiko's


class Remote(Running):
    """A running command of a remote host.

    `timeout` of coreutils or busybox goes before it, where the host has that and a time is given:
    it ends the command even if nothing more is heard from here.
    """

    def __init__(
        self,
        link: Link,
        channel: Any,
        argv: list[str],
        on_line: OnLine | None,
        timeout: float | None,
    ) -> None:
        super().__init__(argv, link.destination, on_line)
        self.link = link
        self.channel = channel
        self.bound = math.ceil(timeout) if timeout and link.told.bounded else None
        self.ended = False
        self.number, mark = link.marked()
        before = ["timeout", "-k", f"{running.GRACE:g}", str(self.bound)] if self.bound else []
        text = f"{mark}exec {shlex.join([*before, *argv])}"
        scope.enlist(self)  # from before it runs, so that it cannot begin unseen
        try:
            with self._told():
                channel.exec_command(text.encode("utf-8", "surrogateescape"))
        except OSError as fault:
            raise Unreachable(f"{link.destination} starts no more commands: {fault}") from None

    def wait(self, timeout: float | None) -> int:
        """Wait for the end: see `Running.wait`. Over there the time is watched first."""
        return super().wait(self.bound + running.GRACE if self.bound else timeout)

    def out(self) -> Iterator[bytes]:
        """Yield stdout in pieces as they come."""
        return self._read(self.channel.recv)

    def err(self) -> Iterator[bytes]:
        """Yield stderr in pieces as they come."""
        return self._read(self.channel.recv_stderr)

    def _read(self, receive: Callable[[int], bytes]) -> Iterator[bytes]:
        with self._told():
            while piece := receive(CHUNK):
                self.link.heard()
                yield piece

    def write(self, piece: bytes) -> None:
        """Write to its stdin, as much at once as the other side has room for."""
        channel = self.channel
        for at in range(0, len(piece), PACKET):
            rest = piece[at : at + PACKET]
            while rest:
                room = channel.out_window_size
                with self._told():
                    sent = channel.send(rest)
                if not sent:
                    raise BrokenPipeError
                if channel.out_window_size > room - sent:  # it was widened from there
                    self.link.heard()
                rest = rest[sent:]

    def close_stdin(self) -> None:
        """Tell it that there is no more to read."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.shutdown_write()

    def code(self) -> int:
        """Wait for the exit code; -1 where a signal ended it.

        Raises:
            Unreachable: the connection was lost before.
        """
        code = int(self.channel.recv_exit_status())
        if code < 0 and not self.ended:  # by whom?
            self.link.ask("alive\n")
        if code and self.bound and time.monotonic() - self.started >= self.bound:
            self.expired = True
            self.link.end(self.number)  # a child of the command may be deaf to TERM
        return code

    def end(self) -> None:
        """End the command and its children, and let go of the session."""
        self.ended = True
        if sys.is_finalizing():  # no other thread runs any more; the keeper does it by itself
            return
        self.link.end(self.number)
        self.channel.status_event.wait(running.GRACE + LAST_WORDS)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what a lost connection makes of paramiko as what it is.

        Raises:
            Unreachable: the connection is lost.
            OSError: the command does not listen any more.
        """
        try:
            yield
        except (EOFError, paramiko.SSHException) as fault:
            self.link.check()
            raise BrokenPipeError(str(fault)) from None
        except OSError:
            self.link.check()
            raise
