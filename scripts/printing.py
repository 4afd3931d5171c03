"""What tasks print in the end, and with which exit status they do: of an act, and of a look."""

from __future__ import annotations

from invoke.context import Context

from pgherd.tasking import given, placed


def came(c: Context, text: str) -> None:
    """Print what came of an act. Not with --dry: nothing did, and it would be a line of shell."""
    if not given(c).trace.dry:
        print(placed(text, c))


def looked(c: Context, text: str, *, ok: bool = True, away: bool = False) -> None:
    """Print what a look has found; end with 3 where a host is away, with 1 where not all is well.

    With --dry it is a comment of the script, and no failure: by then there is what the script made.
    """
    from pgherd.errors import Error, Unreachable

    trace = given(c).trace
    if trace.dry:
        trace.note(text)
        return
    print(text)
    if away:
        raise Unreachable("")
    if not ok:
        raise Error("")
