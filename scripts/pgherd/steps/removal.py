"""Taking standbys out of a group: nobody waits for them, nothing is kept for them any more."""

from __future__ import annotations

import re

from pgherd.docker import Image
from pgherd.errors import DeadlinePassed, Refused, Unreachable, quoted
from pgherd.host.together import side_by_side
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.rules import DOCKER_NAME, NAME_RULE
from pgherd.shell import Script, Tool, assignments
from pgherd.steps import guards, lifecycle, outside
from pgherd.steps.aside import (
    REMOVED,
    entry,
    not_known,
    reason,
    refuse_unmovable,
    set_aside,
)
from pgherd.steps.image import ensure_image
from pgherd.steps.strays import Leaving, leaving
from pgherd.steps.sync import read_sync, set_names, shortened
from pgherd.steps.teardown import clear_private, remove_places
from pgherd.sync import same_name

DROP_SECONDS = 60.0


def remove_standbys(group: Group, names: list[str], *, async_meanwhile: bool) -> None:
    """Remove standbys, of the topology or not; their data is set aside.

    Commits are made to wait for the others first, or for nobody. The container goes last, since it
    tells where the data of a node is that the topology has no more: a run that was killed is
    completed by the next. On a host that cannot be reached nothing is done; the rest is.

    Raises:
        Refused: one is primary now, is followed by a node that stays, or commits would wait for
            nobody where the topology says `strict`.
        Unreachable: what is on such a host was left.
    """
    if not names:
        raise Refused("Which standbys? Say their names, as s2,s3.")
    for name in names:
        if not re.fullmatch(DOCKER_NAME, name):
            raise Refused(f"{quoted(name)} is no name of a node: it {NAME_RULE}.")
    with group.locked(tolerant=True):
        seen = group.observe()
        primary = group.primary(seen)
        guards.check_alter_system(group, seen, primary.name)
        image = ensure_image(group, seen)
        nodes = leaving(group, names, seen, image)
        _refuse(group, nodes, primary, seen)
        here = [node for node in nodes if node.instance.node.host not in group.away]
        owners = [node for node in here if _owns_data(group, node, image)]
        for node in owners:
            refuse_unmovable(node.instance)
        before = _left(group, nodes, seen)
        _shorten(group, primary, seen.nodes[primary.name].facts, nodes, consent=async_meanwhile)
        lifecycle.stop_instances(group, [node.instance for node in here], clean=False)
        _drop_slots(group, nodes, seen)
        for node, did in zip(
            here,
            side_by_side(lambda n: _take(group, n, image, own=n in owners), here),
            strict=True,
        ):
            if not did and node.name not in before:
                group.trace.note(f"{node.name}: already removed")
        for node in nodes:
            _hint(group, node, primary)
        if len(here) < len(nodes):
            away = ", ".join(node.name for node in nodes if node not in here)
            raise Unreachable(f"Their hosts cannot be reached, so their containers stay: {away}.")


# --- what is refused ---


def _refuse(group: Group, nodes: list[Leaving], primary: Instance, seen: Observation) -> None:
    going = {node.name for node in nodes}
    for node in nodes:
        if node.name == primary.name or (node.facts and not node.facts.in_recovery and node.asked):
            raise Refused(f"{node.name} is primary now: a primary cannot be removed.")
        if followers := sorted(_followers(group, node, seen, nodes) - going):
            raise Refused(
                f"{node.name} is followed by {', '.join(followers)}: remove that in the same call "
                f"(`invoke remove-standby {','.join([*sorted(going), *followers])}`), or give it "
                "another `upstream` and seed it first."
            )
        if node.instance.node.host not in group.away:
            guards.check_data_unused(node.instance, seen)
    leave = [(node.instance, node.container, node.facts) for node in nodes]
    outside.refuse_to_remove(group, leave, seen)


def _followers(group: Group, node: Leaving, seen: Observation, nodes: list[Leaving]) -> set[str]:
    """Return who streams from a node or is asked to; the first primary's followers have another."""
    leaves = {n.application_name.lower() for n in nodes}
    known = {i.node.application_name.lower(): i.name for i in group.instances.values()}
    found = {
        known.get(sender.application_name.lower(), sender.application_name)
        for sender in (node.facts.senders if node.facts else ())
        if sender.application_name.lower() not in leaves
    }
    if node.name != group.master.name:
        found |= {
            other.name
            for other in group.topology.nodes.values()
            if other.upstream == node.name and other.name not in seen.primaries
        }
    return found


# --- what is done ---


def _left(group: Group, nodes: list[Leaving], seen: Observation) -> set[str]:
    """Return which of the nodes some other one still has a slot for, or waits for."""
    return {
        node.name
        for node in nodes
        for other in seen.nodes.values()
        if other.facts
        and (other.facts.slot(_own_slot(group, node, nodes)) or _listed(other.facts, node))
    }


def _listed(facts: Facts, node: Leaving) -> bool:
    sync = read_sync(facts.sync_names)
    return bool(sync and any(same_name(name, node.application_name) for name in sync.names))


def _stay(group: Group, nodes: list[Leaving]) -> list[Instance]:
    """Return the nodes of the topology that stay: what is theirs is not a removed one's."""
    going = {node.name for node in nodes}
    return [i for i in group.instances.values() if i.name not in going]


