"""One host of a group: its machine, its engine, and what the group has there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from pgherd.docker import Container, Engine, Image
from pgherd.errors import DeadlinePassed, Error
from pgherd.host import Host
from pgherd.host.together import side_by_side
from pgherd.postgres import scripts
from pgherd.postgres.facts import Facts, NoAnswer, read_links
from pgherd.postgres.failed import no_login
from pgherd.postgres.instance import Instance
from pgherd.postgres.places import Places
from pgherd.rules import PGDATA, volume_of
from pgherd.shell import Tool
from pgherd.topology import Topology

LOOK_SECONDS = 30.0
_ANSWER = re.compile(r"^== (\S+) (\d+|stderr)$\n?", re.MULTILINE)


class Site:
    """One host of a group, with its engine and the instances that live there."""

    def __init__(self, host: Host, topology: Topology, name: str) -> None:
        self.host = host
        self.name = name
        self.engine = Engine(host, topology.group.name)
        self.topology = topology
        self.nodes = [node for node in topology.nodes.values() if node.host == name]
        self.instances = {
            node.name: Instance(
                topology.group.name, node, self.engine, partial(self.places, node.name)
            )
            for node in self.nodes
        }
        for instance in self.instances.values():
            instance.encryption = topology.encryption
            instance.database = topology.group.database
        self._places: dict[str, Places] = {}
        self._asking = threading.Lock()

    @property
    def private(self) -> str:
        """The directory on this host that holds what its nodes have outside their data."""
        return f"{self.host.home}/secrets/{self.topology.group.name}"

    def places(self, name: str) -> Places:
        """Return where a node's things are; the first call asks the host, for all of its nodes."""
        with self._asking:
            if not self._places:
                self._places = self._find_places()
        return self._places[name]

    def _find_places(self) -> dict[str, Places]:
        group = self.topology.group
        named = [
            (node.name, inside, place)
            for node in self.nodes
            for inside, place in node.places.items()
            if not volume_of(place)
        ]
        asked = [place for _, _, place in named]
        asked += [f"{self.private}/{node.name}" for node in self.nodes]
        asked += [group.initdb] if group.initdb else []
        found = iter(self.host.paths(*asked))
        paths = {(name, inside): next(found) for name, inside, _ in named}
        private = {node.name: next(found) for node in self.nodes}
        initdb = next(found) if group.initdb else None
        return {
            node.name: Places(
                data=paths.get((node.name, PGDATA), ""),
                tablespaces={at: paths.get((node.name, at), "") for at in node.tablespaces},
                private=private[node.name],
                network=f"pgherd-{group.name}",
                home=self.host.home,
                initdb=initdb,
                neighbours=len(self.nodes) > 1,
                elsewhere=_elsewhere(self.topology, self.name),
            )
            for node in self.nodes
        }

    def look(self) -> tuple[dict[str, Container], dict[str, Facts | NoAnswer]]:
        """Return every container of the engine, and what the group's running servers say.

        It is one round trip, however many there are. Where a server does not answer, there is why
        in place of its facts.
        """
        group = self.topology.group
        script = scripts.look(group.name, self.host.home, group.database)
        try:
            result = self.engine.run(
                Tool("sh")["-s"], stdin=script, timeout=LOOK_SECONDS, reads=True
            )
        except DeadlinePassed:  # one that stands still holds up the others: ask each by itself
            containers = self.engine.containers_one_by_one()
            asked = [i for i in self.instances.values() if i.name in containers]
            answers = side_by_side(lambda i: _asked(i, containers[i.name]), asked)
            return containers, {i.name: a for i, a in zip(asked, answers, strict=True)}
        records, _, answered = result.out.partition("== ANSWERS\n")
        if not result.ok and not records.strip():
            raise Error(f"A docker command failed: {result.complaint()}")
        return self.engine.counted(records), read_answers(answered, group.database)

    def find_image(self, names: list[str], used: Iterable[Container] = ()) -> Image | None:
        """Return the image that these containers have, else the first of `names` that is here."""
        ids = [c.image_id for c in used if c.image_ref in names or c.image_ref == c.image_id]
        found = self.engine.image(*names)
        if ids and (found is None or found.id != ids[0]):  # the tag has moved on
            found = self.engine.image(ids[0])
        return found


def _elsewhere(topology: Topology, here: str) -> tuple[str, ...]:
    """Return the addresses of the nodes on other hosts, each once."""
    others = (node.reached_at for node in topology.nodes.values() if node.host != here)
    return tuple(dict.fromkeys(address for address in others if address))


def _asked(instance: Instance, container: Container) -> Facts | NoAnswer:
    if container.silent:
        return NoAnswer(f"`docker inspect {container.name}` does not answer.")
    try:
        return instance.facts()
    except Error as fault:
        return NoAnswer(fault.sentence)


def read_answers(text: str, database: str = "") -> dict[str, Facts | NoAnswer]:
    """Read what `sh/look.sh` prints of each server: name and exit status, then its words."""
    parts = _ANSWER.split(text)
    records = list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))
    also = {name: said.strip() for name, code, said in records if code == "stderr"}
    found: dict[str, Facts | NoAnswer] = {}
    for name, code, said in records:
        if code == "stderr":
            continue
        try:  # a warning beside an answer is no fault
            found[name] = _facts(said) if code == "0" else _silent(name, also, said, database)
        except Error as fault:
            found[name] = NoAnswer(fault.sentence)
    return found


def _facts(said: str) -> Facts:
    """Read a server's answer, with the links of its data directory before it."""
    begins = re.search(r"^\{", said, re.MULTILINE)
    at = begins.start() if begins else 0
    return replace(Facts.parse(said[at:]), links=tuple(read_links(said[:at])))


def _silent(name: str, also: Mapping[str, str], said: str, database: str) -> NoAnswer:
    words = also.get(name) or said.strip()
    sentence = no_login(name, words, said, database) or f"On {name}: {words}"
    try:
        return NoAnswer(sentence, Facts.of_files(said))
    except Error:  # so little is known then
        return NoAnswer(sentence)
