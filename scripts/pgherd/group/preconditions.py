"""What must hold before a node's container or data is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from pgherd.config import values
from pgherd.config.nodes import Node
from pgherd.config.values import LOCAL, NEEDS_ALTER_SYSTEM, for_others
from pgherd.docker.models import GROUP_LABEL, HOME_LABEL, SPEC_LABEL, Container, Image, Mount
from pgherd.errors import Refused
from pgherd.group.group import Group, Site
from pgherd.group.observation import Observation
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Script, Tool, assignments
from pgherd.postgres import datadir
from pgherd.postgres.datadir import holders, holders_of_each
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import PGDATA, Instance

# --- whether what lies in a data directory is a database that the group may run ---


def check_group_of_data(group: Group, instance: Instance, disk: Disk) -> None:
    """Refuse data of a group that has, or had, another name: its role would get a new password."""
    if disk.ours or not disk.settings or group.passwords.known("replicator"):
        return
    beside = group.secrets.parent
    there = sorted(p.name for p in beside.glob("*") if p.is_dir()) if beside.is_dir() else []
    aside = [name for name in there if name.startswith(f"{group.secrets.name}_bk_")]
    others = [name for name in there if name not in {*aside, group.secrets.name}]
    back = f" `invoke aside.restore {aside[-1]}` brings back what was set aside." if aside else ""
    raise Refused(
        f"The data of {instance.name} was made by a group of pgherd whose passwords are not here: "
        f"{group.secrets} has none.{back} Give the group its former name in "
        f"{group.topology.source}; or bring its passwords along, `mv {beside / 'FORMER-NAME'} "
        f"{group.secrets}` (there are {', '.join(others) or 'none'}). If they are lost, write a "
        f"new one, one line, into {group.passwords.path('replicator')}."
    )


def check_major(instance: Instance, disk: Disk, image: Image) -> None:
    """Refuse a directory that is no database, or one of another major version than the image."""
    major = image.env.get("PG_MAJOR")
    where = f"{instance.name}: {instance.node.data}"
    if disk.pg_version is None:
        raise Refused(
            f"{where} is not empty and has no PostgreSQL database in it. "
            "Empty it or move it away, or choose another `data`."
        )
    if major and disk.pg_version != major:
        raise Refused(
            f"{where} is a database of PostgreSQL {disk.pg_version}, and the image {image.ref} has "
            f"{major}. Ask for an image of {disk.pg_version}, or choose another `data`."
        )


# --- what is looked at before a container is given a name, a port or a data directory ---

ABSENT, EMPTY, FULL, NO_DIRECTORY = "absent", "empty", "full", "not a directory"

# A directory that cannot be listed belongs to a server already: it counts as full.
_LOOK = """\
[ -e "$data" ] || [ -L "$data" ] || { echo absent; exit; }
[ -d "$data" ] || { echo 'not a directory'; exit; }
found=$(ls -A "$data" 2>/dev/null) || { echo full; exit; }
if [ -n "$found" ]; then echo full; else echo empty; fi
"""

# Whether the host has the address $listen, where that can be told.
_HAS_ADDRESS = """\
if command -v ip >/dev/null && ! ip -o address | awk '{ print $4 }' | grep -qF -e "$listen/"; then
  echo 'no such address'
