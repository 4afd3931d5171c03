"""What was set aside, as text and as JSON. Pure: it returns text and prints none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgherd.group.node_status import format_size
from pgherd.report.text import table

if TYPE_CHECKING:
    from pgherd.operations.restore import Copy, Kept

HEAD = ("name", "host", "node", "age", "size", "PostgreSQL", "system", "timeline", "was", "why")
NONE = "-"
_AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def as_text(kept: Kept, now: datetime | None = None) -> str:
    """Return a line for each copy, the newest first, and what all of them take."""
    at = now or datetime.now(UTC)
    rows = [_row(copy, at) for copy in kept.copies]
    lines = [table([HEAD, *rows])] if rows else []
    lines += [f"{host}: left out, since it cannot be reached" for host in kept.away]
    return "\n".join([*lines, *_sums(kept, at)])


def _row(copy: Copy, now: datetime) -> tuple[str, ...]:
    disk = copy.disk
    cells = (
        copy.name,
        copy.host,
        copy.node,
        format_age(copy, now),
        "?" if copy.size is None else format_size(copy.size),
        disk.pg_version if disk else "",
        disk.system_identifier if disk else "",
        str(disk.timeline) if disk and disk.timeline else "",
        was_of(copy),
        copy.reason,
    )
    return tuple(cell or NONE for cell in cells)


def was_of(copy: Copy) -> str:
    """Return what a copy is, in a few words: its role and state, or why it is not whole."""
    if copy.fault:
        return f"NOT WHOLE: {copy.fault}"
    if copy.disk is None:
        return "passwords" if copy.kind == "secrets" else ""
    role = "standby" if copy.disk.standby_signal else "primary"
    return f"{role}, {copy.disk.state}" if copy.disk.state else role


def format_age(copy: Copy, now: datetime) -> str:
    """Return how long ago a copy was set aside, in its greatest whole unit."""
    seconds = max(0, int((now - copy.at).total_seconds()))
    unit, name = next(((u, n) for u, n in _AGES if seconds >= u), _AGES[-1])
    return f"{seconds // unit} {name}"


def _sums(kept: Kept, now: datetime) -> list[str]:
    if not kept.copies:
        return [f"{kept.group}: nothing is set aside"]
    many = len(kept.copies)
    takes = (
        "1 copy is set aside and takes" if many == 1 else f"{many} copies are set aside and take"
    )
    free = ", ".join(f"{format_size(free)} free on {host}" for host, free in kept.free.items())
    oldest = format_age(kept.copies[-1], now)
    space = f"{format_size(kept.size)}{f' ({free})' if free else ''}"
    places = sorted({(c.host, c.path.rpartition("/")[0]) for c in kept.copies if "/" in c.path})
    return [
        *(f"in {place} of {host}" for host, place in places),
        f"{kept.group}: {takes} {space}; the oldest is {oldest} old",
        "`invoke aside.restore NAME` puts one back.",
        "`invoke aside.delete NAME --confirm NAME` deletes one.",
    ]


def as_json(kept: Kept) -> str:
    """Return one JSON object with every copy."""
    return json.dumps(
        {
            "group": kept.group,
            "copies": [_plain(copy) for copy in kept.copies],
            "bytes": kept.size,
            "free_bytes": kept.free,
            "away": kept.away,
        },
        indent=2,
    )


def _plain(copy: Copy) -> dict[str, object]:
    disk = copy.disk
    role = None if disk is None else "standby" if disk.standby_signal else "primary"
    return {
        "name": copy.name,
        "kind": copy.kind,
        "node": copy.node or None,
        "host": copy.host,
        "path": copy.path,
        "at": copy.at.isoformat(),
        "bytes": copy.size,
        "postgresql": disk.pg_version if disk else None,
        "system": disk.system_identifier if disk else None,
        "timeline": disk.timeline or None if disk else None,
        "role": role,
        "state": disk.state if disk else None,
        "why": copy.reason or None,
        "complete": not copy.fault,
        "fault": copy.fault or None,
    }
