"""Seeding a standby: steps 4, 5 and 7 to 10 of the tutorial, in an order that is safe."""

from __future__ import annotations

from pgherd.errors import Refused, Unreachable
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import connect, guards, lifecycle, seeding
from pgherd.steps.asked import Asked, Pair
from pgherd.steps.following import following, let_in
from pgherd.steps.hosts import tell_differences
from pgherd.steps.image import ensure_image
from pgherd.steps.node import check_major, run_container
from pgherd.steps.sync import require_sync, set_names, waits_for
from pgherd.steps.tutorial import first_standby


def chosen(group: Group, name: str, asked: Asked) -> str:
    """Return the node that is meant: the one named, else the topology's first standby.

    Raises:
        Refused: none was named of several, and one that streams may be seeded anew.
    """
    if name:
        return name
    first, *others = [first_standby(group).name, *(n.name for n in group.topology.standbys[1:])]
    if others and asked.reseed:
        raise Refused(f"Which standby? Say --node {first} or {others[0]}.")
    if others:
        group.trace.note(f"{first} is meant; for {', '.join(others)} say --node")
    return first


def seed_standby(group: Group, name: str, asked: Asked) -> None:
    """Make a node a standby that streams, and synchronous where the topology asks for that.

    Raises:
        Refused: the node is primary now, its upstream does not serve, or its directory holds
            what is not ours to set aside.
    """
    asked.check()
    standby = group.instance(name)
    with group.locked(tolerant=True):
        seen = group.observe()
        _refuse_away(group, standby)
        tell_differences(group)
        guards.check_name(group, standby, seen)
        guards.check_passwords(group, seen)
        image = ensure_image(group, seen)
        upstream = _upstream(group, standby, seen, asked)
        _refuse_away(group, upstream)
        pair = Pair(group, standby, upstream, image, seen)
        facts = None if asked.reseed else following(pair)
        if facts is None:
            _check(pair, asked)
            facts = _seed(pair, asked)
        _require_sync(pair, facts)


def _refuse_away(group: Group, instance: Instance) -> None:
    if instance.node.host in group.away:
        raise Unreachable(group.away[instance.node.host])


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


# --- seeding ---


def _check(pair: Pair, asked: Asked) -> None:
    """Refuse before anything is stopped or moved."""
    major = pair.image.env.get("PG_MAJOR")
    if pair.theirs and major and str(pair.theirs.version_num // 10000) != major:
        raise Refused(
            f"{pair.upstream.name} runs PostgreSQL {pair.theirs.version_num // 10000}, and the "
            f"image {pair.image.ref} has {major}: a standby needs the same."
        )
    guards.check_data_unused(pair.standby, pair.seen)
    if not pair.runs:
        guards.check_port(pair.standby, pair.seen)
    _check_sync(pair, asked)
    _check_data(pair, asked)
    if asked.method == "copy":
        seeding.check_copy(pair.standby, pair.upstream, pair.seen, pair.group.trace, asked.confirm)


def _waiting(pair: Pair) -> list[str]:
    """Return the primaries whose commits would wait for ever if this standby went away."""
    name = pair.standby.node.application_name
    return [
        primary
        for primary in pair.seen.primaries
        if (facts := pair.seen.nodes[primary].facts) and waits_for(facts, name)
    ]


def _check_sync(pair: Pair, asked: Asked) -> None:
    """Refuse to take away the standby that every commit waits for, unless it may be so."""
    waiting = _waiting(pair)
    if waiting and pair.group.topology.group.strict and asked.async_meanwhile:
        raise Refused("--async-meanwhile contradicts strict = true in the topology.")
    if waiting and not asked.async_meanwhile:
        raise Refused(
            f"{pair.standby.name} is the synchronous standby: while it is seeded every commit "
            f"on {waiting[0]} would wait. --async-meanwhile lets them run on without it."
        )


def _check_newer(pair: Pair, asked: Asked, position: tuple[int, int] | None) -> None:
    """Refuse to set aside a history that is newer than the upstream's: it was promoted since."""
    theirs = pair.theirs
    if theirs and position and position[0] > theirs.timeline and not asked.set_aside:
        raise Refused(
            f"{pair.standby.name} was promoted and has newer data (timeline {position[0]}; "
            f"{pair.upstream.name} is at {theirs.timeline}). To keep it: `docker stop "
            f"{pair.upstream.name}`; if {pair.standby.name} is in recovery, `invoke psql --node "
            f'{pair.standby.name} --command "SELECT pg_promote()"`; then `invoke seed-standby '
            f"--node {pair.upstream.name}`. --set-aside puts the newer data aside instead."
        )


def _check_data(pair: Pair, asked: Asked) -> None:
    """Refuse to set aside what this group did not make, or what is newer, unless asked to.

    Ours is what our container had, what has this system's identifier, and what our mark tells.
    """
    if asked.set_aside or guards.data_state(pair.standby) != guards.FULL:
        return
    if pair.mine:
        same = pair.theirs and pair.mine.system_identifier == pair.theirs.system_identifier
        _check_newer(pair, asked, pair.mine.position if same else None)
        if same and not pair.mine.in_recovery:
            name = pair.standby.name
            raise Refused(
                f"{name} is a primary as well as {pair.upstream.name} and takes writes: stop it "
                f"first (`docker stop {name}`) if it is the wrong one, or say --set-aside."
            )
        return
    disk = Disk() if pair.runs else pair.standby.disk(pair.image)
    if pair.theirs and disk.system_identifier == pair.theirs.system_identifier:
        _check_newer(pair, asked, disk.position)
    if pair.container or disk.empty or disk.unfinished or disk.ours:
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
    if pair.theirs:
        let_in(pair)
    for primary in _waiting(pair):
        group.trace.note(f"{primary}: asynchronous until {standby.name} streams again")
        set_names(group.instance(primary), "", 0)
    if pair.runs:
        lifecycle.stop_instances(group, [standby], clean=False)
    seeding.set_aside(group, standby, image)
    rest = [connect.fragments(standby, upstream), "mark-standby"]
    if asked.method == "copy":
        seeding.copy_from_running(group, standby, upstream, image, rest)
    else:
        slot = seeding.slot_options(standby, upstream, pair.theirs)
        options = [*slot, *asked.backup_options()]
        seeding.base_backup(
            group, standby, upstream, image, options, verify=asked.verify_backup, rest=rest
        )
    run_container(group, standby, image, pair.container)
    facts = connect.wait_streaming(standby, upstream, connect.STREAMING_SECONDS)
    standby.wait_ready()
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
