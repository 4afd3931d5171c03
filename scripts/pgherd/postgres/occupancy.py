"""Who has a directory: by path, by what lies within what, and by what it is under other names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from pgherd.docker import HELPER_LABEL, Container, Engine, Mount
from pgherd.host import Host
from pgherd.shell import Script, Tool

# Where a container of ours has the data that it copies, and its tablespaces: see `sh/copy.sh`.
COPIED, COPIED_TABLESPACES = "/from", "/from.tablespaces"

# Device and inode tell a directory whatever path leads to it: a link, a bind mount. GNU's or BSD's.
_IDENTITIES = """\
if stat -Lc %d / >/dev/null 2>&1; then stat -Lc '%d:%i %n' -- "$@" 2>/dev/null || :
else stat -Lf '%d:%i %N' -- "$@" 2>/dev/null || :; fi
"""


def holders(
    engine: Engine, source: str, containers: Iterable[Container], *, volume: bool
) -> list[tuple[Container, Mount]]:
    """Return the containers that can write to a directory, a part of it, or what it lies in.

    One of ours that copies it counts as well: it holds it meanwhile. One that was only listed is
    inspected first where it may have it; one that does not answer then counts.

    Args:
        engine: of the host where all of it is.
        source: an absolute path with its links resolved, or a volume's name.
        containers: whose mounts are looked at.
        volume: `source` names a volume.
    """
    if volume:
        mounted = list(_mounted(containers, volume=True))
        return _certain(engine, mounted, lambda mount: mount.source == source, volume=True)
    return holders_of_each(engine, [source], containers)[0]


def holders_of_each(
    engine: Engine, sources: Sequence[str], containers: Iterable[Container]
) -> list[list[tuple[Container, Mount]]]:
    """Return of each directory what `holders` does: two questions to the host, however many."""
    mounted = list(_mounted(containers, volume=False))
    if not mounted or not sources:
        return [[] for _ in sources]
    # Docker keeps a path as it was typed, and links lead elsewhere.
    theirs = [mount.source for _, mount in mounted]
    resolved = dict(zip(theirs, engine.host.paths(*theirs), strict=True))
    known = _identities(engine.host, {*sources, *resolved.values()})

    def has(source: str, mount: Mount) -> bool:
        return _overlap(source, resolved.get(mount.source, mount.source), known)

    certain = _certain(engine, mounted, lambda m: any(has(s, m) for s in sources), volume=False)
    return [[found for found in certain if has(source, found[1])] for source in sources]


def _certain(
    engine: Engine,
    mounted: Sequence[tuple[Container, Mount]],
    has: Callable[[Mount], bool],
    *,
    volume: bool,
) -> list[tuple[Container, Mount]]:
    """Return those mounts that it is; what was only listed may be others, and is inspected."""
    found = [(container, mount) for container, mount in mounted if has(mount)]
    listed = {container.id: container for container, _ in found if container.listed}
    inspected = _mounted(engine.inspect(listed.values()).values(), volume=volume)
    return [
        *(pair for pair in found if not pair[0].listed),
        *(pair for pair in inspected if has(pair[1])),
    ]


def sharing(host: Host, source: str, others: Iterable[str]) -> set[str]:
    """Return those of other directories that a directory is, holds, or lies in.

    All of them are absolute paths with their links resolved.
    """
    theirs = set(others)
    known = _identities(host, {source, *theirs}) if theirs else {}
    return {other for other in theirs if _overlap(source, other, known)}


def overlap(one: str, other: str) -> bool:
    """Tell whether one of two directories is the other or lies in it, as far as paths tell."""
    return _overlap(one, other, {})


def _mounted(containers: Iterable[Container], *, volume: bool) -> Iterator[tuple[Container, Mount]]:
    for container in containers:
        for mount in container.mounts:
            copies = mount.target.startswith(COPIED) and HELPER_LABEL in container.labels
            if mount.volume == volume and (copies or not mount.readonly):
                yield container, mount


def _identities(host: Host, paths: Iterable[str]) -> Mapping[str, str]:
    """Return device and inode of each path, and of all that it lies in, as far as it is there."""
    asked = sorted({step for path in paths for step in _steps(path)})
    said = host.run(Tool("sh")["-s", "--", asked], stdin=Script((_IDENTITIES,)), reads=True).out
    lines = (line.partition(" ") for line in said.splitlines())
    return {path: identity for identity, _, path in lines}


def _steps(path: str) -> list[str]:
    at = PurePosixPath(path)
    return [str(step) for step in (at, *at.parents)]


def _overlap(one: str, other: str, known: Mapping[str, str]) -> bool:
    mine, theirs = _steps(one), _steps(other)
    if one in theirs or other in mine:
        return True
    ids = [{known[step] for step in steps if step in known} for steps in (mine, theirs)]
    return known.get(one) in ids[1] or known.get(other) in ids[0]
