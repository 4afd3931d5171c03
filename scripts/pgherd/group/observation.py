"""What was found of a group at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgherd.docker.models import Container
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance
from pgherd.postgres.leadership import Own


@dataclass(frozen=True)
class NodeObservation:
    """One node as it was found: its container, and what its server says if it answers."""

    container: Container | None
    facts: Facts | None
    silence: str = ""  # why a running server did not answer
    files: Facts | None = None  # what its files say then, if that is enough to go by

    @property
    def planned(self) -> bool:
        """With `--dry`: it will run once the printed script has, so that it cannot be asked."""
        return bool(self.container and self.container.planned and self.container.alive)


@dataclass(frozen=True)
class Observation:
    """The group at one moment. Roles are those that PostgreSQL tells, never those asked for.

    Attributes:
        nodes: what was found of each node, by its name.
        engines: every container of each host's engine by its name, other people's too.
        own: where several nodes are primary, what each has in its WAL that another has not.
    """

    nodes: Mapping[str, NodeObservation]
    engines: Mapping[str, Mapping[str, Container]]
    own: Own = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Facts]:
        """What the servers say that answer."""
        return {name: node.facts for name, node in self.nodes.items() if node.facts}

    @property
    def primaries(self) -> list[str]:
        """The nodes that are not in recovery: one, if all is well."""
        return [n for n, seen in self.nodes.items() if seen.facts and not seen.facts.in_recovery]

    def beside(self, instance: Instance) -> Mapping[str, Container]:
        """Return the containers of the engine that the instance lives on, by name."""
        return self.engines[instance.node.host]
