"""Who has most of what a lost primary wrote, and what a failover would lose."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from pgherd.config.sync_names import WILDCARD, Sync
from pgherd.docker.models import Image
from pgherd.errors import Refused, Unreachable, quoted
from pgherd.group import node_config, preconditions
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.group.sync_state import read_sync
from pgherd.operations.fencing import Fenced
from pgherd.postgres import leadership
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond, counted
from pgherd.postgres.instance import Instance
from pgherd.postgres.leadership import Known


@dataclass(frozen=True)
class DataLoss:
    """What the successor lacks of what the lost primary wrote.

    Attributes:
        size: bytes of WAL; None where the lost primary's disk could not be read, or has not all.
        commits: how many commits are in them; None where that is unknown.
        acknowledged: whether a client may have been told of one. Not where commits waited for
            standbys, and the successor has all that those have that answer.
        sync: the group is synchronous, or was asked to be.
        assumed: that nothing acknowledged is lost holds only if commits waited as the topology
            asks: the lost primary could not be asked.
        gone: the lost primary has no data any more.
    """

    size: int | None
    commits: int | None
    acknowledged: bool
    sync: bool
    assumed: bool = False
    gone: bool = False

    @property
    def sentence(self) -> str:
        """What is told before it happens."""
        if self.size == 0:
            return "nothing of what it wrote is lost"
        what = "what it wrote last, unknown how much, as its WAL cannot be read,"
        if self.size is not None:
            count = f", {counted(self.commits)}," if self.commits else ""
            what = f"{self.size} bytes of its WAL{count}"
        if self.acknowledged:
            return f"{what} will be lost"
        if self.assumed:
            return (
                f"{what} stays behind; that is nothing acknowledged if its commits waited for "
                "standbys as the topology asks, which cannot be told"
            )
        return f"{what} stays behind; nothing that was acknowledged is lost"

    def above(self, limit: float) -> bool:
        """Tell whether more is lost than that, of what clients were told; unknown is most."""
        return self.acknowledged and (math.inf if self.size is None else self.size) > limit

    def refuse_above(
        self, limit: float | None, former: Instance | None, successor: Instance
    ) -> None:
        """Refuse to lose more than may be; without a limit, that is nothing where `sync` is.

        Of what nobody can tell, no number of bytes is enough: only infinity is.

        Raises:
            Refused: more would be lost, or nobody can tell how much.
        """
        if (limit is None and not self.sync) or not self.above(limit or 0):
            return
        name = former.name if former else "Another standby"
        start = f"If {name} can be started again (`invoke start`), nothing is lost; else "
        if self.gone:
            start = f"If the data of {name} can be put back, nothing is lost; else "
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


def choose_standby(
    group: Group,
    name: str,
    seen: Observation,
    former: Instance | None = None,
    image: Image | None = None,
) -> Instance:
    """Return the standby that is to be primary: the one named, else the one that has most.

    Where their histories part, it is the one that has most of what the lost primary wrote. Of two
    that have the same the one that is not delayed is better, then the one that lets us log in, then
    the topology's first.

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
    known = leadership.known_of(group.topology, running)
    line = None
    if former and image and any(_part(*pair) for pair in combinations(known.values(), 2)):
        here = former.node.host not in group.away
        disk = preconditions.data_of(former, image) if here else Disk()
        line = _line(group, former, disk, known, running)

    def merit(name: str) -> tuple[int, int, int, int, bool, bool]:
        its = running[name]
        of_former = leadership.shared_to(known[name], line) if line else 0
        agree = sum(not _part(known[name], other) for other in known.values())
        end, prompt = lsn_to_int(its.end), its.apply_delay == 0
        return of_former, agree, its.timeline, end, prompt, not its.by_files

    return group.instance(max(running, key=merit))


def _part(one: Known, other: Known) -> bool:
    """Tell whether two histories part: each has what the other lacks."""
    fork = one.history.fork(other.history)
    if fork is None:
        return True
    return fork.lsn is not None and _lacks(one, other) > 0 and _lacks(other, one) > 0


def _line(
    group: Group,
    former: Instance,
    disk: Disk,
    known: Mapping[str, Known],
    running: Mapping[str, Facts],
) -> Known | None:
    """Return what is known of the lost primary's WAL: by its data, else by who follows it.

    None where neither tells.
    """
    if disk.pg_version and not disk.unfinished and disk.system_identifier:
        return leadership.of_disk(disk, leads=True)
    following = [
        name
        for name, facts in running.items()
        if node_config.leads_to(facts.primary_conninfo, group.instance(name), former)
    ]
    return max((known[n] for n in following), key=lambda k: lsn_to_int(k.end), default=None)


