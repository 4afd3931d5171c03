"""Who has a directory: by path, by what lies within what, and by what it is under other names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from pgherd.docker import HELPER_LABEL, Container, Mount
from pgherd.host import Host
from pgherd.shell import Script, Tool

COPIED = "/from"  # where a container of ours has the data that it copies: see `sh/copy.sh`

# Device and inode tell a directory whatever path leads to it: a link, a bind mount. GNU's or BSD's.
_IDENTITIES = """\
if stat -Lc %d / >/dev/null 2>&1; then stat -Lc '%d:%i %n' -- "$@" 2>/dev/null || :
else stat -Lf '%d:%i %N' -- "$@" 2>/dev/null || :; fi
"""


def holders(
    host: Host, source: str, containers: Iterable[Container], *, volume: bool
) -> list[tuple[Container, Mount]]:
    """Return the containers that can write to a directory, a part of it, or what it lies in.

    One of ours that copies it counts as well: it holds it meanwhile.

    Args:
        host: where all of it is.
        source: an absolute path with its links resolved, or a volume's name.
        containers: whose mounts are looked at.
        volume: `source` names a volume.
    """
    if volume:
        return [found for found in _mounted(containers, volume=True) if found[1].source == source]
    return holders_of_each(host, [source], containers)[0]


def holders_of_each(
    host: Host, sources: Sequence[str], containers: Iterable[Container]
) -> list[list[tuple[Container, Mount]]]:
    """Return of each directory what `holders` does: two questions to the host, however many."""
    mounted = list(_mounted(containers, volume=False))
    if not mounted or not sources:
        return [[] for _ in sources]
    # Docker keeps a path as it was typed, and links lead elsewhere.
    resolved = host.paths(*(mount.source for _, mount in mounted))
    known = _identities(host, {*sources, *resolved})
    return [
        [
            found
            for found, theirs in zip(mounted, resolved, strict=True)
            if _overlap(source, theirs, known)
        ]
        for source in sources
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
            copies = mount.target == COPIED and HELPER_LABEL in container.labels
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
