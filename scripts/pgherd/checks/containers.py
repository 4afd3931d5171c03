"""In what a group's containers differ from those that the topology asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pgherd.docker.models import ALWAYS, NEVER, NODE_LABEL, SPEC_LABEL, Container, Image, is_fenced
from pgherd.errors import Refused
from pgherd.group import preconditions
from pgherd.group.group import Group, Site
from pgherd.group.image import CARRIED
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import run_all
from pgherd.postgres import datadir
from pgherd.postgres.instance import PGDATA, PRIVATE, Instance


@dataclass(frozen=True)
class Difference:
    """One thing in which topology and reality differ.

    Attributes:
        what: a word for it, always the same: "container", "port", "sync".
        node: the node; the group where it is nobody's.
        asked: what the topology asks for.
        found: what was observed.
        command: what closes it, a command line as it is typed.
    """

    what: str
    node: str
    asked: str
    found: str
    command: str


@dataclass(frozen=True)
class Further:
    """What an observation does not tell of the hosts.

    Attributes:
        images: the image that each host's containers are to have, if it is there.
        data: what lies in the directory of each node without a container: a word of
            `guards.data_state`, or a sentence.
    """

    images: Mapping[str, Image | None] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)


# --- what has to be looked at once more ---


def look_further(group: Group, seen: Observation) -> Further:
    """Ask each host that answers for the image of its containers and the data of what has none."""
    images = run_all(lambda site: _image(group, seen, site), group.present)
    return Further(
        {site.name: image for site, image in zip(group.present, images, strict=True)},
        look_at_data(group, seen),
    )


def look_at_data(group: Group, seen: Observation) -> dict[str, str]:
    """Return what lies in the directory of each node without a container: see `Further`."""
    bare = [
        instance
        for site in group.present
        for instance in site.instances.values()
        if seen.nodes[instance.name].container is None
    ]
    found = run_all(_data, bare)
    return {instance.name: data for instance, data in zip(bare, found, strict=True)}


def _image(group: Group, seen: Observation, site: Site) -> Image | None:
    there = seen.engines[site.name]
    ours = [c for n in site.instances if (c := there.get(n)) and group.owns(c, site.name)]
    carried = [c.image_ref for c in ours if c.image_ref.startswith(CARRIED)]
    return site.find_image([*group.image_names, *carried], ours) if ours else None


def _data(instance: Instance) -> str:
    try:
        return preconditions.data_state(instance)
    except Refused as fault:
        return fault.sentence


# --- each node's ---


def of_node(
    group: Group, instance: Instance, seen: Observation, further: Further, leader: str | None
) -> Iterator[Difference]:
    """Yield in what a node's container differs: not there, not its own, made otherwise, down.

    `leader` is the node that is primary now.
    """
    node = seen.nodes[instance.name]
    container = node.container
    if container is None:
        yield _missing(group, instance, seen, further)
    elif not group.owns(container, instance.node.host):
        found = f"the container of that name is not of this group (image {container.image_ref})"
        rename = f"docker rename {container.name} {container.name}-other"
        command = group.there(instance.node.host, rename)
        yield Difference("container", instance.name, "a container of its own", found, command)
    elif not container.planned:
        yield from _state(group, instance, seen, container, leader)
        yield from _restart(group, instance, container, leader)
        yield from _compare_container(
            group, instance, container, further.images.get(instance.node.host)
        )


def _missing(group: Group, instance: Instance, seen: Observation, further: Further) -> Difference:
    name, data = instance.name, further.data.get(instance.name, preconditions.ABSENT)
    found, command = "no container", create_command(group, instance, seen)
    if data not in {preconditions.ABSENT, preconditions.EMPTY}:
        found = "no container; its data is there" if data == preconditions.FULL else data
        command = "invoke start"
    return Difference("container", name, "a server", found, command)


def create_command(group: Group, instance: Instance, seen: Observation) -> str:
    """Return what makes a node that has no data: the first primary follows where another leads."""
    if instance is not group.master:
        return f"invoke add-standby {instance.name}"
    others = [node for name, node in seen.nodes.items() if name != instance.name]
    if any(node.container or node.silence for node in others):  # one of them is primary, or was
        return f"invoke seed-standby --node {instance.name}"
    return "invoke setup-master"


def _state(
    group: Group, instance: Instance, seen: Observation, container: Container, leader: str | None
) -> Iterator[Difference]:
    node = seen.nodes[instance.name]
    name, silent = instance.name, node.facts is None
    ended = f"(exit status {container.exit_code})"
    found, command = "", "invoke start"
    if container.status == "paused":
        found = "its container is paused"
        command = group.there(instance.node.host, f"docker unpause {name}")
    elif container.status == "restarting":
        found = f"it fails and is started again and again {ended}"
    elif not container.running:
        found = f"it is down: its container is {container.status} {ended}"
        if is_fenced(container) and name != leader:  # which `start` leaves as it is
            command = f"invoke rejoin {name}"
    elif silent:
        found, command = f"it does not answer: {node.silence}", f"invoke logs --node {name}"
    if found:
        yield Difference("state", name, "it runs", found, command)
    if preconditions.is_off_network(group, instance, seen):
        on = f"it is on the network {group.network}"
        yield Difference("network", name, on, "it is not", "invoke start")


def _restart(
    group: Group, instance: Instance, container: Container, leader: str | None
) -> Iterator[Difference]:
    if container.restart != ALWAYS:
        found, asked = f"restart policy {container.restart or NEVER}", f"restart policy {ALWAYS}"
        command = start_command(group, instance, container, leader)
        yield Difference("restart", instance.name, asked, found, command)


def start_command(
    group: Group, instance: Instance, container: Container, leader: str | None
) -> str:
    """Return what has the engine start a container again: a fence is lifted once its node follows.

    The primary needs no fence, and a policy that is none was set by somebody else.
    """
    if is_fenced(container) and instance.name != leader:
        return f"invoke rejoin {instance.name}"
    update = f"docker update --restart {ALWAYS} {instance.name}"
    return group.there(instance.node.host, update)


def _compare_container(
    group: Group, instance: Instance, container: Container, image: Image | None
) -> Iterator[Difference]:
    """Yield in what a container was made otherwise than it would be now."""
    name, command = instance.name, "invoke down start" if container.alive else "invoke start"
    names, ref = group.image_names, container.image_ref
    if image is None and ref not in names and not ref.startswith(CARRIED):
        yield Difference("image", name, names[0], ref, command)
    if not datadir.holds(container):
        asked, found = "it holds its data directory", "it was made without, by an earlier version"
        restart = "invoke stop start" if container.alive else "invoke start"
        yield Difference("lock", name, asked, found, restart)
    if image is None or container.labels.get(SPEC_LABEL) == instance.spec(image):
        return
    parts = list(_parts(instance, container, image))
    if not parts:
        asked = "the options of docker run as pgherd gives them now"
        yield Difference("options", name, asked, "others", command)
    for what, asked, found in parts:
        yield Difference(what, name, asked, found, command)


def _parts(
    instance: Instance, container: Container, image: Image
) -> Iterator[tuple[str, str, str]]:
    if container.image_id != image.id:
        same = container.image_ref == image.ref  # the tag has moved on
        marks = [f" ({known[:19]})" if same else "" for known in (image.id, container.image_id)]
        yield "image", f"{image.ref}{marks[0]}", f"{container.image_ref}{marks[1]}"
    published = (instance.node.listen, instance.node.port)
    if container.ports != (published,):
        found = ", ".join(f"{address}:{port}" for address, port in container.ports)
        yield "port", f"published on {published[0]}:{published[1]}", found or "not published"
    data = instance.mounts()[0]
    mounts = [m for m in container.mounts if m.target == PGDATA]
    if [(m.source, m.volume) for m in mounts] != [(data.source, data.volume)]:
        yield "data", data.source, ", ".join(m.source for m in mounts) or "none"
    asked = {m.target: m.source for m in instance.tablespace_mounts()}
    kept = {m.target: m.source for m in container.mounts if m.target not in {PGDATA, PRIVATE}}
    if asked != kept:
        yield "tablespaces", _places(asked), _places(kept)


def _places(known: Mapping[str, str]) -> str:
    return ", ".join(f"{source} at {inside}" for inside, source in known.items()) or "none"


# --- nobody's ---


def of_nobody(group: Group, seen: Observation) -> Iterator[Difference]:
    """Yield the group's containers whose node the topology does not have, or not on that host."""
    for host, container, name in strangers(group, seen):
        state = f"a container, {container.status}"
        if name not in group.topology.nodes:
            command = f"invoke remove-standby {name}"
            yield Difference("stranger", name, "no such node", state, command)
        else:
            asked = f"it lives on {group.instance(name).node.host}"
            found = f"{state}, on {host} as well"
            command = group.there(host, f"docker stop {container.name} && docker rm {name}")
            yield Difference("stranger", name, asked, found, command)


def strangers(group: Group, seen: Observation) -> Iterator[tuple[str, Container, str]]:
    """Yield the group's containers that no node of the topology has: host, container, node."""
    for host, containers in seen.engines.items():
        for container in containers.values():
            name = container.labels.get(NODE_LABEL)
            if name and group.owns(container, host) and name not in group.sites[host].instances:
                yield host, container, name
