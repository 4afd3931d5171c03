"""Where commands run: the one seam between pgherd and the world.

`Host` is all that the rooms below know of a machine. `local.LocalHost` is this one, `ssh.SshHost`
another that is reached by SSH; `open_host` tells which a name means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from plumbum.commands.base import BaseCommand

from pgherd.hosts.commands import Output, Result, Script, Trace

OnLine = Callable[[str], None]
Stdin = Script | Iterable[bytes]

NOTHING = Script()


@dataclass(frozen=True)
class About:
    """What sort of machine a host is.

    Attributes:
        system: kernel and architecture, as `uname -sm` says them: "Linux x86_64".
        skew: seconds by which its clock is ahead of this machine's; negative if behind.
        doubt: seconds by which `skew` may be wrong: half of the question's round trip.
    """

    system: str
    skew: float = 0.0
    doubt: float = 0.0


class Host(Protocol):
    """A machine that runs commands and holds data directories."""

    name: str  # "local", or the SSH destination as it was asked for
    trace: Trace

    @property
    def home(self) -> str:
        """The absolute path under which pgherd keeps on this host what is no server's data."""
        ...

    @property
    def over(self) -> Sequence[str]:
        """The command that carries another one to this host, where it is shown: `ssh user@box`."""
        ...

    def run(
        self,
        command: BaseCommand,
        *,
        stdin: Stdin = NOTHING,
        timeout: float | None = 60.0,
        on_line: OnLine | None = None,
        reads: bool = False,
    ) -> Result:
        """Run a command to its end and return what it said; a non-zero exit is no error here.

        Args:
            command: a Plumbum expression; its argument list reaches the program unchanged.
            stdin: what the command reads, as text or as bytes piece by piece; it is closed after.
            timeout: seconds until the command and its children are ended; None: no limit.
            on_line: called with each line of output as it comes; then only the last lines are
                kept in the result, so that hundreds of MB may pass.
            reads: the command changes nothing, so that it runs with `--dry` too.

        Raises:
            Unreachable: the program is not there, or the host cannot be reached.
            DeadlinePassed: the timeout came first.
        """
        ...

    def chunks(self, command: BaseCommand) -> Output:
        """Run a command that changes nothing and yield its output in pieces, as it comes.

        It is ended when the iterator is dropped. There is no deadline but the reader's. Where it is
        the `stdin` of another command, both are shown as a pipeline.

        Raises:
            Error: it failed, which is known at the end of its output.
            Unreachable: the program is not there, or the host cannot be reached.
        """
        ...

    def interactive(self, command: BaseCommand) -> int:
        """Run a command on the user's own terminal and return its exit code."""
        ...

    def paths(self, *data: str) -> list[str]:
        """Return data paths as absolute paths of this host, links resolved, as Docker names them.

        What is not there yet is no fault. It is one question to the host, however many there are.
        """
        ...

    def reach(self, address: str, port: int) -> tuple[str, int]:
        """Return where a client on this machine reaches an address and port of that host.

        Raises:
            Unreachable: the host does not let it be reached.
        """
        ...

    def lease(self, name: str, what: str) -> AbstractContextManager[None]:
        """Hold the lock `name` on this host; it ends with the block, the process or the connection.

        Raises:
            Refused: somebody else holds it, and who.
        """
        ...

    def room(self, wanted: int) -> int:
        """Tell how many of so many commands may run at once, where some wait for each other.

        At least one. Whoever asks has none running there.
        """
        ...

    def about(self) -> About:
        """Return what sort of machine it is."""
        ...
