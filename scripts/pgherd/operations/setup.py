"""Setting up the first primary: steps 1 and 6 of the tutorial."""

from __future__ import annotations

from collections.abc import Callable

from pgherd.docker.models import Container, Image, Mount
from pgherd.errors import Refused
from pgherd.group import preconditions, primary
from pgherd.group.group import Group
from pgherd.group.node_config import base_settings
from pgherd.group.observation import Observation
from pgherd.group.platforms import tell_differences
from pgherd.hosts.commands import Tool
from pgherd.hosts.parallel import run_all
from pgherd.operations import set_aside, start_stop
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import (
    CHECK,
    DataGone,
    bring_up,
    data_on,
    lay_stale,
    make_directories,
    private_fragment,
    report_changes,
    run_container,
    serve,
    settings_fragment,
    streaming_password,
    with_settings,
)
from pgherd.postgres import scripts
from pgherd.postgres.datadir import ScriptFailed
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import Instance

NOT_EMPTY, VANISHED = 65, 66  # exit codes of sh/initdb.sh


def setup_master(group: Group) -> None:
    """Run the primary on its data directory and make it ready for standbys; never promotes."""
    group.passwords.known("postgres")  # one that cannot be used is refused before anything is done
    base_settings()
    with group.locked():
        seen = group.observe()
        tell_differences(group)
        run_master(group, seen)
        allow_replication(group, group.master)


# --- step 1 ---


def run_master(group: Group, seen: Observation) -> None:
    """Step 1: run the topology's first primary on its data, which is made if there is none.

    Raises:
        Refused: another node is primary, the node is a standby now, or its data is gone, is in
            use, or is something else than a database of the image's major version.
    """
    master = group.master
    preconditions.check_name(group, master, seen)
    preconditions.check_passwords(group, seen)
    _refuse_other_primary(group, seen)
    image = ensure_image(group, seen)
    container = seen.nodes[master.name].container
    if primary.is_failing(seen.nodes[master.name]):  # to see its data, and lay settings
        start_stop.stop_instances(group, [master], clean=False)
        container = master.container()
    if container and container.alive:
        preconditions.check_spec(master, container, image)
        group.trace.note(f"{master.name}: already runs")
        return
    preconditions.check_data_unused(master, seen)
    preconditions.check_port(master, seen)
    master.engine.check_network(group.network, group.name)
    disk = _data_of_master(group, seen, image, container)
    if disk.standby_signal:
        raise Refused(
            f"The data of {master.name} is a standby's (standby.signal): setup-master never "
            "promotes. `invoke start` runs the group as it is."
        )
    if disk.empty or disk.unfinished:
        make_database(group, master, image)
    else:
        primary.refuse_second(group, seen, image, master.name, disk)
        group.trace.note(f"{master.name}: its data is here already; running it")
        bring_up(group, master, image, container, disk)
        return
    run_container(group, master, image, container)


def _data_of_master(
    group: Group, seen: Observation, image: Image, container: Container | None
) -> Disk:
    """Look at the data of the topology's first node.

    Raises:
        Refused: it is gone, or half copied.
    """
    try:
        disk = data_on(group, group.master, image, container)
        start_stop.refuse_half_copied(group.master, disk)
    except Refused as fault:
        leading = primary.leader_down(group, seen, image)
        if not leading:
            raise
        raise Refused(
            f"{leading} leads this group, and is down: `invoke start` runs it, and then `invoke "
            f"rejoin {group.master.name}` makes {group.master.name} its standby.\n{fault.sentence}"
        ) from None
    return disk


def _refuse_other_primary(group: Group, seen: Observation) -> None:
    master = group.master
    facts = seen.nodes[master.name].facts
    others = [name for name in seen.primaries if name != master.name]
    if facts and facts.in_recovery:
        raise Refused(
            f"{master.name} is a standby now; setup-master never promotes. `invoke switchover --to "
            f"{master.name}` makes it the primary again."
        )
    for name in others:
        other = seen.nodes[name].facts
        if facts and other and other.system_identifier == facts.system_identifier:
            raise Refused(f"{group.several(seen)}.")
    if others and not facts and _same_group(group, seen, others[0]):
        raise Refused(
            f"{others[0]} is the primary of this group now: `invoke rejoin {master.name}` makes it "
            f"follow, or `invoke seed-standby --node {master.name}` where it has no data."
        )


def _same_group(group: Group, seen: Observation, name: str) -> bool:
    """Tell whether a lone primary came from this group's master, not from step.run-standby."""
    facts = seen.nodes[name].facts
    return bool(facts and facts.replicator and group.instance(name).node.upstream is not None)


def make_database(group: Group, instance: Instance, image: Image) -> None:
    """Make a new database in the node's empty data directory, with its settings laid in."""
    data = instance.node.data
    if (
        preconditions.data_state(instance) == preconditions.FULL
    ):  # half made, by a run that was killed
        set_aside.set_data_aside(group, instance, image, why="half made by setup-master")
    group.trace.note(f"{instance.name}: making a database in {data} (image {image.ref})")
    own = _initdb_scripts(instance)
    superuser = group.passwords.of("postgres")
    private = private_fragment(group, instance)
    make_directories(group, instance)
    script = scripts.compose(
        private,
        scripts.password("superuser_password", superuser),
        "initdb",
        "initdb-done",
        settings_fragment(instance),
        CHECK,
    )
    mounts = instance.all_mounts()
    mounts += [Mount(own, "/docker-entrypoint-initdb.d", readonly=True)] if own else []
    acts: list[Callable[[], object]] = [
        lambda: instance.offline(image, script, mounts=mounts, timeout=None),
        lambda: instance.engine.make_network(group.network, group.name),
    ]
    try:
        with_settings(instance, lambda: run_all(lambda act: act(), acts))
    except ScriptFailed as failed:
        if failed.exit_code == VANISHED:
            raise DataGone(group, instance) from None
        if failed.exit_code == NOT_EMPTY:
            raise Refused(f"{instance.name}: {data} is not empty: {failed.said}") from None
        raise


def _initdb_scripts(instance: Instance) -> str | None:
    """Return the directory of the user's scripts for a new database, on the node's host.

    Raises:
        Refused: it is not there.
    """
    own = instance.places.initdb
    if own and not instance.host.run(Tool("test")["-d", own], reads=True).ok:
        raise Refused(
            f"group.initdb: there is no directory {own} on {instance.node.host}. It is a path of "
            f"the host of {instance.name}, as data directories are: copy the scripts there."
        )
    return own


# --- step 6 ---


def allow_replication(group: Group, instance: Instance) -> None:
    """Step 6: settings, the role replicator and the rule that lets it in, on a running server."""
    secret = streaming_password(group, asked=True)
    out = serve(group, instance, secret, "role", "passfile-current")
    lay_stale(group, instance, out)
    changed = report_changes(instance, out)
    group.served.add(instance.name)
    if changed or group.trace.dry:
        group.trace.note(f"{instance.name}: allows replication")
    else:
        group.trace.note(f"{instance.name}: already allows replication")
