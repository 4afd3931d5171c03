"""What befalls a living group under load: switchovers, lost primaries, and that nothing was lost.

    with living(herd, directory) as story:
        story.switchover()
        story.failover()

Each ends with a group as it was, by other roles, and with all that is checked by `sound`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import Herd, docker
from load import Load, missing, running_load, two_at_once

SWITCHED_SECONDS = 150.0  # for a task of some seconds: the machine may be busy
SAID = re.compile(r"writes were refused for ([0-9.]+) ?(ms|s)\b")


@dataclass(frozen=True)
class Outage:
    """How long no write went through, in seconds.

    Attributes:
        seen: by the clients, between two acknowledgements.
        said: by the task; None if it did not say.
    """

    seen: float
    said: float | None


@dataclass
class Story:
    """A group, its clients, and what is done to both."""

    herd: Herd
    load: Load

    def role_of(self, port: int) -> str:
        """Return whose port it is."""
        return next(role for role, keys in self.herd.nodes.items() if keys["port"] == port)

    def switchover(self) -> Outage:
        """Switch over to the next node, and wait until it has acknowledged a row."""
        roles = list(self.herd.nodes)
        old = self.herd.primary()
        new = roles[(roles.index(old) + 1) % len(roles)]
        begun = time.monotonic()
        words = "switchover", "--to", self.herd.container(new)
        done = self.herd.within(SWITCHED_SECONDS).invoke(*words)
        self.load.first(time.monotonic(), port=int(self.herd.nodes[new]["port"]))
        assert self.herd.primary() == new
        return Outage(self.load.longest_gap(begun).seconds, said_seconds(done.stdout + done.stderr))

    def failover(self, *, waits: bool = False) -> float:
        """Kill the primary, fail over, and bring the old one back.

        With `waits`, commits on the new primary wait until there is a standby again.

        Returns:
            The seconds from the start of `invoke failover` to the first row acknowledged.
        """
        old = self.herd.primary()
        docker("kill", "--signal", "KILL", self.herd.container(old))
        begun = time.monotonic()
        self.herd.within(SWITCHED_SECONDS).invoke("failover")
        assert self.herd.primary() != old
        first = None if waits else self.load.first(begun)
        self.herd.invoke("rejoin", self.herd.container(old))
        first = first or self.load.first(begun)
        assert self.role_of(first.port) == self.herd.primary()
        return first.ended - begun

    def sound(self) -> None:
        """No acknowledged row is lost, no two primaries acknowledged any, and verify passes."""
        assert self.lost() == set()
        assert two_at_once(self.load.acknowledged()) == []
        self.herd.checks()

    def lost(self) -> set[str]:
        """Return the ids that were acknowledged and are not there."""
        acknowledged = self.load.acknowledged()
        return missing(acknowledged, lambda said: self.herd.sql(self.herd.primary(), said))


def said_seconds(text: str) -> float | None:
    """Return how long writes were refused, as the task says it.

    >>> said_seconds("pstandby: primary now; writes were refused for 180 ms")
    0.18
    """
    found = SAID.search(text)
    return float(found[1]) / (1000 if found[2] == "ms" else 1) if found else None


def asked_of(standbys: int, *, strict: bool = False) -> dict[str, Any]:
    """Return the keys of a synchronous group; with two standbys, a commit waits for any of them."""
    return {
        **({"sync": "ANY 1 (standby1, standby2)"} if standbys == 2 else {}),
        **({"strict": True} if strict else {}),
    }


@contextmanager
def living(herd: Herd, directory: Path, *, clients: int = 1) -> Iterator[Story]:
    """Set the group up, and insert rows while the block lasts."""
    herd.invoke("setup-master")
    for role in list(herd.nodes)[1:]:
        herd.invoke("seed-standby", "--node", herd.container(role))
    with running_load(herd.places, herd.password(), directory, clients=clients) as load:
        yield Story(herd, load)
