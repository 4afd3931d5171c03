"""A node comes back to its group: an old primary, or a standby that lost its way.

It takes the lightest way that is safe: as it is, where the primary's history has all that it has;
else rewound; else with a new base backup. What it had is kept aside until it streams, and for good
where it has commits that the group has not.
"""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Error, Refused, Unreachable
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import aside, connect, guards, leaders, outside, sync
from pgherd.steps.change import fence, succession, ways
from pgherd.steps.change.rewind import reason, rewind
from pgherd.steps.change.ways import Kind, Way
from pgherd.steps.image import ensure_image
from pgherd.steps.node import run_container, wait_serving
from pgherd.steps.seed import following, standby
from pgherd.steps.seed.asked import Asked, Pair


def rejoin(group: Group, name: str, asked: Asked) -> None:
    """Make a node a standby of whoever is primary, by the lightest way that is safe.

    Raises:
        Refused: it is the primary, or has newer data than the primary.
    """
    with group.locked(tolerant=True):
        seen = group.observe()
        instance = group.instance(name)
        if instance.node.host in group.away:
            raise Unreachable(group.away[instance.node.host])
        guards.check_name(group, instance, seen)
        guards.check_passwords(group, seen)
        primary = _leader(group, instance, seen)
        image = ensure_image(group, seen)
        bring_back(group, instance, primary, seen, image, asked)
        facts = None if group.trace.dry else primary.facts()
        sync.require_sync(group, primary, facts, defer=True)


def _leader(group: Group, instance: Instance, seen: Observation) -> Instance:
    """Return the primary that the node is to follow; of two primaries the node is the older one."""
    name = instance.name
    others = [n for n in seen.primaries if n != name]
    mine = seen.nodes[name].facts
    if mine and not mine.in_recovery and not others:
        raise Refused(f"{name} is the primary: there is nothing for it to follow.")
    leader = group.upstream_of(group.master, others, seen) if others else group.primary(seen)
    theirs = seen.nodes[leader.name].facts
    if mine and theirs and not mine.in_recovery and mine.timeline >= theirs.timeline:
        newer = f"{name} (timeline {mine.timeline}) and {leader.name} (timeline {theirs.timeline})"
        raise Refused(
            f"Two nodes are primary at once: {newer}, and {name} is not the older one. Stop the "
            f"one that is wrong (`docker stop {name}` or `docker stop {leader.name}`); then "
            "`invoke rejoin` it."
        )
    return leader


def bring_back(
    group: Group,
    instance: Instance,
    primary: Instance,
    seen: Observation,
    image: Image,
    asked: Asked | None = None,
) -> None:
    """Do what `rejoin` does with one node; whoever calls holds the lock.

    It does not have commits wait for the node again.
    """
    upstream = succession.upstream_under(group, instance, primary, seen)
    pair = Pair(group, instance, upstream, image, seen)
    theirs = seen.nodes[primary.name].facts
    if pair.streams and succession.follows(instance, upstream, seen):
        pair.note(f"already follows {upstream.name}")
    elif theirs:
        outside.refuse_to_copy(group, primary, seen)
        outside.refuse_to_move(group, instance, seen)
        _by(pair, primary, asked or Asked())
    else:  # with --dry: the primary is there once the printed script has run
        following.let_in(group, upstream, None)
        standby.seed(pair, asked or Asked())
    succession.tidy(group, instance, succession.upstreams(group, primary, seen))
    fence.lift_restart(instance)


def _by(pair: Pair, primary: Instance, asked: Asked) -> None:
    """Choose the way, say it, and go it; where it turns out not to lead there, take the next.

    The primary is asked after the node was: one that still receives has no less than that then.
    """
    if pair.mine and pair.mine.in_recovery and ways.of_running(pair.mine, primary.facts()):
        way = Way(Kind.FOLLOW, f"it has nothing that {primary.name} has not")
    else:
        pair, way = _stopped(pair, primary, asked)
    pair.note(f"{way.kind.value}: {way.why}")
    following.let_in(pair.group, pair.upstream, pair.theirs)
    if way.kind is Kind.FOLLOW and following.made_to_follow(pair):
        return
    if way.kind is Kind.REWIND and _rewound(pair, primary, way):
        return
    if way.kind is not Kind.BASE_BACKUP:
        pair.note(Kind.BASE_BACKUP.value)
        pair = pair.asked_again()
    standby.seed(pair, asked)
    if way.commits != 0 and way.kind is Kind.BASE_BACKUP:
        pair.note(f"{ways.counted(way.commits)} of its own are in what was set aside")


def _stopped(pair: Pair, primary: Instance, asked: Asked) -> tuple[Pair, Way]:
    """Stop the node, so that nothing of it changes any more, and judge by its data."""
    group, instance = pair.group, pair.standby
    guards.check_data_unused(instance, pair.seen)
    known = pair.seen.nodes[primary.name].facts
    if pair.mine and known:
        ways.refuse_other_system(instance, pair.mine.system_identifier, known)
        _refuse_newer(instance, pair.mine.timeline, known, asked)
    if pair.runs:
        fence.stop(group, instance, pair.container)
    else:
        guards.check_port(instance, pair.seen)
    pair = Pair(group, instance, pair.upstream, pair.image, group.observe())
    theirs = primary.facts()
    if guards.data_state(instance) != guards.FULL:
        return pair, Way(Kind.BASE_BACKUP, "it has no data")
    disk = instance.disk(pair.image)
    outside.refuse_to_move(group, instance, pair.seen, disk)
    if disk.unfinished:
        pair.note("a run was cut short here; if it kept what was there, `invoke backups` shows it")
    else:
        _refuse_newer(instance, disk.timeline, theirs, asked)
        aside.keep_unarchived(group, instance, pair.image, disk.unarchived)
    return pair, ways.of_stopped(instance, pair.image, disk, theirs)


def _refuse_newer(instance: Instance, timeline: int, theirs: Facts, asked: Asked) -> None:
    if timeline > theirs.timeline and not asked.set_aside:
        raise Refused(
            f"{leaders.has_newer(instance.name, timeline, 'the primary', theirs.timeline)}. If "
            "that may be lost, --set-aside keeps it aside; else stop the primary, and `invoke "
            f"step.run-standby --node {instance.name}`."
        )


def _rewound(pair: Pair, primary: Instance, way: Way) -> bool:
    """Rewind the node, with its data kept aside; False where pg_rewind cannot."""
    group, instance, image = pair.group, pair.standby, pair.image
    connect.ensure_slot(instance, pair.upstream)
    copy = aside.copy_aside(group, instance, image, why="before rejoin rewound it")
    try:
        rewind(group, instance, primary, pair.upstream, image)
    except Error as fault:
        pair.note(f"pg_rewind could not: {reason(fault)}\nits data is kept as {copy}")
        return False
    run_container(group, instance, image, pair.container)
    connect.wait_streaming(instance, pair.upstream, connect.STREAMING_SECONDS)
    wait_serving(group, instance)
    pair.note(f"streams from {pair.upstream.name}")
    if way.commits != 0:
        pair.note(
            f"{ways.counted(way.commits)} of its own are in {copy}: run a server on that to see"
        )
    else:
        aside.drop_copy(instance, image, copy)
    return True
