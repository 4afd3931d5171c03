"""Who has most of what a lost primary wrote, and what a failover would lose."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pgherd.errors import Refused, Unreachable, quoted
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps.change import ways
from pgherd.steps.change.fence import Fenced
from pgherd.steps.sync import read_sync
from pgherd.sync import WILDCARD, Sync


@dataclass(frozen=True)
class Loss:
    """What the successor lacks of what the lost primary wrote.

    Attributes:
        size: bytes of WAL; None where the lost primary's disk could not be read, or has not all.
        commits: how many commits are in them; None where that is unknown.
        acknowledged: whether a client may have been told of one. Not where commits waited for
            standbys, and the successor has all that those have that answer.
        sync: the group is synchronous, or was asked to be.
        assumed: that nothing acknowledged is lost holds only if commits waited as the topology
            asks: the lost primary could not be asked.
    """

    size: int | None
    commits: int | None
    acknowledged: bool
    sync: bool
    assumed: bool = False

    @property
    def sentence(self) -> str:
        """What is told before it happens."""
        if self.size == 0:
            return "nothing of what it wrote is lost"
        what = "what it wrote last, unknown how much, as its WAL cannot be read,"
        if self.size is not None:
            count = f", {ways.counted(self.commits)}," if self.commits else ""
            what = f"{self.size} bytes of its WAL{count}"
        if self.acknowledged:
            return f"{what} will be lost"
        if self.assumed:
            return (
                f"{what} stays behind; that is nothing acknowledged if its commits waited for "
                "standbys as the topology asks, which cannot be told"
            )
        return f"{what} stays behind; nothing that was acknowledged is lost"

    def refuse_above(
        self, limit: float | None, former: Instance | None, successor: Instance
    ) -> None:
        """Refuse to lose more than may be; without a limit, that is nothing where `sync` is.

        Of what nobody can tell, no number of bytes is enough: only infinity is.

        Raises:
            Refused: more would be lost, or nobody can tell how much.
        """
        if limit is None and not self.sync:
            return
        size = math.inf if self.size is None else self.size
        if not self.acknowledged or size <= (limit or 0):
            return
        name = former.name if former else "Another standby"
        start = f"If {name} can be started again (`invoke start`), nothing is lost; else "
        raise Refused(
            f"{name}: {self.sentence}, and {limit or 0} bytes may be (--max-loss). "
            f"{start if former else ''}`invoke failover --to {successor.name} --max-loss "
            f"{'any' if self.size is None else self.size}`."
        )


def read_limit(text: str) -> float | None:
    """Read what --max-loss is told: bytes of WAL, or "any", which is infinity; empty is None.

    Raises:
        Refused: it is neither.
    """
    if not text:
        return None
    if text == "any":
        return math.inf
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    raise Refused(f'--max-loss is a number of bytes, or "any", not {quoted(text)}.')


def standbys_that_answer(seen: Observation) -> dict[str, Facts]:
    """Return what each standby says that runs; its files, where nobody can log in."""
    told = {n: s.facts or s.files for n, s in seen.nodes.items()}
    return {n: facts for n, facts in told.items() if facts and facts.in_recovery}


def chosen(group: Group, name: str, seen: Observation) -> Instance:
    """Return the standby that is to be primary: the one named, else the one that has most.

    Of two that have the same the one that is not delayed is better, then the one that lets us log
    in, then the topology's first.

    Raises:
        Refused: it does not run as a standby, or none does; or who has most is not known yet.
        Unreachable: its host is away.
    """
    running = standbys_that_answer(seen)
    if not running:
        for other, node in seen.nodes.items():
            if node.files:
                raise Refused(f"{other} is primary, as its files say. {node.silence}")
        raise Refused(
            f"No standby of {group.name} answers, so none can be primary: `invoke start` brings "
            "back what can be."
        )
    if name:
        instance = group.instance(name)
        if instance.node.host in group.away:
            raise Unreachable(group.away[instance.node.host])
        if name not in running:
            raise Refused(f"{name} does not run as a standby: choose {' or '.join(running)}.")
        return instance
    if rereading := [n for n, facts in running.items() if facts.rereads and len(running) > 1]:
        raise Refused(
            f"{' and '.join(rereading)} still replays what was there before its start, so who has "
            "most cannot be told yet: this again in a moment, or say --to."
        )
    return group.instance(max(running, key=lambda n: _merit(running[n])))


def _merit(facts: Facts) -> tuple[int, int, bool, bool]:
    return facts.timeline, lsn_to_int(facts.end), facts.apply_delay == 0, not facts.by_files


def weigh(
    group: Group,
    former: Instance | None,
    successor: Instance,
    seen: Observation,
    fenced: Fenced | None,
) -> Loss:
    """Return what would be lost; `fenced` tells what the lost primary has, None if unknown."""
    running = standbys_that_answer(seen)
    its = running[successor.name]
    mine = lsn_to_int(its.end)
    # Positions of an older timeline say nothing beside those of a newer one.
    furthest = max(lsn_to_int(f.end) for f in running.values() if f.timeline >= its.timeline)
    if former is None:
        sync_asked = group.topology.group.sync is not None
        return Loss(furthest - mine, None, acknowledged=furthest > mine, sync=sync_asked)
    waited = _waited_for(group, former, fenced)
    # What may be lost goes by what was asked for: it may have been asynchronous just for a while.
    sync = waited is not None or group.topology.group.sync is not None
    safe = waited is not None and mine >= _reached(group, former, waited, running)
    beyond = fenced.beyond if fenced else None
    if fenced is None:
        return Loss(None, None, acknowledged=not safe, sync=sync, assumed=safe)
    if fenced.disk.pg_version is None or (beyond and beyond.commits is None):
        return Loss(None, None, acknowledged=not safe, sync=sync)
    size = max(beyond.size if beyond else 0, furthest - mine)
    commits = beyond.commits if beyond else 0
    return Loss(size, commits, acknowledged=not safe and size > 0, sync=sync)


def _waited_for(group: Group, former: Instance, fenced: Fenced | None) -> Sync | None:
    """Return whom commits on the lost primary waited for, as its data says; None if for nobody.

    Where its host is away that is taken to be as asked, and told so. Where its data is gone nothing
    tells, and nothing is taken for granted: it may have been made asynchronous.
    """
    if fenced is None:
        return group.topology.sync_for(former.node)
    return read_sync(fenced.disk.sync_names) if fenced.disk.pg_version else None


def _reached(group: Group, former: Instance, sync: Sync, running: dict[str, Facts]) -> float:
    """Return the position up to which acknowledged commits may reach; infinity where unknown.

    Each was on `count` of those that `sync` lists: if so many of these answer that any such set
    has one of them, none reaches further than the furthest of those.
    """
    direct = [i for i in group.instances.values() if i is not former]
    listed = [i.name for i in direct if sync.matches(i.node.application_name)]
    total = len(listed) if WILDCARD in sync.names else len(set(sync.names))
    known = [running[name] for name in listed if name in running and not running[name].rereads]
    answering = [lsn_to_int(facts.end) for facts in known]
    if total - len(answering) < sync.count and answering:
        return max(answering)
    return float("inf")
