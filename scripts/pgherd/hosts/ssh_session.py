"""An SSH connection: the watch over it, its sessions, and the one command on each."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import paramiko

from pgherd.errors import Error, Unreachable
from pgherd.hosts import parallel, process, supervisor
from pgherd.hosts.base import OnLine
from pgherd.hosts.process import CHUNK, Running
from pgherd.hosts.ssh_login import Connected

# --- one command on a session: what a process is on this machine ---

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
        before = ["timeout", "-k", f"{process.GRACE:g}", str(self.bound)] if self.bound else []
        text = f"{mark}exec {shlex.join([*before, *argv])}"
        parallel.enlist(self)  # from before it runs, so that it cannot begin unseen
        try:
            with self._raising_as_ours():
                channel.exec_command(text.encode("utf-8", "surrogateescape"))
        except OSError as fault:
            raise Unreachable(f"{link.destination} starts no more commands: {fault}") from None

    def wait(self, timeout: float | None) -> int:
        """Wait for the end: see `Running.wait`. Over there the time is watched first."""
        return super().wait(self.bound + process.GRACE if self.bound else timeout)

    def out(self) -> Iterator[bytes]:
        """Yield stdout in pieces as they come."""
        return self._read(self.channel.recv)

    def err(self) -> Iterator[bytes]:
        """Yield stderr in pieces as they come."""
        return self._read(self.channel.recv_stderr)

    def _read(self, receive: Callable[[int], bytes]) -> Iterator[bytes]:
        with self._raising_as_ours():
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
                with self._raising_as_ours():
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
        self.channel.status_event.wait(process.GRACE + LAST_WORDS)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.close()

    @contextlib.contextmanager
    def _raising_as_ours(self) -> Iterator[None]:
        """Raise the errors of paramiko as errors of ours.

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


# --- one connection to a remote host, and the watch over it ---

BEAT_SECONDS = 3.0  # between two lines to the keeper
TICK_SECONDS = 2.0
SILENT_TICKS = 5  # without an answer, until the connection counts as lost
PATIENCE = 20  # seconds without a line, until the keeper counts its client as lost


class Link:
    """A connection that is open, with the keeper on it.

    Attributes:
        told: what the host told of itself.
        lost: how the connection was lost; empty as long as it was not.
    """

    def __init__(
        self, connected: Connected, destination: str, root: str, note: Callable[[str], None]
    ) -> None:
        """Take a connection that is logged in; it is closed where this fails."""
        self.transport = connected.transport
        self._hang_up = connected.close
        self.destination = destination
        self.lost = ""
        self._numbers = itertools.count(1)
        self._sessions = Sessions(self.transport, destination, self.check, note)
        self._heard = True  # since the last tick
        self._closed = threading.Event()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._asking, self._sending = threading.Lock(), threading.Lock()
        self._closing = threading.Lock()
        watch = threading.Timer(OPEN_SECONDS + supervisor.ANSWER_SECONDS, self._hang_up)
        watch.daemon = True
        watch.start()
        try:
            self._keeper = self._sessions.first()
            self.told = supervisor.start(self._keeper, destination, root, PATIENCE)
        except BaseException as fault:
            alive = self.transport.is_active()
            self._hang_up()
            if isinstance(fault, Unreachable) and not alive:
                raise Unreachable(
                    f"The connection to {destination} was lost as soon as it was made; its log "
                    "over there may tell why."
                ) from None
            raise
        finally:
            watch.cancel()
        for watcher in (self._listen, self._beat):
            threading.Thread(target=watcher, daemon=True).start()

    # --- commands and channels ---

    def session(self) -> AbstractContextManager[Any]:
        """Open a session: see `Sessions.another`."""
        return self._sessions.another()

    def room(self, wanted: int) -> int:
        """Tell how many of so many sessions may be open at once: see `Sessions.room`."""
        self.ask("alive\n")  # by its answer the server has noticed which ones were closed
        found = self._sessions.room(wanted)
        self.ask("alive\n")
        return found

    def tunnelled(self, address: str, port: int) -> Any:
        """Open a channel to an address as that host reaches it.

        Raises:
            paramiko.ChannelException: it is prohibited there (code 1), or nobody answers (2).
            Unreachable: the connection is lost.
        """
        self.check()
        origin = ("127.0.0.1", 0)
        try:
            return self.transport.open_channel(
                "direct-tcpip", (address, port), origin, timeout=OPEN_SECONDS
            )
        except paramiko.ChannelException:
            raise
        except (paramiko.SSHException, EOFError, OSError) as fault:
            self.check()
            raise paramiko.ChannelException(2, str(fault)) from None

    def marked(self) -> tuple[int, str]:
        """Return a new command's number, and the shell text that marks it with that."""
        number = next(self._numbers)
        return number, f"export {supervisor.MARK}={self.told.mark}-{number}.; "

    def end(self, number: int) -> None:
        """Have a command and its children ended: TERM, and KILL after 5 s for what stays."""
        with contextlib.suppress(Unreachable):  # then the keeper does it by itself
            self._tell(f"end {number}\n")

    # --- the keeper ---

    def ask(self, text: str) -> str:
        """Say something to the keeper and return its answer.

        Raises:
            Unreachable: the connection is lost.
        """
        self.check()
        with self._asking:
            self._tell(text)
            try:
                answer = self._answers.get(timeout=supervisor.ANSWER_SECONDS)
            except queue.Empty:
                self.lose(f"{supervisor.ANSWER_SECONDS:g} s without an answer")
                answer = ""
        self.check()
        return answer

    def _tell(self, text: str) -> None:
        try:
            with self._sending:
                self._keeper.sendall(text.encode())
        except (OSError, EOFError, paramiko.SSHException):
            self.lose("it was closed from there")
            self.check()

    def heard(self) -> None:
        """Take note that the other side lives."""
        self._heard = True

    def _beat(self) -> None:
        with contextlib.suppress(Error):
            while not self._closed.wait(BEAT_SECONDS):
                self._tell("\n")

    def _listen(self) -> None:
        """Read the keeper's answers. Silence is counted in ticks: this process may have slept."""
        self._keeper.settimeout(TICK_SECONDS)
        rest, silent = b"", 0
        while not self._closed.is_set():
            try:
                piece = self._keeper.recv(4096)
            except TimeoutError:
                silent = 0 if self._heard else silent + 1
                self._heard = False
                if silent >= SILENT_TICKS:
                    self.lose(f"{SILENT_TICKS * TICK_SECONDS:g} s without an answer")
                continue
            if not piece and not self._closed.is_set():
                self.lose("it was closed from there")
            silent = 0
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line != b".":
                    self._answers.put(line.decode("utf-8", "replace"))

    # --- the end ---

    def check(self) -> None:
        """Raise Unreachable if the connection is lost."""
        if not self.lost and not self.transport.is_active():
            self.lose("it was closed from there")
        if self.lost:
            raise Unreachable(self.lost)

    def lose(self, how: str) -> None:
        """Count the connection as lost: what waits on it is told so."""
        if not self.lost:
            self.lost = (
                f"The connection to {self.destination} was lost: {how}. What ran there is ended "
                "by itself; when the host can be reached again, run this again."
            )
        self.close()

    def close(self) -> None:
        """Close the connection; commands that still run there are ended by the keeper."""
        self._closed.set()
        with self._closing:
            self._hang_up()
        self._answers.put("")
        self._sessions.wake()


