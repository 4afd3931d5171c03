"""One base error whose message is a sentence for the operator.

Every error derives from Invoke's ``Exit``: Invoke prints its message on stderr and exits with its
code, without a traceback. The codes are the project's exit statuses.
"""

from __future__ import annotations

from invoke.exceptions import Exit

SHOWN = 60  # characters of what somebody typed or wrote
MOST = 20_000  # characters of a message


def quoted(text: str) -> str:
    """Write what somebody typed, as it is told back: in quotes, on one line, printable, cut."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def printable(text: str) -> str:
    r"""Write text so that a terminal shows it and obeys none of it: `\x1b` for ESC.

    Line ends and tabs stay. What is escaped are the control characters, those that turn the
    direction of writing, and bytes that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def escaped(text: str) -> str:
    """Write text as `printable` does, on one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Error(Exit):
    """What was asked does not hold (exit status 1)."""

    status = 1

    def __init__(self, message: str) -> None:
        told = printable(message if len(message) <= MOST else f"{message[:MOST]}…")
        super().__init__(told, self.status)
        self.sentence = told


class Refused(Error):
    """Bad input, or an act that would harm: nothing was changed (exit status 2)."""

    status = 2


class Unreachable(Error):
    """An engine, a host or a server cannot be reached (exit status 3)."""

    status = 3


class DeadlinePassed(Error):
    """A wait ended at its deadline (exit status 4)."""

    status = 4


class CutShort(Error):
    """A signal has ended the run (exit status 128 and its number); what it had begun is undone."""

    def __init__(self, message: str, number: int) -> None:
        self.status = 128 + number
        super().__init__(message)


def in_words(fault: BaseException) -> str:
    """Return what any fault says, for a sentence of another one."""
    return fault.sentence if isinstance(fault, Error) else f"{type(fault).__name__}: {fault}"


def room_wanted(host: str, said: str, data: str = "") -> str:
    """Return a line with what to do where these words tell of a full disk; else nothing.

    `data` is the node's, as the topology has it, where it is a node that says so.
    """
    if "No space left on device" not in said:
        return ""
    which = f" It holds {data}." if data else ""
    return f"The disk of {host} is full: make room there, then this again.{which}\n"


def stopped_meanwhile(name: str, host: str, log: str, data: str = "") -> Error:
    """Return the error of a server that stopped while it was worked on; its log may tell why."""
    full = room_wanted(host, log, data)
    return Error(f"{full}{name} stopped while it was worked on. Its log:\n{log}")
