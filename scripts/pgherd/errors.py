"""One base error whose message is a sentence for the operator.

Every error derives from Invoke's ``Exit``: Invoke prints its message on stderr and exits with its
code, without a traceback. The codes are the project's exit statuses.
"""

from __future__ import annotations

from invoke.exceptions import Exit


class Error(Exit):
    """What was asked does not hold (exit status 1)."""

    status = 1

    def __init__(self, message: str) -> None:
        super().__init__(message, self.status)
        self.sentence = message


class Refused(Error):
    """Bad input, or an act that would harm: nothing was changed (exit status 2)."""

    status = 2


class Unreachable(Error):
    """An engine, a host or a server cannot be reached (exit status 3)."""

    status = 3


class DeadlinePassed(Error):
    """A wait ended at its deadline (exit status 4)."""

    status = 4
