"""Seeding a standby: steps 4, 5 and 7 to 10 of the tutorial, in an order that is safe."""

from __future__ import annotations

from pgherd.errors import Error, Refused
from pgherd.postgres.conf import sql_literal
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group, Observation
from pgherd.postgres.instance import Instance
from pgherd.steps import connect, guards, lifecycle, seeding
from pgherd.steps.asked import Asked, Pair
from pgherd.steps.image import ensure_image
from pgherd.steps.node import check_major, run_container, wait_serving
from pgherd.steps.sync import require_sync, set_names, waits_for

FOLLOW_SECONDS = 20  # for a standby that is there already to stream again, before it is seeded anew


def seed_standby(group: Group, name: str, asked: Asked) -> None:
    """Make a node a standby that streams, and synchronous where the topology asks for that.

    Raises:
        Refused: the node is primary now, its upstream does not serve, or its directory holds
            what is not ours to set aside.
    """
    asked.check()
    standby = group.instance(name)
    with group.locked():
        seen = group.observe()
        guards.check_name(group, standby, seen)
        image = ensure_image(group, seen.containers.values())
        upstream = _upstream(group, standby, seen, asked)
        pair = Pair(group, standby, upstream, image, seen)
        facts = None if asked.reseed else _following(pair)
        if facts is None:
            _check(pair, asked)
            facts = _seed(pair, asked)
        _require_sync(pair, facts)


def _upstream(group: Group, standby: Instance, seen: Observation, asked: Asked) -> Instance:
    """Return whom to seed from; refuse where the node itself is the one that leads."""
    others = [name for name in seen.primaries if name != standby.name]
    own = seen.nodes[standby.name].facts
    if not others and own and not own.in_recovery and (own.senders or standby is group.master):
        raise Refused(f"{standby.name} is the primary now: it cannot be seeded.")
    if standby is group.master and not others:
        raise Refused(f"{standby.name} is to be the primary, and no other node is: setup-master.")
    if asked.method == "copy" and not others and seen.nodes[group.master.name].container:
        return group.master  # it may be down: an earlier copy was killed while it was stopped
    return group.upstream_of(standby, others, seen)


# --- a standby that is there already ---


def _following(pair: Pair) -> Facts | None:
    """Return the upstream's facts if the node streams from it already or can be made to."""
    if pair.runs and pair.container:
        guards.check_spec(pair.standby, pair.container, pair.image)
    if pair.theirs is None:
        return None
    if pair.mine:
        return _following_live(pair, pair.mine, pair.theirs)
    if pair.runs or guards.data_state(pair.standby) != guards.FULL:
        return None
    guards.check_data_unused(pair.standby, pair.seen)
    disk = pair.standby.disk(pair.image)
    usable = disk.standby_signal and not disk.unfinished
    if usable and disk.system_identifier == pair.theirs.system_identifier:
        return _made_to_follow(pair)
    return None


def _following_live(pair: Pair, mine: Facts, theirs: Facts) -> Facts | None:
    if not mine.in_recovery or mine.system_identifier != theirs.system_identifier:
        return None
    sender = theirs.sender(pair.standby.node.application_name)
    if sender and sender.streaming and mine.primary_slot == pair.standby.node.slot:
        pair.note(f"already streams from {pair.upstream.name}")
        wait_serving(pair.standby)
        return theirs
    return _made_to_follow(pair)


def _made_to_follow(pair: Pair) -> Facts | None:
    """Connect a standby of this system and see whether it streams; None if it does not."""
    connect.ensure_slot(pair.standby, pair.upstream)
    if pair.runs:
        connect.connect_running(pair.group, pair.standby, pair.upstream, pair.image)
    else:
        connect.connect_stopped(pair.group, pair.standby, pair.upstream, pair.image)
        run_container(pair.group, pair.standby, pair.image, pair.container)
    try:
        facts = connect.wait_streaming(pair.standby, pair.upstream, FOLLOW_SECONDS)
    except Error as fault:
        pair.note(f"it does not stream, so it is seeded anew ({fault.sentence.splitlines()[0]})")
        lifecycle.stop_instances(pair.group, [pair.standby], clean=False)
        made = pair.standby.container()
        if made and pair.container is None:
            pair.group.engine.remove(made)
        return None
    pair.note(f"streams from {pair.upstream.name}")
    _drop_former_slot(pair)
    return facts or pair.theirs


