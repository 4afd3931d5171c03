"""A base backup from another node than the upstream that the standby will follow (`--from`)."""

from __future__ import annotations

from pgherd.errors import DeadlinePassed, Refused
from pgherd.postgres import scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.spanning import faults_between_hosts
from pgherd.steps.seed.asked import Pair

SOURCE_SECONDS = 300  # for the source to replay what the slot begins with


def chosen(
    group: Group, standby: Instance, upstream: Instance, seen: Observation, name: str
) -> Instance | None:
    """Return the node to take the base backup from; None where it is the upstream itself.

    Raises:
        Refused: it does not serve, is of another system or history, or cannot be reached.
    """
    if not name or name == upstream.name:
        return None
    source = group.instance(name)
    if source is standby:
        raise Refused(f"--from {name}: {name} is the one to be seeded.")
    node = seen.nodes[name]
    if not node.facts and not node.planned:
        why = f"{name} does not answer: {node.silence}" if node.silence else f"{name} does not run"
        raise Refused(f"--from {name}: {why}.".replace("..", "."))
    if standby.node.host != source.node.host:
        for fault in faults_between_hosts(standby.node, source.node):
            raise Refused(f"--from {name}: {'.'.join(map(str, fault.where))} {fault.sentence}.")
    theirs = seen.nodes[upstream.name].facts
    if node.facts and theirs:
        _refuse_other_history(source, node.facts, upstream, theirs)
    return source


def _refuse_other_history(source: Instance, mine: Facts, upstream: Instance, theirs: Facts) -> None:
    for what, one, other in (
        ("system", mine.system_identifier, theirs.system_identifier),
        ("timeline", mine.timeline, theirs.timeline),
    ):
        if one != other:
            raise Refused(
                f"--from {source.name}: it is of {what} {one}, and {upstream.name} of {other}: "
                "what is copied from it could not follow."
            )


def wait_for_slot(pair: Pair, source: Instance) -> None:
    """Make the standby's slot on the upstream, and wait until the source has replayed its begin.

    A base backup ends, and streaming begins, at or after what its source has replayed when it
    starts: from there on the slot keeps the WAL, so that none is missing between the two.

    Raises:
        DeadlinePassed: the source does not get there: it may be far behind, or delayed.
    """
    slot = pair.standby.node.slot
    out = pair.upstream.execute(scripts.compose("slot", "slot-begin", slots=slot, slot=slot))
    begin = out.strip() or (pair.theirs.lsn if pair.theirs else None) or "0/0"  # with --dry
    script = scripts.compose("replayed", position=begin, seconds=SOURCE_SECONDS)
    try:
        source.execute(script, SOURCE_SECONDS + 30.0)
    except DeadlinePassed as fault:
        raise DeadlinePassed(
            f"{source.name} has not replayed {begin} after {SOURCE_SECONDS} s, where the slot of "
            f"{pair.standby.name} on {pair.upstream.name} begins: is it far behind, or delayed? "
            f"Without --from the base backup is {pair.upstream.name}'s.\n{fault.sentence}"
        ) from None
