"""The sessions of one SSH connection: no more at once than its server allows."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import paramiko

from pgherd.errors import Unreachable
from pgherd.host import scope

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
                    scope.check()
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
