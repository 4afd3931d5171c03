"""The group's image, made present on each of its hosts: pulled, built, or carried over."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing

from pgherd.config import loader
from pgherd.config.values import LOCAL
from pgherd.docker.engine import Engine, docker
from pgherd.docker.models import Image
from pgherd.errors import Error, Refused
from pgherd.group.group import Group
from pgherd.group.image import (
    CARRIED,
    Found,
    find_image,
    is_same_image,
    join_images,
    look_for_image,
    own_containers,
    reference_image,
)
from pgherd.group.observation import Observation
from pgherd.hosts.commands import Output, Tool
from pgherd.hosts.parallel import run_all

# --- from one host's engine to another's, through the machine that runs invoke ---

PROGRESS_SECONDS = 2.0
MEGABYTE = 1_000_000


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
    if image.digest and (there := _pull_by_digest(target, image)):
        return there
    what = image.ref
    if image.ref == image.id or target.image(image.ref):
        # What has the name there keeps it; and another kind of store gives another id.
        what = own
        source.must(docker["tag", image.id, own])
    target.host.trace.note(f"image: {image.ref} goes from {source.host.name} to {target.host.name}")
    pieces = _report_progress(source.host.chunks(docker["save", what]), image, target)
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


def _pull_by_digest(target: Engine, image: Image) -> Image | None:
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


def _report_progress(pieces: Output, image: Image, target: Engine) -> Output:
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


# --- the image of the group: the same on each of its hosts, pulled, built, or carried over ---

BUILD_TIMEOUT = 1800.0
UNBUILDABLE = 2  # what scripts/image/build exits with for a major that it cannot build


def ensure_image(group: Group, seen: Observation | None = None) -> Image:
    """Return the group's image, having made it present on every host; say which one, and why.

    Raises:
        Refused: it cannot be had, or two hosts run different ones; with `--dry`, a host lacks it.
    """
    asked = group.topology.group.image
    if image := find_image(group, seen):
        if image.ref not in {asked, image.id} and not group.image_told:
            group.image_told = True
            group.trace.note(f"image: {image.ref}, built when no registry answered for {asked}")
        return image
    found = look_for_image(group, seen)
    if group.trace.dry:
        hosts = [_place(name) for name, image in found.items() if image is None]
        raise Refused(f"The image {asked} is not {' or '.join(hosts)}: `invoke image` brings it.")
    if not any(found.values()):
        found = _obtain(group, asked)
    source, reference = reference_image(group, found, seen)
    _refuse_other(group, seen, found, source, reference)
    lacking = [s.name for s in group.present if not is_same_image(found.get(s.name), reference)]
    origin = _engine(group, source)
    made = run_all(lambda name: carry(origin, group.sites[name].engine, reference), lacking)
    group.image = join_images(reference, {**found, **dict(zip(lacking, made, strict=True))})
    return group.image


# --- what is there ---


def _refuse_other(
    group: Group, seen: Observation | None, found: Found, source: str, reference: Image
) -> None:
    """Refuse where a host cannot have the same: it runs another, or is another architecture."""
    for name, image in found.items():
        if image is None or is_same_image(image, reference) or name not in group.sites:
            continue
        check_platform(reference, source, image.platform, name)
        if ours := own_containers(group, seen, name):
            raise Refused(
                f"{ours[0].name} on {name} runs another image ({image.ref}, {image.id[:19]}) than "
                f"the group has on {source} ({reference.ref}, {reference.id[:19]}). `docker rm` "
                f"its container there when it is stopped (the data stays), then this again: it "
                f"gets the image of {source}."
            )


def _engine(group: Group, host: str) -> Engine:
    return group.sites[host].engine if host in group.sites else Engine(group.here)


def _place(host: str) -> str:
    return "here" if host == LOCAL else f"on {host}"


# --- where there is none ---


def _obtain(group: Group, asked: str) -> dict[str, Image | None]:
    """Pull the image on every host; where no registry answers any, find or build it here."""
    note = group.trace.note

    def pulled(name: str) -> Image | None:
        note(f"image: {asked} is not {_place(name)}; pulling it")
        engine = group.sites[name].engine
        return engine.image(asked) if engine.pull(asked, _report_once(group, name)) else None

    names = [site.name for site in group.present]
    found = dict(zip(names, run_all(pulled, names), strict=True))
    if not any(found.values()):
        found[LOCAL] = _find_or_build(group, asked)
    return found


def _report_once(group: Group, host: str) -> Callable[[str], None]:
    head = "" if host == LOCAL else f"{host}: "
    return lambda line: group.trace.note(f"  {head}{line}")


def _find_or_build(group: Group, asked: str) -> Image:
    """Return the image from this machine's engine, built there if need be."""
    engine = _engine(group, LOCAL)
    image = engine.image(*group.image_names)
    if image is None:
        _build(group, asked)
        image = engine.image(*group.image_names)
    if image is None:
        raise Error(f"The image {asked} is still not here.")
    if image.ref != asked:
        group.image_told = True
        group.trace.note(f"image: {image.ref} is used: no registry answered for the official one")
    return image


def _build(group: Group, asked: str) -> None:
    names = group.image_names
    if len(names) == 1:
        raise Refused(
            f"No registry answers, and {asked} cannot be built here: only postgres:MAJOR can. "
            "Load it (docker load), or make a registry reachable."
        )
    major = names[1].rpartition(":")[2]
    group.trace.note(f"image: no registry answers; building {names[1]} from Debian packages")
    result = group.here.run(
        Tool(str(loader.ROOT / "scripts" / "image" / "build"))[major],
        timeout=BUILD_TIMEOUT,
        on_line=lambda line: group.trace.note(f"  {line}"),
    )
    if result.code == UNBUILDABLE:
        raise Refused(
            f"No registry answers for {asked}, and: {result.err.strip().splitlines()[-1]}"
        )
    if not result.ok:
        raise Error(f"The image could not be built: {result.complaint()}")
