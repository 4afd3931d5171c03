"""A node comes back to its group: an old primary, or a standby that lost its way."""

from __future__ import annotations

from contextlib import suppress

from pgherd.docker import models
from pgherd.docker.models import Image
from pgherd.errors import Error, Refused, Unreachable
from pgherd.group import node_config, outside_data, preconditions, rejoin_method
from pgherd.group.group import Group
from pgherd.group.node_config import hba_values
from pgherd.group.observation import Observation
from pgherd.group.rejoin_method import Method, RejoinMethod
from pgherd.hosts.commands import Script
from pgherd.hosts.parallel import cleaning_up
from pgherd.operations import connect, data_loss, fencing, followers, seed, set_aside, sync
from pgherd.operations.failover import FOLLOWED
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import (
    ask_superuser,
    connect_all,
    make_directories,
    private_fragment,
    run_container,
    wait_serving,
)
from pgherd.operations.seed import SeedOptions, SeedPlan
from pgherd.postgres import leadership, scripts
from pgherd.postgres.facts import Disk
from pgherd.postgres.history import Beyond, counted
from pgherd.postgres.instance import Instance
from pgherd.postgres.leadership import Known

# --- taking back what an old primary wrote and the new one has not: pg_rewind ---

PASSFILE = "/run/rewind.passfile"  # in the container that rewinds, and gone with it


def rewind(
    group: Group, instance: Instance, primary: Instance, upstream: Instance, image: Image
) -> None:
    """Rewind a node that is down to where it parted from the primary; make it a standby.

    It connects as superuser, with the password on stdin: pg_rewind reads any file of the primary,
    which the replication role may not. Whoever calls keeps a copy: cut short, this leaves no
    database.

    Raises:
        Error: pg_rewind cannot do it, and what it says; the data is not to be used any more.
    """
    group.trace.note(f"{instance.name}: rewinding it to where it parted from {primary.name}")
    primary.execute(scripts.compose("checkpoint"), 300.0)  # 15 and older compare control data
    ask_superuser(group, primary)
    pieces: list[str | Script] = [
        private_fragment(group, instance),
        scripts.password("superuser_password", group.passwords.of("postgres")),
        "export PGPASSFILE=/run/rewind.passfile\n",
        "rewind",
        "hba",
        connect.fragments(instance, upstream),
        "mark-standby",
        "seeded",
    ]
    source = node_config.conninfo(
        instance,
        primary,
        "pgherd-rewind",
        user="postgres",
        dbname=primary.database or "postgres",
        passfile=PASSFILE,
    )
    script = scripts.compose(*pieces, source=source, **hba_values(instance))
    make_directories(group, instance)
    instance.engine.make_network(group.network, group.name)
    instance.offline(image, script, network=True, timeout=None, on_line=lambda _line: None)


def reason(fault: Error) -> str:
    """Return pg_rewind's own words of why it could not."""
    said = [line for line in fault.sentence.splitlines() if "pg_rewind: error" in line]
    return said[-1].partition("error: ")[2] if said else fault.sentence.splitlines()[-1].strip(" |")


# --- A node comes back to its group: an old primary, or a standby that lost its way ---

# It takes the lightest way that is safe: as it is, where the primary's history has all that it has;
# else rewound; else with a new base backup. What it had is kept aside until it streams, and for
# good where it has commits that the group has not. Commits of its own that a client may have been
# told of are lost to the group by that: it refuses, unless so much may be lost (--max-loss).


