"""What hurts of a standby, each with its cure: it does not stream, has diverged, is paused."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.postgres.facts import Facts, Sender, ahead
from pgherd.postgres.leading import SILENT_SECONDS
from pgherd.steps.standing import STREAMING, Picture
from pgherd.steps.warning import Warning_


def of_standbys(picture: Picture) -> Iterator[Warning_]:
    """Yield what hurts of each standby that answers; a delay on purpose does not."""
    for name, facts in picture.facts.items():
        if facts.in_recovery:
            yield from _standby(picture, name, facts)


def _standby(picture: Picture, name: str, facts: Facts) -> Iterator[Warning_]:
    sender, rejoin = picture.sender(name), f"`invoke rejoin {name}`"
    if reason := diverged(picture, facts, sender):
        yield Warning_("diverged", name, f"{name} has diverged: {reason}: `invoke rejoin {name}`")
    elif not _streams(picture, name, facts, sender):
        text = f"{name} does not stream: {_why(picture, name, facts, sender)}"
        yield Warning_("not-streaming", name, text)
    elif (root := picture.root(name)) and picture.leader and root != picture.leader:
        text = f"{name} follows {root}, and {picture.leader} is primary: {rejoin}"
        yield Warning_("wrong-upstream", name, text)
    if sender and sender.silent is not None and sender.silent > SILENT_SECONDS:
        text = f"{name} has told {picture.upstreams[name]} nothing for {sender.silent:.0f} s"
        yield Warning_("silent", name, f"{text}: `invoke logs --node {name}`")
    if facts.replay_paused:
        resume = f'`invoke psql --node {name} --command "SELECT pg_wal_replay_resume()"`'
        yield Warning_("replay-paused", name, f"replay is paused on {name}: {resume}")


def _streams(picture: Picture, name: str, facts: Facts, sender: Sender | None) -> bool:
    """Tell whether a standby streams: as its upstream says, or itself where that cannot be asked.

    A connection that broke without a word stays with the upstream for a while; the standby knows.
    """
    receives = facts.receiver is not None
    if picture.upstreams.get(name) in picture.facts:
        return receives and sender is not None and sender.streaming
    return receives and (facts.receiver or {}).get("status") == STREAMING


def _why(picture: Picture, name: str, facts: Facts, sender: Sender | None) -> str:
    """Return why it does not stream, as far as that is known, and the cure."""
    upstream, rejoin = picture.upstreams.get(name), f"`invoke rejoin {name}`"
    if upstream is None:
        return f"it is told to follow nobody. {rejoin}"
    if upstream not in picture.seen.nodes:
        return f"it follows {upstream}, which is no node of {picture.group.name}. {rejoin}"
    if (theirs := picture.facts.get(upstream)) is None:
        return f"its upstream {upstream} does not answer. `invoke start`"
    if facts.receiver and sender:
        state = f"is in state {sender.state}" if not sender.streaming else "is connecting"
        return f"it {state}, and {upstream} has sent {sender.sent}. `invoke status --watch`"
    if facts.receiver:
        known = picture.group.topology.node(name).application_name
        return f"{upstream} does not know it by the name {known}. {rejoin}"
    return _unconnected(name, upstream, facts, theirs)


def _unconnected(name: str, upstream: str, facts: Facts, theirs: Facts) -> str:
    rejoin, slot = f"`invoke rejoin {name}`", theirs.slot(facts.primary_slot)
    if facts.primary_slot and slot is None:
        return f"its slot {facts.primary_slot} is not there on {upstream}. {rejoin}"
    if slot and slot["wal_status"] == "lost":
        return f"{upstream} has no WAL for it any more. {rejoin}"
    logs = f"`invoke logs --node {name}` tells why"
    return f"it has no connection to {upstream}. {logs}; {rejoin} connects it again"


def diverged(picture: Picture, facts: Facts, sender: Sender | None) -> str:
    """Return how a standby's data cannot come from the primary's; empty if nothing tells so.

    What is told apart by position is so only where it cannot come from the two being asked one
    after the other: of a standby that streams, both positions are its sender's.
    """
    led, leader = picture.led, picture.leader
    if led is None:
        return ""
    if facts.system_identifier != led.system_identifier:
        return f"its system is {facts.system_identifier}, that of {leader} {led.system_identifier}"
    if fault := _off_history(leader or "", facts, led, streams=bool(sender and sender.streaming)):
        return fault
    if sender and sender.streaming:
        if ahead(sender.replay, sender.sent):
            return f"it has replayed to {sender.replay}, and was sent no more than {sender.sent}"
    elif not facts.receiver and facts.timeline == led.timeline and ahead(facts.lsn, led.lsn):
        return f"it has replayed to {facts.lsn}, and {leader} is only at {led.lsn}"
    return ""


def _off_history(leader: str, facts: Facts, led: Facts, *, streams: bool) -> str:
    """Return how a standby's history is no part of the primary's."""
    if facts.timeline > led.timeline:
        newer = f"it is at timeline {facts.timeline}, and {leader} only at {led.timeline}"
        return f"{newer}; if {leader} is to stay primary"
    mine, theirs = dict(facts.came_through.ended), dict(led.came_through.ended)
    if facts.timeline == led.timeline:
        other = bool(mine and theirs) and mine != theirs
        return f"its timeline {facts.timeline} has another history than {leader}'s" if other else ""
    end = theirs.get(facts.timeline)
    if theirs and end is None:
        return f"{leader} was never at timeline {facts.timeline}"
    if end and ahead(facts.lsn, end) and not streams:
        return (
            f"it has replayed to {facts.lsn} of timeline {facts.timeline}, "
            f"which {leader} left at {end}"
        )
    return ""
