"""What goes on side by side: where one part fails, the others are given up, and begin nothing more.

A scope is all that one `side_by_side` has at work. Scopes lie within each other; threads that feed
a command belong to the scope of who started it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from pgherd.errors import Error


class Cancelled(Error):
    """This was given up because something beside it failed, and that is the error to be told."""

    def __init__(self, message: str = "Given up, since something beside it failed.") -> None:
        super().__init__(message)


class Runs(Protocol):
    """What runs and can be ended."""

    def cancel(self) -> None:
        """End it: whoever waits for it gets Cancelled."""
        ...


class Scope:
    """What belongs together, and is given up together; it lies within the scope of its maker."""

    def __init__(self) -> None:
        self._outer = _current.get()
        self._cancelled = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let what this thread does in the block belong to it."""
        with _entered(self):
            yield

    @property
    def cancelled(self) -> bool:
        """It was given up, or what it lies within."""
        return self._cancelled or bool(self._outer and self._outer.cancelled)

    def lies_within(self, other: Scope) -> bool:
        """Tell whether it is the other, or lies somewhere within it."""
        return self is other or bool(self._outer and self._outer.lies_within(other))

    def cancel(self) -> None:
        """Give it up: end what runs in it, on all hosts at once, and let nothing more begin."""
        with _lock:
            self._cancelled = True
            these = [one for one, scope in _running.items() if scope.lies_within(self)]
        threads = [threading.Thread(target=one.cancel, daemon=True) for one in these]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def check() -> None:
    """Raise Cancelled where the scope of this thread was given up."""
    scope = _current.get()
    if scope and scope.cancelled:
        raise Cancelled


def enlist(one: Runs) -> None:
    """Count something among what is ended with the scope of this thread.

    Raises:
        Cancelled: that was given up.
    """
    with _lock:
        check()
        if scope := _current.get():
            _running[one] = scope


def dismiss(one: Runs) -> None:
    """Count it no longer."""
    with _lock:
        _running.pop(one, None)


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Let the block run to its end: for what undoes an act, and for what cannot be undone any more.

    Also where the scope of this thread was given up. A signal that would end the run waits until no
    thread is in such a block: see `holds`.
    """
    with _lock:
        _cleaning.append(None)
    try:
        with _entered(None):
            yield
    finally:
        with _lock:
            _cleaning.pop()
            due = list(_waiting) if not _cleaning else []
            if due:
                _waiting.clear()
        if due:
            os.kill(os.getpid(), due[0])  # the main thread is the one that is told of it


def holds(number: int) -> bool:
    """Tell whether a signal that has come has to wait; it is sent again then, when it may act.

    For a signal's handler: it takes no lock, which this very thread may have.
    """
    _waiting.append(number)  # before the look: who leaves the last block meanwhile sends it
    if _cleaning:
        return True
    _waiting.clear()
    return False


@contextmanager
def _entered(scope: Scope | None) -> Iterator[None]:
    before = _current.set(scope)
    try:
        yield
    finally:
        _current.reset(before)


_current: ContextVar[Scope | None] = ContextVar("scope", default=None)
_running: weakref.WeakKeyDictionary[Runs, Scope] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_cleaning: list[None] = []  # an entry for each block of `cleaning_up` that a thread is in
_waiting: deque[int] = deque()  # signals that came meanwhile
