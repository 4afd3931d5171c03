"""Stopping, starting and taking down: steps 3 and 9 of the tutorial, and what follows them."""

from __future__ import annotations

from pgherd.docker import models
from pgherd.docker.models import Image
from pgherd.errors import Error, Refused, Unreachable
from pgherd.group import outside_data, preconditions
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.group.primary import (
    contest,
    copied,
    disks_of,
    is_failing,
    is_primary_data,
    is_running,
    refuse_silent,
    serves_instead,
)
from pgherd.hosts.parallel import run_all
from pgherd.operations import recovery, run_token, wait
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import (
    DataGone,
    bring_passfile,
    bring_up,
    connect_all,
    data_on,
    wait_serving,
)
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import STOP_SECONDS, Instance

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
        refuse = outside_data.refuse_to_remove_all if removing else outside_data.refuse_to_stop
        refuse(group, group.instances.values(), seen)
        running = [i for i in group.instances.values() if is_running(seen.nodes[i.name])]
        if not running:
            group.trace.note(f"{group.name}: already stopped")
        first = [i for i in running if i.name in seen.primaries]
        stop_instances(group, first)
        stop_instances(group, [i for i in running if i not in first])
        if group.away:  # the others are stopped; that is not what was asked for
            raise Unreachable(f"Not stopped is what is on {', '.join(group.away)}.")


HALF_COPIED = "its data is an unfinished copy, left by a run that was cut short"


