"""The process that runs the tasks: its output never ends one, and a signal ends one in order."""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

from pgherd.errors import CutShort, Error, escaped

MOST = 500  # characters of what nobody foresaw
NAMES = {1: "stdout", 2: "stderr"}
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what cuts a task short
WAIT = (
    b"What was begun comes to its end or is undone first: please wait "
    b"(Ctrl-\\ ends it at once; the next run goes on from there).\n"
)

_ran: list[None] = []  # an entry for each task that was begun
_at_work: list[None] = []  # an entry for each task that is, one within the other
_cut_short: list[int] = []  # the signal that ends the task


def prepare_process() -> None:
    """Have this process end in order from here on, whatever befalls its output or its run.

    What nobody foresaw is told in a sentence as well: Invoke's own reading of words and variables,
    `bench --rounds x` or INVOKE_RUN_WATCHERS=x, ends in a traceback otherwise.
    """
    _protect_output()
    _leave_deleted_directory()
    sys.excepthook = _report_unforeseen
    for sign in ENDING:
        if signal.getsignal(sign) != signal.SIG_IGN:  # as nohup has it, or a job in the background
            signal.signal(sign, _end_on_signal)


@contextmanager
def running_task() -> Iterator[None]:
    """Count the block as a task: a signal cuts it short while it runs, and waits afterwards."""
    _ran.append(None)
    _at_work.append(None)
    try:
        yield
    finally:
        _at_work.pop()
        atexit.unregister(_let_signals_end)
        atexit.register(_let_signals_end)  # the last one is the first to be called


def _report_unforeseen(
    kind: type[BaseException], fault: BaseException, trace: TracebackType | None
) -> None:
    """Tell a fault that is none of ours in a sentence; with `invoke --debug` all of it."""
    if debugging():
        sys.__excepthook__(kind, fault, trace)
    else:
        said = escaped(str(fault))[:MOST]
        sys.stderr.write(f"{kind.__name__}: {said} (`invoke --debug …` tells where)\n")


def debugging() -> bool:
    """Tell whether Invoke was asked to tell all: by --debug or INVOKE_DEBUG."""
    return logging.getLogger("invoke").isEnabledFor(logging.DEBUG)


# --- output ---


class Outlet(io.RawIOBase):
    """A standard stream that never raises: what cannot be written is dropped, and the fault kept.

    A reader who takes nothing for a while (`| less`, Ctrl-S) holds up no act either: what stderr
    cannot write at once is kept until it can, or until somebody waits for it.

    Attributes:
        fault: why the first piece could not be written that could not.
    """

    def __init__(self, descriptor: int, before: Outlet | None = None) -> None:
        """Take its number; whoever writes to stdout waits, and for the stream before it first."""
        self.fault: OSError | None = None
        self._descriptor = descriptor
        self._before = before
        self._left = bytearray()
        self._writing = threading.Lock()

    def fileno(self) -> int:
        """Return its number: programs are given it."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Tell so."""
        return True

    def write(self, piece: Any) -> int:
        """Take it, and write what can be written now."""
        with self._writing:
            self._left += piece
        if self._before:
            self._before.send()
        self.send(wait=self._before is not None)
        return len(piece)

    def send(self, *, wait: bool = True) -> None:
        """Write what is left, as much as its reader takes at once, or all of it."""
        with self._writing:
            try:
                while self._left and select.select([], [self], [], None if wait else 0)[1]:
                    with suppress(BlockingIOError):  # somebody has made it one that says so
                        piece = self._left[: select.PIPE_BUF]
                        del self._left[: os.write(self._descriptor, piece)]
            except OSError as fault:
                fault.filename = NAMES[self._descriptor]
                self.fault = self.fault or fault
                self._left.clear()


