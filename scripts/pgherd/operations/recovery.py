"""What a change of primary that was cut short left: a marked primary that serves, or none at all.

Where no node is primary, nobody takes writes, and none is lost as long as the next primary has all
that the last one wrote. Who was that, the data of those that are down tells:

1. it came down in order, and the standby has its shutdown checkpoint: that may take over at once
2. it came down in order and the standby lacks that, or it was marked and crashed: it is started
   again, as the primary that it was
3. it came back as a standby, like all others, and all run: the standby streams from the one that
   has most until it has that too, and is promoted
"""

from __future__ import annotations

from pgherd.docker.models import Image
from pgherd.errors import DeadlinePassed, Refused, Unreachable
from pgherd.group import preconditions, primary
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import run_all
from pgherd.operations import connect, fencing, run_token, tls_transition
from pgherd.postgres import scripts
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import Instance

STOPPED = "shut down"  # control data of what was a primary, and the same of one that crashed
CRASHED = {"in production", "shutting down", "in crash recovery", "starting up"}
PROMOTE_SECONDS = 240.0


# --- a primary that serves, or may do so again ---


def unmark(former: Instance) -> None:
    """Let a primary that serves, and was marked as a standby to be, go on as one."""
    script = scripts.compose("take-turn", "unmark", "unmark-running", turn="")
    former.execute(script, run_token.WAIT_SECONDS)


def resume_primary(group: Group, former: Instance, image: Image) -> None:
    """Start a primary that is down and marked, as the primary that it was."""
    former.offline(image, scripts.compose("unmark", connect.as_before()))
    fencing.lift_restart(former)
    container = former.container()
    if container:
        former.engine.start(container)
    group.trace.note(f"{former.name}: started again, as the primary that it was")
    former.wait_ready()


# --- no node is primary ---


def last_primary(
    group: Group, seen: Observation, image: Image, facts: Facts
) -> tuple[Instance, Disk] | None:
    """Return the node that is down and was primary of the timeline of `facts`, with its data.

    One that came down in order, or was marked before it crashed. None where all nodes are
    standbys, and those that may have most run.

    Raises:
        Refused: one may be primary and does not answer, or crashed and is not marked; or one that
            is down may have been, or have more than those that run.
        Unreachable: a host cannot be asked, so that a primary may be there.
    """
    if group.away:
        raise Unreachable("\n".join(group.away.values()))
    for name, node in seen.nodes.items():
        if primary.is_running(node) and not node.facts:
            raise Refused(f"{name} runs, and may be primary: it does not answer: {node.silence}")
    down = [i for i in group.instances.values() if not primary.is_running(seen.nodes[i.name])]
    looked = run_all(lambda i: preconditions.data_of(i, image), down)
    disks = dict(zip((i.name for i in down), looked, strict=True))
    _refuse_promoted_since(seen, disks, facts)
    newest = (facts.system_identifier, facts.timeline)
    found = {
        name: disk
        for name, disk in disks.items()
        if disk.state in {*CRASHED, STOPPED} and (disk.system_identifier, disk.timeline) == newest
    }
    if lost := [
        n for n, disk in found.items() if disk.state in CRASHED and primary.is_primary_data(disk)
    ]:
        raise Refused(
            f"No node is primary, and {lost[0]} was not stopped in order: `invoke start` brings "
            "the group back; if the primary is lost, `invoke failover`."
        )
    if not found:
        _refuse_unknown(seen, disks, facts)
        return None
    last = max(found, key=lambda name: found[name].position)
    return group.instance(last), found[last]


def _refuse_promoted_since(seen: Observation, down: dict[str, Disk], facts: Facts) -> None:
    """Refuse where a node is on a newer timeline than the standby that is to be promoted."""
    timelines = {n: s.facts.timeline for n, s in seen.nodes.items() if s.facts}
    ours = facts.system_identifier
    timelines |= {n: d.timeline for n, d in down.items() if d.system_identifier == ours}
    if since := [n for n, timeline in timelines.items() if timeline > facts.timeline]:
        raise Refused(
            f"No node is primary, and {since[0]} is at timeline {timelines[since[0]]}, newer than "
            f"that of the standby to be promoted ({facts.timeline}): it was promoted since, or "
            "follows one that was. `invoke start` brings the group back; if the primary is lost, "
            "`invoke failover`."
        )


def _refuse_unknown(seen: Observation, down: dict[str, Disk], facts: Facts) -> None:
    """Refuse where a node that is down may have been the last primary, or have most of its WAL."""
    for name, disk in down.items():
        if disk.system_identifier is None and seen.nodes[name].container and not disk.unfinished:
            raise Refused(
                f"No node is primary, and the data of {name}, which is down, cannot be read: it "
                "may have been the primary. Put it back (`invoke start`). If it is lost for good, "
                "`invoke failover` tells what may be lost with it; where that cannot tell who was "
                f"primary, `docker rm {name}`, and this again."
            )
        ours = (disk.system_identifier, disk.timeline) == (facts.system_identifier, facts.timeline)
        if ours and seen.nodes[name].container:
            raise Refused(
                f"No node is primary, and {name} is down and may have more than the standbys that "
                f"run: `invoke start` brings it back. If it is lost for good, `docker rm {name}`, "
                "and this again."
            )


def has_all(successor: Instance, disk: Disk) -> bool:
    """Tell whether a standby has all that a primary wrote that is down."""
    if disk.state != STOPPED:
        return False
    script = scripts.compose("has-shutdown", checkpoint=disk.checkpoint, timeline=disk.timeline)
    return "has the shutdown" in successor.execute(script, 120.0)


def get_all(group: Group, successor: Instance, seen: Observation) -> None:
    """Where all are standbys: wait until one has what the one has that has most.

    Raises:
        Refused: it cannot get it, as that one's history is another.
    """
    running = {n: s.facts for n, s in seen.nodes.items() if s.facts}
    most = max(running, key=lambda n: (running[n].timeline, lsn_to_int(running[n].end)))
    mine, theirs = running[successor.name], running[most]
    if (mine.timeline, lsn_to_int(mine.end)) == (theirs.timeline, lsn_to_int(theirs.end)):
        return
    fork = mine.came_through.fork(theirs.came_through)
    if fork is None or (fork.lsn and lsn_to_int(mine.end) > lsn_to_int(fork.lsn)):
        raise Refused(
            f"No node is primary, and {successor.name} cannot get what {most} has: their histories "
            f"part. `invoke switchover --to {most}`, then `invoke rejoin {successor.name}`."
        )
    upstream = group.instance(most)
    group.trace.note(f"{successor.name}: {most} has more, so it streams from that first")
    connect.ensure_slot(successor, upstream)
    tls_transition.apply_tls(group, upstream, theirs)
    connect.follow(group, successor, upstream)
    connect.wait_streaming(successor, upstream, connect.STREAMING_SECONDS)


def promote(successor: Instance) -> None:
    """Promote a standby whose turn this run has taken; one that is primary by now is left so."""
    script = scripts.compose(
        "in-turn",
        "promote",
        "turn-over",
        turn=run_token.RUN_TOKEN,
        promoting=run_token.PROMOTING_SECONDS,
    )
    try:
        successor.execute(script, PROMOTE_SECONDS)
    except DeadlinePassed as fault:
        raise run_token.promotion_goes_on(successor, fault) from None
