"""What is looked at before a container is given a name, a port or a data directory."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pgherd.docker import GROUP_LABEL, HOME_LABEL, SPEC_LABEL, Container, Image
from pgherd.errors import Refused
from pgherd.host import LOCAL
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.postgres.site import Site
from pgherd.rules import for_others
from pgherd.shell import Script, Tool, assignments
from pgherd.topology import Node

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
    script = Script((assignments(data=instance.places.data) + _LOOK,))
    answer = instance.host.run(Tool("sh")["-s"], stdin=script, reads=True).out.strip()
    if answer == NO_DIRECTORY:
        raise Refused(f"{instance.name}: {instance.places.data} is not a directory.")
    return answer


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
    """Refuse a group that lives elsewhere and was made by somebody else, whose passwords it has.

    Others would be made here in their place, and the role's changed under those who use it.
    """
    if group.passwords.known("replicator"):
        return
    for site in group.present:
        if site.name == LOCAL:
            continue
        theirs = [n for n in site.instances if _made(group, seen.engines[site.name].get(n), site)]
        there = Tool("test")["-d", site.private]
        if theirs or site.host.run(there, reads=True).ok:
            raise Refused(
                f"{group.name} is on {site.name} already, and its passwords are not here: copy "
                f"{group.secrets} from the checkout that made it. If they are lost, write a new "
                f"one, one line, into {group.passwords.path('replicator')}."
            )


def _made(group: Group, container: Container | None, site: Site) -> bool:
    """Tell whether it is a container of the group that an earlier run has made."""
    return bool(container and not container.planned and group.owns(container, site.name))


def check_spec(instance: Instance, container: Container, image: Image) -> bool:
    """Tell whether a container is what the topology asks for; refuse a running one that is not."""
    if container.planned or container.labels.get(SPEC_LABEL) == instance.spec(image):
        return True
    if container.alive:
        raise Refused(
            f"{instance.name} runs with another image, port, directory or option than the topology "
            "asks for. `invoke down` (it keeps the data), then this again, makes it anew."
        )
    return False


def check_data_unused(instance: Instance, seen: Observation) -> None:
    """Refuse a data directory that a running container has, or has a part of, or lies within.

    PostgreSQL's own lock cannot see it: in every container the server is process 1.
    """
    volume = instance.node.volume is not None
    source = instance.node.volume or instance.places.data
    mounted = [
        (other.name, mount.source)
        for other in seen.beside(instance).values()
        for mount in other.mounts
        if other.name != instance.name and other.alive and mount.volume == volume
    ]
    sources = [theirs for _, theirs in mounted]
    # Docker keeps a path as it was typed, and links lead elsewhere.
    resolved = sources if volume or not sources else instance.host.paths(*sources)
    for (name, typed), theirs in zip(mounted, resolved, strict=True):
        if _overlap(theirs, source, volume):
            raise Refused(
                f"{instance.name}: {source} is in use by the container {name} "
                f"(it has {typed}). Two servers on one directory destroy it: stop that "
                f"one first (docker stop {name}), or choose another `data`."
            )


def _overlap(one: str, other: str, volume: bool) -> bool:
    if volume:
        return one == other
    a, b = PurePosixPath(one), PurePosixPath(other)
    return a == b or a in b.parents or b in a.parents


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
                if port == node.port and _same_address(address, node.listen):
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
        if listener := _listener(line, node.listen, node.port):
            raise Refused(f"{_port(node)} is taken by {listener}. {cure}")


def _port(node: Node) -> str:
    return f"Port {node.port}" if node.host == LOCAL else f"Port {node.port} of {node.host}"


def _listener(line: str, listen: str, port: int) -> str:
    """Return who has the port, from a line of ss or lsof; empty if at another address."""
    match = re.search(rf"(\S+):{port}\s", f"{line} ")
    if not match or not _same_address(re.sub(r"[\[\]]|%.*", "", match[1]), listen):
        return ""
    who = re.search(r'users:\(\("([^"]+)",pid=(\d+)', line) or re.match(
        r"([^\s\[]+)\s+(\d+)\s", line
    )
    named = who and not who[1].startswith("LISTEN")
    return f"the process {who[1]} (pid {who[2]})" if who and named else "another process"


def _same_address(one: str, other: str) -> bool:
    anything = {"0.0.0.0", "::", "*", ""}  # noqa: S104
    return one == other or one in anything or other in anything
