"""What came of a change of primary, as a sentence or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgherd.steps.change.failover import FailedOver
    from pgherd.steps.change.switchover import Switched


def switched(change: Switched | None) -> str:
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


def failed_over(change: FailedOver | None) -> str:
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
