"""What the doctor finds: findings, each with a stable code, and how many checks were made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

PROBLEM, WARNING, NOTE = "problem", "warning", "note"
LEVELS = (PROBLEM, WARNING, NOTE)  # the worst first

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: stable; programs go by it.
        level: problem (it does not work, or will not), warning (it may hurt), note.
        text: a sentence that says what is, and where.
        cure: what to do about it; empty where there is nothing to be done.
        node: whom it concerns; None: the host, or the group.
        host: where it is; None: the group.
        target: what `--fix` works on, where it can do something: a path, a container, a setting.
        fixable: whether `--fix` does something about it.
    """

    code: str
    level: str
    text: str
    cure: str = ""
    node: str | None = None
    host: str | None = None
    target: str = ""
    fixable: bool = False


@dataclass
class Checkup:
    """All that was found in one examination.

    Attributes:
        group: the group's name.
        findings: in the order in which they were found; `sorted` has the worst first.
        checks: how many checks were made.
        away: the hosts that could not be reached, or whose engine does not answer.
        fixed: what was done about what, where `--fix` did something.
    """

    group: str
    findings: list[Finding] = field(default_factory=list)
    checks: int = 0
    away: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is a problem, and every host answers."""
        return not self.away and all(f.level != PROBLEM for f in self.findings)

    def check(self, subject: T, checks: Sequence[Callable[[T], Iterable[Finding]]]) -> None:
        """Make these checks on a subject, and keep what they find."""
        for one in checks:
            self.checks += 1
            self.findings += one(subject)

    def ordered(self) -> Iterator[Finding]:
        """Yield the findings, the worst first, otherwise as they were found."""
        for level in LEVELS:
            yield from (f for f in self.findings if f.level == level)


# --- what an audit finds, in the words that it is told in ---


@dataclass(frozen=True)
class AuditFinding:
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
    findings: tuple[AuditFinding, ...]
    notes: tuple[str, ...]
    away: tuple[tuple[str, str], ...]
    looked: int

    @property
    def clean(self) -> bool:
        """Whether nothing was found; hosts that are away may have something."""
        return not self.findings
