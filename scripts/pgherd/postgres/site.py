"""One host of a group: its machine, its engine, and what the group has there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from functools import partial

from pgherd.docker import Container, Engine, Image
from pgherd.errors import Error
from pgherd.host import Host
from pgherd.postgres import scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance
from pgherd.postgres.places import Places
from pgherd.shell import Tool
from pgherd.topology import Topology

LOOK_SECONDS = 60.0
_ANSWER = re.compile(r"^== (\S+) (\d+)$\n?", re.MULTILINE)


class Site:
    """One host of a group, with its engine and the instances that live there."""

    def __init__(self, host: Host, topology: Topology, name: str) -> None:
        self.host = host
        self.name = name
        self.engine = Engine(host)
        self.topology = topology
        self.nodes = [node for node in topology.nodes.values() if node.host == name]
        self.instances = {
            node.name: Instance(
                topology.group.name, node, self.engine, partial(self.places, node.name)
            )
            for node in self.nodes
        }
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
        asked = [node.data for node in self.nodes if not node.volume]
        asked += [f"{self.private}/{node.name}" for node in self.nodes]
        asked += [group.initdb] if group.initdb else []
        found = iter(self.host.paths(*asked))
        data = {node.name: "" if node.volume else next(found) for node in self.nodes}
        private = {node.name: next(found) for node in self.nodes}
        initdb = next(found) if group.initdb else None
        return {
            node.name: Places(
                data=data[node.name],
                private=private[node.name],
                network=f"pgherd-{group.name}",
                home=self.host.home,
                initdb=initdb,
                neighbours=len(self.nodes) > 1,
                elsewhere=_elsewhere(self.topology, self.name),
            )
            for node in self.nodes
        }

    def ask(self, instances: Iterable[Instance]) -> dict[str, Facts | str]:
        """Ask running servers of this host what they are, in one round trip.

        Where one does not answer, there is a sentence in place of its facts.
        """
        asked = list(instances)
        if not asked:
            return {}
        if len(asked) > 1:
            names = [instance.name for instance in asked]
            try:
                result = self.engine.run(
                    Tool("sh")["-s", "--", names],
                    stdin=scripts.look(),
                    timeout=LOOK_SECONDS,
                    reads=True,
                )
            except Error:
                pass  # one that stands still holds up the others: ask each by itself
            else:
                return _answers(result.out, names)
        return {instance.name: _asked(instance) for instance in asked}

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


def _asked(instance: Instance) -> Facts | str:
    try:
        return instance.facts()
    except Error as fault:
        return fault.sentence


def _answers(out: str, names: list[str]) -> dict[str, Facts | str]:
    """Read what `sh/look.sh` printed: a line with name and exit status, then what psql said."""
    parts = _ANSWER.split(out)
    said = {
        name: (code, text)
        for name, code, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }
    found: dict[str, Facts | str] = {}
    for name in names:
        code, text = said.get(name, ("1", "it gave no answer"))
        try:
            found[name] = Facts.parse(text) if code == "0" else f"On {name}: {text.strip()}"
        except Error as fault:
            found[name] = fault.sentence
    return found
