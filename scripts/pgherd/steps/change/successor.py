"""Who may take the primary's place in a switchover."""

from __future__ import annotations

import time

from pgherd.errors import DeadlinePassed, Refused, Unreachable
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.headless import is_paused, paused
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import connect, guards, holdups
from pgherd.steps.holdups import Holdup
from pgherd.steps.tls import half_way

NEAR = 16 * 1024 * 1024  # bytes that a standby may lack, or have still to replay
LATE_SECONDS = 10.0  # by which it may replay later than the primary writes
LONG_SECONDS = 60.0  # of a transaction
PAUSE_SECONDS = 0.5  # between two looks


def candidate(group: Group, name: str, seen: Observation) -> Instance:
    """Return the node that is to be primary, if it answers.

    Raises:
        Refused: none was named, or it does not run.
        Unreachable: its host cannot be reached.
    """
    if not name:
        others = [n for n in group.instances if n not in seen.primaries]
        if len(group.instances) == 1:
            raise Refused(
                f"{group.name} has no standby that could be primary: give its topology file a "
                f'table `[nodes.NAME]` with `upstream = "{group.master.name}"`, then `invoke '
                "add-standby NAME`."
            )
        raise Refused(f"Which node is to be primary? Say --to {' or --to '.join(others)}.")
    instance, node = group.instance(name), seen.nodes[group.instance(name).name]
    guards.check_name(group, instance, seen)
    if instance.node.host in group.away:
        raise Unreachable(group.away[instance.node.host])
    if node.facts is None and (told := paused(group, seen, name)):
        raise Refused(f"{told}.")
    if node.facts is None and not node.planned:
        why = f"does not answer: {node.silence}" if node.silence else "does not run: `invoke start`"
        raise Refused(f"{name} {why}.")
    return instance


def refuse_unfit(successor: Instance, primary: Instance, seen: Observation) -> None:
    """Refuse a standby that could not take over at once. Of one that cascades, see `brought_near`.

    Raises:
        Refused: it does not stream, lacks too much, or would not replay; or another standby would
            hold up the primary's stop. Nothing was changed.
    """
    mine, theirs = seen.nodes[successor.name].facts, seen.nodes[primary.name].facts
    if mine is None or theirs is None:  # with --dry: they will run once the printed script has
        return
    name = successor.name
    if mine.system_identifier != theirs.system_identifier:
        raise Refused(f"{name} is of another system than {primary.name}: it is no standby of it.")
    _refuse_late(name, mine)
    for other in seen.nodes:
        if is_paused(seen, other):
            raise Refused(
                f"{other} is paused: {primary.name} would wait for it when it is stopped. "
                f"`docker unpause {other}`, or `docker stop {other}`, first."
            )
    sender = theirs.sender(successor.node.application_name)
    if sender is None and mine.receiver:  # from another standby
        return
    if sender is None or not sender.streaming:
        state = sender.state if sender else "not connected"
        raise Refused(
            f"{name} does not stream from {primary.name} ({state}), so it would lack something: "
            f"`invoke rejoin {name}` mends it. If {primary.name} is lost, `invoke failover`."
        )
    for what, position in (("receive", sender.flush), ("replay", sender.replay)):
        lacking = lsn_to_int(theirs.lsn or "0/0") - lsn_to_int(position or "0/0")
        late = sender.replay_lag or 0.0 if what == "replay" and lacking > 0 else 0.0
        if what == "replay" and mine.held:  # who holds it is told by `held_up`
            continue
        if lacking > NEAR or late > LATE_SECONDS:
            behind = f", and is {late:.0f} s late" if late > LATE_SECONDS else ""
            raise Refused(
                f"{name} has still to {what} {lacking / 1e6:.0f} MB{behind}: writes would be "
                "refused for as long as that takes. `invoke status` tells when it is near."
            )


def _refuse_late(name: str, facts: Facts) -> None:
    if facts.replay_paused:
        resume = f'`invoke psql --node {name} --command "SELECT pg_wal_replay_resume()"`'
        raise Refused(f"Replay is paused on {name}: {resume} first.")
    if facts.apply_delay:
        raise Refused(
            f"{name} replays {facts.apply_delay / 1000:g} s late on purpose "
            "(recovery_min_apply_delay): it is there for the past, and no successor."
        )


def held_up(
    group: Group, successor: Instance, primary: Instance, seen: Observation, seconds: int
) -> list[Holdup]:
    """Return what a switchover would have to wait for.

    Who has not confirmed all by now may do so at any moment: as many seconds are waited for that,
    but not where somebody is so late that it is no use.
    """
    mine, theirs = seen.nodes[successor.name].facts, seen.nodes[primary.name].facts
    if mine is None or theirs is None:
        return []
    topology, target = group.topology, theirs.lsn or "0/0"
    until, told = time.monotonic() + seconds, False
    while True:
        both = (primary.name, theirs, successor.name, mine)
        found = list(holdups.of_switchover(topology, *both, target))
        sure = any(holdup.sure for holdup in found)
        if not found or sure or time.monotonic() > until or group.trace.dry:
            return found
        if not told:
            texts = "; ".join(holdup.text for holdup in found)
            group.trace.note(f"{texts}: waiting for up to {seconds} s")
            told = True
        time.sleep(PAUSE_SECONDS)
        theirs, mine = primary.facts(), successor.facts()