def rejoin(group: Group, name: str, asked: SeedOptions) -> None:
    """Make a node a standby of whoever is primary, by the lightest way that is safe.

    Raises:
        Refused: it is the only primary, or has commits of its own that may not be lost.
    """
    with group.locked(tolerant=True):
        seen = group.observe()
        instance = group.instance(name)
        if instance.node.host in group.away:
            raise Unreachable(group.away[instance.node.host])
        preconditions.check_name(group, instance, seen)
        preconditions.check_passwords(group, seen)
        preconditions.check_alter_system(group, seen)
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
    asked: SeedOptions | None = None,
) -> None:
    """Do what `rejoin` does with one node; whoever calls holds the lock.

    It does not have commits wait for the node again.
    """
    upstream = followers.upstream_under(group, instance, primary, seen)
    pair = SeedPlan(group, instance, upstream, image, seen)
    theirs = seen.nodes[primary.name].facts
    if pair.streams and followers.follows(instance, upstream, seen):
        pair.note(f"already follows {upstream.name}")
    elif theirs:
        outside_data.refuse_to_copy(group, primary, seen)
        outside_data.refuse_to_move(group, instance, seen)
        _rejoin_by(pair, primary, asked or SeedOptions())
    else:  # with --dry: the primary is there once the printed script has run
        seed.allow_standby(group, upstream, None)
        seed.seed(pair, asked or SeedOptions())
    followers.tidy(group, instance, followers.plan_upstreams(group, primary, seen))
    fencing.lift_restart(instance)


def _rejoin_by(pair: SeedPlan, primary: Instance, asked: SeedOptions) -> None:
    """Choose the way, say it, and go it; where it turns out not to lead there, take the next.

    The primary is asked after the node was: one that still receives has no less than that then.
    """
    if pair.mine and pair.mine.in_recovery and rejoin_method.can_follow(pair.mine, primary.facts()):
        way = RejoinMethod(Method.FOLLOW, f"it has nothing that {primary.name} has not")
    else:
        pair, way = _stop_and_judge(pair, primary, asked)
    pair.note(f"{way.kind.value}: {way.why}")
    seed.allow_standby(pair.group, pair.upstream, pair.theirs)
    if way.kind is Method.FOLLOW and seed.make_follow(pair):
        return
    if way.kind is Method.REWIND and _rewind(pair, primary, way):
        return
    if way.kind is not Method.BASE_BACKUP:
        _refuse_new_copy(pair, primary)
        pair.note(Method.BASE_BACKUP.value)
        pair = pair.observe_upstream_again()
    seed.seed(pair, asked)
    if way.commits != 0 and way.kind is Method.BASE_BACKUP:
        pair.note(f"{counted(way.commits)} of its own are in what was set aside")


def _stop_and_judge(
    pair: SeedPlan, primary: Instance, asked: SeedOptions
) -> tuple[SeedPlan, RejoinMethod]:
    """Stop the node, so that nothing of it changes any more, and judge by its data.

    What it would lose is weighed before, and again once it is stopped. Where that is too much by
    then it serves again, as it did.
    """
    group, instance = pair.group, pair.standby
    preconditions.check_data_unused(instance, pair.seen)
    known = pair.seen.nodes[primary.name].facts
    if pair.mine and known:
        rejoin_method.refuse_other_system(instance, pair.mine.system_identifier, known)
        nodes = leadership.known_of(group.topology, pair.seen.facts)
        own = group.count_one(nodes, instance.name, primary.name)
        _refuse_loss(pair, primary, asked, nodes, own, pair.mine.sync_names)
    if not pair.runs:
        preconditions.check_port(instance, pair.seen)
        return _judged(pair, primary, asked)
    ran = pair.container
    fencing.stop_and_fence(group, instance, ran)
    try:
        return _judged(pair, primary, asked, ran=True)
    except BaseException:
        with cleaning_up(), suppress(Error):
            pair.note("starting it again, as it was")
            fencing.lift_restart(instance)
            if ran:
                instance.engine.start(ran)
        raise


