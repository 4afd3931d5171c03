"""What goes on side by side: where one part fails, the others are given up, and begin nothing more.

A scope is all that one `side_by_side` has at work. Scopes lie within each other; threads that feed
a command belong to the scope of who started it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

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


class CancelScope:
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

    def lies_within(self, other: CancelScope) -> bool:
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
def _entered(scope: CancelScope | None) -> Iterator[None]:
    before = _current.set(scope)
    try:
        yield
    finally:
        _current.reset(before)


_current: ContextVar[CancelScope | None] = ContextVar("scope", default=None)
_running: weakref.WeakKeyDictionary[Runs, CancelScope] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_cleaning: list[None] = []  # an entry for each block of `cleaning_up` that a thread is in
_waiting: deque[int] = deque()  # signals that came meanwhile


# --- several things at once, on one host or on many ---

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 6  # below sshd's MaxSessions of 10


def run_all(act: Callable[[T], R], things: list[T], *, workers: int = WORKERS) -> list[R]:
    """Do one thing for each, so many at once; return the results in order.

    Where some wait for each other there have to be as many `workers` as things.

    At the first error what is not begun is left, commands that run are ended, the other acts can
    begin none any more (see `scope.cleaning_up`), and that error is raised: those of the others
    only follow from it.
    """
    if len(things) < 2:  # noqa: PLR2004
        return [act(thing) for thing in things]
    failed: list[tuple[float, BaseException]] = []
    together = CancelScope()

    def attempt(thing: T) -> R:
        try:
            with together.entered():
                check()
                return act(thing)
        except BaseException as fault:
            failed.append((time.monotonic(), fault))
            raise

    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[R]] = [pool.submit(attempt, thing) for thing in things]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C, or a signal to end
            pool.shutdown(wait=False, cancel_futures=True)
            together.cancel()
            raise
        if failed:
            pool.shutdown(wait=False, cancel_futures=True)
            together.cancel()
    if failed:
        raise min(failed, key=lambda pair: pair[0])[1]
    return [future.result() for future in futures]


def run_each(act: Callable[[T], R], things: list[T]) -> list[R | Error]:
    """Do one thing for each at once, where none depends on another: a failure stops nobody else.

    Returns:
        In order, the results; in place of one that failed its error. Ctrl-C ends all, as ever.
    """

    def attempt(thing: T) -> R | Error:
        try:
            return act(thing)
        except Cancelled:
            raise
        except Error as fault:
            return fault

    return run_all(attempt, things)
