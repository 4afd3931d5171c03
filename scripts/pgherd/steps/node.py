"""What every procedure does with one node: look at its data, make its places, run its container."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pgherd import config
from pgherd.docker import GROUP_LABEL, Container, Image, Mount, docker
from pgherd.errors import Error, Refused
from pgherd.host.together import side_by_side
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Disk
from pgherd.postgres.failed import ScriptFailed
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PGDATA, READY_SECONDS, Instance
from pgherd.postgres.observation import Observation
from pgherd.rules import NEEDS_ALTER_SYSTEM, OFF
from pgherd.shell import Script, Tool
from pgherd.steps import aside, belonging, guards, outside
from pgherd.steps.hba import hba_values
from pgherd.steps.image import find_image
from pgherd.steps.private import hear, lay_private, private_fragment, streaming_password
from pgherd.steps.tls import laid

T = TypeVar("T")

BAD_SETTINGS = 72  # the exit code of sh/check-settings.sh
CHECK = "check-settings"
NO_NETWORK = re.compile(r"network \S+ not found", re.IGNORECASE)  # of an id that is gone
DELAY = "recovery_min_apply_delay"


class DataGone(Refused):
    """A node's database was there and is not any more: no new one is made in its place."""

    def __init__(self, group: Group, instance: Instance) -> None:
        image = group.image.ref if group.image else group.topology.group.image
        # The directory is postgres's own, and the mark is removed as root, in a container.
        private = Mount(instance.places.private, "/p").option()
        words = ["--mount", private, "--entrypoint", "rm", image, "/p/initdb.done"]
        unmark = shlex.join(["docker", "run", "--rm", *words])
        begin = group.there(instance.node.host, f"docker rm {instance.name}; {unmark}")
        anew = f"`invoke start` runs the others, if they have one. To begin anew: `{begin}`"
        if instance.node.upstream:
            anew = f"Or seed it anew: `invoke rejoin {instance.name}`"
        super().__init__(
            f"The database of {instance.name} is gone: {instance.node.data} has none, and it had "
            "one. No new one is made in its place. Put it back (a mount that is missing, a copy "
            f"set aside: `invoke backups`). {anew}."
        )


def data_on(group: Group, instance: Instance, image: Image, container: Container | None) -> Disk:
    """Look at what a node that is down has for data.

    Raises:
        Refused: it had a container or a database and its data is gone, or a part of it that lies
            elsewhere; or it is no database of this major version.
    """
    state = guards.data_state(instance)
    if state in {guards.ABSENT, guards.EMPTY}:
        if container or instance.disk(image, data=False).was_initialised:
            raise DataGone(group, instance)
        return Disk()
    disk = instance.disk(image)
    if disk.empty and (container or disk.was_initialised):
        raise DataGone(group, instance)
    if disk.empty or disk.unfinished:
        return disk
    belonging.check_major(instance, disk, image)
    belonging.check_group_of_data(group, instance, disk)
    outside.refuse_to_start(group, instance, disk, container, image)
    return disk


def make_directories(group: Group, instance: Instance) -> None:
    """Make the node's directories or its volume; the one for secrets is ours alone."""
    places = instance.places
    make_private(instance)
    instance.make_tablespaces()
    if volume := instance.node.volume:
        if not instance.engine.volume_exists(volume):
            label = f"{GROUP_LABEL}={group.name}"
            instance.engine.must(docker["volume", "create", "--label", label, volume])
        return
    result = instance.host.run(Tool("mkdir")["-p", "--", places.data])
    if not result.ok:
        raise Refused(f"{instance.name}: its directory cannot be made: {result.err.strip()}")


def make_private(instance: Instance) -> None:
    """Make the node's directory for what is no data."""
    made = instance.host.run(Tool("mkdir")["-p", "-m", "700", "--", instance.places.private])
    if not made.ok:
        raise Refused(f"{instance.name}: its private directory: {made.err.strip()}")


def adopt(group: Group, instance: Instance, image: Image) -> None:
    """Make an existing database ready to be run: passfile, settings, the mark that it is here."""
    make_directories(group, instance)
    pieces: list[Script | str] = [
        private_fragment(group, instance),
        "adopted",
        settings_fragment(instance),
    ]
    with_settings(instance, lambda: instance.offline(image, scripts.compose(*pieces, CHECK)))


def with_settings(instance: Instance, act: Callable[[], T]) -> T:
    """Do what lays the node's settings; where PostgreSQL does not take them, say which.

    Raises:
        Refused: a setting is unknown or has no such value.
    """
    try:
        return act()
    except ScriptFailed as failed:
        if failed.exit_code != BAD_SETTINGS:
            raise
        raise Refused(
            f"PostgreSQL does not take the settings of {instance.name}: {failed.said}\n"
            f"They come from conf/postgresql.conf and nodes.{instance.name}.settings."
        ) from None


def settings_fragment(instance: Instance) -> str:
    """Return the fragment that lays the node's settings into its data directory."""
    include = "include 'pgherd.conf'\n"
    return (
        '[ ! -e "$PGDATA/pgherd.conf" ] || '
        'as_postgres cp "$PGDATA/pgherd.conf" "$PGDATA/pgherd.conf.before"\n'
        + scripts.lay("$PGDATA/pgherd.conf", settings(instance))
        + scripts.block("$PGDATA/postgresql.conf", "settings", include)
    )


def delayed(instance: Instance) -> bool:
    """Tell whether the topology asks the node to replay later than it receives."""
    return any(name.lower() == DELAY for name in instance.node.settings)


def settings(instance: Instance) -> str:
    """Return the text of the node's pgherd.conf."""
    tls = laid.settings(instance)
    extra = {"cluster_name": instance.name, **tls, **instance.node.settings}
    return conf.render_settings(base_settings(), extra)


