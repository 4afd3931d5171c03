"""What every task shares: the group it is given, how its faults are told, what may be asked."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import cache, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument
from invoke.tasks import Task

if TYPE_CHECKING:
    from pgherd.postgres.group import Group

MOST = 500  # characters of what nobody foresaw
NODE = {"node": "which node (default: the topology's first standby)"}

_known: list[Collection] = []


def known(tasks: Collection) -> None:
    """Take note of all tasks: which of their flags take a value tells where `on` is a task.

    From here on what nobody foresaw is told in a sentence as well: Invoke's own reading of words
    and variables, `bench --rounds x` or INVOKE_RUN_WATCHERS=x, ends in a traceback otherwise.
    """
    _known[:] = [tasks]
    sys.excepthook = _unforeseen


def _unforeseen(
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


def given(c: Context) -> Group:
    """Return the group of the topology asked for, with Invoke's --echo and --dry."""
    return _opened(bool(c.config.run.echo), bool(c.config.run.dry), c.config.pgherd.on)


@cache
def _opened(echo: bool, dry: bool, on: str) -> Group:
    """Return the same group to all tasks of one run: with --dry each counts on those before."""
    from pgherd import config
    from pgherd.errors import Refused
    from pgherd.postgres.group import Group
    from pgherd.shell import Trace

    if len(_places()) > bool(on):
        raise Refused(f"`on {_places()[-1][:MOST]}` comes before all other tasks, and once.")
    return Group(config.load(on=on), Trace(echo=echo, dry=dry, on=on))


def _places() -> list[str]:
    """Return the hosts that the command line says by `on`, wherever it does."""
    tasks = _known[0].to_contexts() if _known else []
    valued = {flag for known in tasks for flag, arg in known.flags.items() if arg.takes_value}
    words = sys.argv[1:]
    return [
        host
        for before, word, host in zip(["", *words], words, [*words[1:], ""], strict=False)
        if word == "on" and before not in valued
    ]


def told(body: Callable[..., None]) -> Callable[..., None]:
    """Have a task's faults told as sentences, never as a traceback; SIGTERM cleans up too."""

    @wraps(body)
    def run(*args: Any, **options: Any) -> None:
        from pgherd.errors import Error

        _keep_bytes()
        for sign in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, lambda number, _frame: sys.exit(128 + number))
        try:
            body(*args, **options)
            sys.stdout.flush()
        except Error as fault:
            fault.message = placed(fault.sentence, args[0])
            raise
        except BrokenPipeError:  # | head has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as fault:
            raise Error(f"{fault.strerror}: {fault.filename or fault}") from None
        except Exception as fault:
            if debugging():
                raise
            raise Error(
                f"This is a fault of pgherd itself, and was not foreseen: {type(fault).__name__}: "
                f"{str(fault)[:MOST]} (`invoke --debug …` tells where)"
            ) from None

    return run


def _keep_bytes() -> None:
    """Print names that are no UTF-8 as they are; what the terminal has not, escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            same = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if same else "backslashreplace")


def placed(text: str, c: Context) -> str:
    """Return advice as it has to be typed for a group that `on` has placed."""
    from pgherd.shell import advice

    return advice(text, c.config.pgherd.on)


def standby_of(group: Group, node: str) -> str:
    """Return the node that is meant: the one named, else the topology's first standby."""
    from pgherd.steps import tutorial

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


def listed(names: str) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def agreed(question: str, yes: bool) -> bool:
    """Ask on a terminal; without one, only the option says yes."""
    return yes or (sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() == "y")
