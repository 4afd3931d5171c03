"""What tasks print in the end, and with which exit status they do: of an act, and of a look."""

from __future__ import annotations

from invoke.context import Context

from pgherd.tasking import gone, open_group, qualify, untold


def came(c: Context, text: str) -> None:
    """Print what came of an act. Not with --dry: nothing did, and it would be a line of shell.

    Where it cannot be printed, the act is done all the same.
    """
    if not open_group(c).trace.dry:
        print(qualify(text, c), flush=True)
        if said := untold():
            open_group(c).trace.note(said)


def looked(
    c: Context, text: str, *, ok: bool = True, away: bool = False, acted: bool = False
) -> None:
    """Print what a look has found; end with 3 where a host is away, with 1 where not all is well.

    Or where it could not be told; not so where it belongs to an act, which is done all the same.
    With --dry it is a comment of the script, and no failure: by then there is what the script made.
    """
    from pgherd.errors import Error, Unreachable

    trace = open_group(c).trace
    if trace.dry:
        trace.note(text)
        return
    print(text, flush=True)
    said = untold()
    if away:
        raise Unreachable(said)
    if not ok or (said and not acted):
        raise Error(said)
    if said:
        trace.note(said)


def streamed(text: str) -> None:
    """Print a piece of what goes on and on; end it where nobody is told of it any more.

    Raises:
        OSError: so it is.
    """
    print(text, flush=True)
    if fault := gone():
        raise fault
