"""Putting back what was set aside; what is there now is set aside in its place, nothing deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pgherd.docker import Image, Mount
from pgherd.errors import Refused
from pgherd.postgres import scripts
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PGDATA, Instance
from pgherd.postgres.observation import Observation
from pgherd.shell import Script
from pgherd.steps import aside, belonging, guards, outside
from pgherd.steps.backups import spared, swap
from pgherd.steps.backups.copies import (
    LACKS,
    SECRETS,
    VOLUME,
    Copy,
    found_by,
    nothing_by,
    survey,
)
from pgherd.steps.backups.passwords import restore_passwords
from pgherd.steps.change import fence
from pgherd.steps.image import ensure_image
from pgherd.steps.leaders import alive, leads
from pgherd.steps.node import make_private

COPY = "/copy"  # where a container has the volume that is copied back


def restore(group: Group, name: str, *, foreign: bool) -> None:
    """Put a copy back where it was; the server is not started.

    A primary's copy comes back as a standby where the group has, or may have, another primary: two
    would take writes that the other never sees.

    Raises:
        Refused: the node runs, its data or the copy is in use, or the copy is not whole, or of
            another system or major version and `foreign` is not said.
    """
    with group.locked():
        kept = survey(group)
        copy = found_by(kept, name)
        seen = group.observe()
        if copy is None:
            _say_already(group, name, ensure_image(group, seen), nothing_by(kept, name))
        elif copy.kind == SECRETS:
            restore_passwords(group, copy, seen)
        else:
            _restore_data(group, copy, seen, foreign=foreign)


def _say_already(group: Group, name: str, image: Image, otherwise: Refused) -> None:
    """Say that it is back already, where a run that was killed has put it back; else refuse."""
    short = name.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    for instance in group.instances.values():
        if guards.data_state(instance) == guards.FULL and _restored(instance, image) == short:
            group.trace.note(f"{instance.name}: already has {short} back")
            return
    path = f"{group.secrets.parent}/{short}"
    if path.startswith(f"{group.secrets}_bk_") and swap.was_last_put_back(group.here, path):
        group.trace.note(f"{group.name}: already has {short} back")
        return
    raise otherwise


def _restored(instance: Instance, image: Image) -> str:
    """Return the name of the copy that a node that has not run since was given back."""
    if guards.directory_state(instance.host, instance.places.private) == guards.ABSENT:
        return ""
    script = scripts.compose("restored")
    said = instance.offline(image, script, mounts=instance.mounts(readonly=True), reads=True)
    return said.strip().removeprefix("restored=")


# --- data ---


def _restore_data(group: Group, copy: Copy, seen: Observation, *, foreign: bool) -> None:
    if copy.node not in group.instances:
        raise Refused(
            f"{copy.name} was the data of {copy.node or 'a node'}, which {group.topology.source} "
            f"has not: give that its table again, with data = {copy.of!r}, then this again."
        )
    instance = group.instance(copy.node)
    if copy.host != instance.node.host:
        raise Refused(
            f"{copy.name} is on {copy.host}, and {instance.name} lives on {instance.node.host} "
            f"now: copy {copy.path} there, beside its data, then this again."
        )
    spared.refuse_living(group.site(instance), copy.path, volume=copy.kind == VOLUME)
    guards.check_name(group, instance, seen)
    if alive(seen.nodes[instance.name]):
        raise Refused(
            f"{instance.name} runs: `invoke stop` (or `docker stop {instance.name}`, where no "
            "commit waits for it), then this again."
        )
    guards.check_data_unused(instance, seen)
    guards.check_unused(instance, _mounts(copy), seen)
    outside.refuse_to_remove_all(group, [instance], seen)
    image = ensure_image(group, seen)
    full = copy.kind == VOLUME and guards.data_state(instance) == guards.FULL
    if full and _restored(instance, image) == copy.name:  # the copy of a volume stays
        group.trace.note(f"{instance.name}: already has {copy.name} back")
        return
    disk = _disk(instance, copy, image)
    _refuse_broken(copy, disk, instance)
    _refuse_astray(group, copy, disk, instance)
    aside.refuse_unmovable(instance, *(m.source for m in _mounts(copy) if not m.volume))
    others = list(_others(group, instance, seen, image))
    _refuse_foreign(instance, copy, disk, image, others, foreign=foreign)
    mark = leads(disk) and (primary := _primary(others, disk))
    if mark:
        group.trace.note(
            f"{instance.name}: {copy.name} was a primary's, and {primary} is the primary now: it "
            "is marked as a standby"
        )
        if container := seen.nodes[instance.name].container:
            instance.engine.set_restart(container, fence.NEVER)
    _put_back(group, instance, copy, image, mark=bool(mark))
    _say_next(group, instance, copy, disk, marked=bool(mark))
    if leads(disk) and not mark:
        _say_followers(group, instance, disk, others)


def _disk(instance: Instance, copy: Copy, image: Image) -> Disk:
    """Look at a copy with the node's marks beside it, which tell an unfinished one."""
    there = guards.directory_state(instance.host, instance.places.private) != guards.ABSENT
    data, private = instance.mounts(readonly=True)
    mounts = [Mount(copy.path, PGDATA, data.volume, readonly=True), *([private] * there)]
    said = instance.offline(image, scripts.compose("examine"), mounts=mounts, reads=True)
    return Disk.parse(said)


