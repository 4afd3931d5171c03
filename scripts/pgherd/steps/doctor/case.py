"""What the checks are made on: a host, a node, and the group, each with all that was seen of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgherd.docker import Container
from pgherd.host import LOCAL, About
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.health import Health, Server
from pgherd.steps.doctor.finding import Finding
from pgherd.steps.doctor.sheet import HostSheet, PathSheet
from pgherd.topology import Node


@dataclass(frozen=True)
class PlaceCase:
    """Where tablespaces of a node lie, as it was seen.

    Attributes:
        inside: the path in its container.
        place: as the topology has it.
        path: of a named volume, the place where Docker keeps them all.
        used: as of `NodeCase`.
        busy: as of `NodeCase`.
    """

    inside: str
    place: str
    path: PathSheet
    used: tuple[tuple[str, str], ...] = ()
    busy: frozenset[str] = frozenset()


@dataclass(frozen=True)
class NodeCase:
    """One node as it was seen.

    Attributes:
        node: what is asked for.
        sheet: its host.
        path: where its data lies: of a named volume, the place where Docker keeps them all.
        container: its container, if it has one; a foreign one as well.
        owned: whether that container is the group's.
        facts: what its server says, if it answers.
        health: what its container tells of files and server; None where none could look.
        disk: what lies in the data directory of one that is down; None where nobody could look.
        beside: every container of its engine, by name.
        used: the other containers that are alive and can write to its data, a part of it, or what
            it lies in: what they have mounted, and the container's name.
        busy: of the copies beside it that were cut short, those that a container has so.
        streams: whether it is the primary, or streams from whom it should.
        image_major: of the image that the group has there; empty if that is not known.
        silence: why it could not be asked what ails it.
        alone: whether the topology has no other node, so that nobody is to stream from it.
        tablespaces: where tablespaces lie.
    """

    node: Node
    sheet: HostSheet
    path: PathSheet
    container: Container | None = None
    owned: bool = False
    facts: Facts | None = None
    health: Health | None = None
    disk: Disk | None = None
    beside: Mapping[str, Container] = field(default_factory=dict)
    used: tuple[tuple[str, str], ...] = ()
    busy: frozenset[str] = frozenset()
    streams: bool = False
    image_major: str = ""
    silence: str = ""
    alone: bool = False
    tablespaces: tuple[PlaceCase, ...] = ()

    @property
    def places(self) -> Iterator[NodeCase]:
        """The node for each place of its data: itself, and as if each other place was its data."""
        yield self
        for at in self.tablespaces:
            node = self.node.model_copy(update={"data": at.place})
            yield replace(self, node=node, path=at.path, used=at.used, busy=at.busy)

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def runs(self) -> bool:
        """Whether the group's container of it is alive."""
        return bool(self.owned and self.container and self.container.alive)

    @property
    def server(self) -> Server | None:
        """What ails its server, where that runs."""
        return self.health.server if self.health else None

    @property
    def seeded(self) -> bool:
        """Whether it has data already, so that it needs no room for that."""
        return self.runs or self.path.state == "full" or self.node.volume is not None

    def finding(self, code: str, level: str, text: str, cure: str = "", **more: Any) -> Finding:
        """Return a finding of this node."""
        return Finding(code, level, text, cure, node=self.name, host=self.node.host, **more)


@dataclass(frozen=True)
class HostCase:
    """One host as it was seen, with its nodes.

    Attributes:
        name: as the topology has it.
        sheet: what it is and has.
        about: its clock against this machine's.
        nodes: those that live there.
        network: the name of the group's network.
        image_names: the names by which the group's image may be there.
        image_elsewhere: whether another host, or this machine, has the image.
        initdb: where the user's scripts for a new database are; None where none are.
    """

    name: str
    sheet: HostSheet
    about: About = field(default_factory=lambda: About(""))
    nodes: tuple[NodeCase, ...] = ()
    network: str = ""
    image_names: tuple[str, ...] = ()
    image_elsewhere: bool = False
    initdb: str | None = None

    @property
    def where(self) -> str:
        """The host, to stand in a sentence."""
        return "here" if self.name == LOCAL else f"on {self.name}"

    @property
    def answers(self) -> bool:
        """Whether its engine does."""
        return bool(self.sheet.docker)

    def finding(self, code: str, level: str, text: str, cure: str = "", **more: Any) -> Finding:
        """Return a finding of this host."""
        return Finding(code, level, text, cure, host=self.name, **more)


@dataclass(frozen=True)
class GroupCase:
    """The group as it was seen.

    Attributes:
        hosts: those that answer.
        primary: the node that counts as primary, if one does.
        secrets: of each file with a secret on this machine, path and permissions.
    """

    hosts: tuple[HostCase, ...]
    primary: str | None = None
    secrets: tuple[tuple[str, int], ...] = ()

    @property
    def nodes(self) -> dict[str, NodeCase]:
        """Every node on a host that answers, by name."""
        return {node.name: node for host in self.hosts for node in host.nodes}

    @property
    def led(self) -> NodeCase | None:
        """The primary."""
        return self.nodes.get(self.primary or "")