def _judged(
    pair: SeedPlan, primary: Instance, asked: SeedOptions, *, ran: bool = False
) -> tuple[SeedPlan, RejoinMethod]:
    """Judge a node that is down by its data; `ran` until now.

    Raises:
        Refused: it would lose more than may be lost, or has what cannot be moved.
    """
    group, instance = pair.group, pair.standby
    pair = SeedPlan(group, instance, pair.upstream, pair.image, group.observe())
    theirs = primary.facts()
    if preconditions.data_state(instance) != preconditions.FULL:
        outside_data.refuse_nested(primary, pair.seen)
        return pair, RejoinMethod(Method.BASE_BACKUP, "it has no data")
    disk = instance.disk(pair.image)
    if disk.unfinished:
        pair.note(
            "a run was cut short here; if it kept what was there, `invoke aside.list` shows it"
        )
    way = rejoin_method.choose_method(instance, pair.image, disk, theirs)
    outside_data.refuse_to_move(group, instance, pair.seen, disk)
    if way.kind is Method.BASE_BACKUP:
        _refuse_new_copy(pair, primary)
    if not _was_accepted(pair, disk, ran=ran):
        nodes = leadership.known_of(group.topology, pair.seen.facts)
        nodes[instance.name] = leadership.of_disk(disk, leads=not disk.standby_signal)
        _refuse_loss(pair, primary, asked, nodes, way.own, disk.sync_names)
    if not disk.unfinished:
        set_aside.keep_unarchived(group, instance, pair.image, disk.unarchived)
    return pair, way


def _refuse_new_copy(pair: SeedPlan, primary: Instance) -> None:
    """Refuse a base backup that cannot be taken, or for which the data cannot be set aside."""
    outside_data.refuse_nested(primary, pair.seen)
    set_aside.refuse_unmovable(pair.standby)


def _was_accepted(pair: SeedPlan, disk: Disk, *, ran: bool) -> bool:
    """Tell whether a failover has fenced the node, which told and weighed what is lost by that."""
    marked = disk.standby_signal and disk.state not in FOLLOWED
    return marked and not ran and models.is_fenced(pair.container)


def _refuse_loss(
    pair: SeedPlan,
    primary: Instance,
    asked: SeedOptions,
    nodes: dict[str, Known],
    own: Beyond | None,
    names: str,
) -> None:
    """Refuse to lose more of what the node has acknowledged by itself than may be lost.

    `names` is whom commits there waited for.
    """
    group, name = pair.group, pair.standby.name
    loss = data_loss.at_stake(group, pair.standby, primary, nodes, own, names)
    if own is None or not loss.above(asked.max_loss or 0):
        return
    theirs = group.count_one(nodes, primary.name, name)
    counts = {(name, primary.name): own, (primary.name, name): theirs}
    found = leadership.leader(nodes, counts, group.master.name)
    lose = f"`invoke rejoin {name} --max-loss {'any' if loss.size is None else loss.size}`"
    leads = bool(found and found.name == name)
    keep = _to_keep(pair, primary, leads=leads, would_lead=nodes[name].leads)
    choices = f"To lose what {name} has: {lose}. To keep it: {keep}"
    if leads:
        choices = f"To keep what {name} has: {keep}. To lose it: {lose}"
    difference = leadership.describe_difference(nodes, counts, name, primary.name)
    raise Refused(
        f"{difference}. Clients may have been told of what "
        f"{name} has, and {asked.max_loss or 0} bytes of it may be lost (--max-loss)."
        f"{f' {found.name} leads: {found.why}.' if found and found.why else ''} {choices}."
    )


def _to_keep(pair: SeedPlan, primary: Instance, *, leads: bool, would_lead: bool) -> str:
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


def _rewind(pair: SeedPlan, primary: Instance, way: RejoinMethod) -> bool:
    """Rewind the node, with its data kept aside; False where pg_rewind cannot."""
    group, instance, image = pair.group, pair.standby, pair.image
    connect.ensure_slot(instance, pair.upstream)
    copy = set_aside.copy_aside(group, instance, image, why="before rejoin rewound it")
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
        set_aside.drop_copy(instance, image, copy)
    return True
