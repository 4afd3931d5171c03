"""What every operation does with one node: its private files, settings, rules, its container."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pgherd.docker.engine import docker
from pgherd.docker.models import GROUP_LABEL, Container, Image, Mount
from pgherd.errors import Error, Refused
from pgherd.group import outside_data, preconditions
from pgherd.group.group import Group
from pgherd.group.image import find_image
from pgherd.group.node_config import hba_values, is_delayed, settings, tls_settings
from pgherd.group.observation import Observation
from pgherd.hosts.commands import Script, Secret, Tool, assignments
from pgherd.hosts.parallel import run_all
from pgherd.operations import set_aside
from pgherd.postgres import scripts
from pgherd.postgres.datadir import ScriptFailed
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import PGDATA, PRIVATE, READY_SECONDS, Instance
from pgherd.security.authority import digest

# --- the private directory of a node: its passfile and, with TLS, its key and certificates ---

ROLE, SUPERUSER = ROLES = "replicator", "postgres"
REPLACED = "replaced "  # what sh/in-force.sh says, and of which role


def streaming_password(group: Group, *, asked: bool = False) -> Script:
    """Return the fragment that sets $password, by which standbys stream.

    Where a change of passwords was cut short, the new one is set beside it: no passfile that has
    that gets the former one again. If a server is to be `asked`, it tells whether the role has it
    already: see `hear`.
    """
    found = scripts.password("password", group.passwords.of(ROLE))
    if new := group.passwords.replacing().get(ROLE):
        found += scripts.password("replacing", new)
        if asked:
            found += scripts.fragment("in-force")
    return found


def check_password_known(group: Group, out: str) -> None:
    """Go by the new password from here on, where a server said that the role has it."""
    for line in out.splitlines():
        if line in {REPLACED + role for role in ROLES}:
            group.passwords.taken(line.removeprefix(REPLACED))


def ask_superuser(group: Group, instance: Instance) -> None:
    """Where a change of passwords was cut short, ask a server if `postgres` has the new one."""
    if new := group.passwords.replacing().get(SUPERUSER):
        known = scripts.password("password", group.passwords.of(SUPERUSER))
        asked = known + scripts.password("replacing", new) + scripts.fragment("in-force")
        check_password_known(
            group, instance.execute(scripts.compose(asked, whose=SUPERUSER), reads=True)
        )


def private_fragment(group: Group, instance: Instance) -> Script:
    """Return the fragment that lays the passfile, and key and certificates with TLS."""
    passfile = streaming_password(group) + scripts.fragment("passfile")
    return passfile + tls_fragment(group, instance)


def lay_private(
    group: Group, instance: Instance, image: Image, what: str = "passfile", *, runs: bool = True
) -> None:
    """Lay the private files anew, `what` above all: the server has their directory read-only.

    It reads the passfile at each try to connect, its certificate at a reload. One that runs is
    asked whether they have reached it; one that does not has them when it starts.
    """
    group.trace.note(f"{instance.name}: brought up to date: {what}")
    private = [mount for mount in instance.mounts() if mount.target == PRIVATE]
    instance.offline(image, scripts.compose(private_fragment(group, instance)), mounts=private)
    if runs:
        check_private(group, instance)


def check_private(group: Group, instance: Instance) -> None:
    """See that a server has the private directory in which its files have just been laid.

    A bind mount is of the directory that was there when the container was started.

    Raises:
        Error: the directory was put in the place of that since then.
    """
    if instance.host.trace.dry:
        return
    certificates = current(group, instance)
    look = scripts.compose(streaming_password(group), "passfile-current", *certificates)
    if "stale" in instance.execute(look, reads=True):
        raise Error(
            f"{instance.name} runs with another directory at {PRIVATE} than "
            f"{instance.places.private}, which has taken the place of that since it was started: "
            "what is laid there does not reach it. `invoke stop`, then `invoke start`."
        )


# --- what TLS adds to a node ---

# Each is empty where the group has none. A server reads key and certificate at its start and at
# each reload, a standby those that it trusts at each connection.

STALE = "stale tls"  # what sh/tls-current.sh says


def _texts(group: Group, instance: Instance) -> dict[str, Secret]:
    """Return what lies in a node's private directory, by the file's name up to its dot."""
    certificates, node = group.certificates, instance.node
    found = {"server": certificates.of_server(node), "ca": certificates.trusted()}
    if instance.encryption.client_certificates:
        found["client"] = certificates.of_client(node)
    return found


def tls_fragment(group: Group, instance: Instance) -> Script:
    """Return the fragment that lays the node's key and certificates."""
    if not instance.encryption.on:
        return Script()
    laid = Script(("client_pem=\n",))
    for name, text in _texts(group, instance).items():
        laid += scripts.password(f"{name}_pem", text)
    return laid + scripts.fragment("tls")


