"""The live counterpart of a Topology: its servers, what they are right now, and who is primary."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pgherd import config
from pgherd.docker import GROUP_LABEL, HELPER_LABEL, HOME_LABEL, Container, Engine, Image, docker
from pgherd.errors import Error, Refused
from pgherd.host.local import LocalHost, end_all
from pgherd.lock import held
from pgherd.passwords import Passwords
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance, Places
from pgherd.shell import Trace
from pgherd.topology import Node, Topology

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 6  # below sshd's MaxSessions of 10


@dataclass(frozen=True)
class Seen:
    """One node as it was found: its container, and what its server says if it answers."""

    container: Container | None
    facts: Facts | None
    silence: str = ""  # why a running server did not answer

    @property
    def planned(self) -> bool:
        """With `--dry`: it will run once the printed script has, so that it cannot be asked."""
        return bool(self.container and self.container.planned and self.container.alive)


@dataclass(frozen=True)
class Observation:
    """The group at one moment. Roles are those that PostgreSQL tells, never those asked for."""

    nodes: dict[str, Seen]
    containers: dict[str, Container]  # all of the engine, other people's too

    @property
    def primaries(self) -> list[str]:
        """The nodes that are not in recovery: one, if all is well."""
        return [n for n, seen in self.nodes.items() if seen.facts and not seen.facts.in_recovery]


class Group:
    """The servers of one topology, on the hosts where they live."""

    def __init__(self, topology: Topology, trace: Trace) -> None:
        _refuse_remote(topology)
        self.topology = topology
        self.trace = trace
        self.name = topology.group.name
        self.network = f"pgherd-{self.name}"
        self.home = str(config.ROOT / "data")
        self.host = LocalHost(trace)
        self.engine = Engine(self.host)
        self.secrets = config.secrets_dir(self.name)
        self.passwords = Passwords(self.secrets, trace)
        self.instances = {n: self._instance(node) for n, node in topology.nodes.items()}
        self._image: Image | None = None
        self.image_told = False  # once in a run is enough
        self._locked = False

    def _instance(self, node: Node) -> Instance:
        initdb = self.topology.group.initdb
        places = Places(
            data="" if node.volume else self.host.path(node.data),
            private=self.host.path(str(self.secrets / node.name)),
            network=self.network,
            home=self.home,
            initdb=self.host.path(initdb) if initdb else None,
        )
        return Instance(self.name, node, self.engine, places)

    # --- who ---

    def instance(self, name: str) -> Instance:
        """Return a node's server.

        Raises:
            Refused: the topology has no such node.
        """
        return self.instances[self.topology.node(name).name]

    @property
    def master(self) -> Instance:
        """The node that the topology asks to be primary first; who is now, `observe` tells."""
        return self.instance(self.topology.primary.name)

    def upstream_of(self, instance: Instance, others: list[str], seen: Observation) -> Instance:
        """Return whom a node is to stream from now: the one asked for, or who took its place.

        Args:
            instance: the node that is to follow.
            others: the nodes that are primary now, itself left out.
            seen: the group as it was found.
        """
        asked = self.topology.upstream_of(instance.node)
        if asked is None or asked.name == self.topology.primary.name:
            return self._only(others, seen)
        return self.instance(asked.name)

    def primary(self, seen: Observation) -> Instance:
        """Return the node that is primary now; with `--dry`, the one that will be.

        Raises:
            Refused: there is none, or more than one.
        """
        return self._only(seen.primaries, seen)

    def _only(self, names: list[str], seen: Observation) -> Instance:
        if not names:
            names = [n for n in [self.master.name] if seen.nodes[n].planned]
        if len(names) == 1:
            return self.instance(names[0])
        if names:
            raise Refused(
                f"Two nodes are primary at once: {' and '.join(names)}. Stop the wrong one."
            )
        raise Refused(self._no_primary(seen))

    def _no_primary(self, seen: Observation) -> str:
        master = self.master
        container = seen.nodes[master.name].container
        if container is None:
            return f"{master.name} does not run yet: `invoke setup-master` makes it."
        if silence := seen.nodes[master.name].silence:
            return f"{master.name} does not answer: {silence}"
        facts = seen.nodes[master.name].facts
        if facts and facts.in_recovery:
            return (
                f"No node of {self.name} is primary: all are standbys. If {master.name} has the "
                "newest data, make it primary: "
                f'`invoke psql --node {master.name} --command "SELECT pg_promote()"`.'
            )
        state = f"{master.name} is {container.status}"
        return f"No node of {self.name} is primary ({state}): `invoke start`."

    # --- what is ---

    def observe(self) -> Observation:
        """Look at every container of the engine and ask every running server of the group."""
        containers = self.engine.containers()
        self._clear_helpers(containers)
        nodes = list(self.instances.values())
        seen = side_by_side(lambda node: self._look(node, containers.get(node.name)), nodes)
        return Observation(dict(zip(self.instances, seen, strict=True)), containers)

    def _look(self, instance: Instance, container: Container | None) -> Seen:
        if container is None or not self.owns(container) or not container.running:
            return Seen(container, None)
        if container.planned:
            return Seen(container, None)
        try:
            return Seen(container, instance.facts())
        except Error as fault:
            return Seen(container, None, fault.sentence)

    def owns(self, container: Container) -> bool:
        """Tell whether a container is this group's, of this checkout, by its labels."""
        whose = (container.labels.get(GROUP_LABEL), container.labels.get(HOME_LABEL))
        return whose == (self.name, self.home)

    @property
    def image_names(self) -> list[str]:
        """The image asked for, and the one that stands in for it where no registry answers."""
        asked = self.topology.group.image
        major = re.fullmatch(r"(?:docker\.io/)?(?:library/)?postgres:(\d+)(?:[.-].*)?", asked)
        return [asked, *([f"pgherd/postgres:{major[1]}"] if major else [])]

    def find_image(self, containers: Iterable[Container] = ()) -> Image | None:
        """Return the image of the group: the one its containers have, else one that is here."""
        if self._image is None:
            names = self.image_names
            used = [c for c in containers if self.owns(c) and c.name in self.instances]
            ids = [c.image_id for c in used if c.image_ref in names or c.image_ref == c.image_id]
            self._image = self.engine.image(*names)
            if ids and (self._image is None or self._image.id != ids[0]):  # the tag has moved on
                self._image = self.engine.image(ids[0])
        return self._image

    # --- one run at a time ---

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run away from this group: see `lock.held`; with `--dry` it is not taken.

        While it is held, `observe` clears away what a run that was killed left at work.
        """
        if self.trace.dry:
            yield
            return
        with held(config.ROOT / "data" / f".{self.name}.lock", self.name):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def _clear_helpers(self, containers: dict[str, Container]) -> None:
        """Remove what a killed run of ours left at work; the lock tells that it is gone itself."""
        for instance in self.instances.values():
            left = containers.get(instance.helper)
            if left and HELPER_LABEL in left.labels and self.owns(left) and self._locked:
                self.trace.note(f"{left.name}: left behind by a run that was killed; removing it")
                self.engine.run(docker["rm", "--force", "--volumes", left.name])
                del containers[left.name]


def _refuse_remote(topology: Topology) -> None:
    """Refuse nodes on other machines, which this version cannot reach."""
    for node in topology.nodes.values():
        if node.host != "local":
            raise Refused(
                f'nodes.{node.name}.host: only "local" is reached so far, not "{node.host}" '
                f"({topology.source})."
            )


def side_by_side(act: Callable[[T], R], things: list[T]) -> list[R]:
    """Do one thing for each at once; return the results in order, or raise the first error."""
    if len(things) < 2:  # noqa: PLR2004
        return [act(thing) for thing in things]
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            return list(pool.map(act, things))
        except (KeyboardInterrupt, SystemExit):
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
