"""A comparison as text for people and as JSON for programs. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict

from pgherd.report.text import one_line
from pgherd.shell import advice
from pgherd.steps.diff.containers import Difference
from pgherd.steps.diff.differences import Comparison


def text(found: Comparison) -> str:
    """Return what is asked, what is found and the cure of each difference, notes, a summary."""
    width = max((len(d.node) for d in found.differences), default=0)
    lines = [line for d in found.differences for line in _difference(d, width)]
    lines += [f"note: {n.sentence}: `{n.command}` swaps them back" for n in found.notes]
    count = len(found.differences)
    result = "no difference" if found.same else f"{count} difference{'s' * (count > 1)}"
    away = f", and {', '.join(found.away)} cannot be reached" if found.away else ""
    return "\n".join([*lines, f"diff of {found.group}: {result}{away}"])


def as_json(found: Comparison, on: str = "") -> str:
    """Return one JSON object; the commands are as they are typed for a group placed `on` a host."""

    def typed(item: dict[str, str]) -> dict[str, str]:
        return {**item, "command": advice(f"`{item['command']}`", on)[1:-1]}

    return json.dumps(
        {
            "group": found.group,
            "same": found.same and not found.away,
            "differences": [typed(asdict(d)) for d in found.differences],
            "notes": [typed(asdict(n)) for n in found.notes],
            "unreachable": dict(found.away),
        },
        indent=2,
    )


def _difference(difference: Difference, width: int) -> list[str]:
    told = [
        f"asked  {one_line(difference.asked)}",
        f"found  {one_line(difference.found)}",
        f"cure   `{difference.command}`",
    ]
    heads = [difference.node, "", ""]
    return [f"{head:<{width}}  {line}" for head, line in zip(heads, told, strict=True)]
