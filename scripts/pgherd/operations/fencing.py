"""Fencing: whatever was primary, and is not to be any more, cannot come back as one.

Its container is stopped and not started again by the engine, and its data is marked as a standby's.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgherd.docker.models import ALWAYS, NEVER, Container, Image
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.rejoin_method import read_wal_beyond, wal_beyond
from pgherd.hosts.commands import assignments
from pgherd.operations import run_token
from pgherd.postgres import scripts
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond
from pgherd.postgres.instance import Instance

FENCE_SECONDS = 30  # for a clean stop; one that hangs is killed then


@dataclass(frozen=True)
class Fenced:
    """What a fence found of the server behind it.

    Attributes:
        disk: what its data says.
        beyond: what it has in its WAL that the other has not; None if nothing.
        ran: its container ran until then.
        stopping: it may still be on its way down.
        marking: it may have been marked, and nothing tells.
    """

    disk: Disk
    beyond: Beyond | None
    ran: bool = False
    stopping: bool = False
    marking: bool = False


def stop_and_fence(group: Group, instance: Instance, container: Container | None) -> bool:
    """Stop a container if it runs, and have the engine not start it again; tell whether it ran."""
    if container is None:
        return False
    if container.restart != NEVER:
        instance.engine.set_restart(container, NEVER)
    if container.alive:
        group.trace.note(f"{instance.name}: fencing it: stopped, and not to be started again")
        instance.engine.stop(container, FENCE_SECONDS)
    else:
        group.trace.note(f"{instance.name}: fencing it: not to be started again")
    return container.alive


def mark_as_standby(
    group: Group, instance: Instance, image: Image, against: Facts, *, ran: bool = False
) -> Fenced:
    """Mark the data of a lost primary that is stopped, and see what it has that another has not.

    Without data there is nothing to mark. `against` is what the other says of itself since.
    """
    if preconditions.data_state(instance) != preconditions.FULL:
        return Fenced(Disk(), None, ran)
    group.trace.note(f"{instance.name}: fencing it: its data is marked as a standby's")
    script = scripts.compose(
        "examine",
        # On the timeline that it has come to itself, which `examine` left in $timeline.
        assignments(**{"start": against.lsn or against.end, "from": against.end}),
        "beyond",
        # PostgreSQL asks only whether it is there. By what it holds, a fence that is lifted knows
        # its own, also where nobody heard any more that it was laid.
        '[ ! -e "$PGDATA/PG_VERSION" ] || [ -e "$PGDATA/standby.signal" ] || '
        f'echo {run_token.RUN_TOKEN} | lay "$PGDATA/standby.signal"\n',
    )
    said = instance.offline(image, script, timeout=600.0)
    if group.trace.dry:  # nothing was said: what there is by now can be seen all the same
        disk = instance.disk(image)
        mine = (disk, against.timeline, against.end)
        return Fenced(disk, wal_beyond(instance, image, *mine) if disk.pg_version else None, ran)
    disk = Disk.parse(said)
    fork = disk.came_through.fork(against.came_through)
    if disk.pg_version and fork and fork.lsn and disk.timeline <= against.timeline:
        # The other's history left this one's before: positions beyond its end say nothing.
        return Fenced(disk, wal_beyond(instance, image, disk, fork.timeline, fork.lsn), ran)
    return Fenced(disk, read_wal_beyond(said, disk, against.timeline, against.end), ran)


def lift_fence(group: Group, instance: Instance, image: Image, fenced: Fenced) -> None:
    """Undo a fence where nobody took the node's place: it is as it was before."""
    container = instance.container()
    if container and container.alive and fenced.stopping:
        instance.engine.stop(container, FENCE_SECONDS)
    if fenced.marking or (fenced.disk.pg_version and not fenced.disk.standby_signal):
        only_ours = f'grep -sqx {run_token.RUN_TOKEN} "$PGDATA/standby.signal" || exit 0\n'
        instance.offline(image, scripts.compose(only_ours, "unmark"))
    if container:
        instance.engine.set_restart(container, ALWAYS)
        if fenced.ran:
            instance.engine.start(container)
    group.trace.note(f"{instance.name}: its fence is lifted again")


def lift_restart(instance: Instance) -> None:
    """Let the engine start a node's container again: it follows, and is no danger any more."""
    container = instance.container()
    if container and container.restart == NEVER:
        instance.engine.set_restart(container, ALWAYS)
