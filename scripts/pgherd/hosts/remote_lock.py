"""A lock on a remote host that neither a killed run nor a lost connection leaves behind.

The keeper holds it, with flock(2), and lets go when it hears nothing from here any more. It keeps
away runs of other machines that have the same root there; a run on that host itself locks a file of
its own checkout, which is another one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pgherd.errors import Error, Refused, Unreachable
from pgherd.hosts.commands import Trace
from pgherd.hosts.lock import holder, is_gone, refusal
from pgherd.hosts.ssh_session import Link

LAST_WORDS = 15.0  # seconds for the keeper of a run of this machine that was killed
DESCRIPTORS = range(4, 10)  # of the keeper's shell, which knows no higher ones


class Leases:
    """The locks that this process holds on one host."""

    def __init__(self, destination: str, trace: Trace, count: Callable[[], None]) -> None:
        """Take what counts a round trip."""
        self.destination = destination
        self.trace = trace
        self._count = count
        self._taking = threading.Lock()
        self._held: dict[int, tuple[str, Link]] = {}  # by descriptor: what it keeps, and where

    def check(self) -> None:
        """Raise Unreachable if one of them was lost: somebody else may be at work by now."""
        for what, link in list(self._held.values()):
            if link.lost:
                raise Unreachable(
                    f"The lock of {what} at {self.destination} was lost with the connection, so "
                    f"nothing more is done there. {link.lost}"
                )

    @contextmanager
    def hold(self, connect: Callable[[], Link], name: str, what: str) -> Iterator[None]:
        """Hold the lock file `.NAME.lock` in the root of the host.

        Raises:
            Refused: another run holds it, or it cannot be written.
        """
        link = connect()
        if not link.told.flock:
            self.trace.note(
                f"{self.destination} has no flock command (Debian: util-linux), so that runs from "
                "other machines are not kept away there."
            )
            yield
            return
        with self._taking:
            descriptor = self._take(link, name, what)
            self._held[descriptor] = (what, link)
        try:
            yield
        finally:
            del self._held[descriptor]
            self._count()
            with suppress(Unreachable):  # then it is free as well
                link.ask(f"free {descriptor}\n")

    def _take(self, link: Link, name: str, what: str) -> int:
        descriptor = next((n for n in DESCRIPTORS if n not in self._held), None)
        if descriptor is None:
            raise Error(f"{len(DESCRIPTORS)} locks are held at {self.destination} already")
        self._count()
        path = f"{link.told.root}/.{name}.lock"
        end = time.monotonic() + LAST_WORDS
        while True:
            state, _, said = link.ask(f"lock {descriptor} {path}\n{holder()}\n").partition(" ")
            if state != "busy" or not is_gone(said) or time.monotonic() > end:
                break
            time.sleep(0.2)  # its keeper still ends what it had going
        if state == "busy":
            raise refusal(said, f"{what} at {self.destination}")
        if state != "held":
            raise Refused(
                f"The lock {path} at {self.destination} cannot be written: {said.strip()}. "
                "Log in there as the owner of that directory, or give the host another root."
            )
        return descriptor
