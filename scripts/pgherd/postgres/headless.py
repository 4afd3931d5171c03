"""Where no node of a group is primary: why that may be, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgherd.postgres.group import Group
    from pgherd.postgres.observation import Observation


def no_primary(group: Group, seen: Observation) -> str:
    """Return the sentence for a group where no node is primary, with the cure.

    It goes by whoever may be: one that does not answer, else one that is down, else one that is not
    there; where all answer, all are standbys.
    """
    unknown = {name: node for name, node in seen.nodes.items() if node.facts is None}
    standbys, first = len(unknown) < len(seen.nodes), group.master.name
    for name in unknown:
        if is_paused(seen, name):
            return f"{name} is paused, and may be the primary: `{unpause(group, name)}`."
    if silent := [name for name, node in unknown.items() if node.silence]:
        name = first if first in silent else silent[0]
        lost = "; if it is lost, `invoke failover`" if standbys else ""
        return (
            f"{name} does not answer, and may be the primary: `invoke logs --node {name}` tells "
            f"why{lost}. {unknown[name].silence}"
        )
    if not unknown:
        return (
            f"No node of {group.name} is primary, all are standbys: `invoke failover` makes the "
            "one that has most the primary."
        )
    down = {n: s.container.status for n, s in unknown.items() if s.container}
    lost = "; if it is lost, `invoke failover`" if standbys else ""
    if standbys and not down:
        down = dict.fromkeys(unknown, "not there")
    if down:
        states = ", ".join(f"{name} is {status}" for name, status in down.items())
        return f"No node of {group.name} is primary ({states}): `invoke start`{lost}."
    return (
        f"{first} does not run yet: `invoke setup-master` makes it; or `invoke start`, if it has "
        "data, as after `invoke down`."
    )


def is_paused(seen: Observation, name: str) -> bool:
    """Tell whether a node's container is paused: it holds its connections, and answers nothing."""
    container = seen.nodes[name].container
    return bool(container and container.status == "paused")


def unpause(group: Group, name: str) -> str:
    """Return the command that lets a paused container go on, as it is typed here."""
    return group.there(group.topology.node(name).host, f"docker unpause {name}")


def paused(group: Group, seen: Observation, name: str) -> str:
    """Say of a node that is paused what to do, without the full stop; empty if it is not."""
    if not is_paused(seen, name):
        return ""
    return f"{name} is paused and answers nobody: `{unpause(group, name)}`"