def _mounts(copy: Copy) -> list[Mount]:
    """Return all that was set aside as one, as it is mounted in place of the node's data."""
    rest = [Mount(c.path, inside, c.kind == VOLUME) for inside, c in copy.tablespaces.items()]
    return [Mount(copy.path, PGDATA, copy.kind == VOLUME), *rest]


def _refuse_astray(group: Group, copy: Copy, disk: Disk, instance: Instance) -> None:
    for one in outside.astray(instance.node, disk.outside):
        lines = "\n".join(outside.declared(group, [one.path]))
        raise Refused(
            f"{copy.name} has {one.what} at {one.path}, and the topology has no place for it: no "
            f"server could run on it. Declare one on every node, then this again:\n{lines}"
        )


def _back_already(copy: Copy, instance: Instance) -> bool:
    """Tell whether what a copy lacks is in its place, where a run that put it back was killed.

    Or it is still there, where one that set all of it aside was.
    """
    if guards.data_state(instance) == guards.FULL:
        return False
    places = {place.target: place for place in instance.tablespace_mounts()}
    return all(aside.left_by(instance, places[at]) == copy.stamp for at in copy.lacks)


def _refuse_broken(copy: Copy, disk: Disk, instance: Instance) -> None:
    fault = copy.fault or (aside.CUT_SHORT if disk.unfinished else "")
    if copy.lacks and fault.startswith(LACKS) and _back_already(copy, instance):
        return
    if fault:
        raise Refused(
            f"{copy.name} is not whole ({fault}): no server could run on it. `invoke backups` "
            "lists the others."
        )


def _others(
    group: Group, instance: Instance, seen: Observation, image: Image
) -> Iterator[tuple[str, str | None, bool, int]]:
    """Yield what the other nodes are: name, system, whether they lead, timeline."""
    for name, node in seen.nodes.items():
        if name == instance.name:
            continue
        if facts := node.facts:
            yield name, facts.system_identifier, not facts.in_recovery, facts.timeline
        elif alive(node) and not node.planned:
            raise Refused(
                f"{name} runs and does not answer, so it is not known who is primary: `invoke logs "
                f"--node {name}`, then again.\n{node.silence}"
            )
        elif guards.data_state(other := group.instance(name)) == guards.FULL:
            disk = other.disk(image)
            if disk.pg_version and not disk.unfinished:
                yield name, disk.system_identifier, leads(disk), disk.timeline


_Others = list[tuple[str, str | None, bool, int]]


def _primary(others: _Others, disk: Disk) -> str:
    """Return the node that leads, or whose history is newer; empty if the copy may lead itself."""
    for name, system, its_leads, timeline in others:
        if system == disk.system_identifier and (its_leads or timeline > disk.timeline):
            return name
    return ""


def _refuse_foreign(
    instance: Instance, copy: Copy, disk: Disk, image: Image, others: _Others, *, foreign: bool
) -> None:
    if foreign:
        return
    try:
        belonging.check_major(instance, disk, image)
    except Refused:
        raise Refused(
            f"{copy.name} is a database of PostgreSQL {disk.pg_version}, and the image {image.ref} "
            f"has {image.env.get('PG_MAJOR')}: ask for an image of {disk.pg_version}, or say "
            "--foreign to put it back all the same; it does not start like this."
        ) from None
    for name, system, _, _ in others:
        if system != disk.system_identifier:
            raise Refused(
                f"{copy.name} is of another system ({disk.system_identifier}) than {name} "
                f"({system}): neither can follow the other. --foreign puts it back all the same."
            )


