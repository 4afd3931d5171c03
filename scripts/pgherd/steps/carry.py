"""Bringing an image from one host's engine to another's, through the machine that runs invoke."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pgherd.docker import Engine, Image, docker
from pgherd.errors import Error, Refused

PROGRESS_SECONDS = 2.0
MEGABYTE = 1_000_000


def carry(source: Engine, target: Engine, image: Image) -> Image:
    """Make an image present on another engine: from its registry, else `docker save | docker load`.

    Returns:
        The image as the other engine knows it.

    Raises:
        Error: it did not arrive whole.
    """
    if (there := target.image(image.id)) and there.contents == image.contents:
        return there
    if image.digest and (there := _pulled(target, image)):
        return there
    # By its id where the name is taken there: what else has that name keeps it.
    taken = image.ref != image.id and target.image(image.ref)
    what = image.id if taken else image.ref
    note = target.host.trace.note
    note(f"image: {image.ref} goes from {source.host.name} to {target.host.name}")
    pieces = _told(source.host.chunks(docker["save", what]), image, target)
    result = target.run(docker["load", "--quiet"], stdin=pieces, timeout=None)
    there = target.image(what)
    if not result.ok or there is None or there.contents != image.contents:
        raise Error(
            f"The image {image.ref} of {source.host.name} did not arrive whole on "
            f"{target.host.name}: {result.complaint()}"
        )
    return there


def _pulled(target: Engine, image: Image) -> Image | None:
    """Pull the very same image by its digest; None where it cannot be had like that."""
    note = target.host.trace.note
    note(f"image: {image.ref} is not on {target.host.name}; pulling it")
    try:
        if not target.pull(image.digest, lambda line: note(f"  {target.host.name}: {line}")):
            return None
    except Refused:  # that registry has it for others only; the image can still be carried
        return None
    there = target.image(image.digest)
    if there is None or there.contents != image.contents:
        return None
    if target.image(image.ref) is None:
        target.run(docker["tag", image.digest, image.ref])
        return target.image(image.ref)
    return there


def _told(pieces: Iterator[bytes], image: Image, target: Engine) -> Iterator[bytes]:
    """Hand the pieces on and say now and then how many have gone."""
    gone, said = 0, time.monotonic()
    for piece in pieces:
        yield piece
        gone += len(piece)
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            size = f"of about {image.size // MEGABYTE} " if image.size else ""
            target.host.trace.note(f"  {target.host.name}: {gone // MEGABYTE} {size}MB")
