"""Removing standbys from a group, and nodes that its topology file has no more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgherd.config.nodes import Node
from pgherd.config.sync_names import same_name
from pgherd.config.values import DOCKER_NAME, NAME_RULE, VOLUME
from pgherd.docker.models import NODE_LABEL, Container, Image, Mount
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable, quoted
from pgherd.group import outside_data, preconditions
from pgherd.group.group import Group, Site
from pgherd.group.observation import Observation
from pgherd.group.sync_state import read_sync
from pgherd.hosts.commands import Script, Tool, assignments
from pgherd.hosts.parallel import run_all
from pgherd.operations import set_aside, start_stop
from pgherd.operations.image import ensure_image
from pgherd.operations.set_aside import (
    REMOVED,
    entry,
    not_known,
    reason,
    refuse_unmovable,
    set_data_aside,
)
from pgherd.operations.sync import set_names, shortened
from pgherd.operations.teardown import clear_private, remove_places
from pgherd.postgres import conf, scripts
from pgherd.postgres.datadir import Places
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import PGDATA, PRIVATE, Instance

# --- nodes that the topology file has no more: known by their containers' labels ---

_SETTING = re.compile(r"^(primary_conninfo|primary_slot_name) = '(.*)'$", re.MULTILINE)


@dataclass(frozen=True)
class RemovedNode:
    """A node that is to be removed.

    Attributes:
        instance: its server.
        container: None where it has none any more.
        facts: what its server says, if it answers.
        slot: its replication slot on whom it follows; empty if that cannot be told.
        application_name: how its upstream knows it; empty if that cannot be told.
        asked: whether the topology still has it.
    """

    instance: Instance
    container: Container | None
    facts: Facts | None
    slot: str
    application_name: str
    asked: bool

    @property
    def name(self) -> str:
        """The node's name."""
        return self.instance.name


def removed_nodes(
    group: Group, names: Sequence[str], seen: Observation, image: Image
) -> list[RemovedNode]:
    """Return the nodes of these names, of the topology or not; those removed already are left out.

    Raises:
        Refused: nothing of the group has, or had, such a name.
    """
    strays = dict(_removed_on_host(group, seen))
    found = []
    for name in dict.fromkeys(names):
        if name in group.topology.nodes:
            node, instance = seen.nodes[name], group.instance(name)
            preconditions.check_name(group, instance, seen)
            slot, application = instance.node.slot, instance.node.application_name
            found.append(
                RemovedNode(instance, node.container, node.facts, slot, application, asked=True)
            )
        elif name in strays:
            found.append(_removed_node(*strays[name], group, image))
        elif _was_here(group, name):
            group.trace.note(f"{name}: already removed")
        else:
            known = ", ".join([*group.topology.nodes, *strays])
            raise Refused(
                f"There is no node and no container {quoted(name)} of {group.name}: {known}."
            )
    return found


def _removed_on_host(
    group: Group, seen: Observation
) -> Iterator[tuple[str, tuple[Container, Site]]]:
    for site in group.present:
        for container in seen.engines[site.name].values():
            name = container.labels.get(NODE_LABEL)
            if name and name not in group.topology.nodes and group.owns(container, site.name):
                yield name, (container, site)


def _was_here(group: Group, name: str) -> bool:
    """Tell whether a node of this name was removed: the journal of a host has a line of it.

    A private directory that stayed tells it as well.
    """
    if not re.fullmatch(DOCKER_NAME, name):
        return False
    asked = [(site.host, _trace_of(site, group, name)) for site in group.present]
    return any(host.run(Tool("sh")["-eus"], stdin=text, reads=True).ok for host, text in asked)


def _trace_of(site: Site, group: Group, name: str) -> Script:
    """Return shell text that succeeds where something tells that the node was there."""
    values = assignments(
        private=f"{site.private}/{name}",
        journal=set_aside.journal(site.host),
        line=f"\t{set_aside.reason(group, name, set_aside.REMOVED)}",
    )
    known = '[ -e "$private" ] || grep -qF -e "$line" -- "$journal" 2>/dev/null\n'
    return Script((values, known))


def _removed_node(container: Container, site: Site, group: Group, image: Image) -> RemovedNode:
    """Make a node of what its container tells: its directories, and whom it follows."""
    mounts = {mount.target: mount for mount in container.mounts}
    data, private = mounts.get(PGDATA), mounts.get(PRIVATE)
    if data is None or private is None:
        raise Refused(f"The container {container.name} has not the mounts of a node of pgherd.")
    others = [mount for mount in container.mounts if mount.target not in {PGDATA, PRIVATE}]
    address, port = next(iter(container.ports), ("127.0.0.1", 1))
    node = Node(
        name=container.name,
        host=site.name,
        port=port,
        listen=address,
        data=_place(data),
        tablespaces={mount.target: _place(mount) for mount in others},
    )
    places = Places(
        data="" if data.volume else data.source,
        private=private.source,
        network=group.network,
        home=site.host.home,
        tablespaces={m.target: "" if m.volume else m.source for m in others},
    )
    instance = Instance(group.name, node, site.engine, lambda: places)
    known = (i.database for i in group.instances.values() if i.database)
    instance.database = group.topology.group.database or next(known, "")
    facts = _answer(instance) if container.running else None
    if facts:
        slot, info = facts.primary_slot, facts.primary_conninfo
    else:
        slot, info = _on_disk(instance, image)
    return RemovedNode(instance, container, facts, slot, _application(info), asked=False)