def _put_back(group: Group, instance: Instance, copy: Copy, image: Image, *, mark: bool) -> None:
    """Make the copy ready where it lies, then rename it; a volume's contents are copied back."""
    group.trace.note(f"{instance.name}: putting {copy.path} back")
    make_private(instance)
    why = f"before {copy.name} was put back"
    pieces: list[str | Script] = [*(["mark-standby"] * mark), "restorable"]
    if group.passwords.known("replicator"):  # else it is not this group's to run before they are
        pieces.append("adopted")
    if instance.node.volume:
        aside.set_aside(group, instance, image, why=why)
        _copy_back(group, instance, image, copy, pieces)
        return
    private = instance.mounts()[1]
    there = {place.target: place for place in instance.tablespace_mounts()}
    directories = [m for m in _mounts(copy) if m.target == PGDATA or not m.volume]
    script = scripts.compose(*pieces, name=copy.name)
    instance.offline(image, script, mounts=[*directories, private], timeout=None)
    if any(place.volume for place in there.values()):
        aside.set_aside(group, instance, image, unfinished=True, why=why)
        _copy_back(group, instance, image, copy, ())
    stamp = aside.now_stamp()
    more = [_swapped(instance, copy, m, stamp) for m in there.values() if not m.volume]
    who = f"{instance.name} of {group.name}"
    target = swap.swap(instance.host, copy, instance.places.data, who, why, stamp, more)
    if target:
        group.trace.note(f"{instance.name}: what it had is set aside as {target}")


def _copy_back(
    group: Group, instance: Instance, image: Image, copy: Copy, pieces: Sequence[str | Script]
) -> None:
    """Copy back what is in volumes, and all that was set aside with the volume of the data."""
    whole = instance.node.volume is not None
    there = {place.target: place for place in instance.data_mounts()}
    asked = [m for m in _mounts(copy) if m.target in there and (whole or there[m.target].volume)]
    lines = "begin seeding\n" if whole else ""
    froms = []
    for number, mount in enumerate(asked):
        froms.append(replace(mount, target=f"{COPY}/{number}", readonly=True))
        lines += f'cp -a {COPY}/{number}/. "{mount.target}"/\n'
    mounts = [there[mount.target] for mount in asked]
    if whole:
        mounts = instance.all_mounts()
        instance.make_tablespaces()
    if not asked:
        return
    script = scripts.compose(f"{lines}sync\n", *pieces, name=copy.name)
    instance.offline(image, script, mounts=[*mounts, *froms], timeout=None)
    for mount in asked:
        name = there[mount.target].source
        group.trace.note(f"{name}: has what {mount.source} has, which stays")


def _swapped(instance: Instance, copy: Copy, place: Mount, stamp: str) -> swap.Swap:
    """Return how a place of tablespaces changes with its data directory, set aside by that time."""
    if guards.data_state(instance) != guards.FULL:  # an earlier run may have moved the data only
        stamp = aside.left_by(instance, place, but=copy.stamp) or stamp
    target = f"{place.source}_bk_{stamp}"
    kept = copy.tablespaces.get(place.target)
    back = kept.path if kept else f"{place.source}_bk_{copy.stamp}"
    return swap.Swap(back if kept or place.target in copy.lacks else "", place.source, target)


def _say_next(group: Group, instance: Instance, copy: Copy, disk: Disk, *, marked: bool) -> None:
    """Say what the node will be, and what brings it up."""
    if marked or disk.standby_signal:
        text = (
            f"`invoke rejoin {instance.name}` makes it follow the primary that runs; where none "
            "does, `invoke start` first"
        )
    else:
        text = (
            "it is a primary's; `invoke start` runs it as that. Its standbys need their copies of "
            "the same time, or `invoke seed-standby`"
        )
    group.trace.note(f"{instance.name}: has {copy.name} back: {text}")
    if not group.passwords.known("postgres"):
        group.trace.note(
            f"{group.name}: its passwords are not here. If `invoke backups` shows some that were "
            "set aside, put them back first"
        )


def _say_followers(group: Group, instance: Instance, disk: Disk, others: _Others) -> None:
    """Say of which nodes it is not known that they have no more than the copy."""
    for name, system, _, _ in others:
        if system == disk.system_identifier:
            group.trace.note(
                f"{name}: may have more than {instance.name} has now, and cannot follow it then: "
                f"`invoke status` tells, `invoke rejoin {name}` mends it"
            )
