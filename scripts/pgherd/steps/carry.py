"""Bringing an image from one host's engine to another's, through the machine that runs invoke."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing

from pgherd.docker import Engine, Image, docker
from pgherd.errors import Error, Refused
from pgherd.shell import Output

PROGRESS_SECONDS = 2.0
MEGABYTE = 1_000_000
CARRIED = "pgherd/carried:"  # the name of an image where its own is another's


def carry(source: Engine, target: Engine, image: Image) -> Image:
    """Make an image present on another engine: from its registry, else `docker save | docker load`.

    Returns:
        The image as the other engine knows it.

    Raises:
        Refused: the other engine's architecture is another.
        Error: it did not arrive whole.
    """
    own = f"{CARRIED}{image.contents[:12]}"
    for known in (image.id, own):
        if (there := target.image(known)) and there.contents == image.contents:
            return there
    check_platform(image, source.host.name, target.platform(), target.host.name)
    if image.digest and (there := _pulled(target, image)):
        return there
    what = image.ref
    if image.ref == image.id or target.image(image.ref):
        # What has the name there keeps it; and another kind of store gives another id.
        what = own
        source.must(docker["tag", image.id, own])
    target.host.trace.note(f"image: {image.ref} goes from {source.host.name} to {target.host.name}")
    pieces = _told(source.host.chunks(docker["save", what]), image, target)
    result = target.run(docker["load", "--quiet"], stdin=pieces, timeout=None)
    there = target.image(what)
    if not result.ok or there is None or there.contents != image.contents:
        raise Error(
            f"The image {image.ref} of {source.host.name} did not arrive whole on "
            f"{target.host.name}: {result.complaint()}"
        )
    return there


def check_platform(image: Image, host: str, platform: str, other: str) -> None:
    """Refuse an image for another architecture than that of `other`, whose platform is given."""
    if platform != image.platform:
        raise Refused(
            f"{other} has {platform}, and {host} {image.platform}: PostgreSQL's files are not the "
            "same on both, so neither can follow the other. Choose hosts of one architecture."
        )


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


def _told(pieces: Output, image: Image, target: Engine) -> Output:
    """Return the same output, which says now and then how much has gone."""

    def counted() -> Generator[bytes, None, None]:
        gone, said = 0, time.monotonic()
        with closing(pieces):
            for piece in pieces:
                yield piece
                gone += len(piece)
                if time.monotonic() - said > PROGRESS_SECONDS:
                    said = time.monotonic()
                    size = f"of about {image.size // MEGABYTE} " if image.size else ""
                    target.host.trace.note(f"  {target.host.name}: {gone // MEGABYTE} {size}MB")

    return Output(pieces.shown, counted())
