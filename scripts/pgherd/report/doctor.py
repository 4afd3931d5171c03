"""A checkup as text and as JSON. Pure: it returns text and prints none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from pgherd.report.text import one_line
from pgherd.steps.doctor.finding import LEVELS, WARNING, Checkup, Finding

WIDTH = max(map(len, LEVELS))


def text(checkup: Checkup) -> str:
    """Return a line for each finding, under the host or node that has it, and how it is in all."""
    lines = [f"fixed: {told}" for told in checkup.fixed]
    places: dict[str, list[Finding]] = {}
    for finding in checkup.ordered():
        places.setdefault(_place(checkup, finding), []).append(finding)
    for place, findings in places.items():
        lines += [place, *(f"  {_line(finding)}" for finding in findings)]
    return "\n".join([*lines, f"doctor of {checkup.group}: {_summary(checkup)}"])


def _place(checkup: Checkup, finding: Finding) -> str:
    if finding.node:
        return f"node {finding.node}"
    return f"host {finding.host}" if finding.host else f"group {checkup.group}"


def _line(finding: Finding) -> str:
    level = finding.level.upper() if finding.level == LEVELS[0] else finding.level
    cure = f". Cure: {finding.cure}" if finding.cure else ""
    return f"{level:<{WIDTH}}  {finding.code}: {one_line(finding.text).rstrip('.')}{one_line(cure)}"


def _summary(checkup: Checkup) -> str:
    counts = list(_counts(checkup))
    away = f"{' and '.join(checkup.away)} cannot be reached" if checkup.away else ""
    said = ", ".join([*([away] if away else []), *counts])
    warned = any(finding.level == WARNING for finding in checkup.findings)
    healthy = ("no problem" if warned else "all is well") if checkup.ok else ""
    told = ", ".join(filter(None, [healthy, said]))
    mends = sum(finding.fixable for finding in checkup.findings)
    cure = f"; `invoke doctor --fix` takes care of {mends}" if mends else ""
    return f"{told} ({checkup.checks} checks){cure}"


def _counts(checkup: Checkup) -> Iterator[str]:
    for level in LEVELS:
        count = sum(finding.level == level for finding in checkup.findings)
        if count:
            yield f"{count} {level}{'s' * (count > 1)}"


def as_json(checkup: Checkup) -> str:
    """Return one JSON object with every finding, the worst first."""
    return json.dumps(
        {
            "group": checkup.group,
            "ok": checkup.ok,
            "checks": checkup.checks,
            "findings": [_plain(finding) for finding in checkup.ordered()],
            "fixed": checkup.fixed,
            "unreachable": checkup.away,
        },
        indent=2,
    )


def _plain(finding: Finding) -> dict[str, object]:
    values = asdict(finding)
    del values["target"]
    return {**values, "text": one_line(finding.text), "cure": one_line(finding.cure)}
