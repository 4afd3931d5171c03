"""A node comes back to its group: an old primary, or a standby that lost its way.

It takes the lightest way that is safe: as it is, where the primary's history has all that it has;
else rewound; else with a new base backup. What it had is kept aside until it streams, and for good
where it has commits that the group has not. Commits of its own that a client may have been told of
are lost to the group by that: it refuses, unless so much may be lost (--max-loss).
"""

from __future__ import annotations

from contextlib import suppress

from pgherd.docker import Image
from pgherd.errors import Error, Refused, Unreachable
from pgherd.host.scope import cleaning_up
from pgherd.postgres import leading
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.history import Beyond, counted
from pgherd.postgres.instance import Instance
from pgherd.postgres.leading import Known
from pgherd.postgres.observation import Observation
from pgherd.steps import aside, connect, guards, outside, sync
from pgherd.steps.change import fence, losing, succession, ways
from pgherd.steps.change.lost import FOLLOWED
from pgherd.steps.change.rewind import reason, rewind
from pgherd.steps.change.ways import Kind, Way
from pgherd.steps.image import ensure_image
from pgherd.steps.node import connect_all, run_container, wait_serving
from pgherd.steps.seed import following, standby
from pgherd.steps.seed.asked import Asked, Pair


def rejoin(group: Group, name: str, asked: Asked) -> None:
    """Make a node a standby of whoever is primary, by the lightest way that is safe.

    Raises:
        Refused: it is the only primary, or has commits of its own that may not be lost.
    """
    with group.locked(tolerant=True):
        seen = group.observe()
        instance = group.instance(name)
        if instance.node.host in group.away:
            raise Unreachable(group.away[instance.node.host])
        guards.check_name(group, instance, seen)
        guards.check_passwords(group, seen)
        guards.check_alter_system(group, seen)
        primary = _leader(group, instance, seen)
        image = ensure_image(group, seen)
        connect_all(group, seen)
        bring_back(group, instance, primary, seen, image, asked)
        facts = None if group.trace.dry else primary.facts()
        sync.require_sync(group, primary, facts, defer=True)


def _leader(group: Group, instance: Instance, seen: Observation) -> Instance:
    """Return the primary that the node is to follow: of several others the one that leads.

    Raises:
        Refused: there is no other.
    """
    others = [n for n in seen.primaries if n != instance.name]
    if instance.name in seen.primaries and not others:
        raise Refused(f"{instance.name} is the primary: there is nothing for it to follow.")
    return group.upstream_of(group.master, others, seen) if others else group.primary(seen)


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
        _refuse_new_copy(pair, primary)
        pair.note(Kind.BASE_BACKUP.value)
        pair = pair.asked_again()
    standby.seed(pair, asked)
    if way.commits != 0 and way.kind is Kind.BASE_BACKUP:
        pair.note(f"{counted(way.commits)} of its own are in what was set aside")


def _stopped(pair: Pair, primary: Instance, asked: Asked) -> tuple[Pair, Way]:
    """Stop the node, so that nothing of it changes any more, and judge by its data.

    What it would lose is weighed before, and again once it is stopped. Where that is too much by
    then it serves again, as it did.
    """
    group, instance = pair.group, pair.standby
    guards.check_data_unused(instance, pair.seen)
    known = pair.seen.nodes[primary.name].facts
    if pair.mine and known:
        ways.refuse_other_system(instance, pair.mine.system_identifier, known)
        nodes = leading.known_of(group.topology, pair.seen.facts)
        own = group.count_one(nodes, instance.name, primary.name)
        _refuse_loss(pair, primary, asked, nodes, own, pair.mine.sync_names)
    if not pair.runs:
        guards.check_port(instance, pair.seen)
        return _judged(pair, primary, asked)
    ran = pair.container
    fence.stop(group, instance, ran)
    try:
        return _judged(pair, primary, asked, ran=True)
    except BaseException:
        with cleaning_up(), suppress(Error):
            pair.note("starting it again, as it was")
            fence.lift_restart(instance)
            if ran:
                instance.engine.start(ran)
        raise


