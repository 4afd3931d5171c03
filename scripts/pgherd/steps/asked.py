"""How a standby is to be seeded, and the two servers that it concerns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pgherd.docker import Container, Image
from pgherd.errors import Refused
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation

METHODS = ("basebackup", "copy")


@dataclass(frozen=True)
class Asked:
    """How a standby is to be seeded, as said on the command line."""

    method: str = "basebackup"
    reseed: bool = False  # also where the standby streams already
    set_aside: bool = False  # also data that is not this group's
    async_meanwhile: bool = False
    verify_backup: bool = True
    max_rate: str = ""
    spread_checkpoint: bool = False
    confirm: Callable[[str], bool] = lambda _question: False

    def check(self) -> None:
        """Refuse what is no method and no rate."""
        if self.method not in METHODS:
            raise Refused(f"--method is {' or '.join(METHODS)}, not '{self.method}'.")
        if self.max_rate and not re.fullmatch(r"[1-9]\d*[kM]?", self.max_rate):
            raise Refused(f"--max-rate is kB per second, or like 32M; not '{self.max_rate}'.")

    def backup_options(self) -> list[str]:
        """Return the options of pg_basebackup for this."""
        checkpoint = "spread" if self.spread_checkpoint else "fast"
        rate = [f"--max-rate={self.max_rate}"] if self.max_rate else []
        return [f"--checkpoint={checkpoint}", *rate]


@dataclass(frozen=True)
class Pair:
    """A standby to be, whom it is to follow, and what was seen of both."""

    group: Group
    standby: Instance
    upstream: Instance
    image: Image
    seen: Observation

    @property
    def mine(self) -> Facts | None:
        """What the standby's server says, if it runs."""
        return self.seen.nodes[self.standby.name].facts

    @property
    def theirs(self) -> Facts | None:
        """What the upstream's server says, if it runs."""
        return self.seen.nodes[self.upstream.name].facts

    @property
    def container(self) -> Container | None:
        """The standby's container, if it has one."""
        return self.seen.nodes[self.standby.name].container

    @property
    def runs(self) -> bool:
        """Whether the standby's container runs, or is about to."""
        return bool(self.container and self.container.alive)

    def note(self, text: str) -> None:
        """Announce an act on the standby."""
        self.group.trace.note(f"{self.standby.name}: {text}")
