"""The group's image, as its hosts have it: the same on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pgherd.config.values import LOCAL
from pgherd.docker.models import Container, Image
from pgherd.errors import Error
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import run_all

CARRIED = "pgherd/carried:"  # the name of an image where its own is another's

Found = Mapping[str, Image | None]  # by the host's name


def find_image(group: Group, seen: Observation | None = None) -> Image | None:
    """Return the group's image if each of its hosts has it; nothing is made."""
    if group.image is None:
        found = look_for_image(group, seen)
        if all(found.values()):
            _, reference = reference_image(group, found, seen)
            if all(is_same_image(image, reference) for image in found.values()):
                group.image = join_images(reference, found)
    return group.image


def look_for_image(group: Group, seen: Observation | None) -> dict[str, Image | None]:
    """Ask each host for the image that the group's containers have there, else for one by name."""
    names, sites = group.image_names, group.present
    found = run_all(
        lambda site: site.find_image(names, own_containers(group, seen, site.name)), sites
    )
    return {site.name: image for site, image in zip(sites, found, strict=True)}


def own_containers(group: Group, seen: Observation | None, host: str) -> list[Container]:
    """Return the containers of the group's nodes on a host."""
    there = seen.engines[host].values() if seen else ()
    return [c for c in there if group.owns(c, host) and c.name in group.topology.nodes]


def reference_image(group: Group, found: Found, seen: Observation | None) -> tuple[str, Image]:
    """Return the image that all are to have, and its host: what runs, else what the master has."""
    using = [name for name in group.sites if own_containers(group, seen, name)]
    for name in (*using, *group.sites, LOCAL):  # the primary's host is the first of the sites
        if image := found.get(name):
            return name, image
    raise Error(f"The image {group.topology.group.image} is still not here.")


def is_same_image(image: Image | None, reference: Image) -> bool:
    """Tell whether a host's image has the same contents as the one that all are to have."""
    return image is not None and image.contents == reference.contents


def join_images(reference: Image, found: Found) -> Image:
    """Return the image with what each host calls it."""
    known = {name: (image.ref, image.id) for name, image in found.items() if image}
    return replace(reference, elsewhere=known)
