"""Whom a standby is to follow now, and which standbys have to be there before which others."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Refused, Unreachable
from pgherd.postgres.group import Group
from pgherd.postgres.headless import no_primary
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import leaders
from pgherd.steps.seed.asked import Asked


def refuse_away(group: Group, instance: Instance) -> None:
    """Refuse to work with a node whose host cannot be reached."""
    if instance.node.host in group.away:
        raise Unreachable(group.away[instance.node.host])


def upstream_of(
    group: Group, standby: Instance, seen: Observation, asked: Asked, image: Image
) -> Instance:
    """Return whom to seed from; refuse where the node itself is the one that leads.

    Where no other node is primary, the data of those that are down tells who leads.
    """
    others = [name for name in seen.primaries if name != standby.name]
    own = seen.nodes[standby.name].facts
    alone = own if own and not own.in_recovery and not others else None
    if alone and (alone.senders or alone.timeline > 1 or standby is group.master):
        raise is_primary(group, standby)
    upstream = None if others else _by_data(group, standby, seen, asked, image)
    if upstream is None:
        upstream = group.upstream_of(standby, others, seen)
        there = seen.nodes[upstream.name]
        # A database of its own, as step 2 makes it, is of another system.
        other = there.facts and alone and there.facts.system_identifier != alone.system_identifier
        if alone and not other and not there.planned:
            raise is_primary(group, standby)
    refuse_away(group, upstream)
    return upstream


def _by_data(
    group: Group, standby: Instance, seen: Observation, asked: Asked, image: Image
) -> Instance | None:
    """Return a node that is down whose files are to be copied; None where one that serves will do.

    Raises:
        Refused: who leads is down and has to be started first, or is the node itself.
    """
    planned = any(node.planned for node in seen.nodes.values())
    leading = "" if planned else leaders.leader_down(group, seen, image, but=standby.name)
    if leading == standby.name and not asked.set_aside:
        raise Refused(f"The data of {standby.name} is the primary's: `invoke start` runs it.")
    leading = leading if leading != standby.name else ""
    source = leading or group.master.name
    there = leading or seen.nodes[source].container
    if asked.method == "copy" and there and source != standby.name:
        # An earlier copy may have been killed while its source was stopped.
        return group.instance(source)
    asked_for = group.topology.upstream_of(standby.node)
    if leading and asked_for in {None, group.topology.primary}:
        raise Refused(f"{leading}, which leads, is down: `invoke start`.")
    if standby is group.master and not planned:
        if any(node.container for name, node in seen.nodes.items() if name != standby.name):
            raise Refused(no_primary(group, seen))
        raise Refused(
            f"{standby.name} is to be the primary, and no other node is: `invoke setup-master`."
        )
    return None


def is_primary(group: Group, standby: Instance) -> Refused:
    """Return the refusal of a node that is the only primary."""
    back = f" `invoke switchover --to {group.master.name}` swaps them back."
    return Refused(
        f"{standby.name} is the primary now: it cannot be seeded."
        f"{back if standby is not group.master else ''}"
    )


def levels(
    group: Group,
    nodes: list[Instance],
    upstreams: dict[str, Instance],
    seen: Observation,
    asked: Asked,
) -> list[list[Instance]]:
    """Return the nodes in lists, each of those whose upstreams are there or in an earlier list.

    Raises:
        Refused: an upstream does not serve, and is none of the nodes.
    """
    for node in nodes:
        if upstreams[node.name].name not in upstreams:
            _refuse_upstream(group, node, upstreams[node.name], seen, asked)
    found: dict[int, list[Instance]] = {}
    for node in nodes:
        depth, at = 0, upstreams[node.name]
        while at.name in upstreams:
            depth, at = depth + 1, upstreams[at.name]
            if depth > len(nodes):
                raise Refused(
                    f"{node.name} and {at.name} would each be copied from the other: name one of "
                    "them; `invoke status` tells which leads."
                )
        found.setdefault(depth, []).append(node)
    return [found[depth] for depth in sorted(found)]


def _refuse_upstream(
    group: Group, node: Instance, upstream: Instance, seen: Observation, asked: Asked
) -> None:
    """Refuse an upstream that does not serve, or is a primary beside the one that leads.

    One may be down whose files are to be copied.
    """
    there = seen.nodes[upstream.name]
    others = [name for name in seen.primaries if name != node.name]
    # A database of its own, which is to be replaced, has no say in who leads.
    system = there.facts.system_identifier if there.facts else None
    facts = {
        name: its
        for name, its in seen.facts.items()
        if name != node.name or its.system_identifier == system
    }
    leads = group.leader(facts, seen.own)
    if upstream.name in others and leads and leads.name != upstream.name:
        raise Refused(f"{group.several(seen)}.")
    if asked.method == "copy" or there.planned:
        return
    if there.facts is None:
        silence = f" ({there.silence})" if there.silence else ""
        raise Refused(
            f"{upstream.name}, which {node.name} is to follow, does not serve{silence}: `invoke "
            f"start`, or `invoke add-standby {upstream.name},{node.name}` seeds both."
        )
