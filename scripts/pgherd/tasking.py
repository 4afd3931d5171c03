"""What every task shares: its group, its output, what ends it, and how faults are told."""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument
from invoke.tasks import Task

if TYPE_CHECKING:
    from pgherd.group.group import Group
    from pgherd.hosts.commands import Trace

MOST = 500  # characters of what nobody foresaw
NODE = {"node": "which node (default: the topology's first standby)"}
NAMES = {1: "stdout", 2: "stderr"}
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what cuts a task short
WAIT = (
    b"What was begun comes to its end or is undone first: please wait "
    b"(Ctrl-\\ ends it at once; the next run goes on from there).\n"
)

_known: list[Collection] = []
_traces: list[Trace] = []  # of the groups of this run
_ran: list[None] = []  # an entry for each task that was begun
_at_work: list[None] = []  # an entry for each task that is, one within the other
_cut_short: list[int] = []  # the signal that ends the task


def register_tasks(tasks: Collection) -> None:
    """Take note of all tasks, at the first moment of ours: Invoke has just loaded them.

    Which of their flags take a value tells where `on` is a task. From here on nothing that befalls
    the output ends a task, a signal ends one in order, and what nobody foresaw is told in a
    sentence as well: Invoke's own reading of words and variables, `bench --rounds x` or
    INVOKE_RUN_WATCHERS=x, ends in a traceback otherwise.
    """
    _known[:] = [tasks]
    _keep_output()
    _stay_somewhere()
    sys.excepthook = _report_unforeseen
    for sign in ENDING:
        if signal.getsignal(sign) != signal.SIG_IGN:  # as nohup has it, or a job in the background
            signal.signal(sign, _ended)


def _report_unforeseen(
    kind: type[BaseException], fault: BaseException, trace: TracebackType | None
) -> None:
    """Tell a fault that is none of ours in a sentence; with `invoke --debug` all of it."""
    from pgherd.errors import escaped

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


def _keep_output() -> None:
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
    atexit.register(_last_words)


_outlets: list[Outlet] = []


def _text(outlet: Outlet, like: TextIO | None, *, lines: bool) -> TextIO:
    """Return the text stream of an outlet. What the terminal has not is escaped.

    Names that are no UTF-8 are printed as they are.
    """
    encoding = (like.encoding if like else None) or "utf-8"
    same = encoding.lower().replace("-", "") == "utf8"
    errors = "surrogateescape" if same else "backslashreplace"
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, errors, line_buffering=lines)


def _last_words() -> None:
    """Write what is left, of what was kept for a reader as well."""
    _let_end()
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError):
            stream.flush()
    for outlet in _outlets:
        outlet.send()
    if not _ran and (fault := untold()):  # what Invoke itself has printed: --list
        sys.stderr.write(f"{fault}\n")
        sys.stderr.flush()
        os._exit(1)


def untold() -> str:
    """Say why stdout does not have all that was printed; empty if it has, or had all it wanted.

    A look ends with 1 then. What an act says of itself changes nothing of what it has done.
    """
    fault = gone()
    if fault is None or isinstance(fault, BrokenPipeError):  # | head
        return ""
    return f"The result could not be written to stdout: {fault.strerror}."


def gone() -> OSError | None:
    """Return why nobody is told any more what is printed, so that there is no use in going on."""
    return _outlets[1].fault if _outlets else None


def _stay_somewhere() -> None:
    """Work in the project where the current directory was deleted."""
    try:
        Path.cwd()
    except OSError:
        os.chdir(Path(__file__).parents[2])


# --- signals ---


def _ended(number: int, _frame: FrameType | None) -> None:
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


def _let_end() -> None:
    """Let a signal end this process at once: there is nothing any more that it could cut short."""
    for sign in ENDING:
        if signal.getsignal(sign) == _ended:
            signal.signal(sign, lambda number, _: os._exit(128 + number))


@contextmanager
def until_ctrl_c() -> Iterator[None]:
    """Let the block be ended by Ctrl-C, as it is meant to."""
    try:
        yield
    except KeyboardInterrupt:
        _cut_short.clear()


def _raise_cut_short(fault: BaseException | None) -> None:
    """Raise what tells that a signal has cut the task short, if it has; what else was wrong too.

    Raises:
        CutShort: so it is.
    """
    from pgherd.errors import CutShort, Error

    if isinstance(fault, KeyboardInterrupt) and not _cut_short:  # without our handler
        _cut_short.append(signal.SIGINT)
    if not _cut_short:
        return
    number = _cut_short[0]
    by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    if fault is None:
        said = f"{by} came when it could not be undone any more: it was done to its end."
    elif any(trace.acted for trace in _traces):
        said = (
            f"Cut short by {by}. The lines above tell what was done, or undone; `invoke status` "
            "tells how the group stands, and the same command again goes on from there."
        )
    else:
        said = f"Cut short by {by}: nothing of the group was changed."
    also = f"{fault.sentence}\n" if isinstance(fault, Error) and fault.sentence else ""
    raise CutShort(also + said, number) from None


