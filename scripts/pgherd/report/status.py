"""A status as text and as JSON. Pure: it returns text and prints none."""

from __future__ import annotations

import json
from dataclasses import asdict

from pgherd.checks.status import Status
from pgherd.group.node_status import NodeStatus, format_size
from pgherd.report.text import one_line, table

HOME_AND_CLEAR = "\x1b[H\x1b[2J"  # ECMA-48: cursor home, erase the screen
HEAD = (
    "node", "host", "role", "timeline", "upstream", "state", "sync", "lag", "behind", "slot",
    "retains", "conflicts",
)  # fmt: skip
NONE = "-"
_TIMES = ((86400, "d"), (3600, "h"), (60, "min"))


def status_text(status: Status) -> str:
    """Return a line for each node, one for each warning with its cure, and whether all is well."""
    lines = [table([HEAD, *map(_row, status.nodes)])]
    lines += [f"WARNING  {w.code}: {one_line(w.text)}" for w in status.warnings]
    count = len(status.warnings)
    said = "all is well" if status.ok else "1 warning" if count == 1 else f"{count} warnings"
    return "\n".join([*lines, f"status of {status.group}: {said}"])


def redraw(text: str, *, clear: bool) -> str:
    """Return a text for a watch: in place of the one before, on a terminal, or after it."""
    return f"{HOME_AND_CLEAR}{text}" if clear else text


def _row(node: NodeStatus) -> tuple[str, ...]:
    late = f", {duration(node.delay)} late on purpose" if node.delay else ""
    cells = (
        node.name,
        node.host,
        node.role,
        node.timeline,
        node.upstream,
        f"{node.state}{late}" if node.state else None,
        node.sync_state,
        _format_size(node.lag_bytes),
        duration(node.lag_seconds),
        node.slot,
        _format_size(node.retained_bytes),
        node.conflicts,
    )
    return tuple(NONE if cell in {None, ""} else str(cell) for cell in cells)


def _format_size(count: int | None) -> str:
    return "" if count is None else format_size(count)


def duration(seconds: float | None) -> str:
    """Return a time for people."""
    if seconds is None:
        return ""
    unit, name = next(((u, n) for u, n in _TIMES if seconds >= u), (1, "s"))
    if seconds < 1 and seconds:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds / unit:.3g} {name}"


def status_json(status: Status, *, compact: bool = False) -> str:
    """Return one JSON object; `compact`: on one line."""
    nodes = [_plain(node) for node in status.nodes]
    warnings = [{**asdict(w), "text": one_line(w.text)} for w in status.warnings]
    answer = {"group": status.group, "ok": status.ok, "nodes": nodes, "warnings": warnings}
    return json.dumps(answer, indent=None if compact else 2)


def _plain(node: NodeStatus) -> dict[str, object]:
    values = asdict(node)
    del values["delay"]
    lag = node.lag_seconds
    return {**values, "lag_seconds": None if lag is None else round(lag, 3)}
