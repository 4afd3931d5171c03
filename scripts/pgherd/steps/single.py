"""The tutorial's steps, each by itself: for those who learn, and for mending by hand."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Refused
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.steps import aside, connect, guards, leaders, lifecycle, master, outside, sync
from pgherd.steps.image import ensure_image
from pgherd.steps.node import bring_up, data_on, run_container, wait_serving
from pgherd.steps.seed import seeding


def run_master(group: Group) -> None:
    """Step 1."""
    with group.locked():
        master.run_master(group, group.observe())
        wait_serving(group, group.master)


def run_standby(group: Group, name: str) -> None:
    """Step 2: run a node with a database of its own, as the tutorial does; no standby yet."""
    instance = group.instance(name)
    with group.locked():
        seen = group.observe()
        guards.check_name(group, instance, seen)
        image = ensure_image(group, seen)
        container = seen.nodes[name].container
        if container and container.alive:
            group.trace.note(f"{name}: already runs")
            return
        guards.check_data_unused(instance, seen)
        guards.check_port(instance, seen)
        disk = data_on(group, instance, image, container)
        lifecycle.refuse_half_copied(instance, disk)
        if disk.empty or disk.unfinished:
            master.make_database(group, instance, image)
            run_container(group, instance, image, container)
        else:
            leaders.refuse_second(group, seen, image, name, disk)
            bring_up(group, instance, image, container, disk)
        wait_serving(group, instance)


def set_aside(group: Group, name: str) -> None:
    """Step 4."""
    with group.locked():
        instance, image = _down(group, name)
        outside.refuse_to_remove_all(group, [instance], group.observe())
        aside.refuse_unmovable(instance)
        if aside.set_aside(group, instance, image, why="step.set-aside") is None:
            group.trace.note(f"{name}: nothing to set aside")


def copy_data(group: Group, name: str) -> None:
    """Step 5, from a stopped master."""
    with group.locked():
        instance, image = _down(group, name)
        leading = leaders.leader_down(group, group.observe(), image)
        upstream = group.instance(leading) if leading else group.master
        if upstream is instance:
            raise Refused(f"{name} is the one that leads: it is no copy of another.")
        container = upstream.container()
        if container and container.alive:
            raise Refused(f"{upstream.name} runs: its files cannot be copied. `invoke step.stop`.")
        seeding.refuse_links(upstream, guards.data_of(upstream, image))
        seeding.copy_data(group, instance, upstream, image)


def base_backup(group: Group, name: str) -> None:
    """Step 5, from a running master; its replication role must be there (step 6)."""
    with group.locked():
        instance, image = _down(group, name)
        seen = group.observe()
        upstream = group.upstream_of(instance, seen.primaries, seen)
        outside.refuse_to_copy(group, upstream, seen)
        outside.refuse_nested(upstream, seen)
        options = seeding.slot_options(instance, upstream, seen.nodes[upstream.name].facts)
        seeding.base_backup(group, instance, upstream, image, [*options, "--checkpoint=fast"])


def allow_replication(group: Group) -> None:
    """Step 6; a master that is down is started for it, since a role is a row in it."""
    with group.locked():
        seen = group.observe()
        if not seen.primaries and not seen.nodes[group.master.name].planned:
            master.run_master(group, seen)
            wait_serving(group, group.master)
            seen = group.observe()
        master.allow_replication(group, group.primary(seen))


def connect_standby(group: Group, name: str) -> None:
    """Step 7."""
    with group.locked():
        seen = group.observe()
        facts = seen.nodes[name].facts if name in seen.nodes else None
        if facts and facts.in_recovery and facts.primary_slot == group.instance(name).node.slot:
            group.trace.note(f"{name}: already connected")
            return
        instance, image = _down(group, name)
        _refuse_empty(instance, image)
        others = [n for n in seen.primaries if n != name]
        if others:
            upstream = group.upstream_of(instance, others, seen)
        else:
            leading = leaders.leader_down(group, seen, image)
            upstream = group.instance(leading) if leading not in {"", name} else group.master
        if seen.nodes[upstream.name].facts:
            connect.ensure_slot(instance, upstream)
        connect.connect_stopped(group, instance, upstream, image, mark=False)


def mark_standby(group: Group, name: str) -> None:
    """Step 8."""
    with group.locked():
        seen = group.observe().nodes.get(name)
        if seen and seen.facts and seen.facts.in_recovery:
            group.trace.note(f"{name}: already marked as a standby")
            return
        instance, image = _down(group, name)
        _refuse_empty(instance, image)
        _refuse_leader(group, instance, image)
        connect.mark_standby(group, instance, image)


def require_sync(group: Group) -> None:
    """Step 10.

    Raises:
        Refused: fewer standbys stream than a commit would wait for.
    """
    with group.locked():
        seen = group.observe()
        primary = group.primary(seen)
        guards.check_alter_system(group, seen, primary.name)
        sync.require_sync(group, primary, seen.nodes[primary.name].facts, defer=False)


def _down(group: Group, name: str) -> tuple[Instance, Image]:
    """Return a node whose server is down, with the image to work on its files."""
    instance = group.instance(name)
    seen = group.observe()
    guards.check_name(group, instance, seen)
    container = seen.nodes[name].container
    if container and container.alive:
        raise Refused(f"{name} runs, and this step works on its files: `invoke step.stop` first.")
    guards.check_data_unused(instance, seen)
    return instance, ensure_image(group, seen)


def _refuse_leader(group: Group, instance: Instance, image: Image) -> None:
    """Refuse to mark the node with the newest history: that is the primary, not a standby."""
    mine = instance.disk(image)
    for name, node in group.observe().nodes.items():
        other = group.instance(name)
        if other is instance or mine.standby_signal:
            continue
        full = guards.data_state(other) == guards.FULL
        theirs = node.facts or (other.disk(image) if full else None)
        if theirs and theirs.system_identifier == mine.system_identifier:
            if theirs.timeline >= mine.timeline:
                return
            raise Refused(
                f"{leaders.has_newer(instance.name, mine.timeline, name, theirs.timeline)}: it is "
                f"the primary. `invoke start` runs it, and `invoke rejoin {name}` lets {name} "
                "follow."
            )


def _refuse_empty(instance: Instance, image: Image) -> None:
    if guards.data_of(instance, image).empty:
        raise Refused(f"{instance.name} has no data yet: step.copy-data or step.base-backup.")