# --- tasks ---


def open_group(c: Context) -> Group:
    """Return the group of the topology asked for, with Invoke's --echo and --dry."""
    return _open_group(bool(c.config.run.echo), bool(c.config.run.dry), c.config.pgherd.on)


@cache
def _open_group(echo: bool, dry: bool, on: str) -> Group:
    """Return the same group to all tasks of one run: with --dry each counts on those before."""
    from pgherd.config import loader as config
    from pgherd.errors import Refused
    from pgherd.group.group import Group
    from pgherd.hosts.commands import Trace

    if len(_hosts_of_on()) > bool(on):
        raise Refused(f"`on {_hosts_of_on()[-1][:MOST]}` comes before all other tasks, and once.")
    trace = Trace(echo=echo, dry=dry, on=on)
    _traces.append(trace)
    return Group(config.load(on=on), trace)


def _hosts_of_on() -> list[str]:
    """Return the hosts that the command line says by `on`, wherever it does."""
    tasks = _known[0].to_contexts() if _known else []
    valued = {flag for known in tasks for flag, arg in known.flags.items() if arg.takes_value}
    words = sys.argv[1:]
    return [
        host
        for before, word, host in zip(["", *words], words, [*words[1:], ""], strict=False)
        if word == "on" and before not in valued
    ]


def report_errors(body: Callable[..., None]) -> Callable[..., None]:
    """Have a task's faults told as sentences, never as a traceback, and its status tell all."""

    @wraps(body)
    def run(*args: Any, **options: Any) -> None:
        from pgherd.errors import Error

        _ran.append(None)
        _at_work.append(None)
        fault: BaseException | None = None
        try:
            body(*args, **options)
            sys.stdout.flush()
        except BaseException as raised:  # noqa: BLE001 (raised again, in words)
            fault = raised
        finally:
            _at_work.pop()
            atexit.unregister(_let_end)
            atexit.register(_let_end)  # the last one is the first to be called
        if isinstance(fault, BrokenPipeError) and gone():  # | head has what it wanted
            fault = None
        _raise_cut_short(fault)
        if fault:
            raise _in_words(fault, *args)
        if any(trace.dry for trace in _traces) and (said := untold()):
            raise Error(said)

    return run


def _in_words(fault: BaseException, c: Context | None = None, *_: Any) -> BaseException:
    """Return a fault as a sentence; what is none, as psql's own exit status, as it is."""
    from pgherd.errors import Error

    if isinstance(fault, Error):
        fault.message = qualify(fault.sentence, c) if c else fault.sentence
        return fault
    if isinstance(fault, OSError):
        return Error(f"{fault.strerror}: {fault.filename or fault}")
    if debugging() or not isinstance(fault, Exception):
        return fault
    return Error(
        f"This is a fault of pgherd itself, and was not foreseen: {type(fault).__name__}: "
        f"{str(fault)[:MOST]} (`invoke --debug …` tells where)"
    )


def qualify(text: str, c: Context) -> str:
    """Return advice as it has to be typed for a group that `on` has placed."""
    from pgherd.hosts.commands import qualify_commands

    return qualify_commands(text, c.config.pgherd.on)


def standby_of(group: Group, node: str) -> str:
    """Return the node that is meant: the one named, else the topology's first standby."""
    from pgherd.operations import steps as tutorial

    return node or tutorial.first_standby(group).name


class NamesOrAll(Task[Any]):
    """A task that wants names, in the first place after its own, or else the flag --all.

    For Invoke what has a place has to be there: with the flag an empty word stands for it.
    """

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments, of which --all stands in for the first."""
        names, *others = super().get_arguments(ignore_unknown_help)
        return [names, *(_InPlaceOf(names, a) if a.name == "all" else a for a in others)]


class _InPlaceOf(Argument):
    """A flag that, once it is said, gives an argument without a value the empty word."""

    def __init__(self, stood_for: Argument, like: Argument) -> None:
        super().__init__(names=like.names, kind=bool, default=False, help=like.help)
        self._stood_for = stood_for

    def set_value(self, value: Any, cast: bool = True) -> None:
        """Take the value; the other argument is there now."""
        super().set_value(value, cast)
        if self._stood_for.value is None:
            self._stood_for.set_value("")


def split_names(names: str) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def answered(question: str) -> str:
    """Ask on a terminal and return the answer; empty where there is none, or it was closed."""
    if not sys.stdin.isatty():
        return ""
    with suppress(EOFError, OSError):
        return input(question).strip()
    return ""


def confirm(question: str, yes: bool) -> bool:
    """Ask on a terminal; without one, only the option says yes."""
    return yes or answered(f"{question} [y/N] ").lower() == "y"
