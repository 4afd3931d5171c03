"""Who may be started as primary, by what runs and by what lies on the disks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, permutations

from pgherd.docker.models import Image
from pgherd.errors import Error, Refused
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.group.rejoin_method import wal_beyond
from pgherd.hosts.parallel import run_all
from pgherd.postgres import leadership
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Disk, record_end
from pgherd.postgres.history import Beyond
from pgherd.postgres.leadership import Known, Leader, Own

# Who leads is decided by `postgres/leadership.py`, of all that is known: what the servers say that
# answer, and the data of those that are down.


def writes_refused(name: str, place: str) -> tuple[str, str]:
    """Say that a primary takes no writes from applications, by what is said there; and the cure.

    `place` is as in `Facts.read_only`.
    """
    setting = "default_transaction_read_only"
    text = f"{name} takes no writes from applications: {setting} is on, by "
    file, _, line = place.rpartition(":")
    if file.endswith("/postgresql.auto.conf"):
        sql = f"ALTER SYSTEM RESET {setting}"
        reload = f'`invoke psql --node {name} --command "SELECT pg_reload_conf()"`'
        cure = f'`invoke psql --node {name} --command "{sql}"`, then {reload}'
        return f"{text}ALTER SYSTEM", cure
    if file.startswith("/"):
        where = "in the topology's settings or conf/postgresql.conf, then `invoke setup-master`"
        ours = file.endswith("/pgherd.conf")
        return (
            f"{text}{file}, line {line}",
            f"change it {where if ours else f'there, then `docker kill --signal HUP {name}`'}",
        )
    change = f"BEGIN READ WRITE; SET LOCAL ROLE NONE; ALTER {place} RESET {setting}; COMMIT"
    return (
        f"{text}ALTER {place}",
        f"`invoke psql --node {name} --command {shlex.quote(change)}`",
    )


def is_failing(node: NodeObservation) -> bool:
    """Tell whether a server ends again and again: the engine restarts it, or has just done so.

    One that recovers after a crash says that it is starting up.
    """
    container = node.container
    if container is None or container.planned:
        return False
    again = container.restarts and container.status == "running" and node.facts is None
    silent = again and not node.files and "the database system is" not in node.silence
    return container.status == "restarting" or bool(silent)


def is_running(node: NodeObservation) -> bool:
    """Tell whether a node's container runs, or is about to."""
    return bool(node.container and node.container.alive)


def is_primary_data(disk: Disk) -> bool:
    """Tell whether a server would run on this data as a primary."""
    return bool(disk.pg_version) and not disk.standby_signal and not disk.unfinished


def has_newer(name: str, timeline: int, other: str, its: int) -> str:
    """Say that a node was promoted after the one that it is to follow, by their timelines."""
    return f"{name} was promoted and has newer data (timeline {timeline}; {other} is at {its})"


# --- who leads, of those that run and those that are down ---


@dataclass(frozen=True)
class Contest:
    """Who leads in a group, with what is known of its nodes, and what each has of its own."""

    leader: Leader | None
    known: Mapping[str, Known]
    own: Own

    @property
    def name(self) -> str:
        """The node that leads; empty where none does."""
        return self.leader.name if self.leader else ""

    def describe(self, name: str) -> str:
        """Say who leads, why, and what another node and that one have of their own."""
        why = f": {self.leader.why}" if self.leader and self.leader.why else ""
        what = leadership.describe_difference(self.known, self.own, name, self.name)
        return f"{self.name} leads{why}. {what}"


def contest(
    group: Group, seen: Observation, image: Image, disks: Mapping[str, Disk], system: str | None
) -> Contest:
    """Return who leads of one system: of its primaries, and of the nodes that are down.

    A standby counts as well where it was promoted, or follows one that was, after all of those:
    then none of them is to be primary.

    Args:
        group: the group.
        seen: the group as it was found.
        image: for a look into the WAL of nodes that are down.
        disks: what lies in the data directories of the nodes that are down.
        system: the identifier of the database that is meant.
    """
    known = leadership.known_of(group.topology, seen.facts)
    known |= {
        name: leadership.of_disk(
            disk,
            leads=is_primary_data(disk),
            follows=leadership.set_to_follow(group.topology, name, disk.primary_conninfo),
        )
        for name, disk in disks.items()
        if disk.pg_version and not disk.unfinished
    }
    known = {name: node for name, node in known.items() if node.system == system}
    newest = max((k.history.timeline for k in known.values() if k.leads), default=0)
    if newest:
        known = {
            name: replace(node, leads=node.leads or node.history.timeline > newest)
            for name, node in known.items()
        }
    known |= _ends(group, image, disks, known)
    own = _counted(group, seen, image, disks, known)
    return Contest(leadership.leader(known, own, group.master.name), known, own)


def _ends(
    group: Group, image: Image, disks: Mapping[str, Disk], known: Mapping[str, Known]
) -> dict[str, Known]:
    """Return the standbys that are down and have WAL from where histories part.

    Their control data tells only what they have to have at least.
    """
    names = [name for name, node in known.items() if node.leads]
    forks = {known[a].history.fork(known[b].history) for a, b in combinations(names, 2)}
    parted = {fork for fork in forks if fork and fork.lsn}

    def look(name: str) -> Known:
        node = known[name]
        for timeline, lsn in parted:
            instance, disk = group.instance(name), disks[name]
            if lsn and timeline == disk.timeline and lsn_to_int(node.end) <= lsn_to_int(lsn):
                found = wal_beyond(instance, image, disk, timeline, lsn)
                node = replace(node, end=record_end(lsn, found.size)) if found else node
        return node

    down = [name for name in known if name in disks and name not in names]
    return dict(zip(down, run_all(look, down), strict=True)) if parted else {}


