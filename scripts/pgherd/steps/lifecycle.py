"""Stopping, starting and taking down: steps 3 and 9 of the tutorial, and what follows them."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Error, Refused
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group, Observation, side_by_side
from pgherd.postgres.instance import STOP_SECONDS, Instance
from pgherd.steps import guards, sync
from pgherd.steps.image import ensure_image
from pgherd.steps.node import data_on, run_container, wait_serving

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
        image = ensure_image(group, seen.containers.values())
        for instance in group.instances.values():
            guards.check_name(group, instance, seen)
        found = _down(group, seen, image)
        for instance, disk in found:
            refuse_half_copied(instance, disk)
        down = {i.name: d for i, d in found if d.pg_version and not d.half_made}
        refuse_two_primaries(group, seen, down)
        for name in down:
            instance = group.instance(name)
            guards.check_data_unused(instance, seen)
            guards.check_port(instance, seen)
        if not down:
            runs = any(_alive(seen, instance) for instance in group.instances.values())
            nothing = "already started" if runs else "nothing to start: `invoke setup-master`"
            group.trace.note(f"{group.name}: {nothing}")
        starting = [group.instance(name) for name in down]
        side_by_side(
            lambda i: run_container(group, i, image, seen.nodes[i.name].container), starting
        )
        side_by_side(wait_serving, starting)
        _show(group)


def _down(group: Group, seen: Observation, image: Image) -> list[tuple[Instance, Disk]]:
    """Look at the data of each server that is down; a container without data is an error."""
    down = [i for i in group.instances.values() if not _alive(seen, i)]
    disks = side_by_side(lambda i: data_on(group, i, image, seen.nodes[i.name].container), down)
    return list(zip(down, disks, strict=True))


def refuse_half_copied(instance: Instance, disk: Disk) -> None:
    """Refuse to start a server on a copy that was cut short."""
    if disk.half_copied:
        raise Refused(
            f"The data of {instance.name} is an unfinished copy, left by a run that was cut short: "
            f"`invoke seed-standby --node {instance.name}` makes it anew."
        )


def refuse_two_primaries(group: Group, seen: Observation, down: dict[str, Disk]) -> None:
    """Refuse to start two servers of one system that are both no standby."""
    leaders = {
        name: disk.system_identifier for name, disk in down.items() if not disk.standby_signal
    }
    for name in seen.primaries:
        facts = seen.nodes[name].facts
        leaders[name] = facts.system_identifier if facts else None
    for name, system in leaders.items():
        twins = [other for other, its in leaders.items() if its == system and other != name]
        if twins and name in down and group.instance(name).node.upstream:
            raise Refused(
                f"The data of {name} is a copy of {twins[0]}'s and not marked as a standby: "
                "started like this it would be a second primary, take writes of its own, and never "
                "be the same again. Connect and mark it first (`invoke step.connect-standby "
                f"--node {name} step.mark-standby --node {name}`), or seed it anew "
                f"(`invoke seed-standby --node {name}`)."
            )


def _show(group: Group) -> None:
    """Say what came up, as what; wait for the standbys that commits wait for."""
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
        if facts and facts.sync_names:
            sync.wait_counting(group.instance(name), facts.sync_names)