def estimate_loss(
    group: Group,
    former: Instance | None,
    successor: Instance,
    seen: Observation,
    fenced: Fenced | None,
) -> DataLoss:
    """Return what would be lost; `fenced` tells what the lost primary has, None if unknown."""
    running = standbys_that_answer(seen)
    its = running[successor.name]
    known = leadership.known_of(group.topology, running)
    line = None
    if former:
        line = _line(group, former, fenced.disk if fenced else Disk(), known, running)
    if former is None:
        size = max(_lacks(known[successor.name], other) for other in known.values())
        sync_asked = group.topology.group.sync is not None
        return DataLoss(size, None, acknowledged=size > 0, sync=sync_asked)
    has = {
        # Positions of a history that the successor has left say nothing beside its own.
        name: leadership.shared_to(node, line) if line else lsn_to_int(node.end)
        for name, node in known.items()
        if line or running[name].timeline >= its.timeline
    }
    mine, furthest = has[successor.name], max(has.values())
    waited = _names_waited_for(group, former, fenced)
    # What may be lost goes by what was asked for: it may have been asynchronous just for a while.
    sync = waited is not None or group.topology.group.sync is not None
    told = {name: at for name, at in has.items() if not running[name].rereads}
    safe = waited is not None and mine >= reached(group, former, waited, told)
    beyond = fenced.beyond if fenced else None
    if fenced is None:
        return DataLoss(None, None, acknowledged=not safe, sync=sync, assumed=safe)
    gone = fenced.disk.pg_version is None
    if gone or (beyond and beyond.commits is None):
        return DataLoss(None, None, acknowledged=not safe, sync=sync, gone=gone)
    size = max(beyond.size if beyond else 0, furthest - mine)
    commits = beyond.commits if beyond else 0
    return DataLoss(size, commits, acknowledged=not safe and size > 0, sync=sync)


def _lacks(node: Known, other: Known) -> int:
    """Return how many bytes of WAL another has that a node has not."""
    fork = node.history.fork(other.history)
    parted = (fork.lsn or node.end) if fork else "0/0"
    return max(0, lsn_to_int(other.end) - lsn_to_int(parted))


def at_stake(
    group: Group,
    node: Instance,
    primary: Instance,
    known: Mapping[str, Known],
    own: Beyond | None,
    names: str,
) -> DataLoss:
    """Return what would be lost of what a node has that the primary has not, if it follows.

    Its commits waited for `names`: where none of those standbys has got what the primary lacks,
    nobody was told of it. Known are the nodes that answer, and the node itself.
    """
    if own is None or own.commits == 0:
        return DataLoss(0, 0, acknowledged=False, sync=True)
    size = None if own.commits is None else own.committed or own.size
    waited, mine = read_sync(names), known[node.name]
    if waited is None or not mine.leads:
        return DataLoss(size, own.commits, acknowledged=True, sync=True)
    has = {
        name: leadership.shared_to(its, mine) for name, its in known.items() if name != node.name
    }
    # Of one timeline nobody knows where they parted: what the primary has may be its own.
    fork = known[primary.name].history.fork(mine.history)
    parted = fork is not None and bool(fork.lsn)
    safe = parted and has[primary.name] >= reached(group, node, waited, has)
    return DataLoss(size, own.commits, acknowledged=not safe, sync=True)


def _names_waited_for(group: Group, former: Instance, fenced: Fenced | None) -> Sync | None:
    """Return whom commits on the lost primary waited for, as its data says; None if for nobody.

    Where its host is away that is taken to be as asked, and told so. Where its data is gone nothing
    tells, and nothing is taken for granted: it may have been made asynchronous.
    """
    if fenced is None:
        return group.topology.sync_for(former.node)
    return read_sync(fenced.disk.sync_names) if fenced.disk.pg_version else None


def reached(group: Group, former: Instance, sync: Sync, has: Mapping[str, int]) -> float:
    """Return the position up to which acknowledged commits may reach; infinity where unknown.

    Each was on `count` of those that `sync` lists: if so many of these answer that any such set
    has one of them, none reaches further than the furthest of those. `has` is how far the WAL of
    the lost primary goes on each node that answers.
    """
    direct = [i for i in group.instances.values() if i is not former]
    listed = [i.name for i in direct if sync.matches(i.node.application_name)]
    total = len(listed) if WILDCARD in sync.names else len(set(sync.names))
    answering = [has[name] for name in listed if name in has]
    if total - len(answering) < sync.count and answering:
        return max(answering)
    return float("inf")
