"""One node's data directory: where it is, who uses it, and that one container alone holds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pgherd.config.values import PGDATA
from pgherd.docker.engine import Engine
from pgherd.docker.models import HELPER_LABEL, Container, Image, Mount
from pgherd.errors import Error, Refused, room_wanted
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Result, Script, Tool, assignments
from pgherd.postgres import scripts

if TYPE_CHECKING:
    from pgherd.postgres.instance import Instance

# --- where the things of a node are on its host ---


@dataclass(frozen=True)
class Places:
    """Where a node's things are on its host, and who is around.

    Attributes:
        data: the data directory, absolute; empty where a named volume holds the data.
        private: the directory for what is no data: the passfile.
        network: the name of the group's network there.
        home: where pgherd keeps its own things there; it tells whose a container is.
        initdb: the directory with the user's scripts for a new database.
        neighbours: whether other nodes of the group live on the same host.
        elsewhere: the addresses of the nodes that live on other hosts.
        tablespaces: for each path in its container where tablespaces may lie, the directory,
            absolute; empty where a named volume has them.
    """

    data: str
    private: str
    network: str
    home: str
    initdb: str | None = None
    neighbours: bool = True
    elsewhere: tuple[str, ...] = ()
    tablespaces: Mapping[str, str] = field(default_factory=dict)


# --- what a script in a container ended with ---

# The servers' words, 14 to 18, where all connections are taken, and where no rule lets in.
_TAKEN = re.compile(r"too many clients already|remaining connection slots are reserved")
_NOT_LET_IN = re.compile(r"pg_hba\.conf|no password supplied|authentication failed for user")
_SUPERUSER = "postgres"


def no_login(node: str, said: str, told: str = "", database: str = "") -> str:
    """Say why a server lets us not in, and what to do, where its words tell; else nothing.

    `told` is what `sh/running.sh` says of it, with the number of connections and the rules.
    """
    if _TAKEN.search(said):
        number = re.search(r"^max_connections setting: *([0-9]+)$", told, re.MULTILINE)
        return (
            f"All {f'{number[1]} ' if number else ''}connections of {node} (max_connections) are "
            "taken, those kept for superusers as well: end some of its clients (`docker top "
            f"{node}` shows them), then this again."
        )
    if _NOT_LET_IN.search(said):
        rule = _rule(told, database or "postgres")
        return (
            f"pg_hba.conf of {node} does not let pgherd in, which comes by the local socket as "
            f"{_SUPERUSER}{f', by {rule}' if rule else ''}: put a line `local all {_SUPERUSER} "
            f"peer` before it, and reload (`docker kill --signal HUP {node}`)."
        )
    missing = re.search(r'database "([^"]*)" (?:does not exist|is not currently accepting)', said)
    if missing and missing[1] == database:
        return (
            f"There is no database {database} on {node} that takes connections, and group.database "
            "says to work there: correct the topology."
        )
    return ""


def _rule(told: str, database: str) -> str:
    """Return the first rule of pg_hba.conf that is for us, with its line; empty if there is none.

    Who is not let in by any has none.
    """
    for number, line in re.findall(r"^hba=([0-9]+):(.*)$", told, re.MULTILINE):
        words = [*line.replace('"', "").split(), "", "", ""]
        databases, users = (set(listed.split(",")) for listed in words[1:3])
        if databases & {"all", database} and users & {"all", _SUPERUSER}:
            return f"line {number} ({' '.join(line.split())})"
    return ""


class ScriptFailed(Error):
    """A script in a container ended with an exit code that its step may know."""

    def __init__(self, node: str, result: Result, data: str = "") -> None:
        cure = room_wanted(result.host, result.err, data)
        cure += f"{why}\n" if (why := no_login(node, result.err)) else ""
        super().__init__(f"{cure}On {node}: {result.complaint()}")
        self.exit_code = result.code
        self.said = result.err.strip().splitlines()[-1] if result.err.strip() else ""


# --- one data directory is for one container: each holds it by a lock of the kernel's ---

# What is looked at beforehand tells who has a directory; this decides, also where two runs look at
# the same moment, or the engine starts two containers by itself.

HELD = 76  # the exit code of sh/hold.sh
SENTENCE = "pgherd: another container has this data directory"
KILLED = 137  # of `docker exec` whose container stops
# Words of Docker for a command that cannot begin in a container that ends, or starts again. They
# come on either stream.
_NO_EXEC = re.compile(r"exec failed: |cannot exec in a stopped|Container \S+ is (?:rest|not run)")
_STOP_SECONDS = 10


def server_words(image: Image, tablespaces: Iterable[str] = ()) -> list[str]:
    """Return what follows the image's name in `docker run`: hold the data, run the image's own.

    `--entrypoint sh` comes before it. `tablespaces` are the paths where these may lie.
    """
    lines = [line for line in scripts.fragment("hold").splitlines() if not line.startswith("#")]
    places = assignments(tablespaces=" ".join(tablespaces)).splitlines() if tablespaces else []
    text = "\n".join([*places, *lines, 'exec "$@"'])
    return ["-c", text, "sh", *(image.entrypoint or ("docker-entrypoint.sh",)), "postgres"]


def holds(container: Container) -> bool:
    """Tell whether a server's container holds its data; those of earlier versions do not."""
    return container.planned or any(SENTENCE in word for word in container.command)


