"""Taking a group down, with its data kept, set aside, or deleted on request."""

from __future__ import annotations

from collections.abc import Sequence

from pgherd.config.values import LOCAL
from pgherd.docker.engine import docker
from pgherd.docker.models import GROUP_LABEL, Image, Mount
from pgherd.errors import Error, Refused, Unreachable
from pgherd.group import preconditions
from pgherd.group.group import Group, Site
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Tool
from pgherd.hosts.parallel import run_all
from pgherd.operations.image import ensure_image
from pgherd.operations.set_aside import (
    DELETE_TABLESPACES,
    EMPTY_DATA,
    directories_of,
    move_aside,
    name_aside,
    not_known,
    refuse_unmovable,
    set_data_aside,
    unmovable,
)
from pgherd.operations.start_stop import stop
from pgherd.postgres import scripts
from pgherd.postgres.instance import PRIVATE, Instance


def down(group: Group, *, delete: bool = False) -> None:
    """Remove the group's containers and network; the data and the passwords stay.

    Raises:
        Refused: `delete` was said, which goes with a purge only.
    """
    if delete:
        raise Refused("--delete-data goes with --purge: without it the data is kept.")
    stop_all(group)
    with group.locked():
        _remove(group)


def stop_all(group: Group) -> None:
    """Stop what runs; a server that cannot come down in order is said, and taken down."""
    try:
        stop(group, tolerant=False, removing=True)
    except Error as fault:
        if isinstance(fault, Refused | Unreachable):
            raise
        group.trace.note(fault.sentence)


def _remove(group: Group) -> None:
    sites = list(group.sites.values())
    if not any(run_all(lambda site: _remove_from(group, site), sites)):
        group.trace.note(f"{group.name}: already down")


def _remove_from(group: Group, site: Site) -> bool:
    """Remove what the group has on one host; tell whether there was anything."""
    containers = site.engine.containers()
    ours = [c for n in site.nodes if (c := containers.get(n.name)) and group.owns(c, site.name)]
    for container in ours:
        group.trace.note(f"{container.name}: removing its container")
        site.engine.remove(container)
    network = site.engine.network(group.network)
    there = network is not None and network.labels.get(GROUP_LABEL) == group.name
    if there:
        where = "" if site.name == LOCAL else f" of {site.name}"
        group.trace.note(f"{group.network}: removing the network{where}")
        site.engine.remove_network(group.network)
    return bool(ours) or there


def purge(group: Group, *, confirm: str, delete: bool) -> None:
    """Take the group down and set its data and passwords aside, or delete them.

    Raises:
        Refused: `confirm` is not the group's name.
    """
    if confirm != group.name:
        raise Refused(
            f"Not confirmed: say the group's name, `invoke down --purge --confirm {group.name}`. "
            "Nothing was changed."
        )
    if not delete:
        _refuse_unmovable(group)
    with group.locked():
        seen = group.observe()
        for instance in group.instances.values():
            preconditions.check_data_unused(instance, seen)
    stop_all(group)
    with group.locked():
        seen = group.observe()
        image = ensure_image(group, seen)
        for instance in group.instances.values():
            preconditions.check_data_unused(instance, seen)
        _remove(group)
        for instance in group.instances.values():
            _clear(group, instance, image, delete=delete)
        for host, directory in _secrets(group):
            _clear_secrets(group, host, directory, delete=delete)


def _refuse_unmovable(group: Group) -> None:
    """Refuse where what is the group's cannot be set aside, while its servers still run."""
    for host, directory in _secrets(group):
        for source, why in unmovable(host, [directory]):
            raise Refused(f"{source} cannot be renamed ({why}), so it cannot be set aside.")
    stuck = [i for i in group.instances.values() if unmovable(i.host, directories_of(i))]
    if not stuck:
        return
    with group.locked():
        seen = group.observe()
        image = ensure_image(group, seen)
        for instance in stuck:
            container = seen.nodes[instance.name].container
            owned = container and group.owns(container, instance.node.host)
            if owned or preconditions.data_of(instance, image).ours:
                refuse_unmovable(instance)


def _clear(group: Group, instance: Instance, image: Image, *, delete: bool) -> None:
    """Set aside or delete what a node has; what this group did not make there stays."""
    state = preconditions.data_state(instance)
    disk = instance.disk(image, data=state == preconditions.FULL)
    if state == preconditions.FULL and not (disk.empty or disk.unfinished or disk.ours):
        group.trace.note(f"{instance.name}: {instance.node.data} is not this group's; left alone")
        return
    if places := not_known(instance, image) if disk.empty else []:
        names = ", ".join(place.source for place in places)
        group.trace.note(f"{instance.name}: {names}: it is not known whose that is; left alone")
        return
    if not delete:
        set_data_aside(group, instance, image, unfinished=True, why="down --purge")
    places = instance.there(instance.tablespace_mounts())
    if state != preconditions.ABSENT:
        places = [instance.data_mounts()[0], *places]
    if places and delete:
        names = ", ".join(instance.node.places[place.target] for place in places)
        group.trace.note(f"{instance.name}: deleting {names}")
        empty = (
            DELETE_TABLESPACES if state == preconditions.ABSENT else EMPTY_DATA + DELETE_TABLESPACES
        )
        instance.offline(image, scripts.compose(empty), mounts=places, timeout=None)
    remove_places(instance, places if delete else [place for place in places if place.volume])
    if delete:
        clear_private(instance, image)


def remove_places(instance: Instance, places: Sequence[Mount]) -> None:
    """Remove volumes and directories of a node that are empty by now; no directory that is not."""
    for place in places:
        if place.volume:
            instance.engine.must(docker["volume", "rm", place.source])
        else:
            instance.host.run(Tool("rmdir")["--", place.source])


def clear_private(instance: Instance, image: Image) -> None:
    """Empty the private directory, which belongs to the container's user."""
    if instance.host.run(Tool("test")["-d", instance.places.private], reads=True).ok:
        private = [mount for mount in instance.mounts() if mount.target == PRIVATE]
        lines = f"find {PRIVATE} -mindepth 1 -delete\nchmod 0777 {PRIVATE}\n"
        instance.offline(image, scripts.compose(lines), mounts=private)


def _secrets(group: Group) -> list[tuple[Host, str]]:
    """Return the directories with the group's passwords: those of this machine, then of others."""
    here = [(group.here, str(group.secrets))] if group.secrets.exists() else []
    others = [site for site in group.sites.values() if site.name != LOCAL]
    found = [
        (site.host, site.private)
        for site in others
        if site.host.run(Tool("test")["-d", site.private], reads=True).ok
    ]
    return [*here, *found]


def _clear_secrets(group: Group, host: Host, directory: str, *, delete: bool) -> None:
    where = "" if host.name == LOCAL else f" on {host.name}"
    if delete:
        group.trace.note(f"{group.name}: deleting its passwords{where}")
        result = host.run(Tool("rm")["-rf", "--", directory])
        if not result.ok:
            raise Error(f"{directory}{where} could not be deleted: {result.err.strip()}")
        return
    aside = name_aside(directory)
    group.trace.note(f"{group.name}: setting its passwords{where} aside as {aside}")
    move_aside(host, [(directory, aside)], f"passwords of {group.name}: down --purge")