def _drop_former_slot(pair: Pair) -> None:
    """Drop the slot that the node had under another application name: it would only keep WAL."""
    former = pair.mine.primary_slot if pair.mine else ""
    if former and former not in {node.slot for node in pair.group.topology.nodes.values()}:
        pair.group.trace.note(f"{pair.upstream.name}: dropping the slot {former}, used no more")
        pair.upstream.psql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "  # noqa: S608
            f"WHERE slot_name = {sql_literal(former)} AND NOT active;\n"
        )


# --- seeding ---


def _check(pair: Pair, asked: Asked) -> None:
    """Refuse before anything is stopped or moved."""
    guards.check_data_unused(pair.standby, pair.seen)
    if not pair.runs:
        guards.check_port(pair.standby, pair.seen)
    _check_sync(pair, asked)
    _check_data(pair, asked)
    if asked.method == "copy":
        seeding.check_copy(pair.standby, pair.upstream, pair.seen, pair.group.trace, asked.confirm)


def _check_sync(pair: Pair, asked: Asked) -> None:
    """Refuse to take away the standby that every commit waits for, unless it may be so."""
    for name in pair.seen.primaries:
        facts = pair.seen.nodes[name].facts
        if not facts or not waits_for(facts, pair.standby.node.application_name):
            continue
        if not asked.async_meanwhile:
            raise Refused(
                f"{pair.standby.name} is the synchronous standby: while it is seeded every commit "
                f"on {name} would wait. --async-meanwhile lets them run on without it."
            )
        pair.group.trace.note(f"{name}: asynchronous until {pair.standby.name} streams again")
        set_names(pair.group.instance(name), "", 0)


def _check_data(pair: Pair, asked: Asked) -> None:
    """Refuse to set aside what this group did not make, unless that is asked for.

    Ours is what our container had, what has this system's identifier, and what our marker tells.
    """
    if pair.container or asked.set_aside or guards.data_state(pair.standby) != guards.FULL:
        return
    disk = pair.standby.disk(pair.image)
    if disk.empty or disk.unfinished or disk.was_initialised:
        return
    way_out = "--set-aside moves it aside first, whatever it is."
    try:
        check_major(pair.standby, disk, pair.image)
    except Refused as fault:
        raise Refused(f"{fault.sentence}\n{way_out}") from None
    system = pair.theirs.system_identifier if pair.theirs else None
    if disk.system_identifier != system:
        raise Refused(
            f"{pair.standby.name}: {pair.standby.node.data} holds a database of another system "
            f"({disk.system_identifier}, and {pair.upstream.name} is {system}).\n{way_out}"
        )


def _seed(pair: Pair, asked: Asked) -> Facts | None:
    """Stop what runs, set aside what lies there, copy, connect, mark, start, wait."""
    group, standby, upstream, image = pair.group, pair.standby, pair.upstream, pair.image
    if pair.runs:
        lifecycle.stop_instances(group, [standby], clean=False)
    seeding.set_aside(group, standby, image)
    rest = [connect.fragments(standby, upstream), "mark-standby"]
    if asked.method == "copy":
        seeding.copy_from_running(group, standby, upstream, image, rest)
    else:
        slot = seeding.slot_option(standby, upstream, pair.theirs)
        options = [*slot, *asked.backup_options()]
        seeding.base_backup(
            group, standby, upstream, image, options, verify=asked.verify_backup, rest=rest
        )
    run_container(group, standby, image, pair.container)
    facts = connect.wait_streaming(standby, upstream, connect.STREAMING_SECONDS)
    pair.note(f"streams from {upstream.name}")
    return facts


def _require_sync(pair: Pair, facts: Facts | None) -> None:
    """Step 10 on the primary, by what it says after the standby streams."""
    if facts is None or not facts.in_recovery:
        require_sync(pair.group, pair.upstream, facts, defer=True)
        return
    seen = pair.group.observe()  # a cascaded standby: its upstream is no primary
    primary = pair.group.primary(seen)
    require_sync(pair.group, primary, seen.nodes[primary.name].facts, defer=True)