def _place(mount: Mount) -> str:
    """Return what a mount has, as a topology writes it."""
    return f"{VOLUME}{mount.source}" if mount.volume else mount.source


def _answer(instance: Instance) -> Facts | None:
    try:
        return instance.facts()
    except Error:
        return None


def _on_disk(instance: Instance, image: Image) -> tuple[str, str]:
    """Return slot and connection string as its own file has them; empty where there is none."""
    if preconditions.data_state(instance) != preconditions.FULL:
        return "", ""
    script = scripts.compose('cat "$PGDATA/postgresql.auto.conf" 2>/dev/null || :\n')
    text = instance.offline(image, script, mounts=instance.mounts(readonly=True), reads=True)
    said = {name: value.replace("''", "'") for name, value in _SETTING.findall(text)}
    return said.get("primary_slot_name", ""), said.get("primary_conninfo", "")


def _application(info: str) -> str:
    return conf.read_conninfo(info).get("application_name", "")


# --- taking standbys out of a group: nobody waits for them, nothing is kept for them any more ---

DROP_SECONDS = 60.0


def remove_standbys(group: Group, names: list[str], *, allow_async: bool) -> None:
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
        preconditions.check_alter_system(group, seen, primary.name)
        image = ensure_image(group, seen)
        nodes = removed_nodes(group, names, seen, image)
        _refuse(group, nodes, primary, seen)
        here = [node for node in nodes if node.instance.node.host not in group.away]
        owners = [node for node in here if _owns_data(group, node, image)]
        for node in owners:
            refuse_unmovable(node.instance)
        before = _nodes_left(group, nodes, seen)
        _shorten(group, primary, seen.nodes[primary.name].facts, nodes, consent=allow_async)
        start_stop.stop_instances(group, [node.instance for node in here], clean=False)
        _drop_slots(group, nodes, seen)
        for node, did in zip(
            here,
            run_all(lambda n: _take(group, n, image, own=n in owners), here),
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


def _refuse(group: Group, nodes: list[RemovedNode], primary: Instance, seen: Observation) -> None:
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
            preconditions.check_data_unused(node.instance, seen)
    leave = [(node.instance, node.container, node.facts) for node in nodes]
    outside_data.refuse_to_remove(group, leave, seen)


def _followers(
    group: Group, node: RemovedNode, seen: Observation, nodes: list[RemovedNode]
) -> set[str]:
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


def _nodes_left(group: Group, nodes: list[RemovedNode], seen: Observation) -> set[str]:
    """Return which of the nodes some other one still has a slot for, or waits for."""
    return {
        node.name
        for node in nodes
        for other in seen.nodes.values()
        if other.facts
        and (other.facts.slot(_own_slot(group, node, nodes)) or _list_nodes(other.facts, node))
    }


def _list_nodes(facts: Facts, node: RemovedNode) -> bool:
    sync = read_sync(facts.sync_names)
    return bool(sync and any(same_name(name, node.application_name) for name in sync.names))


def _refuse_to_stay(group: Group, nodes: list[RemovedNode]) -> list[Instance]:
    """Return the nodes of the topology that stay: what is theirs is not a removed one's."""
    going = {node.name for node in nodes}
    return [i for i in group.instances.values() if i.name not in going]


def _own_slot(group: Group, node: RemovedNode, nodes: list[RemovedNode]) -> str:
    """Return a node's slot; empty where a node that stays has it by now."""
    return "" if node.slot in {i.node.slot for i in _refuse_to_stay(group, nodes)} else node.slot


def _shorten(
    group: Group, primary: Instance, facts: Facts | None, nodes: list[RemovedNode], *, consent: bool
) -> None:
    """Let the primary's commits wait for those that stay."""
    staying = [i.node.application_name for i in _refuse_to_stay(group, nodes)]
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
            "wait for, and the topology says strict = true: --allow-async lets them run on."
        )
    said = (
        f"synchronous: {rest.render()}" if rest else "asynchronous: no other standby is waited for"
    )
    group.trace.note(f"{primary.name}: {said}")
    set_names(primary, rest.render() if rest else "", rest.count if rest else 0)


def _drop_slots(group: Group, nodes: list[RemovedNode], seen: Observation) -> None:
    """Drop the nodes' slots wherever they are; a server that is down is said."""
    for instance in _refuse_to_stay(group, nodes):
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


def _drop(group: Group, instance: Instance, node: RemovedNode, slot: str) -> None:
    """Drop a slot; one that its standby takes again and again, out of reach, stays and is told."""
    try:
        instance.execute(scripts.compose("drop-slot", slot=slot), DROP_SECONDS)
    except DeadlinePassed:
        if node.instance.node.host not in group.away:
            raise
        group.trace.note(
            f"{instance.name}: the slot {slot} stays, since {node.name} still streams from it"
        )


def _take(group: Group, node: RemovedNode, image: Image, *, own: bool) -> bool:
    """Set aside what a node has, and remove its container; tell whether there was anything."""
    instance = node.instance
    found = own and (
        set_data_aside(group, instance, image, unfinished=True, why="remove-standby") is not None
    )
    if (
        preconditions.directory_state(instance.host, instance.places.private)
        != preconditions.ABSENT
    ):
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


def _owns_data(group: Group, node: RemovedNode, image: Image) -> bool:
    """Tell whether what lies in a node's directory or volume is its own; say what is left alone."""
    instance = node.instance
    full = preconditions.data_state(instance) == preconditions.FULL
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


def _hint(group: Group, node: RemovedNode, primary: Instance) -> None:
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
