"""One connection to a remote host, and the watch over it."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import paramiko

from pgherd.errors import Error, Unreachable
from pgherd.host import keeper
from pgherd.host.hops import Connected
from pgherd.host.sessions import OPEN_SECONDS, Sessions

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
        watch = threading.Timer(OPEN_SECONDS + keeper.ANSWER_SECONDS, self._hang_up)
        watch.daemon = True
        watch.start()
        try:
            self._keeper = self._sessions.first()
            self.told = keeper.start(self._keeper, destination, root, PATIENCE)
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
        return number, f"export {keeper.MARK}={self.told.mark}-{number}.; "

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
                answer = self._answers.get(timeout=keeper.ANSWER_SECONDS)
            except queue.Empty:
                self.lose(f"{keeper.ANSWER_SECONDS:g} s without an answer")
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
