"""Which way a node can come back to a group: as it is, rewound, or with a new base backup."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from pgherd.docker.models import Image
from pgherd.errors import Refused
from pgherd.group import outside_data
from pgherd.postgres import scripts
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond, Fork, counted
from pgherd.postgres.instance import Instance


class Method(Enum):
    """A way back; the value is what is said of it."""

    FOLLOW = "it can follow as it is"
    REWIND = "pg_rewind"
    BASE_BACKUP = "a new base backup"


@dataclass(frozen=True)
class RejoinMethod:
    """The way that a node takes, why, and what it has of its own that the group has not."""

    kind: Method
    why: str
    own: Beyond | None = None

    @property
    def commits(self) -> int | None:
        """How many commits it has of its own."""
        return self.own.commits if self.own else 0


def wal_beyond(
    instance: Instance, image: Image, disk: Disk, timeline: int, start: str
) -> Beyond | None:
    """Look at the WAL of a server that is down, after a position that it had on a timeline."""
    values: dict[str, str | int] = {"timeline": disk.timeline, "start": start, "from": start}
    script = scripts.compose("beyond", **values)
    mounts = instance.mounts(readonly=True)[:1]
    said = instance.offline(image, script, mounts=mounts, readonly=True, reads=True, timeout=600.0)
    return read_wal_beyond(said, disk, timeline, start)


def read_wal_beyond(said: str, disk: Disk, timeline: int, start: str) -> Beyond | None:
    """Return what `sh/beyond.sh` said, or what is known without: the WAL may have been removed.

    A checkpoint after the position, or a timeline after that one, tells that there was something.
    """
    if found := Beyond.read(said, start):
        if lsn_to_int(start) + found.size > lsn_to_int(disk.checkpoint):
            return found
        return replace(found, commits=None)  # it ends before a record that is there
    further = lsn_to_int(disk.checkpoint) - lsn_to_int(start)
    if further >= 0 or disk.timeline > timeline:
        return Beyond(max(further, 1), None)
    return None


def can_follow(mine: Facts, theirs: Facts) -> bool:
    """Tell whether a standby that runs has nothing that the primary lacks, so that it can follow.

    On one timeline with the primary only its WAL's end can tell, and not while it streams.
    """
    fork = mine.came_through.fork(theirs.came_through)
    if fork is None or mine.timeline > theirs.timeline:
        return False
    parted = fork.lsn or theirs.lsn or "0/0"
    return lsn_to_int(mine.end) <= lsn_to_int(parted)


def choose_method(instance: Instance, image: Image, disk: Disk, theirs: Facts) -> RejoinMethod:
    """Judge by the data of a server that is down.

    Raises:
        Refused: it is no database of this system.
    """
    if disk.unfinished or disk.pg_version is None:
        return RejoinMethod(Method.BASE_BACKUP, "what lies there is no whole database")
    refuse_other_system(instance, disk.system_identifier, theirs)
    fork = disk.came_through.fork(theirs.came_through)
    if fork is None:
        why = "its history has nothing in common with the primary's"
        return RejoinMethod(Method.BASE_BACKUP, why, Beyond(lsn_to_int(disk.reached), None))
    start = fork.lsn or theirs.lsn or "0/0"
    own = wal_beyond(instance, image, disk, fork.timeline, start)
    way = _judge(disk, fork, start, own)
    if lost := outside_data.lost(instance.node, disk):
        return RejoinMethod(
            Method.BASE_BACKUP, f"{lost[0].what} at {lost[0].path} is not there", way.own
        )
    return way


def refuse_other_system(instance: Instance, system: str | None, theirs: Facts) -> None:
    """Refuse a database that is not of the primary's system."""
    if system != theirs.system_identifier:
        raise Refused(
            f"{instance.name}: {instance.node.data} holds a database of another system "
            f"({system}, and the group is {theirs.system_identifier}). `invoke seed-standby "
            f"--node {instance.name} --set-aside` moves it aside and seeds."
        )


def _judge(disk: Disk, fork: Fork, start: str, own: Beyond | None) -> RejoinMethod:
    """Judge by where the histories part, and what the node has from there on."""
    led = not disk.standby_signal and "recovery" not in (disk.state or "")
    if fork.lsn is None and (own or led):
        why = f"it has gone its own way on timeline {fork.timeline}, and nothing tells where"
        return RejoinMethod(Method.BASE_BACKUP, why, Beyond(own.size if own else 1, None))
    if own is None:
        why = f"it has nothing beyond {start} of timeline {fork.timeline}"
        return RejoinMethod(Method.FOLLOW, why)
    size = "WAL" if own.commits is None else f"{own.size} bytes"
    why = f"it has {size} of its own after {start}, where the histories part"
    why += f": {counted(own.commits)}"
    if not disk.rewindable:
        why += "; without data checksums or wal_log_hints pg_rewind cannot take them back"
        return RejoinMethod(Method.BASE_BACKUP, why, own)
    return RejoinMethod(Method.REWIND, why, own)
