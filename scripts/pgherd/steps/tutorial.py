"""The tutorial's twelve steps, each by itself, and which of them are done.

The tutorial starts the copy before it is marked as a standby, which makes it diverge in silence,
and asks for a synchronous standby before one streams, which hangs: hence this order.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgherd.docker import docker
from pgherd.errors import Refused
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.shell import Tool
from pgherd.steps import guards
from pgherd.steps.image import find_image


@dataclass(frozen=True)
class Step:
    """One step: its number and task, what it does, and the tutorial's line it stands for."""

    number: int
    task: str
    does: str
    line: str
    done: str = ""  # yes, no, or how to see it


STEPS = (
    Step(1, "run-master", "run the master on its own data directory",
         "docker run --name pmaster -p 5432:5432 -v …/pmaster_data:… -d postgres"),
    Step(2, "run-standby", "run the standby-to-be, with a database of its own",
         "docker run --name pstandby -p 5433:5432 -v …/pstandby_data:… -d postgres"),
    Step(3, "stop", "stop both, in order",
         "docker stop pmaster pstandby"),
    Step(4, "set-aside", "set the standby's own data aside",
         "mv pstandby_data pstandby_data_bk"),
    Step(5, "copy-data", "copy the master's data (or step.base-backup: from the running master)",
         "cp -R pmaster_data pstandby_data"),
    Step(6, "allow-replication", "make the replication role and let it in",
         "vim pg_hba.conf: host replication postgres all md5"),
    Step(7, "connect-standby", "tell the standby whom to follow",
         "vim postgresql.conf: primary_conninfo = 'application_name=standby1 …'"),
    Step(8, "mark-standby", "mark it as a standby, so that it is read-only",
         "touch standby.signal"),
    Step(9, "start", "start both and wait until they serve",
         "docker start pmaster pstandby"),
    Step(10, "require-sync", "make the master wait for the standby",
         "vim postgresql.conf: synchronous_standby_names = first 1 (standby1)"),
    Step(11, "logs", "show the logs of both",
         "docker logs pmaster; docker logs pstandby"),
    Step(12, "check", "prove it: a row seen, a write refused",
         "select * from pg_stat_replication; create table …; \\d test"),
)  # fmt: skip


# --- which are done ---


def look(group: Group) -> list[Step]:
    """Return the steps with what is done now, as Docker, PostgreSQL and the files tell."""
    seen = group.observe(tolerant=True)
    first, second = _roles(group, seen)
    a, b = seen.nodes[first.name], seen.nodes[second.name]
    ca, cb = a.container, b.container
    mine, theirs = _state(group, second, seen), _state(group, first, seen)
    done = {
        "run-master": bool(ca),
        "run-standby": bool(cb),
        "stop": bool(ca and cb and not ca.alive and not cb.alive),
        "set-aside": _aside(second),
        "copy-data": bool(mine.system and mine.system == theirs.system),
        "allow-replication": bool(
            a.facts and a.facts.replicator and a.facts.hba_lets_replicator_in
        ),
        "connect-standby": mine.connected,
        "mark-standby": mine.standby,
        "start": bool(a.facts and b.facts),
        "require-sync": bool(a.facts and a.facts.sync_names),
    }
    how = {"logs": "invoke step.logs", "check": "invoke verify"}
    return [
        Step(s.number, s.task, s.does, s.line, how.get(s.task) or _yes(done[s.task])) for s in STEPS
    ]


def _roles(group: Group, seen: Observation) -> tuple[Instance, Instance]:
    """Return who is master and standby: as observed, or as asked where none is primary."""
    master, standby = group.master, first_standby(group)
    if len(seen.primaries) != 1 or seen.primaries == [master.name]:
        return master, standby
    primary = group.instance(seen.primaries[0])
    return primary, master if primary is standby else standby


def _yes(done: bool) -> str:
    return "yes" if done else "no"


@dataclass(frozen=True)
class _State:
    system: str | None = None
    connected: bool = False
    standby: bool = False


def _state(group: Group, instance: Instance, seen: Observation) -> _State:
    """Look at a node's data through its server, or in its directory if that is down."""
    node = seen.nodes[instance.name]
    if node.facts:
        return _of_facts(node.facts)
    if node.container and node.container.alive:
        return _State()  # it does not answer now
    image = find_image(group, seen)
    if image is None or guards.data_state(instance) != guards.FULL:
        return _State()
    return _of_disk(instance.disk(image))


def _of_facts(facts: Facts) -> _State:
    return _State(facts.system_identifier, bool(facts.primary_conninfo), facts.in_recovery)


def _of_disk(disk: Disk) -> _State:
    return _State(disk.system_identifier, disk.connected, disk.standby_signal)


def _aside(instance: Instance) -> bool:
    if volume := instance.node.volume:
        listed = docker["volume", "ls", "--quiet", "--filter", f"name={volume}_bk_"]
        return bool(instance.engine.must(listed, reads=True).out.strip())
    parent, _, name = instance.places.data.rpartition("/")
    found = instance.host.run(
        Tool("find")[parent, "-maxdepth", "1", "-name", f"{name}_bk_*"], reads=True
    )
    return bool(found.out.strip())


def first_standby(group: Group) -> Instance:
    """Return the node that the tutorial calls pstandby.

    Raises:
        Refused: the topology has no standby.
    """
    if not group.topology.standbys:
        raise Refused(f"Group {group.name} has no standby: add one to {group.topology.source}.")
    return group.instance(group.topology.standbys[0].name)
