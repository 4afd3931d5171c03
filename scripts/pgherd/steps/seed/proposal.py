"""The lines that a topology file lacks for a further standby, ready to paste."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence

from pgherd.errors import Refused, quoted
from pgherd.host import LOCAL
from pgherd.node import Node
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.rules import DOCKER_NAME, NAME_RULE, VOLUME, volume_of
from pgherd.shell import Tool
from pgherd.steps.outside import toml_key

_TRIED = 1000  # ports


def refuse_unknown(group: Group, names: Sequence[str]) -> None:
    """Refuse names that are no node of the topology, and say the lines that would make them so.

    The new nodes are on the primary's host, follow it, listen as it does, and have the next port
    there that nobody has now; their data lies beside that of the others.
    """
    unknown = [name for name in dict.fromkeys(names) if name not in group.topology.nodes]
    if not unknown:
        return
    for name in unknown:
        if not re.fullmatch(DOCKER_NAME, name):
            raise Refused(f"{quoted(name)} is no name for a node: it {NAME_RULE}.")
    taken = _ports(group, group.master)
    tables = []
    for name in unknown:
        port = _next_port(group, taken)
        taken.add(port)
        tables.append(_table(group.topology.primary, name, port))
    one = len(unknown) == 1
    raise Refused(
        f"{', '.join(unknown)} {'is no node' if one else 'are no nodes'} of {group.name}. Put this "
        f"at the end of {group.topology.source or 'the topology file'}, then this again:\n\n"
        + "\n".join(tables)
    )


def _table(model: Node, name: str, port: int) -> str:
    """Write a node's table as TOML; JSON's strings and numbers are TOML's as well."""
    keys: dict[str, object] = {
        "host": model.host,
        "port": port,
        "data": _place(model.data, model.name, name, name if model.volume else f"{name}_data"),
    }
    if model.listen != "127.0.0.1":
        keys["listen"] = model.listen
    if model.address:
        keys["address"] = model.address
    keys["upstream"] = model.name
    key = toml_key(name)
    places = {
        inside: _place(place, model.name, name, f"{name}_{posixpath.basename(inside)}")
        for inside, place in model.tablespaces.items()
    }
    tables = [f"[nodes.{key}]", *_lines(keys), ""]
    return "\n".join(
        [*tables, *([f"[nodes.{key}.tablespaces]", *_lines(places), ""] * bool(places))]
    )


def _lines(keys: Mapping[str, object]) -> list[str]:
    return [
        f"{toml_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()
    ]


def _place(of: str, model: str, name: str, otherwise: str) -> str:
    """Return a directory or volume named as the primary's is, with the new node's name."""
    if volume := volume_of(of):
        return f"{VOLUME}{volume.replace(model, name) if model in volume else otherwise}"
    directory, base = posixpath.split(of)
    return posixpath.join(directory, base.replace(model, name) if model in base else otherwise)


def _ports(group: Group, beside: Instance) -> set[int]:
    """Return the ports of that host that are asked for, published or listened on."""
    node = beside.node
    ports = {other.port for other in group.topology.nodes.values() if other.host == node.host}
    for container in beside.engine.containers().values():
        ports |= {port for _, port in container.ports}
    said = beside.host.run(
        Tool("sh")["-c", "ss -Hltn 2>/dev/null || lsof -nP -iTCP -sTCP:LISTEN 2>/dev/null || :"],
        reads=True,
    ).out
    return ports | {int(port) for port in re.findall(r":([0-9]{1,5})\s", said)}


def _next_port(group: Group, taken: set[int]) -> int:
    host = group.topology.primary.host
    last = max(node.port for node in group.topology.nodes.values() if node.host == host)
    free = (port for port in range(last + 1, min(last + _TRIED, 65536)) if port not in taken)
    port = next(free, None)
    if port is None:
        where = "this machine" if host == LOCAL else host
        raise Refused(f"No port above {last} is free on {where}: choose one for the new node.")
    return port
