"""The tutorial's twelve steps, each by itself, and which of them are done.

The tutorial starts the copy before it is marked as a standby, which makes it diverge in silence,
and asks for a synchronous standby before one streams, which hangs: hence this order.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgherd.docker.engine import docker
from pgherd.docker.models import Image
from pgherd.errors import Refused
from pgherd.group import outside_data, preconditions
from pgherd.group import primary as leadership
from pgherd.group.group import Group
from pgherd.group.image import find_image
from pgherd.group.observation import Observation
from pgherd.hosts.commands import Tool
from pgherd.operations import connect, copy, setup, start_stop, sync
from pgherd.operations import set_aside as aside
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import bring_up, data_on, run_container, wait_serving
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import Instance


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
    if image is None or preconditions.data_state(instance) != preconditions.FULL:
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


# --- the tutorial's steps, each by itself: for those who learn, and for mending by hand ---


def run_master(group: Group) -> None:
    """Step 1."""
    with group.locked():
        setup.run_master(group, group.observe())
        wait_serving(group, group.master)


def run_standby(group: Group, name: str) -> None:
    """Step 2: run a node with a database of its own, as the tutorial does; no standby yet."""
    instance = group.instance(name)
    with group.locked():
        seen = group.observe()
        preconditions.check_name(group, instance, seen)
        image = ensure_image(group, seen)
        container = seen.nodes[name].container
        if container and container.alive:
            group.trace.note(f"{name}: already runs")
            return
        preconditions.check_data_unused(instance, seen)
        preconditions.check_port(instance, seen)
        disk = data_on(group, instance, image, container)
        start_stop.refuse_half_copied(instance, disk)
        if disk.empty or disk.unfinished:
            setup.make_database(group, instance, image)
            run_container(group, instance, image, container)
        else:
            leadership.refuse_second(group, seen, image, name, disk)
            bring_up(group, instance, image, container, disk)
        wait_serving(group, instance)


def set_aside(group: Group, name: str) -> None:
    """Step 4."""
    with group.locked():
        instance, image = _down(group, name)
        outside_data.refuse_to_remove_all(group, [instance], group.observe())
        aside.refuse_unmovable(instance)
        if aside.set_data_aside(group, instance, image, why="step.set-aside") is None:
            group.trace.note(f"{name}: nothing to set aside")


def copy_data(group: Group, name: str) -> None:
    """Step 5, from a stopped master."""
    with group.locked():
        instance, image = _down(group, name)
        leading = leadership.leader_down(group, group.observe(), image)
        upstream = group.instance(leading) if leading else group.master
        if upstream is instance:
            raise Refused(f"{name} is the one that leads: it is no copy of another.")
        container = upstream.container()
        if container and container.alive:
            raise Refused(f"{upstream.name} runs: its files cannot be copied. `invoke step.stop`.")
        copy.refuse_links(upstream, preconditions.data_of(upstream, image))
        copy.copy_data(group, instance, upstream, image)


def base_backup(group: Group, name: str) -> None:
    """Step 5, from a running master; its replication role must be there (step 6)."""
    with group.locked():
        instance, image = _down(group, name)
        seen = group.observe()
        upstream = group.upstream_of(instance, seen.primaries, seen)
        outside_data.refuse_to_copy(group, upstream, seen)
        outside_data.refuse_nested(upstream, seen)
        options = copy.slot_options(instance, upstream, seen.nodes[upstream.name].facts)
        copy.base_backup(group, instance, upstream, image, [*options, "--checkpoint=fast"])


def allow_replication(group: Group) -> None:
    """Step 6; a master that is down is started for it, since a role is a row in it."""
    with group.locked():
        seen = group.observe()
        if not seen.primaries and not seen.nodes[group.master.name].planned:
            setup.run_master(group, seen)
            wait_serving(group, group.master)
            seen = group.observe()
        setup.allow_replication(group, group.primary(seen))


def connect_standby(group: Group, name: str) -> None:
    """Step 7."""
    with group.locked():
        seen = group.observe()
        facts = seen.nodes[name].facts if name in seen.nodes else None
        if facts and facts.in_recovery and facts.primary_slot == group.instance(name).node.slot:
            group.trace.note(f"{name}: already connected")
            return
        instance, image = _down(group, name)
        _refuse_empty(instance, image)
        others = [n for n in seen.primaries if n != name]
        if others:
            upstream = group.upstream_of(instance, others, seen)
        else:
            leading = leadership.leader_down(group, seen, image)
            upstream = group.instance(leading) if leading not in {"", name} else group.master
        if seen.nodes[upstream.name].facts:
            connect.ensure_slot(instance, upstream)
        connect.connect_stopped(group, instance, upstream, image, mark=False)


def mark_standby(group: Group, name: str) -> None:
    """Step 8."""
    with group.locked():
        seen = group.observe().nodes.get(name)
        if seen and seen.facts and seen.facts.in_recovery:
            group.trace.note(f"{name}: already marked as a standby")
            return
        instance, image = _down(group, name)
        _refuse_empty(instance, image)
        _refuse_leader(group, instance, image)
        connect.mark_standby(group, instance, image)


def require_sync(group: Group) -> None:
    """Step 10.

    Raises:
        Refused: fewer standbys stream than a commit would wait for.
    """
    with group.locked():
        seen = group.observe()
        primary = group.primary(seen)
        preconditions.check_alter_system(group, seen, primary.name)
        sync.require_sync(group, primary, seen.nodes[primary.name].facts, defer=False)


def _down(group: Group, name: str) -> tuple[Instance, Image]:
    """Return a node whose server is down, with the image to work on its files."""
    instance = group.instance(name)
    seen = group.observe()
    preconditions.check_name(group, instance, seen)
    container = seen.nodes[name].container
    if container and container.alive:
        raise Refused(f"{name} runs, and this step works on its files: `invoke step.stop` first.")
    preconditions.check_data_unused(instance, seen)
    return instance, ensure_image(group, seen)


def _refuse_leader(group: Group, instance: Instance, image: Image) -> None:
    """Refuse to mark the node with the newest history: that is the primary, not a standby."""
    mine = instance.disk(image)
    for name, node in group.observe().nodes.items():
        other = group.instance(name)
        if other is instance or mine.standby_signal:
            continue
        full = preconditions.data_state(other) == preconditions.FULL
        theirs = node.facts or (other.disk(image) if full else None)
        if theirs and theirs.system_identifier == mine.system_identifier:
            if theirs.timeline >= mine.timeline:
                return
            raise Refused(
                f"{leadership.has_newer(instance.name, mine.timeline, name, theirs.timeline)}: it "
                f"is the primary. `invoke start` runs it, and `invoke rejoin {name}` lets {name} "
                "follow."
            )


def _refuse_empty(instance: Instance, image: Image) -> None:
    if preconditions.data_of(instance, image).empty:
        raise Refused(f"{instance.name} has no data yet: step.copy-data or step.base-backup.")
