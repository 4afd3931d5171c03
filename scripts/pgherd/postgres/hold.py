"""One data directory is for one container: each holds it by a lock of the kernel's.

What is looked at beforehand tells who has a directory; this decides, also where two runs look at
the same moment, or the engine starts two containers by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pgherd.docker import HELPER_LABEL, Container, Image, Mount
from pgherd.errors import Refused
from pgherd.postgres import scripts
from pgherd.postgres.occupancy import holders
from pgherd.rules import PGDATA
from pgherd.shell import Result, assignments

if TYPE_CHECKING:
    from pgherd.postgres.instance import Instance

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


def refuse_if_held(instance: Instance) -> None:
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
    raise held(instance, own=False)


def held(instance: Instance, mounts: Sequence[Mount] = (), *, own: bool = True) -> Refused:
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
