"""Stopping, starting and taking down: steps 3 and 9 of the tutorial, and what follows them."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Error, Refused, Unreachable
from pgherd.host.together import side_by_side
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.instance import STOP_SECONDS, Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import guards, outside, settling
from pgherd.steps.change import fence, interrupted, turn
from pgherd.steps.image import ensure_image
from pgherd.steps.leaders import alive, leads, refuse_two_primaries
from pgherd.steps.node import DataGone, bring_passfile, bring_up, data_on, wait_serving

# --- step 3 ---


def stop(group: Group, *, tolerant: bool = True, removing: bool = False) -> None:
    """Step 3: stop every server in order, the primary first, and see that it was a clean stop.

    A standby stopped first would leave commits waiting for it. If `tolerant`, those that are on
    hosts that cannot be reached are left out; else nothing is stopped then. `removing` tells that
    the containers are to be removed afterwards.

    Raises:
        Refused: data would be gone with them.
    """
    with group.locked(tolerant=tolerant):
        seen = group.observe()
        refuse = outside.refuse_to_remove_all if removing else outside.refuse_to_stop
        refuse(group, group.instances.values(), seen)
        running = [i for i in group.instances.values() if alive(seen.nodes[i.name])]
        if not running:
            group.trace.note(f"{group.name}: already stopped")
        first = [i for i in running if i.name in seen.primaries]
        stop_instances(group, first)
        stop_instances(group, [i for i in running if i not in first])
        if group.away:  # the others are stopped; that is not what was asked for
            raise Unreachable(f"Not stopped is what is on {', '.join(group.away)}.")


def _is(seen: Observation, name: str, status: str) -> bool:
    container = seen.nodes[name].container
    return bool(container and container.status == status)


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
    if not group.owns(container, instance.node.host):
        raise Refused(f"{instance.name} is not a container of group {group.name}.")
    group.trace.note(f"{instance.name}: stopping it (a clean stop, up to {STOP_SECONDS} s)")
    instance.engine.stop(container, STOP_SECONDS)
    image = group.image or group.site(instance).find_image(group.image_names, [container])
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
        if failing := [i for i in group.instances.values() if _is(seen, i.name, "restarting")]:
            stop_instances(group, failing, clean=False)  # to look at its data, and lay settings
            seen = group.observe()
        image = ensure_image(group, seen)
        seen = _unmarked(group, seen)
        down = _startable(group, seen, image)
        fenced = [n for n, s in seen.nodes.items() if fence.is_fenced(s.container) and not alive(s)]
        if not down and not fenced:
            runs = any(map(alive, seen.nodes.values()))
            nothing = "already started" if runs else "nothing to start: `invoke setup-master`"
            group.trace.note(f"{group.name}: {nothing}")
        starting = [group.instance(name) for name in down]
        side_by_side(
            lambda i: bring_up(group, i, image, seen.nodes[i.name].container, down[i.name]),
            starting,
        )
        _serve(group, seen, down, starting)
        for name in (name for name in fenced if name not in down):
            group.trace.note(
                f"{name}: not started, as its restart policy is `no`, which a failover or a "
                f"restore leaves: `invoke rejoin {name}`"
            )
        settling.settle(group)


def _serve(
    group: Group, seen: Observation, down: dict[str, Disk], starting: list[Instance]
) -> None:
    """Wait for the servers that were started, and bring each up to date.

    Where a change of passwords was cut short, the primary knows first which one is to be laid: a
    standby that was down has not replayed it.
    """
    first = [i for i in starting if leads(down[i.name])] if group.passwords.replacing() else []
    for name in seen.primaries:
        bring_passfile(group, group.instance(name))
    side_by_side(lambda i: wait_serving(group, i), first)
    side_by_side(lambda i: wait_serving(group, i), [i for i in starting if i not in first])


def _unmarked(group: Group, seen: Observation) -> Observation:
    """Let a primary go on as one that a switchover which was cut short has marked as a standby."""
    marked = [n for n in seen.primaries if (f := seen.nodes[n].facts) and f.marked]
    if marked:
        seen = turn.settled(group, seen)
    for name in (n for n in marked if n in seen.primaries):
        group.trace.note(f"{name}: a switchover was cut short; it goes on as the primary")
        interrupted.unmark(group.instance(name))
    return seen


def _startable(group: Group, seen: Observation, image: Image) -> dict[str, Disk]:
    """Return the nodes that are down and have a database, by name; refuse what must not run."""
    found = [
        (instance, disk)
        for instance, disk in _down(group, seen, image)
        if not _behind_fence(instance, seen, disk)
    ]
    for instance, disk in found:
        refuse_half_copied(instance, disk)
    down = {i.name: d for i, d in found if d.pg_version and not d.half_made}
    refuse_two_primaries(group, seen, image, down)
    for name in down:
        guards.check_data_unused(group.instance(name), seen)
        guards.check_port(group.instance(name), seen)
    return down


def _behind_fence(instance: Instance, seen: Observation, disk: Disk) -> bool:
    """Tell whether a failover fenced this node: started like this, it would follow nobody."""
    container = seen.nodes[instance.name].container
    return fence.is_fenced(container) and disk.standby_signal


def _down(group: Group, seen: Observation, image: Image) -> list[tuple[Instance, Disk]]:
    """Look at the data of each server that is down; that of the first primary has to be there."""

    def look(instance: Instance) -> Disk:
        try:
            return data_on(group, instance, image, seen.nodes[instance.name].container)
        except DataGone as fault:
            if instance.node.upstream is None and not seen.primaries:
                raise
            gone = f"its data is gone: `invoke rejoin {instance.name}` seeds it anew"
            group.trace.note(f"{instance.name}: {gone}" if seen.primaries else fault.sentence)
            return Disk()

    down = [i for i in group.instances.values() if not alive(seen.nodes[i.name])]
    return list(zip(down, side_by_side(look, down), strict=True))


def refuse_half_copied(instance: Instance, disk: Disk) -> None:
    """Refuse to start a server on a copy that was cut short."""
    if disk.half_copied or (disk.pg_version and disk.state is None and not disk.half_made):
        raise Refused(
            f"The data of {instance.name} is an unfinished copy, left by a run that was cut short: "
            f"`invoke seed-standby --node {instance.name}` makes it anew."
        )