def _counted(
    group: Group,
    seen: Observation,
    image: Image,
    disks: Mapping[str, Disk],
    known: Mapping[str, Known],
) -> Own:
    """Count what each of those that may lead has and the others have not."""
    names = [name for name, node in known.items() if node.leads]
    pairs = [pair for pair in permutations(names, 2) if pair not in seen.own]

    def count(pair: tuple[str, str]) -> Beyond | None:
        name, other = pair
        if name in seen.facts:
            return group.count_one(known, name, other)
        return of_down(group, image, disks[name], known, pair)

    return {**seen.own, **dict(zip(pairs, run_all(count, pairs), strict=True))}


def of_down(
    group: Group, image: Image, disk: Disk, known: Mapping[str, Known], pair: tuple[str, str]
) -> Beyond | None:
    """Count what the first node of a pair, which is down, has and the second has not."""
    name, other = pair
    fork = known[name].history.fork(known[other].history)
    if fork is None or fork.lsn is None:
        return leadership.beyond(known[name], known[other])
    try:
        return wal_beyond(group.instance(name), image, disk, fork.timeline, fork.lsn)
    except Error:
        return leadership.beyond(known[name], known[other])


def disks_of(group: Group, seen: Observation, image: Image) -> dict[str, Disk]:
    """Return what lies in the data directories of the nodes that are down and can be looked at."""
    down = [
        instance
        for name, instance in group.instances.items()
        if not is_running(seen.nodes[name]) and instance.node.host not in group.away
    ]
    found = run_all(lambda instance: preconditions.data_of(instance, image), down)
    return {instance.name: disk for instance, disk in zip(down, found, strict=True)}


def leader_down(group: Group, seen: Observation, image: Image, but: str = "") -> str:
    """Return the node that is down and leads, where none serves as primary; empty if none does.

    One may serve that is to be seeded itself (`but`), as one with a database of its own.
    """
    if [name for name in seen.primaries if name != but]:
        return ""
    disks = disks_of(group, seen, image)
    systems = [d.system_identifier for d in disks.values() if is_primary_data(d)]
    for system in dict.fromkeys(systems):
        found = contest(group, seen, image, disks, system)
        if found.name and is_primary_data(disks.get(found.name, Disk())):
            return found.name
    return ""


# --- what is refused ---


def refuse_second(group: Group, seen: Observation, image: Image, name: str, disk: Disk) -> None:
    """Refuse to start a server as primary where another node of its system leads, or may.

    Raises:
        Refused: with who leads, and what to do.
    """
    if not is_primary_data(disk):
        return
    refuse_silent(seen, {name})
    disks = {**disks_of(group, seen, image), name: disk}
    found = contest(group, seen, image, disks, disk.system_identifier)
    serving = [n for n in seen.primaries if n != name and n in found.known]
    if serving or found.name != name:
        raise Refused(_second(group, found, name, disks, serving))


def refuse_silent(seen: Observation, starting: set[str]) -> None:
    """Refuse to start a primary beside a node that runs and does not answer: it may be one."""
    for name, node in seen.nodes.items():
        silent = is_running(node) and not node.facts and not node.planned
        if name not in starting and silent:
            raise Refused(
                f"{name} runs and does not answer yet, so it is not known who is primary: "
                f"`invoke logs --node {name}`, then again.\n{node.silence}"
            )


def _second(
    group: Group, found: Contest, name: str, disks: Mapping[str, Disk], serving: list[str]
) -> str:
    other = found.name if found.name != name else serving[0]
    if serving and found.name in serving:
        return (
            f"{other} is the primary, and {name} is not marked as a standby: beside {other} it "
            f"would be a second primary. `invoke rejoin {name}` brings it back as a standby."
        )
    if serving:
        return serves_instead(group, found, serving[0])
    if unmarked := copied(disks, name, other):
        return unmarked
    return (
        f"{name} is not the one to be primary. {found.describe(name)}. `invoke start` runs "
        f"{other}; then `invoke rejoin {name}` makes {name} its standby."
    )


def serves_instead(group: Group, found: Contest, serving: str) -> str:
    """Say that a node serves as primary which does not lead, as the one that does is down."""
    stop = group.there(group.topology.node(serving).host, f"docker stop {serving}")
    return (
        f"{serving} serves as primary, and is not the one to keep. {found.describe(serving)}. What "
        f"clients write on {serving} makes it worse: `{stop}`, then `invoke start`, which runs "
        f"{found.name}, and `invoke rejoin {serving}`."
    )


def _last_checkpoint(disk: Disk) -> tuple[str | None, tuple[int, int], str]:
    return disk.system_identifier, disk.position, disk.checkpointed


def copied(disks: Mapping[str, Disk], name: str, other: str) -> str:
    """Say that of two nodes one is a copy of the other, if neither has run since it was made."""
    mine, theirs = disks.get(name, Disk()), disks.get(other, Disk())
    stopped = (
        mine.state == theirs.state == "shut down"
        and is_primary_data(mine)
        and is_primary_data(theirs)
    )
    if not stopped or _last_checkpoint(mine) != _last_checkpoint(theirs):
        return ""
    return (
        f"The data of {name} is a copy of {other}'s and not marked as a standby: started like "
        "this it would be a second primary, take writes of its own, and never be the same "
        f"again. If it has never run by itself, connect and mark it first (`invoke "
        f"step.connect-standby --node {name} step.mark-standby --node {name}`); else seed it "
        f"anew (`invoke seed-standby --node {name}`)."
    )
