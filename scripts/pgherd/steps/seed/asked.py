"""How a standby is to be seeded, and the two servers that it concerns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from pgherd.docker import Container, Image
from pgherd.errors import Refused, quoted
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation

METHODS = ("basebackup", "copy")
SLOWEST, FASTEST = 32, 1024 * 1024  # kB per second, of pg_basebackup


def _is_rate(text: str) -> bool:
    """Tell whether pg_basebackup takes a rate: 32 kB to 1 GB (pg_basebackup.c, parse_max_rate)."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([kM]?)", text)
    return bool(found and SLOWEST <= int(found[1]) * (1024 if found[2] == "M" else 1) <= FASTEST)


@dataclass(frozen=True)
class Asked:
    """How a standby is to be seeded, as said on the command line."""

    method: str = "basebackup"
    source: str = ""  # the node to take the base backup from, where it is not the upstream
    reseed: bool = False  # also where the standby streams already
    set_aside: bool = False  # also data that is not this group's
    async_meanwhile: bool = False
    verify_backup: bool = True
    max_rate: str = ""
    spread_checkpoint: bool = False
    max_loss: float | None = None  # bytes of its own commits that `rejoin` may lose; None for 0
    confirm: Callable[[str], bool] = lambda _question: False

    def check(self) -> None:
        """Refuse what is no method and no rate."""
        if self.method not in METHODS:
            raise Refused(f"--method is {' or '.join(METHODS)}, not {quoted(self.method)}.")
        if self.max_rate and not _is_rate(self.max_rate):
            raise Refused(
                "--max-rate is kB per second, or like 32M, from 32 kB to 1 GB (1024M); not "
                f"{quoted(self.max_rate)}."
            )
        if self.source and self.method == "copy":
            raise Refused("--from goes with a base backup; --method copy stops the upstream.")

    def backup_options(self) -> list[str]:
        """Return the options of pg_basebackup for this."""
        checkpoint = "spread" if self.spread_checkpoint else "fast"
        rate = [f"--max-rate={self.max_rate}"] if self.max_rate else []
        return [f"--checkpoint={checkpoint}", *rate]


@dataclass(frozen=True)
class Pair:
    """A standby to be, whom it is to follow, what was seen of both, and whose data it gets."""

    group: Group
    standby: Instance
    upstream: Instance
    image: Image
    seen: Observation
    source: Instance | None = None  # for the base backup; None: the upstream

    @property
    def mine(self) -> Facts | None:
        """What the standby's server says, if it runs."""
        return self.seen.nodes[self.standby.name].facts

    @property
    def theirs(self) -> Facts | None:
        """What the upstream's server says, if it runs."""
        return self.seen.nodes[self.upstream.name].facts

    @property
    def streams(self) -> bool:
        """Whether the standby streams from the upstream already, with the slot that is its own."""
        mine, theirs, node = self.mine, self.theirs, self.standby.node
        if not mine or not theirs or not mine.in_recovery:
            return False
        sender = theirs.sender(node.application_name)
        same = mine.system_identifier == theirs.system_identifier
        newer = mine.timeline > theirs.timeline
        streaming = bool(sender and sender.streaming)
        return same and not newer and streaming and mine.primary_slot == node.slot

    @property
    def container(self) -> Container | None:
        """The standby's container, if it has one."""
        return self.seen.nodes[self.standby.name].container

    @property
    def runs(self) -> bool:
        """Whether the standby's container runs, or is about to."""
        return bool(self.container and self.container.alive)

    def asked_again(self) -> Pair:
        """Return it with what the upstream says now: after a try to follow that has the slot."""
        nodes, name = self.seen.nodes, self.upstream.name
        now = replace(nodes[name], facts=self.upstream.facts())
        return replace(self, seen=replace(self.seen, nodes={**nodes, name: now}))

    def note(self, text: str) -> None:
        """Announce an act on the standby."""
        self.group.trace.note(f"{self.standby.name}: {text}")
