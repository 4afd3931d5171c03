"""A whole group on one host that its file does not name: `invoke on HOST`, or INVOKE_HOST."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgherd.destination import host_name
from pgherd.errors import Refused, quoted
from pgherd.rules import LOCAL, Fault, collected

VARIABLE = "INVOKE_HOST"


def asked_host(on: str, variable: str) -> str:
    """Return the host that the operator places the group on; empty if none was said.

    Raises:
        Refused: the task and the variable say different ones, or what is no host.
    """
    for said, name in ((on, "`invoke on`"), (variable, VARIABLE)):
        try:
            host_name(said or LOCAL)
        except ValueError as fault:
            raise Refused(f"{name} {fault}, not {quoted(said)}.") from None
    if on and variable and on != variable:
        raise Refused(
            f"`invoke on {on}` and {VARIABLE}={variable} contradict each other: leave one out."
        )
    return on or variable


def placed(data: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return a topology's tables with every node on `host`.

    Raises:
        ValidationError: the file puts a node on another host.
    """
    nodes = data.get("nodes")
    if not isinstance(nodes, Mapping):
        return dict(data)
    if faults := list(_elsewhere(nodes, host)):
        raise collected(faults)
    moved = {
        name: {**table, "host": host} if isinstance(table, Mapping) else table
        for name, table in nodes.items()
    }
    return {**data, "nodes": moved}


def _elsewhere(nodes: Mapping[str, Any], host: str) -> Iterator[Fault]:
    """Find the nodes that the file itself places; "local" is its word for no place in particular.

    Where one node is placed elsewhere than the rest, "local" has a meaning, and stays as well.
    """
    said = {
        str(name): table.get("host", LOCAL)
        for name, table in nodes.items()
        if isinstance(table, Mapping) and isinstance(table.get("host", LOCAL), str)
    }
    if set(said.values()) in ({LOCAL}, {host}):
        return
    for name, there in said.items():
        if there != host:
            sentence = (
                f'is "{there}" here, and `invoke on` or {VARIABLE} says "{host}": a group that the '
                "file places is not placed otherwise; leave that out, or copy the file"
            )
            yield Fault(("nodes", name, "host"), sentence)
