"""What `invoke status` warns of, as findings: the same look, the same codes and sentences."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.postgres.group import Group
from pgherd.postgres.observation import Observation
from pgherd.steps import outside
from pgherd.steps.doctor.case import GroupCase
from pgherd.steps.doctor.finding import NOTE, PROBLEM, WARNING, Finding
from pgherd.steps.status import judged

# What keeps the group from doing what it is for; the rest may come to that.
TROUBLE = {
    "two-primaries", "old-primary", "no-primary", "marked", "commits-hang", "sync-short",
    "diverged", "not-streaming", "wrong-upstream", "slot-lost", "down", "no-answer", "foreign",
    "archive-fails", "off-network",
}  # fmt: skip
NOT_YET = {"no-primary", "absent"}  # of a group that is not there yet, or was taken down


def leader(group: Group, seen: Observation) -> str | None:
    """Return the node that counts as primary."""
    leads = group.leader(seen.facts, seen.own)
    return leads.name if leads else None


def troubled(group: Group, seen: Observation) -> set[str]:
    """Return the nodes that do not do what they are for."""
    return {w.node for w in judged(group, seen).warnings if w.node and w.code in TROUBLE}


def warnings(subject: tuple[Group, Observation, GroupCase]) -> Iterator[Finding]:
    """Yield what `invoke status` warns of; of a group that is not there yet nothing is missing."""
    group, seen, case = subject
    lives = any(node.owned for node in case.nodes.values())
    for told in judged(group, seen).warnings:
        node = case.nodes.get(told.node or "")
        host = group.topology.node(told.node).host if told.node else None
        if told.code == "unreachable" or (told.code in NOT_YET and not (lives or _has_data(case))):
            continue
        level = PROBLEM if told.code in {*TROUBLE, outside.CODE} else WARNING
        if told.code in NOT_YET and not lives:
            level = NOTE
        mends = told.code == "fenced" and bool(node and node.streams)
        yield Finding(told.code, level, told.text, "", told.node, host, fixable=mends)


def _has_data(case: GroupCase) -> bool:
    return any(node.path.state == "full" and not node.node.volume for node in case.nodes.values())
