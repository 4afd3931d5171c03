"""Nodes of a group that its topology file has no more: known by their containers' labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from pgherd.docker import NODE_LABEL, Container, Image, Mount
from pgherd.errors import Error, Refused, quoted
from pgherd.node import Node
from pgherd.postgres import scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PGDATA, PRIVATE, Instance
from pgherd.postgres.observation import Observation
from pgherd.postgres.places import Places
from pgherd.postgres.site import Site
from pgherd.rules import DOCKER_NAME, VOLUME
from pgherd.shell import Script, Tool, assignments
from pgherd.steps import aside, guards

_SETTING = re.compile(r"^(primary_conninfo|primary_slot_name) = '(.*)'$", re.MULTILINE)


@dataclass(frozen=True)
class Leaving:
    """A node that is to be removed.

    Attributes:
        instance: its server.
        container: None where it has none any more.
        facts: what its server says, if it answers.
        slot: its replication slot on whom it follows; empty if that cannot be told.
        application_name: how its upstream knows it; empty if that cannot be told.
        asked: whether the topology still has it.
    """

    instance: Instance
    container: Container | None
    facts: Facts | None
    slot: str
    application_name: str
    asked: bool

    @property
    def name(self) -> str:
        """The node's name."""
        return self.instance.name


def leaving(group: Group, names: Sequence[str], seen: Observation, image: Image) -> list[Leaving]:
    """Return the nodes of these names, of the topology or not; those removed already are left out.

    Raises:
        Refused: nothing of the group has, or had, such a name.
    """
    strays = dict(_strays(group, seen))
    found = []
    for name in dict.fromkeys(names):
        if name in group.topology.nodes:
            node, instance = seen.nodes[name], group.instance(name)
            guards.check_name(group, instance, seen)
            slot, application = instance.node.slot, instance.node.application_name
            found.append(
                Leaving(instance, node.container, node.facts, slot, application, asked=True)
            )
        elif name in strays:
            found.append(_stray(*strays[name], group, image))
        elif _was_here(group, name):
            group.trace.note(f"{name}: already removed")
        else:
            known = ", ".join([*group.topology.nodes, *strays])
            raise Refused(
                f"There is no node and no container {quoted(name)} of {group.name}: {known}."
            )
    return found


def _strays(group: Group, seen: Observation) -> Iterator[tuple[str, tuple[Container, Site]]]:
    for site in group.present:
        for container in seen.engines[site.name].values():
            name = container.labels.get(NODE_LABEL)
            if name and name not in group.topology.nodes and group.owns(container, site.name):
                yield name, (container, site)


def _was_here(group: Group, name: str) -> bool:
    """Tell whether a node of this name was removed: the journal of a host has a line of it.

    A private directory that stayed tells it as well.
    """
    if not re.fullmatch(DOCKER_NAME, name):
        return False
    asked = [(site.host, _trace_of(site, group, name)) for site in group.present]
    return any(host.run(Tool("sh")["-eus"], stdin=text, reads=True).ok for host, text in asked)


def _trace_of(site: Site, group: Group, name: str) -> Script:
    """Return shell text that succeeds where something tells that the node was there."""
    values = assignments(
        private=f"{site.private}/{name}",
        journal=aside.journal(site.host),
        line=f"\t{aside.reason(group, name, aside.REMOVED)}",
    )
    known = '[ -e "$private" ] || grep -qF -e "$line" -- "$journal" 2>/dev/null\n'
    return Script((values, known))


def _stray(container: Container, site: Site, group: Group, image: Image) -> Leaving:
    """Make a node of what its container tells: its directories, and whom it follows."""
    mounts = {mount.target: mount for mount in container.mounts}
    data, private = mounts.get(PGDATA), mounts.get(PRIVATE)
    if data is None or private is None:
        raise Refused(f"The container {container.name} has not the mounts of a node of pgherd.")
    others = [mount for mount in container.mounts if mount.target not in {PGDATA, PRIVATE}]
    address, port = next(iter(container.ports), ("127.0.0.1", 1))
    node = Node(
        name=container.name,
        host=site.name,
        port=port,
        listen=address,
        data=_place(data),
        tablespaces={mount.target: _place(mount) for mount in others},
    )
    places = Places(
        data="" if data.volume else data.source,
        private=private.source,
        network=group.network,
        home=site.host.home,
        tablespaces={m.target: "" if m.volume else m.source for m in others},
    )
    instance = Instance(group.name, node, site.engine, lambda: places)
    known = (i.database for i in group.instances.values() if i.database)
    instance.database = group.topology.group.database or next(known, "")
    facts = _answer(instance) if container.running else None
    if facts:
        slot, info = facts.primary_slot, facts.primary_conninfo
    else:
        slot, info = _on_disk(instance, image)
    return Leaving(instance, container, facts, slot, _application(info), asked=False)


def _place(mount: Mount) -> str:
    """Return what a mount has, as a topology writes it."""
    return f"{VOLUME}{mount.source}" if mount.volume else mount.source


def _answer(instance: Instance) -> Facts | None:
    try:
        return instance.facts()
    except Error:
        return None


def _on_disk(instance: Instance, image: Image) -> tuple[str, str]:
    """Return slot and connection string as its own file has them; empty where there is none."""
    if guards.data_state(instance) != guards.FULL:
        return "", ""
    script = scripts.compose('cat "$PGDATA/postgresql.auto.conf" 2>/dev/null || :\n')
    text = instance.offline(image, script, mounts=instance.mounts(readonly=True), reads=True)
    said = {name: value.replace("''", "'") for name, value in _SETTING.findall(text)}
    return said.get("primary_slot_name", ""), said.get("primary_conninfo", "")


def _application(info: str) -> str:
    try:
        return str(conninfo_to_dict(info).get("application_name", ""))
    except (ProgrammingError, ValueError):  # no connection string, or no text of UTF-8
        return ""
