"""The certificates of a group, as text and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgherd.operations.certificates import Shown
    from pgherd.security.x509 import Details


@dataclass(frozen=True)
class Trusted:
    """The file with the authorities that clients trust, what it has, and what is wrong with it."""

    file: str
    authorities: Sequence[Details] = ()
    warnings: Sequence[str] = ()


def text(group: str, trusted: Trusted, nodes: Sequence[Shown]) -> str:
    """Return what each node's certificate says, and below all what is wrong."""
    lines = []
    for node in nodes:
        found = node.served or node.kept
        lines.append(f"{node.node}  {_said_text(node)}")
        if found:
            lines += [
                f"  subject  {found.subject}",
                f"  issuer   {found.issuer}",
                f"  names    {', '.join(found.names)}",
                f"  until    {found.ends:%Y-%m-%d}, {found.days:.0f} days",
                f"  serial   {found.serial}",
            ]
    warnings = [*trusted.warnings, *(warning for node in nodes for warning in node.warnings)]
    last = f"tls of {group}: {'all is well' if not warnings else f'{len(warnings)} to see to'}"
    lines.append(f"trusted  {trusted.file}")
    lines += [
        f"  {one.subject}, serial {one.serial}, until {one.ends:%Y-%m-%d}, {one.days:.0f} days"
        for one in trusted.authorities
    ]
    return "\n".join([*lines, *warnings, last])


def _said_text(node: Shown) -> str:
    if node.served is None:
        return f"shows none: {node.fault}"
    same = node.kept and node.kept.serial == node.served.serial
    return "shows" if same else "shows another than the one kept here"


def as_json(group: str, trusted: Trusted, nodes: Sequence[Shown]) -> str:
    """Return one JSON object with each node's certificate, as kept and as served."""
    found = [
        {
            "name": node.node,
            "kept": _json(node.kept),
            "served": _json(node.served),
            "fault": node.fault,
            "warnings": list(node.warnings),
        }
        for node in nodes
    ]
    ok = not trusted.warnings and not any(node["warnings"] for node in found)
    authorities = {
        "file": trusted.file,
        "authorities": [_json(one) for one in trusted.authorities],
        "warnings": list(trusted.warnings),
    }
    return json.dumps({"group": group, "ok": ok, "trusted": authorities, "nodes": found}, indent=2)


def _json(found: Details | None) -> dict[str, object] | None:
    if found is None:
        return None
    times = {"begins": found.begins.isoformat(), "ends": found.ends.isoformat()}
    return {**asdict(found), **times, "days": round(found.days, 1)}
