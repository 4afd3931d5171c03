"""Whom a standby is to follow now, and which standbys have to be there before which others."""

from __future__ import annotations

from pgherd.errors import Refused, Unreachable
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps.seed.asked import Asked


def refuse_away(group: Group, instance: Instance) -> None:
    """Refuse to work with a node whose host cannot be reached."""
    if instance.node.host in group.away:
        raise Unreachable(group.away[instance.node.host])


def upstream_of(group: Group, standby: Instance, seen: Observation, asked: Asked) -> Instance:
    """Return whom to seed from; refuse where the node itself is the one that leads."""
    others = [name for name in seen.primaries if name != standby.name]
    own = seen.nodes[standby.name].facts
    alone = own if own and not own.in_recovery and not others else None
    if alone and (alone.senders or alone.timeline > 1 or standby is group.master):
        raise is_primary(group, standby)
    if standby is group.master and not others:
        raise Refused(f"{standby.name} is to be the primary, and no other node is: setup-master.")
    if asked.method == "copy" and not others and seen.nodes[group.master.name].container:
        upstream = group.master  # it may be down: an earlier copy was killed while it was stopped
    else:
        upstream = group.upstream_of(standby, others, seen)
        there = seen.nodes[upstream.name]
        # A database of its own, as step 2 makes it, is of another system.
        other = there.facts and alone and there.facts.system_identifier != alone.system_identifier
        if alone and not other and not there.planned:
            raise is_primary(group, standby)
    refuse_away(group, upstream)
    return upstream


def is_primary(group: Group, standby: Instance) -> Refused:
    """Return the refusal of a node that is the only primary."""
    back = f" `invoke switchover --to {group.master.name}` swaps them back."
    return Refused(
        f"{standby.name} is the primary now: it cannot be seeded."
        f"{back if standby is not group.master else ''}"
    )


def levels(
    group: Group, nodes: list[Instance], upstreams: dict[str, Instance], seen: Observation
) -> list[list[Instance]]:
    """Return the nodes in lists, each of those whose upstreams are there or in an earlier list.

    Raises:
        Refused: an upstream does not serve, and is none of the nodes.
    """
    for node in nodes:
        if upstreams[node.name].name not in upstreams:
            _refuse_upstream(group, node, upstreams[node.name], seen)
    found: dict[int, list[Instance]] = {}
    for node in nodes:
        depth, at = 0, upstreams[node.name]
        while at.name in upstreams:
            depth, at = depth + 1, upstreams[at.name]
        found.setdefault(depth, []).append(node)
    return [found[depth] for depth in sorted(found)]


def _refuse_upstream(group: Group, node: Instance, upstream: Instance, seen: Observation) -> None:
    """Refuse an upstream that does not serve, or is one of two primaries.

    The first primary may be down: `--method copy` takes its files and starts it again.
    """
    others = [name for name in seen.primaries if name != node.name]
    if upstream.name in others and len(others) > 1:
        raise Refused(f"Two nodes are primary at once: {' and '.join(others)}. Stop the wrong one.")
    there = seen.nodes[upstream.name]
    if upstream is group.master or there.planned:
        return
    if there.facts is None:
        silence = f" ({there.silence})" if there.silence else ""
        raise Refused(
            f"{upstream.name}, which {node.name} is to follow, does not serve{silence}: `invoke "
            f"start`, or `invoke add-standby {upstream.name},{node.name}` seeds both."
        )
