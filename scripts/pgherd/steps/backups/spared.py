"""What is never deleted and never put back: a node's data of now, and what a container has."""

from __future__ import annotations

from pathlib import PurePosixPath

from pgherd.errors import Refused
from pgherd.postgres.hold import in_use
from pgherd.postgres.instance import Instance
from pgherd.postgres.occupancy import holders, sharing
from pgherd.postgres.site import Site


def refuse_living(site: Site, path: str, *, volume: bool) -> None:
    """Refuse a directory or volume that is a node's data by now, holds it, or lies in it.

    The name tells nothing: `data` in the topology may be what was set aside once.
    """
    places = [
        (i.name, place.source)
        for i in site.instances.values()
        for place in i.data_mounts()
        if place.volume == volume
    ]
    if volume:
        found = [name for name, source in places if source == path]
    else:
        (own,) = site.host.paths(path)
        shared = sharing(site.host, own, (source for _, source in places))
        found = [name for name, source in places if source in shared]
    if found:
        raise Refused(
            f"{path} of {site.name} is no copy: the data of {found[0]} is there, as the "
            "topology has it now. Nothing was changed."
        )


def refuse_to_delete(site: Site, instance: Instance, path: str, *, volume: bool) -> None:
    """Refuse to delete what is a node's data, or what a container of that host can write to.

    A stopped container counts, and the node's own: it would start without its data.

    Args:
        site: the host.
        instance: a node there, for whom the deleting is done.
        path: of the directory, or the volume's name.
        volume: whether it is that.
    """
    refuse_living(site, path, volume=volume)
    source = path if volume else site.host.paths(path)[0]
    above = PurePosixPath(source).parents
    others = site.engine.containers().values()
    for other, mount in holders(site.engine, source, others, volume=volume):
        if other.alive:
            raise in_use(instance.name, path, other, mount)
        if not volume and PurePosixPath(mount.source) in above:
            continue  # it will find what else is there
        raise Refused(
            f"{path} is what the container {other.name} has (it is stopped). `docker rm "
            f"{other.name}` first, if neither is wanted any more."
        )