# --- the sessions of one SSH connection: no more at once than its server allows ---

MOST = 6  # at once, beside the keeper; sshd's MaxSessions is 10 unless it is told otherwise
OPEN_SECONDS = 15.0
LOOK_SECONDS = 0.2  # between two looks of who waits for a session whether it was given up
DENIED_SECONDS = 3.0  # until the server has noticed that the last one was closed


class Sessions:
    """Opens sessions, and learns from the server how many it allows."""

    def __init__(
        self,
        transport: Any,
        destination: str,
        check: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        """Take what raises once the connection is lost, and what prints a line."""
        self.transport = transport
        self.destination = destination
        self._check = check
        self._note = note
        self._changed = threading.Condition()
        self._cap = MOST
        self._least = 1  # that it is known to allow
        self._taken = 0  # open, or being opened
        self._open = 0

    def first(self) -> Any:
        """Open the session that stays.

        Raises:
            Unreachable: the server allows none.
        """
        try:
            return self.transport.open_session(timeout=OPEN_SECONDS)
        except (paramiko.SSHException, EOFError, OSError) as fault:
            raise Unreachable(
                f"{self.destination} lets you log in, but opens no session ({fault}): its "
                "sshd_config must allow them (MaxSessions, 10 unless said)."
            ) from None

    @contextlib.contextmanager
    def another(self) -> Iterator[Any]:
        """Open a session; it is closed with the block. Where there are too many, wait for one.

        Raises:
            Unreachable: the connection is lost, or the server allows us none.
            Cancelled: what wanted it was given up.
        """
        channel = self._opened()
        try:
            yield channel
        finally:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.close()
            self._change(taken=-1, opened=-1)

    def room(self, wanted: int) -> int:
        """Tell how many of so many sessions the server lets be open at once, by trying it.

        Whoever asks has none open there.
        """
        tried: list[Any] = []
        try:
            while len(tried) < min(wanted, MOST):
                tried.append(self.transport.open_session(timeout=OPEN_SECONDS))
        except (paramiko.SSHException, EOFError, OSError):
            self._check()
        finally:
            for channel in tried:
                with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                    channel.close()
        self._least = max(self._least, len(tried))
        self._cap = max(self._cap, self._least)
        return min(wanted, self._least)

    def wake(self) -> None:
        """Let those who wait look whether the connection is lost."""
        self._change()

    def _opened(self) -> Any:
        end = time.monotonic() + DENIED_SECONDS
        while True:
            with self._changed:
                while self._taken >= self._cap:
                    self._check()
                    parallel.check()
                    self._changed.wait(LOOK_SECONDS)
                    end = time.monotonic() + DENIED_SECONDS  # another has ended only now
                self._taken += 1
            try:
                self._check()
                channel = self.transport.open_session(timeout=OPEN_SECONDS)
            except (paramiko.SSHException, EOFError, OSError) as fault:
                self._change(taken=-1)
                self._check()
                self._denied(fault, last=time.monotonic() > end)
            except BaseException:
                self._change(taken=-1)
                raise
            else:
                self._change(opened=1)
                return channel

    def _change(self, taken: int = 0, opened: int = 0) -> None:
        with self._changed:
            self._taken += taken
            self._open += opened
            self._changed.notify_all()

    def _denied(self, fault: Exception, *, last: bool) -> None:
        """Make do with the sessions that we have.

        Raises:
            Unreachable: we have none, and are given none.
        """
        with self._changed:
            if self._open > 0 and max(self._open, self._least) < self._cap:
                if self._cap == MOST:
                    self._note(
                        f"{self.destination} allows few sessions at once (MaxSessions in its "
                        "sshd_config): some work waits that would go side by side."
                    )
                self._cap = max(self._open, self._least)
            elif not self._open and last:
                raise Unreachable(
                    f"{self.destination} opens no second session on a connection ({fault}): "
                    f"set MaxSessions in its sshd_config to {MOST + 1} or more; 2 is the least."
                )
        time.sleep(0.05)