def has_ended(result: Result) -> bool:
    """Tell whether a command in a container failed because that ended, before it or meanwhile."""
    words = result.out + result.err
    return result.code == KILLED or (not result.ok and bool(_NO_EXEC.search(words)))


def refuse_if_locked(instance: Instance) -> None:
    """Refuse where a server did not start because another container has its data; stop trying.

    For after a command in its container that failed, whatever docker said of it: for a container
    that ends in that moment it has other words with each engine, each CLI and each time.
    """
    if SENTENCE not in instance.log_tail(3):
        return
    container = instance.container()
    if container is None or container.planned:
        return
    instance.engine.stop(container, _STOP_SECONDS)  # or the engine starts it again and again
    raise describe_holder(instance, own=False)


def describe_holder(
    instance: Instance, mounts: Sequence[Mount] = (), *, own: bool = True
) -> Refused:
    """Return the refusal of a data directory that a container has, with its name.

    Args:
        instance: whose container did not get it.
        mounts: of that container, where its data is not the node's own.
        own: the node's own server may be who has it.
    """
    inside = (PGDATA, *instance.node.tablespaces)
    data = [m for m in mounts if m.target in inside] or instance.data_mounts()
    mine = {instance.helper} | ({instance.name} if not own else set())
    others = [c for n, c in instance.engine.containers().items() if n not in mine and c.alive]
    for mount in data:
        for found in holders(instance.engine, mount.source, others, volume=mount.volume):
            return in_use(instance.name, mount.source, *found)
    return in_use(instance.name, data[0].source, None, None)


def in_use(name: str, source: str, by: Container | None, mount: Mount | None) -> Refused:
    """Return the refusal of a directory or volume that a container has, which may be unknown."""
    head = f"{name}: {source} is in use by"
    if by and HELPER_LABEL in by.labels:
        return Refused(
            f"{head} another pgherd run, in the container {by.name}: wait for it. If that run was "
            f"killed, `docker rm --force {by.name}`."
        )
    if by and by.name == name:
        return Refused(f"{head} its own server: `docker stop {name}`, then this again.")
    if by and by.silent and mount:
        return Refused(
            f"{name}: {source} may be in use by the container {by.name}: `docker ps` tells that it "
            f"has {mount.source}, and `docker inspect {by.name}` does not answer. Two servers on "
            f"one directory destroy it: end that one first (`docker kill {by.name}`; where that "
            "does not answer either, restart Docker), or choose another `data`."
        )
    who = f"the container {by.name}" if by else "another container"
    has = f" (it has {mount.source})" if mount else ""
    stop = f" (docker stop {by.name})" if by else ""
    return Refused(
        f"{head} {who}{has}. Two servers on one directory destroy it: stop that one first{stop}, "
        "or choose another `data`."
    )


# --- who uses a directory ---

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


PART = ".part"  # the end of a copy's name until it is whole

_STAMP = "%Y%m%dT%H%M%SZ"


def set_aside_at(name: str) -> datetime | None:
    """Return when something was set aside, by its name; None if it is not one of ours."""
    stamp = name.removesuffix(PART).rpartition("_bk_")[2]
    try:
        at = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return at if at.strftime(_STAMP) == stamp else None  # which takes fewer digits as well


def is_part_of(name: str, data: str) -> bool:
    """Tell whether a path has the name of a copy of this data that was cut short."""
    of = name.rpartition("_bk_")[0]
    return of == data and name.endswith(PART) and set_aside_at(name) is not None
