"""Where commands run: the one seam between pgherd and the world.

`Host.run` is all that the rooms below know of a machine. `local.LocalHost` runs on this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from plumbum.commands.base import BaseCommand

from pgherd.shell import Result, Script, Trace

OnLine = Callable[[str], None]

NOTHING = Script()


class Host(Protocol):
    """A machine that runs commands and holds data directories."""

    name: str
    trace: Trace

    def run(
        self,
        command: BaseCommand,
        *,
        stdin: Script = NOTHING,
        timeout: float | None = 60.0,
        on_line: OnLine | None = None,
        reads: bool = False,
    ) -> Result:
        """Run a command to its end and return what it said; a non-zero exit is no error here.

        Args:
            command: a Plumbum expression; its argument list reaches the program unchanged.
            stdin: what the command reads; it is closed after that.
            timeout: seconds until the command and its children are ended; None: no limit.
            on_line: called with each line of output as it comes; then only the last lines are
                kept in the result, so that hundreds of MB may pass.
            reads: the command changes nothing, so that it runs with `--dry` too.

        Raises:
            Unreachable: the program is not there, or the host cannot be reached.
            DeadlinePassed: the timeout came first.
        """
        ...

    def interactive(self, command: BaseCommand) -> int:
        """Run a command on the user's own terminal and return its exit code."""
        ...

    def path(self, data: str) -> str:
        """Return a data path as an absolute path of this host, links resolved."""
        ...
