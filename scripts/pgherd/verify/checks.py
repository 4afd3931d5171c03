"""The checks by name, in the order in which they are made, and what each came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgherd.postgres.facts import Facts

KEPT = "tablespaces"  # made only where there are some, and nothing else depends on it
EXAMINED = (
    "standby-up", "in-recovery", "same-system", "streaming", "encrypted", "sync", "replay", KEPT,
)  # fmt: skip
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


Outcome = tuple[bool, str, str]  # whether it holds, the evidence, the cure


@dataclass
class View:
    """What was seen of the group: facts by node, who is primary, and the checks made of it."""

    facts: dict[str, Facts] = field(default_factory=dict)
    primary: str | None = None
    checks: list[CheckResult] = field(default_factory=list)
