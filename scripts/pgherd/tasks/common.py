"""What every task shares: its group, how faults are told, what it prints, and what it asks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument
from invoke.tasks import Task

from pgherd.errors import Error, Unreachable
from pgherd.tasks.process import (
    MOST,
    debugging,
    explain_lost_output,
    output_fault,
    prepare_process,
    raise_if_cut_short,
    running_task,
)
from pgherd.tasks.usage import check_words

if TYPE_CHECKING:
    from pgherd.group.group import Group
    from pgherd.hosts.commands import Trace

NODE = {"node": "which node (default: the topology's first standby)"}
JSON = {"json_": "print one JSON object"}
SEEDING = {  # what a standby is seeded with, be it one or many at once
    "from": "take the base backup from this node, and not from the upstream",
    "set-aside": "also set aside data that is not this group's",
    "allow-async": "let commits go on without it, where it is the one they wait for",
    "no-verify-backup": "do not check the base backup against its manifest",
    "max-rate": "limit of a base backup per second, as pg_basebackup takes it: 32M",
    "spread-checkpoint": "do not hurry the checkpoint",
}

_traces: list[Trace] = []  # of the groups of this run


def register_tasks(tasks: Collection) -> None:
    """Make ready to run them, at the first moment of ours: Invoke has just loaded them."""
    prepare_process()
    check_words(tasks)


# --- the group ---


def open_group(c: Context) -> Group:
    """Return the group of the topology asked for, with Invoke's --echo and --dry."""
    return _open_group(bool(c.config.run.echo), bool(c.config.run.dry), c.config.pgherd.on)


@cache
def _open_group(echo: bool, dry: bool, on: str) -> Group:
    """Return the same group to all tasks of one run: with --dry each counts on those before."""
    from pgherd.config import loader as config
    from pgherd.group.group import Group
    from pgherd.hosts.commands import Trace

    trace = Trace(echo=echo, dry=dry, on=on, whole=debugging())
    _traces.append(trace)
    return Group(config.load(on=on), trace)


def qualify(text: str, c: Context) -> str:
    """Return advice as it has to be typed for a group that `on` has placed."""
    from pgherd.hosts.commands import qualify_commands

    return qualify_commands(text, c.config.pgherd.on)


# --- faults ---


def report_errors(body: Callable[..., None]) -> Callable[..., None]:
    """Have a task's faults told as sentences, never as a traceback, and its status tell all."""

    @wraps(body)
    def run(*args: Any, **options: Any) -> None:
        fault: BaseException | None = None
        try:
            with running_task():
                body(*args, **options)
                sys.stdout.flush()
        except BaseException as raised:  # noqa: BLE001 (raised again, as a sentence)
            fault = raised
        if isinstance(fault, BrokenPipeError) and output_fault():  # | head has what it wanted
            fault = None
        raise_if_cut_short(fault, changed=any(trace.acted for trace in _traces))
        if fault:
            raise _as_error(fault, *args)
        if any(trace.dry for trace in _traces) and (lost := explain_lost_output()):
            raise Error(lost)

    return run


def _as_error(fault: BaseException, c: Context | None = None, *_: Any) -> BaseException:
    """Return a fault as an error with a sentence; what is none, as psql's own status, as it is."""
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


# --- what a task prints in the end, and with which exit status it does ---


def print_result(c: Context, text: str) -> None:
    """Print what came of an act. Not with --dry: nothing did, and it would be a line of shell.

    Where it cannot be printed, the act is done all the same.
    """
    if not open_group(c).trace.dry:
        print(qualify(text, c), flush=True)
        if lost := explain_lost_output():
            open_group(c).trace.note(lost)


def print_report(
    c: Context, text: str, *, ok: bool = True, unreachable: bool = False, acted: bool = False
) -> None:
    """Print what a look has found, and end with the exit status that tells whether all is well.

    With --dry it is a comment of the script, and no failure: by then there is what the script made.

    Args:
        c: of the task.
        text: what was found.
        ok: whether all is well; else the status is 1.
        unreachable: whether a host could not be looked at; then the status is 3.
        acted: whether the look belongs to an act. The act is done, also where this is not printed;
            a look that could not be printed ends with 1.
    """
    trace = open_group(c).trace
    if trace.dry:
        trace.note(text)
        return
    print(text, flush=True)
    lost = explain_lost_output()
    if unreachable:
        raise Unreachable(lost)
    if not ok or (lost and not acted):
        raise Error(lost)
    if lost:
        trace.note(lost)


def print_stream(text: str) -> None:
    """Print a piece of what goes on and on; end it where nobody reads it any more.

    Raises:
        OSError: nobody does.
    """
    print(text, flush=True)
    if fault := output_fault():
        raise fault


# --- what a task is told, and asks ---


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


def ask(question: str) -> str:
    """Ask on a terminal and return the answer; empty where there is none, or it was closed."""
    if not sys.stdin.isatty():
        return ""
    with suppress(EOFError, OSError):
        return input(question).strip()
    return ""


def confirm(question: str, yes: bool) -> bool:
    """Ask on a terminal; without one, only the option says yes."""
    return yes or ask(f"{question} [y/N] ").lower() == "y"
