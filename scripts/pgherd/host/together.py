"""Several things at once, on one host or on many."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from pgherd.errors import Error
from pgherd.host import scope

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 6  # below sshd's MaxSessions of 10


def side_by_side(act: Callable[[T], R], things: list[T], *, workers: int = WORKERS) -> list[R]:
    """Do one thing for each, so many at once; return the results in order.

    Where some wait for each other there have to be as many `workers` as things.

    At the first error what is not begun is left, commands that run are ended, the other acts can
    begin none any more (see `scope.cleaning_up`), and that error is raised: those of the others
    only follow from it.
    """
    if len(things) < 2:  # noqa: PLR2004
        return [act(thing) for thing in things]
    failed: list[tuple[float, BaseException]] = []
    together = scope.Scope()

    def attempt(thing: T) -> R:
        try:
            with together.entered():
                scope.check()
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


def each_by_itself(act: Callable[[T], R], things: list[T]) -> list[R | Error]:
    """Do one thing for each at once, where none depends on another: a failure stops nobody else.

    Returns:
        In order, the results; in place of one that failed its error. Ctrl-C ends all, as ever.
    """

    def attempt(thing: T) -> R | Error:
        try:
            return act(thing)
        except scope.Cancelled:
            raise
        except Error as fault:
            return fault

    return side_by_side(attempt, things)
