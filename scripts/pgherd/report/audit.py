"""An audit as text for people and as JSON for programs. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict

from pgherd.report.text import one_line
from pgherd.shell import advice
from pgherd.steps.audit.findings import Audit, Finding


def text(found: Audit) -> str:
    """Return each finding with its place and its cure, what was not looked at, a summary."""
    width = max((len(f.code) for f in found.findings), default=0)
    lines = [line for f in found.findings for line in _finding(f, width)]
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"note: {host} cannot be reached: {one_line(why)}" for host, why in found.away]
    count = len(found.findings)
    result = "nothing found" if found.clean else f"{count} finding{'s' * (count > 1)}"
    looked = f"{found.looked} node{'s' * (found.looked != 1)} looked into"
    return "\n".join([*lines, f"audit of {found.group}: {result}, {looked}"])


def _finding(finding: Finding, width: int) -> list[str]:
    told = [one_line(finding.text), f"where  {one_line(finding.where)}", f"cure   {finding.cure}"]
    heads = [finding.code, "", ""]
    return [f"{head:<{width}}  {line}" for head, line in zip(heads, told, strict=True)]


def as_json(found: Audit, on: str = "") -> str:
    """Return one JSON object; the cures are as they are typed for a group placed `on` a host."""
    return json.dumps(
        {
            "group": found.group,
            "ok": found.clean and not found.away,
            "findings": [{**asdict(f), "cure": advice(f.cure, on)} for f in found.findings],
            "notes": list(found.notes),
            "unreachable": dict(found.away),
            "nodes": found.looked,
        },
        indent=2,
    )