fi
"""

# ss is Linux's, lsof macOS's; without either, Docker's own refusal has to do.
_WHO_LISTENS = """\
if command -v ss >/dev/null; then ss -Hltnp "sport = :$port"
elif command -v lsof >/dev/null; then lsof -nP -iTCP:"$port" -sTCP:LISTEN | tail -n +2; fi
"""


def data_state(instance: Instance) -> str:
    """Look at a data directory from outside: absent, empty, full or not a directory.

    A named volume that exists counts as full: only a container can look into it.
    """
    if volume := instance.node.volume:
        return FULL if instance.engine.volume_exists(volume) else ABSENT
    answer = directory_state(instance.host, instance.places.data)
    if answer == NO_DIRECTORY:
        raise Refused(f"{instance.name}: {instance.places.data} is not a directory.")
    return answer


def data_of(instance: Instance, image: Image) -> Disk:
    """Look into the data directory of a server that is down, if anything lies there."""
    return instance.disk(image) if data_state(instance) == FULL else Disk()


def directory_state(host: Host, path: str) -> str:
    """Look at a directory from outside: absent, empty, full or not a directory."""
    script = Script((assignments(data=path) + _LOOK,))
    return host.run(Tool("sh")["-s"], stdin=script, reads=True).out.strip()


def check_name(group: Group, instance: Instance, seen: Observation) -> None:
    """Refuse a container that has the node's name and is not this group's."""
    container = seen.beside(instance).get(instance.name)
    owned = container and group.owns(container, instance.node.host)
    if container and container.labels.get(GROUP_LABEL) == group.name and not owned:
        raise Refused(
            f"The container {instance.name} is of a group {group.name} too, of another checkout "
            f"({container.labels.get(HOME_LABEL)}): work on it there, or give this group and its "
            "nodes other names."
        )
    if container and not owned:
        raise Refused(
            f"There is a container named {instance.name} that is not of group {group.name} "
            f"(image {container.image_ref}, {container.status}). Rename or remove it "
            f"(docker rename {instance.name} …), or give the node another name in the topology."
        )


def check_passwords(group: Group, seen: Observation) -> None:
    """Refuse a group that was made by somebody else, whose passwords or authority it has.

    Others would be made here in their place, and the role's changed under those who use it.
    """
    if not group.passwords.known("replicator"):
        _check_elsewhere(group, seen)
    _check_authority(group, seen)


def _check_elsewhere(group: Group, seen: Observation) -> None:
    """Refuse a group that another host has already, without a password of it here."""
    for site in group.present:
        if site.name == LOCAL:
            continue
        theirs = [
            n
            for n in site.instances
            if _was_made_before(group, seen.engines[site.name].get(n), site)
        ]
        there = Tool("test")["-d", site.private]
        if theirs or site.host.run(there, reads=True).ok:
            raise Refused(
                f"{group.name} is on {site.name} already, and its passwords are not here: copy "
                f"{group.secrets} from the checkout that made it. If they are lost, write a new "
                f"one, one line, into {group.passwords.path('replicator')}."
            )


def _check_authority(group: Group, seen: Observation) -> None:
    """Refuse a group whose certificates an authority has signed that is not here.

    Another one would be made in its place, and nodes with the new would not know those without.
    """
    if not group.topology.encryption.on or group.certificates.root.exists():
        return
    for name, node in seen.nodes.items():
        if node.facts and node.facts.certificate:
            raise Refused(
                f"{name} has a certificate already, and {group.certificates.root}, which is "
                "trusted, is not here: copy it and ca.key from the checkout that made the group. "
                "If they are lost, `invoke tls --renew` makes another authority, whose ca.crt the "
                "clients need."
            )


def _was_made_before(group: Group, container: Container | None, site: Site) -> bool:
    """Tell whether it is a container of the group that an earlier run has made."""
    return bool(container and not container.planned and group.owns(container, site.name))


def is_off_network(group: Group, instance: Instance, seen: Observation) -> bool:
    """Tell whether a server of the group's runs where no neighbour and no client reaches it."""
    container = seen.nodes[instance.name].container
    return bool(
        container
        and container.status == "running"
        and group.owns(container, instance.node.host)
        and container.is_off(group.network)
    )


def check_alter_system(group: Group, seen: Observation, *names: str) -> None:
    """Refuse where a server takes no ALTER SYSTEM: whom it follows and waits for is set by that.

    Looked at are the nodes of these names, or all: any may be primary tomorrow.
    """
    for name in names or seen.nodes:
        facts = seen.nodes[name].facts
        if facts and facts.no_alter_system:
            raise no_alter_system(group, name, facts.no_alter_system)


def no_alter_system(group: Group, name: str, place: str) -> Refused:
    """Return the refusal of a server that takes no ALTER SYSTEM; `place` is where that is said."""
    file, _, line = place.rpartition(":")
    reload = group.there(group.topology.node(name).host, f"docker kill --signal HUP {name}")
    where, then = f"{file}, line {line}", f"Set it to on there, then `{reload}`"
    if not file.startswith("/"):
        where, then = place, "Take that out of the image's command"
    elif file.endswith("/pgherd.conf"):
        then = "Take it out of the topology's settings and conf/postgresql.conf, then `invoke stop "
        then += "start`"
    return Refused(
        f"{name} takes no ALTER SYSTEM (allow_alter_system is off: {where}), and "
        f"{NEEDS_ALTER_SYSTEM}. {then}; then this again."
    )


def check_spec(instance: Instance, container: Container, image: Image) -> bool:
    """Tell whether a container is what the topology asks for; refuse a running one that is not.

    One that does not hold its data runs on, and is another once it is down.
    """
    if container.planned or container.labels.get(SPEC_LABEL) == instance.spec(image):
        return container.alive or datadir.holds(container)
    if container.alive:
        raise Refused(
            f"{instance.name} runs with another image, port, directory or option than the topology "
            "asks for. `invoke down` (it keeps the data), then this again, makes it anew."
        )
    return False


