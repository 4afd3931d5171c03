"""What an audit finds, in the words that it is told in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that ought not to be so.

    Attributes:
        code: what it is, a word for programs.
        node: whose it is; empty where it is nobody's in particular.
        host: on which host.
        text: a sentence.
        where: the place: a file, a process, a line, a rule.
        cure: what to do about it.
    """

    code: str
    node: str
    host: str
    text: str
    where: str
    cure: str


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        group: its name.
        findings: in the order of the hosts.
        notes: what could not be looked at, and why that is no finding.
        away: hosts that could not be reached, with the reason.
        looked: how many nodes were looked into.
    """

    group: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    away: tuple[tuple[str, str], ...]
    looked: int

    @property
    def clean(self) -> bool:
        """Whether nothing was found; hosts that are away may have something."""
        return not self.findings
