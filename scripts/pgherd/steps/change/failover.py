"""A standby takes the place of a primary that is lost.

1. find who was primary, and the standby that has most of it
2. fence the lost one: stopped, never started by the engine, its data marked as a standby's; where
   its host is away and that may be so, let its standbys let go of it instead. Meanwhile take the
   turn on the standby, so that nothing of an earlier run goes on there (`turn`)
3. tell what would be lost, and refuse more than may be
4. promote
5. let the others follow, and commits wait for them again where enough stream

What was lost comes back by `invoke rejoin`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from pgherd.docker import Image
from pgherd.errors import Error, Refused
from pgherd.host.scope import cleaning_up
from pgherd.host.together import side_by_side
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import connect, guards, leaders, outside
from pgherd.steps.change import fence, interrupted, succession, turn, ways
from pgherd.steps.change.keeping_off import kept_off, tell_unfenced
from pgherd.steps.change.losing import Loss, standbys_that_answer, weigh
from pgherd.steps.change.lost import lost_primary
from pgherd.steps.image import ensure_image
from pgherd.steps.tls import half_way


@dataclass(frozen=True)
class FailedOver:
    """What came of a failover: who is primary, who was, what is lost, how long it took."""

    primary: str
    former: str | None
    loss: Loss
    seconds: float


def failover(
    group: Group, name: str, *, max_loss: float | None = None, unfenced: bool = False
) -> FailedOver | None:
    """Make a standby the primary in place of one that is lost; None where one is already.

    Args:
        group: the group.
        name: the standby; empty for the one that has most.
        max_loss: bytes of WAL that may be lost, infinity for any, also where nobody can tell how
            many; None: 0 where the group is synchronous, else any.
        unfenced: also where the lost primary's host cannot be reached, so that it may still serve.

    Raises:
        Refused: a primary serves, no standby answers, the old primary cannot be fenced, or more
            would be lost than may be; nothing was changed.
    """
    begun = time.monotonic()
    if name:
        group.instance(name)  # refuses one that is none before it stands in any advice
    with group.locked(tolerant=True):
        seen = turn.settled(group, group.observe())
        guards.check_alter_system(group, seen)
        image = ensure_image(group, seen)
        if seen.primaries:
            _already(group, name, seen, image)
            return None
        former = lost_primary(group, seen, image)
        with ExitStack() as to_the_end:
            with kept_off(group, former, name, seen, image, unfenced) as kept:
                _tell_by_files(kept.successor, kept.seen)
                outside.tell_lacking(kept.successor, kept.seen)
                loss = weigh(group, former, kept.successor, kept.seen, kept.fenced)
                loss.refuse_above(max_loss, former, kept.successor)
                group.trace.note(f"{former.name if former else group.name}: {loss.sentence}")
                if former and former.node.host in group.away:
                    tell_unfenced(group, former, loss)
                to_the_end.enter_context(cleaning_up())  # from here on nothing can be undone
            successor = kept.successor
            group.trace.note(f"{successor.name}: promoting it")
            interrupted.promote(successor)
            took = time.monotonic() - begun
            group.trace.note(f"{successor.name}: is primary now")
            _set_up(group, successor, kept.seen)
            return FailedOver(successor.name, former.name if former else None, loss, took)


def _tell_by_files(successor: Instance, seen: Observation) -> None:
    node = seen.nodes[successor.name]
    if node.files and not node.facts:
        note = f"{successor.name}: nobody can log in, so its files are gone by. {node.silence}"
        successor.host.trace.note(note)


def _set_up(group: Group, successor: Instance, seen: Observation) -> None:
    """Do what follows the promotion; leave it where nobody can log in, before as after it.

    Who is primary is settled by then, and applications may get in where we do not.
    """
    try:
        _others_follow(group, successor, seen)
    except Error as fault:
        node = seen.nodes[successor.name]
        if node.facts or not node.files:
            raise
        why = fault.sentence.splitlines()[0]
        group.trace.note(
            f"{successor.name}: nobody can log in to make it ready for standbys: `invoke failover` "
            f"does that once somebody can. {why}"
        )


def _already(group: Group, name: str, seen: Observation, image: Image) -> None:
    """Finish what a failover that was cut short left undone, where a primary serves.

    Raises:
        Refused: nothing was left undone, or another node serves than the one that was named.
    """
    primary = group.primary(seen)
    facts = seen.nodes[primary.name].facts
    plan = succession.upstreams(group, primary, seen)
    stray = [
        i
        for i, upstream in plan.items()
        if leaders.alive(seen.nodes[i.name]) and not succession.follows(i, upstream, seen)
    ]
    disks = {i.name: disk for i in plan if (disk := _leading(group, i, seen, image))}
    fenced = [i for i in plan if fence.is_fenced(seen.nodes[i.name].container)]
    if name != primary.name and (name or not stray + list(disks) + fenced):
        change = f" `invoke switchover --to {name}` changes it and loses nothing." if name else ""
        raise Refused(f"{primary.name} serves as primary: there is nothing to fail over.{change}")
    found = _contest(group, primary, facts, seen, image, disks) if facts else None
    group.trace.note(f"{primary.name}: serves as primary")
    if found and facts:
        for down in disks:
            _keep_down(group, group.instance(down), image, seen, found, facts)
    _others_follow(group, primary, seen)


def _contest(
    group: Group,
    primary: Instance,
    facts: Facts,
    seen: Observation,
    image: Image,
    disks: dict[str, Disk],
) -> leaders.Contest:
    """Return what is known of the primary that serves and of those that would be one.

    Raises:
        Refused: it is not the one that leads, but one of the others, or a standby.
    """
    found = leaders.contest(group, seen, image, disks, facts.system_identifier)
    if found.name == primary.name:
        return found
    if found.name in disks:
        raise Refused(leaders.serves_instead(group, found, primary.name))
    stop = group.there(primary.node.host, f"docker stop {primary.name}")
    raise Refused(
        f"{primary.name} serves as primary, and is not the one to keep. "
        f"{found.told(primary.name)}. What clients write on {primary.name} makes it worse: "
        f"`{stop}`, then `invoke failover`, and `invoke rejoin {primary.name}`."
    )


def _keep_down(
    group: Group,
    instance: Instance,
    image: Image,
    seen: Observation,
    found: leaders.Contest,
    facts: Facts,
) -> None:
    """Keep a node that is down from coming back as a primary beside the one that serves.

    One that has commits of its own is not marked: whether these may be lost, `rejoin` asks.
    """
    fence.stop(group, instance, seen.nodes[instance.name].container)
    own = found.own.get((instance.name, found.name))
    if own and own.commits != 0:
        group.trace.note(f"{found.told(instance.name)}: `invoke rejoin {instance.name}`")
    else:
        fence.mark(group, instance, image, facts)


def _leading(group: Group, instance: Instance, seen: Observation, image: Image) -> Disk | None:
    """Return the data of a node that is down and would come back as a primary."""
    if leaders.alive(seen.nodes[instance.name]) or instance.node.host in group.away:
        return None
    disk = guards.data_of(instance, image)
    return disk if leaders.leads(disk) else None


def _others_follow(group: Group, primary: Instance, seen: Observation) -> None:
    """Let the standbys that run follow the new primary; what is lost is left to `rejoin`."""
    wanted = group.topology.sync_for(primary.node)
    plan = succession.upstreams(group, primary, seen)
    succession.prepare(group, primary, wanted, plan, promoted=True)
    answering = [n for n, facts in standbys_that_answer(seen).items() if not facts.by_files]
    running = {i: plan[i] for i in succession.downwards(plan) if i.name in answering}
    theirs = None if group.trace.dry else primary.facts()
    for instance, upstream in list(running.items()):
        mine = seen.nodes[instance.name].facts
        if mine and theirs and not ways.of_running(mine, theirs):
            group.trace.note(
                f"{instance.name}: has WAL that {primary.name} has not: `invoke rejoin "
                f"{instance.name}` brings it back"
            )
            del running[instance]
        elif upstream is not primary and upstream not in running:
            group.trace.note(
                f"{instance.name}: follows {upstream.name}, which is not back yet: `invoke "
                f"rejoin {upstream.name}` brings both back"
            )
            del running[instance]
        elif not succession.follows(instance, upstream, seen):
            if upstream is not primary:  # that one is prepared
                half_way.made_to_serve(group, upstream, seen.nodes[upstream.name].facts)
            connect.follow(group, instance, upstream)
    succession.settle(group, primary, running, wanted)
    side_by_side(lambda i: succession.tidy(group, i, plan), list(running))
