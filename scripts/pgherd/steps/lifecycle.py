"""Stopping, starting and taking down: steps 3 and 9 of the tutorial, and what follows them."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Error, Refused
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group, Observation, side_by_side
from pgherd.postgres.instance import STOP_SECONDS, Instance
from pgherd.steps import connect, guards, sync
from pgherd.steps.image import ensure_image
from pgherd.steps.node import bring_up, data_on, wait_serving

# --- step 3 ---


def stop(group: Group) -> None:
    """Step 3: stop every server in order, the primary first, and see that it was a clean stop.

    A standby stopped first would leave commits waiting for it.
    """
    with group.locked():
        seen = group.observe()
        running = [i for i in group.instances.values() if _alive(seen, i)]
        if not running:
            group.trace.note(f"{group.name}: already stopped")
        first = [i for i in running if i.name in seen.primaries]
        stop_instances(group, first)
        stop_instances(group, [i for i in running if i not in first])


def _alive(seen: Observation, instance: Instance) -> bool:
    container = seen.nodes[instance.name].container
    return bool(container and container.alive)


def _restarting(seen: Observation, instance: Instance) -> bool:
    container = seen.nodes[instance.name].container
    return bool(container and container.status == "restarting")


def stop_instances(group: Group, instances: list[Instance], *, clean: bool = True) -> None:
    """Stop some servers side by side.

    Without `clean`, one that cannot come down in order is stopped all the same: for one whose data
    is not needed any more.

    Raises:
        Error: one did not come down in order: its control data says so.
    """
    side_by_side(lambda instance: _stop(group, instance, clean=clean), instances)


def _stop(group: Group, instance: Instance, *, clean: bool) -> None:
    container = instance.container()
    if container is None or not container.alive:
        return
    if not group.owns(container):
        raise Refused(f"{instance.name} is not a container of group {group.name}.")
    group.trace.note(f"{instance.name}: stopping it (a clean stop, up to {STOP_SECONDS} s)")
    group.engine.stop(container, STOP_SECONDS)
    image = group.find_image([container])
    if image is None or group.trace.dry or not clean:
        return
    if guards.data_state(instance) != guards.FULL:
        group.trace.note(f"{instance.name}: stopped, and its data is gone")
        return
    disk = instance.disk(image)
    if not disk.clean:
        raise Error(
            f"{instance.name} was not stopped in order: its control data says "
            f"'{disk.state}'. `invoke start` lets it recover.\n{instance.log_tail()}"
        )
    group.trace.note(f"{instance.name}: {disk.state}")


# --- step 9 ---


def start(group: Group) -> None:
    """Step 9: start every server that has data, as what its data says it is, and wait for it.

    Raises:
        Refused: two would be primary: a copy that was not marked as a standby, for one.
    """
    with group.locked():
        seen = group.observe()
        for instance in group.instances.values():
            guards.check_name(group, instance, seen)
        if failing := [i for i in group.instances.values() if _restarting(seen, i)]:
            stop_instances(group, failing, clean=False)  # to look at its data, and lay settings
            seen = group.observe()
        image = ensure_image(group, seen.containers.values())
        down = _startable(group, seen, image)
        if not down:
            runs = any(_alive(seen, instance) for instance in group.instances.values())
            nothing = "already started" if runs else "nothing to start: `invoke setup-master`"
            group.trace.note(f"{group.name}: {nothing}")
        starting = [group.instance(name) for name in down]
        side_by_side(
            lambda i: bring_up(group, i, image, seen.nodes[i.name].container, down[i.name]),
            starting,
        )
        side_by_side(wait_serving, starting)
        _settle(group)


def _startable(group: Group, seen: Observation, image: Image) -> dict[str, Disk]:
    """Return the nodes that are down and have a database, by name; refuse what must not run."""
    found = _down(group, seen, image)
    for instance, disk in found:
        refuse_half_copied(instance, disk)
    down = {i.name: d for i, d in found if d.pg_version and not d.half_made}
    refuse_two_primaries(group, seen, image, down)
    for name in down:
        guards.check_data_unused(group.instance(name), seen)
        guards.check_port(group.instance(name), seen)
    return down


def _down(group: Group, seen: Observation, image: Image) -> list[tuple[Instance, Disk]]:
    """Look at the data of each server that is down; a container without data is an error."""
    down = [i for i in group.instances.values() if not _alive(seen, i)]
    disks = side_by_side(lambda i: data_on(group, i, image, seen.nodes[i.name].container), down)
    return list(zip(down, disks, strict=True))


def refuse_half_copied(instance: Instance, disk: Disk) -> None:
    """Refuse to start a server on a copy that was cut short."""
    if disk.half_copied or (disk.pg_version and disk.state is None):
        raise Refused(
            f"The data of {instance.name} is an unfinished copy, left by a run that was cut short: "
            f"`invoke seed-standby --node {instance.name}` makes it anew."
        )


def refuse_two_primaries(
    group: Group, seen: Observation, image: Image, starting: dict[str, Disk]
) -> None:
    """Refuse to start a server as primary where another node of its system is, or may be, one.

    Of two that are no standbys the one with the newer history is the primary: a greater timeline,
    and on one timeline the one that others may follow. The other is a former primary, or a copy
    that was not marked.

    Raises:
        Refused: with which is which, and what to do.
    """
    leaders = {n: (d.system_identifier, d.position) for n, d in starting.items() if _leads(d)}
    if not leaders:
        return
    known = {**_others(group, seen, image, starting), **leaders}
    for name, (system, position) in leaders.items():
        for other, (theirs, its) in known.items():
            if other == name or theirs != system:
                continue
            down = other not in seen.primaries and other not in starting
            copied = group.topology.primary.name == name and its[0] == position[0]
            if down and (copied or its[0] < position[0]):
                continue  # a copy not marked yet, a former primary: down, they keep nobody
            raise Refused(_twins(group, name, other, position[0], its[0]))
    for name, node in seen.nodes.items():
        silent = node.container and node.container.alive and not node.facts and not node.planned
        if name not in starting and silent:
            raise Refused(
                f"{name} runs and does not answer yet, so it is not known who is primary: "
                f"`invoke logs --node {name}`, then again.\n{node.silence}"
            )


def _leads(disk: Disk) -> bool:
    return bool(disk.pg_version) and not disk.standby_signal and not disk.unfinished


def _others(
    group: Group, seen: Observation, image: Image, starting: dict[str, Disk]
) -> dict[str, tuple[str | None, tuple[int, int]]]:
    """Return what the nodes that are not to be started are, if they are no standbys."""
    found: dict[str, tuple[str | None, tuple[int, int]]] = {}
    for name, node in seen.nodes.items():
        instance = group.instance(name)
        if node.facts:
            if not node.facts.in_recovery:
                found[name] = (node.facts.system_identifier, node.facts.position)
        elif name not in starting and not _alive(seen, instance):
            disk = Disk()
            if guards.data_state(instance) == guards.FULL:
                disk = instance.disk(image)
            if _leads(disk):
                found[name] = (disk.system_identifier, disk.position)
    return found


def _twins(group: Group, name: str, other: str, mine: int, theirs: int) -> str:
    """Return the sentence for two nodes of one system that are no standbys, by their timelines."""
    if mine == theirs:
        if group.instance(other).node.upstream and not group.instance(name).node.upstream:
            name, other = other, name
        return (
            f"The data of {name} is a copy of {other}'s and not marked as a standby: started like "
            "this it would be a second primary, take writes of its own, and never be the same "
            f"again. Connect and mark it first (`invoke step.connect-standby --node {name} "
            f"step.mark-standby --node {name}`), or seed it anew "
            f"(`invoke seed-standby --node {name}`)."
        )
    former, leader = (name, other) if mine < theirs else (other, name)
    return (
        f"{former} was primary before {leader} was promoted: beside {leader} it would be a second "
        f"primary. With {former} stopped, `invoke step.run-standby --node {leader}` runs "
        f"{leader}, and `invoke seed-standby --node {former}` makes {former} its standby."
    )


def _settle(group: Group) -> None:
    """Say what came up, as what; make slots that are missing; wait for synchronous standbys."""
    if group.trace.dry:
        return
    seen = group.observe()
    for name, node in seen.nodes.items():
        if node.facts:
            role = "standby" if node.facts.in_recovery else "primary"
            group.trace.note(f"{name}: serves, as {role}")
        elif node.container:
            group.trace.note(f"{name}: does not answer. {node.silence}")
    for name in seen.primaries:
        facts = seen.nodes[name].facts
        for standby in group.topology.standbys:
            theirs = seen.nodes[standby.name].facts
            follows = theirs and theirs.in_recovery and theirs.primary_slot == standby.slot
            if facts and follows and not facts.slot(standby.slot):
                connect.ensure_slot(group.instance(standby.name), group.instance(name))
        if facts and facts.sync_names:
            sync.wait_counting(group.instance(name), facts.sync_names)