def _protect_output() -> None:
    """Put an `Outlet` in the place of stdout and stderr, and something in that of closed ones."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest that is free is the next to be opened; to write is an error
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        return  # somebody else sees to them
    err = Outlet(2)
    out = Outlet(1, before=err)
    sys.stderr = _text(err, sys.stderr, lines=True)
    sys.stdout = _text(out, sys.stdout, lines=out.isatty())
    _outlets[:] = [err, out]
    atexit.register(_write_the_rest)


_outlets: list[Outlet] = []


def _text(outlet: Outlet, like: TextIO | None, *, lines: bool) -> TextIO:
    """Return the text stream of an outlet. What the terminal has not is escaped.

    Names that are no UTF-8 are printed as they are.
    """
    encoding = (like.encoding if like else None) or "utf-8"
    same = encoding.lower().replace("-", "") == "utf8"
    errors = "surrogateescape" if same else "backslashreplace"
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, errors, line_buffering=lines)


def _write_the_rest() -> None:
    """Write what is left, of what was kept for a reader as well."""
    _let_signals_end()
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError):
            stream.flush()
    for outlet in _outlets:
        outlet.send()
    if not _ran and (fault := explain_lost_output()):  # what Invoke itself has printed: --list
        sys.stderr.write(f"{fault}\n")
        sys.stderr.flush()
        os._exit(1)


def explain_lost_output() -> str:
    """Say why stdout does not have all that was printed; empty if it has, or had all it wanted.

    A look ends with 1 then. What an act says of itself changes nothing of what it has done.
    """
    fault = output_fault()
    if fault is None or isinstance(fault, BrokenPipeError):  # | head
        return ""
    return f"The result could not be written to stdout: {fault.strerror}."


def output_fault() -> OSError | None:
    """Return why nobody is told any more what is printed, so that there is no use in going on."""
    return _outlets[1].fault if _outlets else None


def _leave_deleted_directory() -> None:
    """Work in the project where the current directory was deleted."""
    try:
        Path.cwd()
    except OSError:
        os.chdir(Path(__file__).parents[3])


# --- signals ---


def _end_on_signal(number: int, _frame: FrameType | None) -> None:
    """Cut the task short. What comes after that waits: half an undoing is worse than none."""
    scope = sys.modules.get("pgherd.hosts.parallel")  # else there is nothing to clean up
    if _cut_short or (scope and scope.holds(number)):
        with suppress(OSError):
            if select.select([], [2], [], 0)[1]:
                os.write(2, WAIT)
        return
    _cut_short.append(number)
    if number == signal.SIGINT and _at_work:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _let_signals_end() -> None:
    """Let a signal end this process at once: there is nothing any more that it could cut short."""
    for sign in ENDING:
        if signal.getsignal(sign) == _end_on_signal:
            signal.signal(sign, lambda number, _: os._exit(128 + number))


@contextmanager
def until_ctrl_c() -> Iterator[None]:
    """Let the block be ended by Ctrl-C, as it is meant to."""
    try:
        yield
    except KeyboardInterrupt:
        _cut_short.clear()


def raise_if_cut_short(fault: BaseException | None, *, changed: bool) -> None:
    """Raise what tells that a signal has cut the task short, if it has.

    Args:
        fault: what the task ended with: it is told as well.
        changed: whether the task has changed anything before.

    Raises:
        CutShort: so it is.
    """
    if isinstance(fault, KeyboardInterrupt) and not _cut_short:  # without our handler
        _cut_short.append(signal.SIGINT)
    if not _cut_short:
        return
    number = _cut_short[0]
    by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    if fault is None:
        said = f"{by} came when it could not be undone any more: it was done to its end."
    elif changed:
        said = (
            f"Cut short by {by}. The lines above tell what was done, or undone; `invoke status` "
            "tells how the group stands, and the same command again goes on from there."
        )
    else:
        said = f"Cut short by {by}: nothing of the group was changed."
    also = f"{fault.sentence}\n" if isinstance(fault, Error) and fault.sentence else ""
    raise CutShort(also + said, number) from None