def refuse_held_up(successor: Instance, found: list[Holdup]) -> None:
    """Refuse a switchover that would have to wait for others, with what ends each.

    Raises:
        Refused: there are some; nothing was changed.
    """
    if found:
        each = "\n".join(f"- {holdup.text}: {holdup.cure}" for holdup in found)
        raise Refused(
            f"Writes would be refused for as long as these take:\n{each}\n"
            f"`invoke switchover --to {successor.name} --force` ends them."
        )


def release_replay(group: Group, successor: Instance, seconds: int) -> None:
    """End the sessions that hold up replay on a standby, until all is replayed that it has by now.

    Raises:
        DeadlinePassed: it is still held up.
    """
    facts = successor.facts()
    target, until = lsn_to_int(facts.received or "0/0"), time.monotonic() + seconds
    while lsn_to_int(facts.lsn or "0/0") < target:
        if facts.held:
            end_holders(group, successor, facts)
        if group.trace.dry:
            return
        if time.monotonic() > until:
            raise DeadlinePassed(f"{successor.name} did not replay in {seconds} s what it has.")
        time.sleep(PAUSE_SECONDS)
        facts = successor.facts()


def end_holders(group: Group, successor: Instance, facts: Facts) -> None:
    """Cancel the queries that hold up replay, and end the idle transactions."""
    cancel, terminate = holdups.ends(facts)
    calls = [f"pg_cancel_backend({pid})" for pid in cancel]
    calls += [f"pg_terminate_backend({pid})" for pid in terminate]
    if calls:
        successor.psql(f"SELECT {', '.join(calls)};\n")
        group.trace.note(f"{holdups.of_replay(successor.name, facts).text}: ended")


def tell_transactions(group: Group, primary: Instance, seen: Observation) -> None:
    """Say which long transactions the switchover ends, and that prepared ones go on."""
    facts = seen.nodes[primary.name].facts
    for row in facts.clients if facts else ():
        if (seconds := float(row.get("transaction") or 0)) > LONG_SECONDS:
            name = f"{row['application_name'] or 'no name'} of {row['user']}"
            group.trace.note(
                f"{primary.name}: the transaction of process {row['pid']} ({name}) has gone on for "
                f"{seconds:.0f} s, and is ended"
            )
    if facts and facts.prepared:
        group.trace.note(f"{primary.name}: {facts.prepared} prepared transactions go on afterwards")


def refuse_cut_short(group: Group, primary: Instance, seen: Observation) -> None:
    """Refuse where a switchover from this primary was cut short, and a standby of it is away.

    Raises:
        Refused: that one may wait for the end of this primary to take over.
    """
    facts = seen.nodes[primary.name].facts
    away = [i.name for i in group.instances.values() if i.node.host in group.away]
    if facts and facts.marked and away:
        raise Refused(
            f"A switchover from {primary.name} was cut short, and {' and '.join(away)} cannot be "
            f"asked: it may wait for the end of {primary.name} to take over. Again once it can be."
        )


def refuse_few_sessions(successor: Instance, primary: Instance) -> None:
    """Refuse where a host does not let so many commands run at once as wait for each other.

    The primary is stopped while its end is watched, and the promotion waits inside the successor.
    """
    host = primary.host
    wanted = 3 if host is successor.host else 2
    if not host.trace.dry and host.room(wanted) < wanted:
        raise Refused(
            f"{host.name} allows too few sessions at once for a switchover from {primary.name} to "
            f"{successor.name}: set MaxSessions in its sshd_config to {wanted + 1} or more."
        )


def brought_near(group: Group, successor: Instance, primary: Instance, seen: Observation) -> None:
    """Let a standby that cascades stream from the primary, so that it gets the end of its WAL.

    One that does already is left as it is. To be called once nothing is refused any more.

    Raises:
        DeadlinePassed: it does not stream from there.
    """
    mine, theirs = seen.nodes[successor.name].facts, seen.nodes[primary.name].facts
    if mine is None or theirs is None or theirs.sender(successor.node.application_name):
        return
    group.trace.note(f"{successor.name}: cascades; it follows {primary.name} itself first")
    connect.ensure_slot(successor, primary)
    half_way.made_to_serve(group, primary, theirs)
    connect.follow(group, successor, primary)
    connect.wait_streaming(successor, primary, connect.STREAMING_SECONDS)
