"""Whom commits wait for, as text for people."""

from __future__ import annotations

from pgherd.report.text import one_line, table
from pgherd.steps.sync_now import SyncState


def sync_text(state: SyncState) -> str:
    """Return the primary's list, each standby with its part in it, and the commits that wait."""
    kind = f"synchronous, {state.names}" if state.names else "asynchronous"
    rows = [(node or "?", name, how, part) for node, name, how, part in state.standbys]
    head = ("node", "application_name", "state", "sync_state")
    lines = [f"{state.primary}, the primary, is {kind}"]
    lines += [table([head, *rows])] if rows else ["no standby streams from it"]
    lines += [_waiting(state)]
    if state.as_asked:
        lines += ["this is what the topology asks for"]
    else:
        asked = state.asked or "asynchronous"
        lines += [f"the topology asks for {asked}: `invoke step.require-sync` goes back to that"]
    if state.asked != state.written:
        lines += [
            f"the file has {state.written}: {state.primary} cannot wait for itself, so the name of",
            "the node that the topology has as primary stands for its own",
        ]
    return "\n".join(lines)


def _waiting(state: SyncState) -> str:
    if not state.waiters:
        return "no commit is held up: none waits at this moment"
    longest = max(state.waiters, key=lambda waiter: float(waiter["seconds"]))
    number = len(state.waiters)
    what = "1 commit waits" if number == 1 else f"{number} commits wait"
    return (
        f"{what} for a standby, the longest for {float(longest['seconds']):.0f} s (process "
        f"{longest['pid']}: {one_line(str(longest['query']))}); `invoke sync --off` lets them go on"
    )