def base_settings() -> str:
    """Return the settings of every node, as conf/postgresql.conf has them.

    Raises:
        Refused: one of them is none that a node can have.
    """
    base = config.conf_file("postgresql.conf")
    if re.fullmatch(OFF, conf.read_settings(base).get("allow_alter_system", "on").lower()):
        raise Refused(
            f"conf/postgresql.conf: allow_alter_system cannot be off: {NEEDS_ALTER_SYSTEM}."
        )
    return base


def bring_up(
    group: Group, instance: Instance, image: Image, container: Container | None, disk: Disk
) -> None:
    """Run a server on the data that it has, with the settings that are asked for now."""
    wanted = hashlib.sha256(settings(instance).encode()).hexdigest()
    if disk.settings != wanted or not disk.ours or disk.unready:
        adopt(group, instance, image)
    if disk.standby_signal:
        aside.keep_unarchived(group, instance, image, disk.unarchived)
    run_container(group, instance, image, container)


def run_container(
    group: Group, instance: Instance, image: Image, container: Container | None
) -> None:
    """Start the node's container, or make it; does not wait until it serves.

    Raises:
        Refused: by now another container has its data.
    """
    guards.check_still_unused(instance)
    if container and guards.check_spec(instance, container, image):
        if container.is_off(group.network):
            put_on_network(group, instance, container)
        group.trace.note(f"{instance.name}: starting it")
        try:
            instance.engine.start(container)
        except Error as fault:
            if not NO_NETWORK.search(fault.sentence):
                raise
            put_on_network(group, instance, container)
            instance.engine.start(container)
        return
    if container:
        group.trace.note(
            f"{instance.name}: the topology asks for another container; making it anew"
        )
        instance.engine.remove(container)
    node = instance.node
    instance.engine.make_network(group.network, group.name)
    group.trace.note(f"{instance.name}: running it, published on {node.listen}:{node.port}")
    instance.run_server(image)


def put_on_network(group: Group, instance: Instance, container: Container) -> None:
    """Put a container on the group's network, from which somebody took it, or which was gone."""
    group.trace.note(f"{instance.name}: is not on the network {group.network}: connecting it")
    instance.engine.make_network(group.network, group.name)
    instance.engine.connect(container, group.network)


def connect_all(group: Group, seen: Observation) -> list[Instance]:
    """Put the servers that run on the group's network, where they are not; return these.

    Their rules are brought up to date: the network may be a new one.
    """
    off = [i for i in group.instances.values() if guards.is_off_network(group, i, seen)]
    for instance in off:
        if container := seen.nodes[instance.name].container:
            put_on_network(group, instance, container)
    side_by_side(lambda instance: wait_serving(group, instance), off)
    return off


def wait_serving(
    group: Group, instance: Instance, *more: str | Script, seconds: int = READY_SECONDS
) -> None:
    """Wait until a server answers; bring its settings, rules and passfile up to date; do more."""
    secret = streaming_password(group, asked=True)
    out = serve(group, instance, secret, "passfile-current", *more, seconds=seconds)
    keep(instance, out)
    lay_stale(group, instance, out)


def lay_stale(group: Group, instance: Instance, out: str) -> None:
    """Lay the passfile of a server that runs where sh/passfile-current.sh tells of it."""
    if "stale passfile" in out and (image := find_image(group)):
        lay_private(group, instance, image)


def bring_passfile(group: Group, instance: Instance) -> None:
    """Where a change of passwords was cut short, see that a server's passfile lets it in."""
    if group.passwords.replacing():
        script = scripts.compose(streaming_password(group, asked=True), "passfile-current")
        out = instance.execute(script, reads=True)
        hear(group, out)
        lay_stale(group, instance, out)


def serve(
    group: Group, instance: Instance, *more: str | Script, seconds: int = READY_SECONDS
) -> str:
    """Run the script of `serving_script`; a setting that PostgreSQL does not take is refused.

    With TLS key and certificates are laid first where they are not as they ought to be.
    """
    script = serving_script(group, instance, *more, seconds=seconds)
    run = partial(instance.execute, script, seconds + seconds / 5)
    out = with_certificates(group, instance, lambda: with_settings(instance, run))
    hear(group, out)
    return out


def with_certificates(group: Group, instance: Instance, act: Callable[[], str]) -> str:
    """Do what begins with `laid.current`; where that tells of it, lay them and do it again."""
    stale = group.trace.dry and laid.seen_stale(group, instance)
    out = "" if stale else act()
    if stale or laid.STALE in out:
        if image := find_image(group):
            lay_private(group, instance, image, "certificates")
        out = act()
    return out


def serving_script(
    group: Group, instance: Instance, *more: str | Script, seconds: int = READY_SECONDS
) -> Script:
    """Return the script that waits for a server and brings its files up to date, and does more."""
    return scripts.compose(
        "ready",
        *laid.current(group, instance),
        settings_fragment(instance),
        CHECK,
        *laid.switched_on(instance),
        "hba",
        *(["delay"] if delayed(instance) else []),
        *more,
        "reload",
        seconds=seconds,
        PGDATA=PGDATA,
        **hba_values(instance),
    )


def keep(instance: Instance, out: str) -> list[str]:
    """Say what a script of `serving_script` changed, and what waits for a restart; return both."""
    note = instance.host.trace.note
    changed = list(dict.fromkeys(scripts.changes(out)))
    if changed:
        note(f"{instance.name}: brought up to date: {', '.join(changed)}")
    for line in out.splitlines():
        if line.startswith("restart "):
            due = line.removeprefix("restart ")
            note(f"{instance.name}: a restart is due for {due}: `invoke stop start`")
    return changed