def check_data_unused(instance: Instance, seen: Observation) -> None:
    """Refuse a data directory that a running container can write to, in part or as part of more.

    PostgreSQL's own lock cannot see it: in every container the server is process 1. Refused is
    also one that is no place for data at all.
    """
    check_place(instance)
    check_unused(instance, instance.data_mounts(), seen)


def check_still_unused(instance: Instance) -> None:
    """Look again at who has a node's data, right before its server is started.

    With `--dry` nothing runs yet that will, and what runs may be stopped by then.
    """
    if not instance.host.trace.dry:
        engines = {instance.node.host: instance.engine.containers()}
        check_data_unused(instance, Observation({}, engines))


def check_unused(instance: Instance, places: Sequence[Mount], seen: Observation) -> None:
    """Refuse directories and volumes of a node's host that a running container can write to."""
    others = [c for n, c in seen.beside(instance).items() if n != instance.name and c.alive]
    paths = [place.source for place in places if not place.volume]
    held = dict(zip(paths, holders_of_each(instance.engine, paths, others), strict=True))
    for place in places:
        found = held.get(place.source, [])
        if place.volume:
            found = holders(instance.engine, place.source, others, volume=True)
        for other, mount in found:
            raise datadir.in_use(instance.name, place.source, other, mount)


def check_place(instance: Instance) -> None:
    """Refuse a directory that is the system's, or that holds or lies in our own secrets."""
    asked, home = instance.node.places, instance.host.home
    for mount in instance.data_mounts():
        if mount.volume:
            continue
        key = "data" if mount.target == PGDATA else f"tablespaces.{json.dumps(mount.target)}"
        where = f"nodes.{instance.name}.{key}: {asked[mount.target]} is {mount.source}"
        if reason := values.no_place(mount.source):
            raise Refused(f"{where}, which {reason}: give the node a directory of its own.")
        own, secrets = PurePosixPath(mount.source), PurePosixPath(home) / "secrets"
        if own == secrets or secrets in own.parents or own in secrets.parents:
            raise Refused(
                f"{where}, and the passwords lie in {secrets}: give the node a directory of its "
                "own."
            )


def check_port(instance: Instance, seen: Observation) -> None:
    """Refuse a port that somebody listens on, and say who; and an address that the host lacks."""
    node = instance.node
    cure = (
        f"Free it, or give {node.name} another `port` in the topology "
        "(a copy of conf/pair.toml, named by INVOKE_TOPOLOGY)."
    )
    for other in seen.beside(instance).values():
        if other.name != node.name and other.alive:
            for address, port in other.ports:
                if port == node.port and same_address(address, node.listen):
                    raise Refused(f"{_port(node)} is taken by the container {other.name}. {cure}")
    own = seen.beside(instance).get(instance.name)
    if own and own.planned:  # with --dry: what has the port now is the server that will be stopped
        return
    text = assignments(port=node.port, listen=node.listen) + _WHO_LISTENS
    if node.host != LOCAL and for_others(node.listen):  # the local engine may be another machine's
        text += _HAS_ADDRESS
    script = Script((text,))
    said = instance.host.run(Tool("sh")["-s"], stdin=script, reads=True).out
    for line in said.splitlines():
        if line == "no such address":
            raise Refused(
                f"nodes.{node.name}.listen: {node.listen} is no address of {node.host} "
                "(`ip address` there shows which it has)."
            )
        if who := listener(line, node.listen, node.port):
            raise Refused(f"{_port(node)} is taken by {who}. {cure}")


def _port(node: Node) -> str:
    return f"Port {node.port}" if node.host == LOCAL else f"Port {node.port} of {node.host}"


def listener(line: str, listen: str, port: int) -> str:
    """Return who has the port, from a line of ss or lsof; empty if at another address."""
    match = re.search(rf"(\S+):{port}\s", f"{line} ")
    if not match or not same_address(re.sub(r"[\[\]]|%.*", "", match[1]), listen):
        return ""
    who = re.search(r'users:\(\("([^"]+)",pid=(\d+)', line) or re.match(
        r"([^\s\[]+)\s+(\d+)\s", line
    )
    named = who and not who[1].startswith("LISTEN")
    return f"the process {who[1]} (pid {who[2]})" if who and named else "another process"


def same_address(one: str, other: str) -> bool:
    """Tell whether what listens on one address is in the way of what listens on the other."""
    anything = {"0.0.0.0", "::", "*", ""}  # noqa: S104
    return one == other or one in anything or other in anything
