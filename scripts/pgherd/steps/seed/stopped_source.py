"""A stopped primary whose files are to be copied: nobody serves then, so the data has to tell."""

from __future__ import annotations

from pgherd.errors import Refused
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import Instance
from pgherd.steps import guards
from pgherd.steps.leaders import has_newer, leads
from pgherd.steps.seed import seeding
from pgherd.steps.seed.asked import Asked, Pair
from pgherd.steps.seed.levels import is_primary

CLEAN = "shut down"  # of a primary; a standby's is another


def check(pair: Pair, asked: Asked) -> None:
    """Refuse an upstream whose files cannot be copied, before the node is touched for them.

    One that serves as a primary is stopped in order for the copy, and then it is known to be well.
    """
    upstream, there = pair.upstream, pair.seen.nodes[pair.upstream.name]
    if pair.theirs and pair.theirs.in_recovery:
        raise _a_standby(upstream)
    if pair.theirs or (there.container and there.container.planned):
        return
    if there.container and there.container.alive:
        raise Refused(
            f"{upstream.name} runs and does not answer, so it cannot be stopped for a copy: "
            f"`invoke logs --node {upstream.name}`, then this again.\n{there.silence}"
        )
    disk = guards.data_of(upstream, pair.image)
    _check_own(pair, asked, disk)
    seeding.refuse_links(upstream, disk)
    if disk.standby_signal:
        raise _a_standby(upstream)
    if not leads(disk) or disk.state != CLEAN:
        state = f"its control data says '{disk.state}'" if disk.state else "there is no database"
        raise Refused(
            f"The data of {upstream.name} cannot be copied: {state}, not '{CLEAN}'. `invoke "
            "setup-master` runs it; then this again."
        )


def _check_own(pair: Pair, asked: Asked, theirs: Disk) -> None:
    """Refuse to set aside what led after the stopped upstream did, or may lead now."""
    standby, mine = pair.standby, pair.mine
    own = Disk() if mine else guards.data_of(standby, pair.image)
    if (mine or own).system_identifier != theirs.system_identifier or own.unfinished:
        return
    if mine and not mine.in_recovery:
        raise is_primary(pair.group, standby)
    # On one timeline: a copy that was not marked yet has nothing of its own, until it has run.
    leading = leads(own) and (pair.runs or own.position > theirs.position)
    if pair.runs and leading:
        silence = pair.seen.nodes[standby.name].silence
        raise Refused(f"{standby.name} runs, does not answer, and may be the primary.\n{silence}")
    timeline = (mine or own).timeline
    if not asked.set_aside and (leading or timeline > theirs.timeline):
        raise Refused(
            f"{has_newer(standby.name, timeline, pair.upstream.name, theirs.timeline)}. `invoke "
            "start` runs the one that leads, and names the other with its cure. --set-aside puts "
            f"what {standby.name} has aside instead."
        )


def _a_standby(upstream: Instance) -> Refused:
    return Refused(
        f"{upstream.name} is a standby, and --method copy takes the files of a primary that is "
        "stopped in order: `invoke status` tells who leads; without --method copy it goes from "
        "server to server."
    )