def _judged(pair: Pair, primary: Instance, asked: Asked, *, ran: bool = False) -> tuple[Pair, Way]:
    """Judge a node that is down by its data; `ran` until now.

    Raises:
        Refused: it would lose more than may be lost, or has what cannot be moved.
    """
    group, instance = pair.group, pair.standby
    pair = Pair(group, instance, pair.upstream, pair.image, group.observe())
    theirs = primary.facts()
    if guards.data_state(instance) != guards.FULL:
        outside.refuse_nested(primary, pair.seen)
        return pair, Way(Kind.BASE_BACKUP, "it has no data")
    disk = instance.disk(pair.image)
    if disk.unfinished:
        pair.note("a run was cut short here; if it kept what was there, `invoke backups` shows it")
    way = ways.of_stopped(instance, pair.image, disk, theirs)
    outside.refuse_to_move(group, instance, pair.seen, disk)
    if way.kind is Kind.BASE_BACKUP:
        _refuse_new_copy(pair, primary)
    if not _was_accepted(pair, disk, ran=ran):
        nodes = leading.known_of(group.topology, pair.seen.facts)
        nodes[instance.name] = leading.of_disk(disk, leads=not disk.standby_signal)
        _refuse_loss(pair, primary, asked, nodes, way.own, disk.sync_names)
    if not disk.unfinished:
        aside.keep_unarchived(group, instance, pair.image, disk.unarchived)
    return pair, way


def _refuse_new_copy(pair: Pair, primary: Instance) -> None:
    """Refuse a base backup that cannot be taken, or for which the data cannot be set aside."""
    outside.refuse_nested(primary, pair.seen)
    aside.refuse_unmovable(pair.standby)


def _was_accepted(pair: Pair, disk: Disk, *, ran: bool) -> bool:
    """Tell whether a failover has fenced the node, which told and weighed what is lost by that."""
    marked = disk.standby_signal and disk.state not in FOLLOWED
    return marked and not ran and fence.is_fenced(pair.container)


def _refuse_loss(
    pair: Pair,
    primary: Instance,
    asked: Asked,
    nodes: dict[str, Known],
    own: Beyond | None,
    names: str,
) -> None:
    """Refuse to lose more of what the node has acknowledged by itself than may be lost.

    `names` is whom commits there waited for.
    """
    group, name = pair.group, pair.standby.name
    loss = losing.at_stake(group, pair.standby, primary, nodes, own, names)
    if own is None or not loss.above(asked.max_loss or 0):
        return
    theirs = group.count_one(nodes, primary.name, name)
    counts = {(name, primary.name): own, (primary.name, name): theirs}
    found = leading.leader(nodes, counts, group.master.name)
    lose = f"`invoke rejoin {name} --max-loss {'any' if loss.size is None else loss.size}`"
    leads = bool(found and found.name == name)
    keep = _to_keep(pair, primary, leads=leads, would_lead=nodes[name].leads)
    choices = f"To lose what {name} has: {lose}. To keep it: {keep}"
    if leads:
        choices = f"To keep what {name} has: {keep}. To lose it: {lose}"
    raise Refused(
        f"{leading.told(nodes, counts, name, primary.name)}. Clients may have been told of what "
        f"{name} has, and {asked.max_loss or 0} bytes of it may be lost (--max-loss)."
        f"{f' {found.name} leads: {found.why}.' if found and found.why else ''} {choices}."
    )


def _to_keep(pair: Pair, primary: Instance, *, leads: bool, would_lead: bool) -> str:
    """Return the commands with which the group goes on from what the node has.

    It `leads`; or it would be a primary if it were started.
    """
    name = pair.standby.name
    start = pair.group.there(pair.standby.node.host, f"docker start {name}")
    stop = pair.group.there(primary.node.host, f"docker stop {primary.name}")
    if name in pair.seen.primaries:
        return f"`invoke rejoin {primary.name}`"
    if would_lead:
        then = f"`{start}`, then `invoke rejoin {primary.name}`"
        return f"`{stop}`, then `invoke start`" if leads else then
    first = "" if pair.mine else f"`{start}`, "
    return f"{first}`{stop}`, then `invoke failover --to {name}`"


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
        pair.note(f"{counted(way.commits)} of its own are in {copy}: run a server on that to see")
    else:
        aside.drop_copy(instance, image, copy)
    return True