def _own_slot(group: Group, node: Leaving, nodes: list[Leaving]) -> str:
    """Return a node's slot; empty where a node that stays has it by now."""
    return "" if node.slot in {i.node.slot for i in _stay(group, nodes)} else node.slot


def _shorten(
    group: Group, primary: Instance, facts: Facts | None, nodes: list[Leaving], *, consent: bool
) -> None:
    """Let the primary's commits wait for those that stay."""
    staying = [i.node.application_name for i in _stay(group, nodes)]
    names = [
        node.application_name
        for node in nodes
        if node.application_name and not any(same_name(node.application_name, s) for s in staying)
    ]
    former = read_sync(facts.sync_names) if facts else None
    if facts is None or former is None or (rest := shortened(facts, names)) == former:
        return
    if rest is None and group.topology.group.strict and not consent:
        raise Refused(
            f"Without {', '.join(names)} no standby would be left that commits on {primary.name} "
            "wait for, and the topology says strict = true: --async-meanwhile lets them run on."
        )
    said = (
        f"synchronous: {rest.render()}" if rest else "asynchronous: no other standby is waited for"
    )
    group.trace.note(f"{primary.name}: {said}")
    set_names(primary, rest.render() if rest else "", rest.count if rest else 0)


def _drop_slots(group: Group, nodes: list[Leaving], seen: Observation) -> None:
    """Drop the nodes' slots wherever they are; a server that is down is said."""
    for instance in _stay(group, nodes):
        facts = seen.nodes[instance.name].facts
        if facts is None:
            if seen.nodes[instance.name].container:
                group.trace.note(f"{instance.name}: does not answer; a slot there would stay")
            continue
        for node in nodes:
            slot = _own_slot(group, node, nodes)
            if slot and facts.slot(slot):
                group.trace.note(f"{instance.name}: dropping the slot {slot}")
                _drop(group, instance, node, slot)


def _drop(group: Group, instance: Instance, node: Leaving, slot: str) -> None:
    """Drop a slot; one that its standby takes again and again, out of reach, stays and is told."""
    try:
        instance.execute(scripts.compose("drop-slot", slot=slot), DROP_SECONDS)
    except DeadlinePassed:
        if node.instance.node.host not in group.away:
            raise
        group.trace.note(
            f"{instance.name}: the slot {slot} stays, since {node.name} still streams from it"
        )


def _take(group: Group, node: Leaving, image: Image, *, own: bool) -> bool:
    """Set aside what a node has, and remove its container; tell whether there was anything."""
    instance = node.instance
    found = own and (
        set_aside(group, instance, image, unfinished=True, why="remove-standby") is not None
    )
    if guards.directory_state(instance.host, instance.places.private) != guards.ABSENT:
        group.trace.note(f"{node.name}: removing its private directory")
        _remove_private(group, instance, image)
        found = True
    group.certificates.forget(instance.node)
    if node.container:
        group.trace.note(f"{node.name}: removing its container")
        instance.engine.remove(node.container)
        found = True
    if own and found:  # they are empty by now
        volumes = [place for place in instance.data_mounts() if place.volume]
        remove_places(instance, instance.there(volumes))
    return found


def _remove_private(group: Group, instance: Instance, image: Image) -> None:
    """Remove what tells that the node was there, but for a line in the journal."""
    clear_private(instance, image)
    host, private = instance.host, instance.places.private
    told = entry(host, private, reason(group, instance.name, REMOVED))
    script = f'{assignments(private=private)}rmdir -- "$private"\n{told}'
    host.run(Tool("sh")["-eus"], stdin=Script((script,), ("remove-private",)))


def _owns_data(group: Group, node: Leaving, image: Image) -> bool:
    """Tell whether what lies in a node's directory or volume is its own; say what is left alone."""
    instance = node.instance
    full = guards.data_state(instance) == guards.FULL
    if not full and not instance.node.tablespaces:
        return False
    for other in group.instances.values():
        if other.name == node.name or other.node.host != instance.node.host:
            continue
        theirs = {(place.source, place.volume) for place in other.data_mounts()}
        for mount in instance.data_mounts():
            if (mount.source, mount.volume) in theirs:
                place = instance.node.places[mount.target]
                group.trace.note(f"{node.name}: {place} is {other.name}'s; left alone")
                return False
    if not full:  # what an earlier run that was killed has left of it
        return not not_known(instance, image)
    disk = instance.disk(image)
    if not (node.container or disk.ours or disk.unfinished or disk.empty):
        group.trace.note(f"{node.name}: {instance.node.data} is not this group's; left alone")
        return False
    return True


def _hint(group: Group, node: Leaving, primary: Instance) -> None:
    """Say what the topology file still has of it."""
    if not node.asked:
        return
    source = group.topology.source
    sync = group.topology.group.sync
    also = ""
    if sync and any(same_name(name, node.application_name) for name in sync.names):
        also = f", and {conf.quote_value(node.application_name)} out of group.sync"
    if node.name == group.master.name:
        also += f"; {primary.name} has no upstream then, and is that of the others"
    group.trace.note(f"{node.name}: take [nodes.{node.name}] out of {source}{also}")