def stop_instances(group: Group, instances: list[Instance], *, clean: bool = True) -> None:
    """Stop some servers side by side.

    Without `clean`, one that cannot come down in order is stopped all the same: for one whose data
    is not needed any more.

    Raises:
        Error: one did not come down in order: its control data says so.
    """
    run_all(lambda instance: _stop(group, instance, clean=clean), instances)


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
    if preconditions.data_state(instance) != preconditions.FULL:
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

    What cannot be started, or must not be, is left out and named at the end, with its cure: data
    that is gone or half copied, and what would be a second primary beside the node that leads.

    Raises:
        Refused: who leads cannot be told, or is down while another one serves as primary.
        Error: all that can be is started, and something was left out.
    """
    with group.locked():
        seen = group.observe()
        for instance in group.instances.values():
            preconditions.check_name(group, instance, seen)
        if failing := [i for i in group.instances.values() if is_failing(seen.nodes[i.name])]:
            stop_instances(group, failing, clean=False)  # to look at its data, and lay settings
            seen = group.observe()
        image = ensure_image(group, seen)
        connected = connect_all(group, seen)
        seen = _resume_marked_primary(group, seen)
        down, left = _startable(group, seen, image)
        fenced = [
            n for n, s in seen.nodes.items() if models.is_fenced(s.container) and not is_running(s)
        ]
        if not down and not fenced and not left and not connected:
            runs = any(map(is_running, seen.nodes.values()))
            nothing = "already started" if runs else "nothing to start: `invoke setup-master`"
            group.trace.note(f"{group.name}: {nothing}")
        starting = [group.instance(name) for name in down]
        run_all(
            lambda i: bring_up(group, i, image, seen.nodes[i.name].container, down[i.name]),
            starting,
        )
        _serve(group, seen, down, starting)
        for name in (name for name in fenced if name not in down and name not in left):
            group.trace.note(
                f"{name}: not started, as its restart policy is `no`, which a failover or a "
                f"restore leaves: `invoke rejoin {name}`"
            )
        led = bool(seen.primaries) or any(map(is_primary_data, down.values()))
        for name, why in left.items():
            cure = f": `invoke rejoin {name}`" if led else ""
            group.trace.note(f"{name}: not started: {why}{cure}")
        wait.wait_for_group(group, list(left))


def _serve(
    group: Group, seen: Observation, down: dict[str, Disk], starting: list[Instance]
) -> None:
    """Wait for the servers that were started, and bring each up to date.

    Where a change of passwords was cut short, the primary knows first which one is to be laid: a
    standby that was down has not replayed it.
    """
    first = (
        [i for i in starting if is_primary_data(down[i.name])]
        if group.passwords.replacing()
        else []
    )
    for name in seen.primaries:
        bring_passfile(group, group.instance(name))
    run_all(lambda i: wait_serving(group, i), first)
    run_all(lambda i: wait_serving(group, i), [i for i in starting if i not in first])


def _resume_marked_primary(group: Group, seen: Observation) -> Observation:
    """Let a primary go on as one that a switchover which was cut short has marked as a standby."""
    marked = [n for n in seen.primaries if (f := seen.nodes[n].facts) and f.marked]
    if marked:
        seen = run_token.cancel_pending_promotions(group, seen)
    for name in (n for n in marked if n in seen.primaries):
        group.trace.note(f"{name}: a switchover was cut short; it goes on as the primary")
        recovery.unmark(group.instance(name))
    return seen


def _startable(
    group: Group, seen: Observation, image: Image
) -> tuple[dict[str, Disk], dict[str, str]]:
    """Return the nodes that are to be started, with their data; and who is left out, and why.

    Raises:
        Refused: who leads cannot be told, or nothing can be started.
    """
    left: dict[str, str] = {}
    found = {
        instance.name: disk
        for instance, disk in _down(group, seen, image, left)
        if not _behind_fence(instance, seen, disk)
    }
    left |= {name: HALF_COPIED for name, disk in found.items() if is_half_copied(disk)}
    down = {
        name: disk
        for name, disk in found.items()
        if name not in left and disk.pg_version and not disk.half_made
    }
    left |= _not_to_lead(group, seen, image, down)
    down = {name: disk for name, disk in down.items() if name not in left}
    if left and not down and not seen.facts:
        told = ", ".join(f"{name}: {why}" for name, why in left.items())
        raise Refused(
            f"There is nothing to start. {told}. `invoke aside.list` lists what was set aside, "
            "which `invoke aside.restore` puts back."
        )
    for name in down:
        preconditions.check_data_unused(group.instance(name), seen)
        preconditions.check_port(group.instance(name), seen)
    return down, left


def _not_to_lead(
    group: Group, seen: Observation, image: Image, down: dict[str, Disk]
) -> dict[str, str]:
    """Return those of the nodes that would be primaries beside the one that leads, and why not.

    Raises:
        Refused: a node serves as primary, and one that is down leads; or one is a copy of another
            that was not marked yet.
    """
    found: dict[str, str] = {}
    would = [name for name, disk in down.items() if is_primary_data(disk)]
    if not would:
        return found
    refuse_silent(seen, set(down))
    all_down = {**disks_of(group, seen, image), **down}
    for system in dict.fromkeys(down[name].system_identifier for name in would):
        its = contest(group, seen, image, all_down, system)
        serving = [name for name in seen.primaries if name in its.known]
        if serving and its.name not in serving:
            raise Refused(serves_instead(group, its, serving[0]))
        for name in would:
            if name == its.name or down[name].system_identifier != system:
                continue
            if its.name in down and (unmarked := copied(down, name, its.name)):
                raise Refused(unmarked)
            found[name] = f"it would be a second primary. {its.describe(name)}"
    return found


def _behind_fence(instance: Instance, seen: Observation, disk: Disk) -> bool:
    """Tell whether a failover fenced this node: started like this, it would follow nobody."""
    container = seen.nodes[instance.name].container
    return models.is_fenced(container) and disk.standby_signal


def _down(
    group: Group, seen: Observation, image: Image, left: dict[str, str]
) -> list[tuple[Instance, Disk]]:
    """Look at the data of each server that is down; where it is gone, say so in `left`.

    Raises:
        DataGone: no other node has any data.
        Refused: of what was a primary's a part is not there.
    """
    gone: list[DataGone] = []

    def look(instance: Instance) -> Disk:
        try:
            return data_on(group, instance, image, seen.nodes[instance.name].container)
        except DataGone as fault:
            gone.append(fault)
            left[instance.name] = "its data is gone"
            return Disk()
        except outside_data.NotThere as fault:
            if fault.leads:
                raise
            left[instance.name] = fault.why
            return Disk()

    down = [i for i in group.instances.values() if not is_running(seen.nodes[i.name])]
    found = list(zip(down, run_all(look, down), strict=True))
    if gone and not seen.facts and not any(disk.pg_version for _, disk in found):
        raise gone[0]
    return found


def is_half_copied(disk: Disk) -> bool:
    """Tell whether what lies there is a copy that was cut short."""
    return disk.half_copied or bool(disk.pg_version and disk.state is None and not disk.half_made)


def refuse_half_copied(instance: Instance, disk: Disk) -> None:
    """Refuse to start a server on a copy that was cut short."""
    if is_half_copied(disk):
        raise Refused(f"{instance.name}: {HALF_COPIED}: `invoke rejoin {instance.name}`.")