def current(group: Group, instance: Instance) -> list[str]:
    """Return the fragment that ends a script where what is laid is not as it ought to be.

    None in a script that `--dry` prints: some of it may be made by that very script.
    """
    if not instance.encryption.on or group.trace.dry:
        return []
    return _current(group, instance)


def _current(group: Group, instance: Instance) -> list[str]:
    sums = {f"{name}_sum": digest(text) for name, text in _texts(group, instance).items()}
    return [assignments(**({"client_sum": ""} | sums)), scripts.fragment("tls-current")]


def switched_on(instance: Instance) -> list[str]:
    """Return the fragment that has the settings for TLS in force before rules count on them."""
    if not instance.encryption.on:
        return []
    authorities = str(tls_settings(instance).get("ssl_ca_file", ""))
    return [assignments(ssl_ca=authorities), scripts.fragment("tls-on")]


def is_stale(group: Group, instance: Instance) -> bool:
    """Look whether a server that runs has other files than it ought to, as `--dry` has to know.

    One that does not run yet was given them when it was made.
    """
    if not instance.encryption.on:
        return False
    script = scripts.compose(*_current(group, instance))
    try:
        return STALE in instance.execute(script, reads=True)
    except Error:
        return False


# --- what every operation does with one node ---

T = TypeVar("T")

BAD_SETTINGS = 72  # the exit code of sh/check-settings.sh
CHECK = "check-settings"
NO_NETWORK = re.compile(r"network \S+ not found", re.IGNORECASE)  # of an id that is gone


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
            f"set aside: `invoke aside.list`). {anew}."
        )


def data_on(group: Group, instance: Instance, image: Image, container: Container | None) -> Disk:
    """Look at what a node that is down has for data.

    Raises:
        Refused: it had a container or a database and its data is gone, or a part of it that lies
            elsewhere; or it is no database of this major version.
    """
    state = preconditions.data_state(instance)
    if state in {preconditions.ABSENT, preconditions.EMPTY}:
        if container or instance.disk(image, data=False).was_initialised:
            raise DataGone(group, instance)
        return Disk()
    disk = instance.disk(image)
    if disk.empty and (container or disk.was_initialised):
        raise DataGone(group, instance)
    if disk.empty or disk.unfinished:
        return disk
    preconditions.check_major(instance, disk, image)
    preconditions.check_group_of_data(group, instance, disk)
    outside_data.refuse_to_start(group, instance, disk, container, image)
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


def adopt_data(group: Group, instance: Instance, image: Image) -> None:
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


def bring_up(
    group: Group, instance: Instance, image: Image, container: Container | None, disk: Disk
) -> None:
    """Run a server on the data that it has, with the settings that are asked for now."""
    wanted = hashlib.sha256(settings(instance).encode()).hexdigest()
    if disk.settings != wanted or not disk.ours or disk.unready:
        adopt_data(group, instance, image)
    if disk.standby_signal:
        set_aside.keep_unarchived(group, instance, image, disk.unarchived)
    run_container(group, instance, image, container)


def run_container(
    group: Group, instance: Instance, image: Image, container: Container | None
) -> None:
    """Start the node's container, or make it; does not wait until it serves.

    Raises:
        Refused: by now another container has its data.
    """
    preconditions.check_still_unused(instance)
    if container and preconditions.check_spec(instance, container, image):
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
    off = [i for i in group.instances.values() if preconditions.is_off_network(group, i, seen)]
    for instance in off:
        if container := seen.nodes[instance.name].container:
            put_on_network(group, instance, container)
    run_all(lambda instance: wait_serving(group, instance), off)
    return off


def wait_serving(
    group: Group, instance: Instance, *more: str | Script, seconds: int = READY_SECONDS
) -> None:
    """Wait until a server answers; bring its settings, rules and passfile up to date; do more."""
    secret = streaming_password(group, asked=True)
    out = serve(group, instance, secret, "passfile-current", *more, seconds=seconds)
    report_changes(instance, out)
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
        check_password_known(group, out)
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
    check_password_known(group, out)
    return out


def with_certificates(group: Group, instance: Instance, act: Callable[[], str]) -> str:
    """Do what begins with `laid.current`; where that tells of it, lay them and do it again."""
    stale = group.trace.dry and is_stale(group, instance)
    out = "" if stale else act()
    if stale or STALE in out:
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
        *current(group, instance),
        settings_fragment(instance),
        CHECK,
        *switched_on(instance),
        "hba",
        *(["delay"] if is_delayed(instance) else []),
        *more,
        "reload",
        seconds=seconds,
        PGDATA=PGDATA,
        **hba_values(instance),
    )


def report_changes(instance: Instance, out: str) -> list[str]:
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
