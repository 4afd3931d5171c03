"""What came of a change of primary, as a sentence or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgherd.operations.rotate import Rotated
from pgherd.operations.sync import SyncState
from pgherd.report.text import one_line, table

if TYPE_CHECKING:
    from pgherd.operations.failover import FailedOver
    from pgherd.operations.switchover import Switched


def switchover_text(change: Switched | None) -> str:
    """Return how long writes were refused, that nothing was lost, and what waits for whom."""
    if change is None:
        return "nothing was to be changed"
    if change.former is None:
        return f"{change.primary} is primary: all were standbys, and it had what they had"
    refused = "for how long writes were refused could not be watched"
    if change.refused is not None:
        refused = f"writes were refused for {change.refused:.2f} s"
    lines = [f"switchover from {change.former} to {change.primary}: {refused}"]
    if change.checkpoint:
        lines.append(
            f"no acknowledged commit was lost: {change.primary} has the last that "
            f"{change.former} wrote, its shutdown checkpoint at {change.checkpoint}"
        )
    if change.asynchronous is not None:
        lines.append(
            f"commits waited for no standby for {change.asynchronous:.1f} s, until one streamed"
        )
    return "\n".join(lines)


def failover_text(change: FailedOver | None) -> str:
    """Return who is primary, what was lost, and how what was lost comes back."""
    if change is None:
        return "nothing was to be changed"
    if change.former is None:
        return f"failover to {change.primary}: {change.seconds:.2f} s until the promotion"
    return (
        f"failover from {change.former} to {change.primary}: {change.seconds:.2f} s until the "
        f"promotion\n{change.former}: {change.loss.sentence}; `invoke rejoin "
        f"{change.former}` brings it back"
    )


# --- what came of new passwords, as text for people. Pure ---


def rotation_text(done: Rotated, directory: str) -> str:
    """Return whose password is new and where it lies, and what became of the streams."""
    roles = " and ".join(done.roles)
    several = len(done.roles) > 1
    lines = [f"{roles} {'have new passwords' if several else 'has a new password'}: in {directory}"]
    if done.unbroken:
        lines.append(f"no stream broke: {', '.join(done.unbroken)}")
    if done.reconnected:
        lines.append(f"connected anew meanwhile, or away: {', '.join(done.reconnected)}")
    if done.late:
        late = ", ".join(done.late)
        lines.append(f"late on purpose, and open by the former password until then: {late}")
    if "postgres" in done.roles:
        lines.append("applications that log in as postgres need the new one; who is in stays in")
    return "\n".join(lines)


# --- whom commits wait for, as text for people ---


def sync_text(state: SyncState) -> str:
    """Return the primary's list, each standby with its part in it, and the commits that wait."""
    kind = f"synchronous, {state.names}" if state.names else "asynchronous"
    rows = [(node or "?", name, how, part) for node, name, how, part in state.standbys]
    head = ("node", "application_name", "state", "sync_state")
    lines = [f"{state.primary}, the primary, is {kind}"]
    lines += [table([head, *rows])] if rows else ["no standby streams from it"]
    lines += [_waiting_text(state)]
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


def _waiting_text(state: SyncState) -> str:
    if not state.waiters:
        return "no commit is held up: none waits at this moment"
    longest = max(state.waiters, key=lambda waiter: float(waiter["seconds"]))
    number = len(state.waiters)
    what = "1 commit waits" if number == 1 else f"{number} commits wait"
    return (
        f"{what} for a standby, the longest for {float(longest['seconds']):.0f} s (process "
        f"{longest['pid']}: {one_line(str(longest['query']))}); `invoke sync --off` lets them go on"
    )
