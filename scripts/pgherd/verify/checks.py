"""The checks by name, in the order in which they are made, and what each came to."""

from __future__ import annotations

from dataclasses import dataclass

EXAMINED = ("standby-up", "in-recovery", "same-system", "streaming", "sync", "replay")
PROBED = ("row-seen", "write-refused", "clean")


@dataclass(frozen=True)
class CheckResult:
    """One check of one node: whether it holds, what was seen, and what to do if it does not."""

    name: str
    node: str
    ok: bool
    evidence: str
    cure: str = ""


def not_tried(name: str, node: str, reason: str) -> CheckResult:
    """Return a check that counts as failed, since it was not made."""
    return CheckResult(name, node, ok=False, evidence=f"not tried: {reason}")
