"""The planned change of primary: a standby takes over, and the old primary follows it.

1. examine: one primary, a standby that streams from it and is near, and nobody to be waited for
2. prepare the standby: slots, rules, for whom its commits wait
3. prepare the primary: a checkpoint, so that it has little to write; marked as a standby to be
4. arm the promotion, which waits inside the standby for the end of the stream
5. stop the primary: it ships all that it has, its shutdown checkpoint last; the standby takes over
6. let the others follow the new primary, and start the old one, which needs no rewind
7. have commits wait for standbys again

From step 3 on the old primary cannot come back as a primary, so two never take writes. What fails
before the promotion is undone, and the old primary serves again; after it, all is brought to its
end, whatever signal comes. Where a run was cut short, the
next one first takes its turn, so that nothing of it goes on (`turn`), and goes on from what it
finds (`interrupted`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from pgherd.docker import Image
from pgherd.errors import DeadlinePassed, Refused, quoted
from pgherd.host.scope import cleaning_up
from pgherd.host.together import side_by_side
from pgherd.postgres.conf import sql_literal
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.shell import assignments
from pgherd.steps import aside, connect, guards, outside
from pgherd.steps.change import interrupted, succession, turn
from pgherd.steps.change.handover import Handover
from pgherd.steps.change.outage import Outage
from pgherd.steps.change.rejoin import bring_back
from pgherd.steps.change.successor import (
    brought_near,
    candidate,
    held_up,
    refuse_cut_short,
    refuse_few_sessions,
    refuse_held_up,
    refuse_unfit,
    release_replay,
    tell_transactions,
)
from pgherd.steps.holdups import Holdup
from pgherd.steps.image import ensure_image
from pgherd.steps.node import bring_passfile, wait_serving
from pgherd.steps.tls import half_way
from pgherd.sync import Sync

WAIT_SECONDS = 30  # for others, unless said otherwise
LONGEST_WAIT = 3600
ANSWER_SECONDS = 40  # for a server that serves to be prepared


@dataclass(frozen=True)
class Switched:
    """What came of a switchover.

    Attributes:
        primary: the node that is primary now.
        former: the one that was; None where all were standbys.
        checkpoint: the position of its shutdown checkpoint, which the new one has.
        refused: seconds without an acknowledged commit; None where that could not be watched.
        asynchronous: seconds in which commits waited for nobody though they ought to; None where
            there were none.
    """

    primary: str
    former: str | None
    checkpoint: str | None
    refused: float | None
    asynchronous: float | None


def waiting(text: str) -> int:
    """Read how many seconds others are waited for. Raises Refused for what is no such number."""
    if text and not (re.fullmatch(r"[0-9]{1,4}", text) and 0 < int(text) <= LONGEST_WAIT):
        raise Refused(f"--timeout is seconds, from 1 to {LONGEST_WAIT}, not {quoted(text)}.")
    return int(text or WAIT_SECONDS)


def switchover(
    group: Group, name: str, *, seconds: int = WAIT_SECONDS, force: bool = False
) -> Switched | None:
    """Make a standby the primary, with nothing lost; None where it is primary already.

    Run again after it was cut short, it goes on from where it was.

    Args:
        group: the group.
        name: the standby.
        seconds: how long others are waited for: consumers, the archiver, queries on the standby.
        force: those that would have to be waited for are ended.

    Raises:
        DeadlinePassed: others were waited for, and the old primary serves again.
        Refused: the node is no standby that streams and is near; nothing was changed.
        Error: a stage failed; the sentence tells who serves.
    """
    with group.locked(tolerant=True):
        seen = turn.settled(group, group.observe())
        successor = candidate(group, name, seen)
        guards.check_alter_system(group, seen)
        image = ensure_image(group, seen)
        if seen.primaries == [successor.name]:
            group.trace.note(f"{name}: already primary")
            _gather(group, successor, seen, image)
            return None
        if not seen.primaries and not seen.nodes[successor.name].planned:
            if done := _resumed(group, successor, seen, image):
                return done
            seen = group.observe()
        former = group.primary(seen)
        refuse_cut_short(group, former, seen)
        refuse_unfit(successor, former, seen)
        outside.refuse_to_change(group, (former, successor), seen)
        refuse_few_sessions(successor, former)
        half_way.refuse_half_way(group, seen)
        found = held_up(group, successor, former, seen, 0 if force else seconds)
        if not force:
            refuse_held_up(successor, found)
        tell_transactions(group, former, seen)
        brought_near(group, successor, former, seen)
        if any(holdup.node == successor.name for holdup in found):
            release_replay(group, successor, seconds)
        ended = found if force else None
        return _planned(group, former, successor, seen, image, ended, seconds)


def _planned(
    group: Group,
    former: Instance,
    successor: Instance,
    seen: Observation,
    image: Image,
    ended: list[Holdup] | None,
    seconds: int,
) -> Switched:
    """Change the primary while it serves."""
    theirs, mine = seen.nodes[former.name].facts, seen.nodes[successor.name].facts
    asked = group.topology.sync_for(former.node)  # with --dry, it is what will be so then
    names = theirs.sync_names if theirs else asked.render() if asked else ""
    wanted = succession.sync_after(group, former, successor, names)
    start, timeline = (mine.lsn or "0/0", mine.timeline) if mine else ("0/0", 1)
    plan = succession.upstreams(group, successor, seen)
    there = seen.nodes[former.name].container
    handover = Handover(
        group, former, successor, plan[former], image, start, timeline, there, theirs, seconds,
        ended,
    )  # fmt: skip
    ours, limit = assignments(turn=turn.OURS), ANSWER_SECONDS
    preparing: list[Callable[[], None]] = [
        lambda: succession.prepare(group, successor, wanted, plan, seconds=limit),
        lambda: wait_serving(group, former, ours, "take-turn", seconds=limit),
    ]
    answering = list(zip((successor, former), preparing, strict=True))
    side_by_side(lambda pair: _in_time(*pair), answering)
    with Outage(group, former, successor) as outage:
        handover.take_place()
        with cleaning_up():  # from here on nothing can be undone
            return _followed(group, handover, plan, seen, wanted, outage)


def _in_time(instance: Instance, act: Callable[[], None]) -> None:
    """Prepare a server. One that does not answer is told of, also where its container is paused."""
    try:
        act()
    except DeadlinePassed as fault:
        paused = turn.paused(instance)
        raise DeadlinePassed(
            f"{instance.name} does not answer{paused}.\n{fault.sentence}"
        ) from None


def _resumed(group: Group, successor: Instance, seen: Observation, image: Image) -> Switched | None:
    """Go on where no node is primary (see `interrupted`); None where the old one serves again."""
    facts = seen.nodes[successor.name].facts
    found = interrupted.last_primary(group, seen, image, facts) if facts else None
    if found is None:
        return _elected(group, successor, seen, image)
    former, disk = found
    if interrupted.has_all(successor, disk):
        return _completed(group, former, successor, seen, (image, disk))
    group.trace.note(f"{successor.name}: may lack what {former.name} wrote last")
    interrupted.serve_again(group, former, image)
    if succession.follows(successor, former, seen):
        connect.wait_streaming(successor, former, connect.STREAMING_SECONDS)
    return None


def _completed(
    group: Group,
    former: Instance,
    successor: Instance,
    seen: Observation,
    there: tuple[Image, Disk],
) -> Switched:
    """Go on where the primary was stopped already and the standby has all that it wrote."""
    group.trace.note(f"{former.name}: was stopped, and {successor.name} has all that it wrote")
    image, disk = there
    bring_passfile(group, successor)  # the former one's is laid by the password that is known then
    wanted = succession.sync_after(group, former, successor, disk.sync_names)
    plan = succession.upstreams(group, successor, seen)
    upstream, start, timeline = plan[former], disk.checkpoint, disk.timeline
    connect.connect_stopped(group, former, upstream, image)
    if (container := former.container()) and container.alive:
        raise Refused(f"{former.name} was started meanwhile: this again.")
    handover = Handover(group, former, successor, upstream, image, start, timeline, container)
    succession.prepare(group, successor, wanted, plan)
    with cleaning_up():
        handover.promote()
        return _followed(group, handover, plan, seen, wanted, None)


def _elected(group: Group, successor: Instance, seen: Observation, image: Image) -> Switched:
    """Promote one of a group that has standbys only, once it has what the others have."""
    interrupted.get_all(group, successor, seen)
    plan = succession.upstreams(group, successor, seen)
    wanted = group.topology.sync_for(successor.node)
    succession.prepare(group, successor, wanted, plan)
    group.trace.note(f"{successor.name}: all are standbys, and it has what they have: promoting it")
    with cleaning_up():
        interrupted.promote(successor)
        group.trace.note(f"{successor.name}: is primary now")
    _gather(group, successor, group.observe(), image)  # that may take a base backup
    return Switched(successor.name, None, None, None, None)


def _followed(
    group: Group,
    handover: Handover,
    plan: succession.Upstreams,
    seen: Observation,
    wanted: Sync | None,
    outage: Outage | None,
) -> Switched:
    """Let all others follow the new primary; the old one is down, and connected to it."""
    former, successor = handover.former, handover.successor
    begun = time.monotonic()
    group.trace.note(f"{successor.name}: is primary now")
    running = [i for i in plan if (facts := seen.nodes[i.name].facts) and facts.in_recovery]
    followers = {i: plan[i] for i in (former, *running)}
    _all_follow(handover, followers, seen)
    settled = succession.settle(group, successor, followers, wanted)
    refused = outage.seconds() if outage else None
    since = outage.resumed_at if outage and refused is not None else begun
    late = time.monotonic() - since
    asynchronous = late if wanted and settled and not group.topology.group.strict else None
    # Only now: a primary that goes on after all has to wait for whom it waited.
    wait_serving(group, former, assignments(names=sql_literal("")), "first-names")
    side_by_side(lambda i: succession.tidy(group, i, plan), list(followers))
    return Switched(successor.name, former.name, handover.checkpoint, refused, asynchronous)


def _all_follow(handover: Handover, followers: succession.Upstreams, seen: Observation) -> None:
    """Let each node follow its upstream; those that follow the old primary once that serves."""
    below = [i for i, upstream in followers.items() if upstream is handover.former]
    others = [i for i in followers if i not in below]
    side_by_side(lambda i: _follow(handover, i, followers[i], seen), others)
    if below:
        handover.former.wait_ready()
        side_by_side(lambda i: _follow(handover, i, followers[i], seen), below)


def _follow(handover: Handover, instance: Instance, upstream: Instance, seen: Observation) -> None:
    group, former = handover.group, handover.former
    if upstream is not handover.successor:  # that one has the slots already
        connect.ensure_slot(instance, upstream)
    if instance is former:
        if handover.theirs and handover.theirs.archiver:
            disk = former.disk(handover.image)
            aside.keep_unarchived(group, former, handover.image, disk.unarchived)
        group.trace.note(f"{former.name}: starting it, as a standby of {upstream.name}")
        if handover.container:
            former.engine.start(handover.container)
    elif not succession.follows(instance, upstream, seen):
        if upstream is not handover.successor:
            half_way.made_to_serve(group, upstream, seen.nodes[upstream.name].facts)
        connect.follow(group, instance, upstream)


def _gather(group: Group, primary: Instance, seen: Observation, image: Image) -> None:
    """Bring every other node to follow the primary, where an earlier run left that undone."""
    upstreams = succession.upstreams(group, primary, seen)
    for instance, upstream in upstreams.items():
        there = seen.nodes[instance.name].container and instance.node.host not in group.away
        if there and not succession.follows(instance, upstream, seen):
            bring_back(group, instance, primary, seen, image)
    following = {i: u for i, u in upstreams.items() if seen.nodes[i.name].container}
    succession.settle(group, primary, following, group.topology.sync_for(primary.node))
