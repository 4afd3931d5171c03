"""The image of the group: here, or pulled, or built from Debian packages where no registry is."""

from __future__ import annotations

from collections.abc import Iterable

from pgherd import config
from pgherd.docker import Container, Image
from pgherd.errors import Error, Refused
from pgherd.postgres.group import Group
from pgherd.shell import Tool

BUILD_TIMEOUT = 1800.0
UNBUILDABLE = 2  # what scripts/image/build exits with for a major that it cannot build


def ensure_image(group: Group, containers: Iterable[Container] = ()) -> Image:
    """Return the group's image, having made it present; say which one is used, and why.

    Raises:
        Refused: no registry answers and it is not one that can be built, or the registry that
            answers has none of that name; with `--dry`, it is not here.
    """
    note = group.trace.note
    asked = group.topology.group.image
    if image := group.find_image(containers):
        if image.ref not in {asked, image.id} and not group.image_told:
            group.image_told = True
            note(f"image: {image.ref}, built here when no registry answered for {asked}")
        return image
    if group.trace.dry:
        raise Refused(f"The image {asked} is not here; `invoke image` pulls or builds it first.")
    note(f"image: {asked} is not here; pulling it")
    if group.engine.pull(asked, lambda line: note(f"  {line}")):
        return _found(group)
    _build(group, asked)
    return _found(group)


def _build(group: Group, asked: str) -> None:
    names = group.image_names
    if len(names) == 1:
        raise Refused(
            f"No registry answers, and {asked} cannot be built here: only postgres:MAJOR can. "
            "Load it (docker load), or make a registry reachable."
        )
    major = names[1].rpartition(":")[2]
    group.trace.note(f"image: no registry answers; building {names[1]} from Debian packages")
    result = group.host.run(
        Tool(str(config.ROOT / "scripts" / "image" / "build"))[major],
        timeout=BUILD_TIMEOUT,
        on_line=lambda line: group.trace.note(f"  {line}"),
    )
    if result.code == UNBUILDABLE:
        raise Refused(
            f"No registry answers for {asked}, and: {result.err.strip().splitlines()[-1]}"
        )
    if not result.ok:
        raise Error(f"The image could not be built: {result.complaint()}")


def _found(group: Group) -> Image:
    image = group.find_image()
    if image is None:
        raise Error(f"The image {group.topology.group.image} is still not here.")
    if image.ref != group.topology.group.image:
        group.trace.note(f"image: {image.ref} is used: no registry answered for the official one")
    return image
