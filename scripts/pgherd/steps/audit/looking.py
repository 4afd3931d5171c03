"""The look of an audit: one script for each host, which looks into each node's container as well.

The secrets go there by stdin and are compared there, by grep; only where they are comes back. What
docker tells of containers and images comes back as it is, and is searched here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgherd.docker import GROUP_LABEL
from pgherd.errors import DeadlinePassed, Error
from pgherd.host import LOCAL, Host
from pgherd.postgres import scripts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PGDATA, Instance
from pgherd.postgres.site import Site
from pgherd.shell import Script, Tool, assignments
from pgherd.steps import guards
from pgherd.steps.audit.forms import Sought, assigned
from pgherd.steps.image import find_image

SECONDS = 300.0  # logs may be long
FIELDS = 7  # the most of any line, so that a file's name may have a tab


@dataclass
class Look:
    """What was seen on one host.

    Attributes:
        host: its name.
        containers: the engine's, as `docker container inspect` has them.
        silent: the names of those whose inspect does not answer.
        images: those that these were made of.
        lines: what the scripts saw on the host, each as a word and its fields.
        nodes: what they saw in each node of the group that could be looked into.
    """

    host: str
    containers: list[dict[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    lines: list[tuple[str, ...]] = field(default_factory=list)
    nodes: dict[str, NodeLook] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The containers' names by id."""
        return {c["Id"]: c["Name"].lstrip("/") for c in self.containers}


@dataclass
class NodeLook:
    """What was seen in one node: the scripts' lines, and what its server says, if one answers.

    Attributes:
        lines: each as a word and its fields.
        server: what `sql/audit.sql` returns.
        gateways: of the container's networks, with their lengths.
        failed: why it could not be looked into, or the server does not answer.
    """

    lines: list[tuple[str, ...]] = field(default_factory=list)
    server: dict[str, Any] | None = None
    gateways: list[str] = field(default_factory=list)
    failed: str = ""


def at_site(group: Group, site: Site, sought: list[Sought]) -> Look:
    """Look at a host of the group, and into its nodes, those that are down included.

    Raises:
        Unreachable: the host or its engine.
        Error: the look failed.
    """
    here = site.name == LOCAL
    private = [str(group.secrets)] if here else []
    private += [f"{site.private}/{name}" for name in site.instances]
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    data = [place.source for place in places if not place.volume]
    look = _run(site.host, site, sought, private=private, data=data)
    for instance in site.instances.values():
        if instance.name not in look.nodes:
            _look_offline(group, instance, look, sought)
    return look


def at_home(group: Group, sought: list[Sought]) -> Look:
    """Look at the machine that runs pgherd, where the passwords lie, if no node is there."""
    return _run(group.here, None, sought, private=[str(group.secrets)], data=[], group=group.name)


def _run(
    host: Host,
    site: Site | None,
    sought: list[Sought],
    *,
    private: list[str],
    data: list[str],
    group: str = "",
) -> Look:
    containers, silent = site.engine.records() if site else ([], [])
    values = assignments(
        images=" ".join(sorted({str(c.get("Image", "")) for c in containers})),
        docker="yes" if site else "",
        group=site.topology.group.name if site else group,
        home=host.home,
        private="\n".join(private),
        data="\n".join(data),
    )
    database = site.topology.group.database if site else ""
    script = _opened(sought, database) + values + scripts.fragment("search-host") + "exit 0\n}\n"
    run = site.engine.run if site else host.run
    try:
        result = run(Tool("sh")["-s"], stdin=script, timeout=SECONDS, reads=True)
    except DeadlinePassed:  # what it said so far may hold a secret: it is not shown
        raise DeadlinePassed(
            f"The look at {host.name} did not end within {SECONDS:.0f} s. A log of gigabytes, or a "
            "server that stands still?"
        ) from None
    if not result.ok:
        raise Error(f"The look at {host.name} failed: {result.err.strip()[-500:]}")
    look = replace(read(host.name, result.out), containers=containers, silent=silent)
    for word, *fields in look.lines:
        if word == "failed":
            raise Error(f"The look at {host.name} failed: {' '.join(fields)}")
    return look


def _opened(sought: list[Sought], database: str = "") -> Script:
    """Return the beginning of a script: its secrets, what searches, and what a node is to run."""
    node = scripts.fragment("search-node").replace("$facts\n", scripts.sql("audit"), 1)
    node = node.replace("$session\n", scripts.session(), 1)
    search = scripts.fragment("search")
    functions = "".join(scripts.function(name) for name in ("gateways", "other_database"))
    inner = f"{assignments(PGHERD_DATABASE=database)}{search}{functions}{node}"
    outer = f"node_script() {{ cat <<'END-OF-NODE'\n{inner}END-OF-NODE\n}}\n"
    return Script(("{\n",)) + assigned(sought) + search + outer


def _look_offline(group: Group, instance: Instance, look: Look, sought: list[Sought]) -> None:
    """Look at the files of a node whose server does not run, if it has any."""
    records = {c["Name"].lstrip("/"): c for c in look.containers}
    record = records.get(instance.name)
    if record and (record["State"]["Running"] or record["State"]["Restarting"]):
        look.nodes[instance.name] = NodeLook(failed="it could not be looked into")
        return
    if guards.data_state(instance) != guards.FULL:
        return
    image = find_image(group)
    if image is None:
        look.nodes[instance.name] = NodeLook(failed="its image is gone, and it is down")
        return
    text = f"PGDATA={PGDATA}\nserving=\nfor_node | gosu postgres sh -s postgres\nexit 0\n}}\n"
    said = instance.offline(image, _opened(sought) + text, readonly=True, reads=True)
    look.nodes[instance.name] = node = NodeLook()
    for line in said.splitlines():
        _into(node, line.split("\t"))
    look.lines.append(("down", instance.name))


def read(host: str, text: str) -> Look:
    """Read what the script of a host printed.

    Raises:
        Error: it is something else.
    """
    look = Look(host)
    try:
        for line in text.splitlines():
            word, _, rest = line.partition("\t")
            if word == "image":
                look.images.append(json.loads(rest))
            elif word == "node":
                name, *fields = rest.split("\t", FIELDS)
                _into(look.nodes.setdefault(name, NodeLook()), fields)
            else:
                look.lines.append((word, *rest.split("\t", FIELDS)))
    except ValueError:
        raise Error(f"What {host} answers cannot be read: is its docker a podman?") from None
    return look


def _into(node: NodeLook, fields: list[str]) -> None:
    word, *rest = fields
    if word == "server":
        node.server = json.loads("\t".join(rest))
    elif word == "gateway":
        node.gateways.append(rest[0])
    elif word == "failed":
        node.failed = "\t".join(rest)
    else:
        node.lines.append((word, *rest))


def of_group(group: Group, look: Look) -> Iterator[Mapping[str, Any]]:
    """Yield the containers of the group on a host: its nodes, and what helps it."""
    for record in look.containers:
        if (record["Config"].get("Labels") or {}).get(GROUP_LABEL) == group.name:
            yield record
