"""What is refused before a standby is seeded, while nothing is stopped or moved yet."""

from __future__ import annotations

from pgherd.errors import Refused
from pgherd.postgres.facts import Disk, Facts
from pgherd.steps import aside, belonging, guards, outside
from pgherd.steps.leaders import has_newer
from pgherd.steps.seed import seeding, stopped_source
from pgherd.steps.seed.asked import Asked, Pair
from pgherd.steps.sync import waits_for


def check_seed(pair: Pair, asked: Asked) -> None:
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
    outside.refuse_to_copy(pair.group, pair.source or pair.upstream, pair.seen)
    if asked.method != "copy":
        outside.refuse_nested(pair.source or pair.upstream, pair.seen)
    _check_places(pair, asked)
    _check_sync(pair, asked)
    _check_data(pair, asked)
    if guards.data_state(pair.standby) == guards.FULL:
        aside.refuse_unmovable(pair.standby)
    if asked.method == "copy":
        stopped_source.check(pair, asked)
        seeding.check_copy(pair.standby, pair.upstream, pair.seen, pair.group.trace, asked.confirm)


def _check_places(pair: Pair, asked: Asked) -> None:
    """Refuse places for tablespaces that have something, where there is no data it may be of."""
    if asked.set_aside or guards.data_state(pair.standby) == guards.FULL:
        return
    for place in aside.not_known(pair.standby, pair.image):
        raise Refused(
            f"{pair.standby.name}: {place.source}, for tablespaces at {place.target}, is not "
            "empty, and nobody knows of what it is. --set-aside moves it aside first, whatever it "
            "is."
        )


def waiting(pair: Pair) -> list[str]:
    """Return the primaries whose commits would wait for ever if this standby went away."""
    name = pair.standby.node.application_name
    return [
        primary
        for primary in pair.seen.primaries
        if (facts := pair.seen.nodes[primary].facts) and waits_for(facts, name)
    ]


def _check_sync(pair: Pair, asked: Asked) -> None:
    """Refuse to take away the standby that every commit waits for, unless it may be so."""
    names = waiting(pair)
    if names and pair.group.topology.group.strict and asked.async_meanwhile:
        raise Refused("--async-meanwhile contradicts strict = true in the topology.")
    if names and not asked.async_meanwhile:
        raise Refused(
            f"{pair.standby.name} is the synchronous standby: while it is seeded every commit "
            f"on {names[0]} would wait. --async-meanwhile lets them run on without it."
        )


def _check_newer(pair: Pair, asked: Asked, position: tuple[int, int] | None) -> None:
    """Refuse to set aside a history that is newer than the upstream's: it was promoted since."""
    theirs, name = pair.theirs, pair.standby.name
    if theirs and position and position[0] > theirs.timeline and not asked.set_aside:
        raise Refused(
            f"{has_newer(name, position[0], pair.upstream.name, theirs.timeline)}. `invoke rejoin "
            f"{name}` tells what it has that {pair.upstream.name} has not, and how to keep it. "
            "--set-aside puts it aside, whatever it is."
        )


def _check_primary(pair: Pair, mine: Facts) -> None:
    """Refuse to stop a primary beside the upstream, but for one that nobody ever used as one.

    That is one of another system, as step 2 makes it: it has no standby, and was never promoted.
    """
    name, theirs = pair.standby.name, pair.theirs
    if theirs is None or mine.in_recovery:
        return
    if mine.system_identifier == theirs.system_identifier:
        raise Refused(f"{pair.group.several(pair.seen)}.")
    if mine.senders or mine.timeline > 1:
        raise Refused(
            f"{name} is the primary of another system ({mine.system_identifier}, and "
            f"{pair.upstream.name} is {theirs.system_identifier}), which has a standby or was "
            "promoted once. --set-aside moves it aside first, whatever it is."
        )


def _check_data(pair: Pair, asked: Asked) -> None:
    """Refuse to set aside what this group did not make, or what is newer, unless asked to.

    Ours is what our container had, what has this system's identifier, and what our mark tells.
    """
    if guards.data_state(pair.standby) != guards.FULL:
        return
    planned = pair.runs and pair.container and pair.container.planned
    looked = not (pair.mine or planned)
    disk = pair.standby.disk(pair.image) if looked else Disk()  # also of one that does not answer
    outside.refuse_to_move(pair.group, pair.standby, pair.seen, disk)
    if asked.set_aside:
        return
    if pair.mine:
        same = pair.theirs and pair.mine.system_identifier == pair.theirs.system_identifier
        _check_newer(pair, asked, pair.mine.position if same else None)
        _check_primary(pair, pair.mine)
        return
    if pair.theirs and disk.system_identifier == pair.theirs.system_identifier:
        _check_newer(pair, asked, disk.position)
    if pair.container or disk.empty or disk.unfinished or disk.ours:
        return
    way_out = "--set-aside moves it aside first, whatever it is."
    try:
        belonging.check_major(pair.standby, disk, pair.image)
    except Refused as fault:
        raise Refused(f"{fault.sentence}\n{way_out}") from None
    system = pair.theirs.system_identifier if pair.theirs else None
    if disk.system_identifier != system:
        raise Refused(
            f"{pair.standby.name}: {pair.standby.node.data} holds a database of another system "
            f"({disk.system_identifier}, and {pair.upstream.name} is {system}).\n{way_out}"
        )
