"""What hurts of a group, each with its cure: who is primary, commits that wait, slots, containers.

The codes are stable: programs go by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgherd.checks.containers import create_command, start_command
from pgherd.docker.models import NEVER, Container, is_fenced
from pgherd.errors import Refused
from pgherd.group import outside_data, preconditions
from pgherd.group.group import explain_no_primary, paused
from pgherd.group.node_status import (
    ABSENT,
    DOWN,
    FOREIGN,
    SILENT,
    STREAMING,
    UNREACHABLE,
    ReplicationView,
    format_size,
    retained,
)
from pgherd.group.primary import writes_refused
from pgherd.group.sync_state import counting, hung_long, read_sync
from pgherd.postgres import switchover_waits
from pgherd.postgres.facts import GONE, Facts, Sender, ahead
from pgherd.postgres.leadership import SILENT_SECONDS
from pgherd.security.authority import SOON

SLOT_BYTES = 1_000_000_000  # of WAL that a slot keeps, before it is told
MAKE_ROOM = {"extended", "unreserved"}  # wal_status: more than max_wal_size, and about to be lost
ASYNC_CURE = "to let commits go on without: `invoke sync --off`"


@dataclass(frozen=True)
class Warning_:  # noqa: N801 (Warning is Python's)
    """One thing that hurts: a stable code, the node (None: the group), a sentence with the cure."""

    code: str
    node: str | None
    text: str


def of_nodes(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield the nodes that are not there, and containers that Docker would not start again."""
    for name, node in picture.seen.nodes.items():
        role, container = picture.role(name), node.container
        fenced = bool(container and is_fenced(container) and role != FOREIGN)
        if (told := _not_there(picture, name, role)) and not (fenced and role == DOWN):
            yield Warning_(role if role != SILENT else "no-answer", name, told)
        if container and fenced:
            yield Warning_("fenced", name, _warn_fenced(picture, name, container))
        if preconditions.is_off_network(picture.group, picture.group.instance(name), picture.seen):
            text = f"{name} is not on the network {picture.group.network}"
            cure = "no neighbour and no client reaches it: `invoke start` connects it"
            yield Warning_("off-network", name, f"{text}, so {cure}")


def _not_there(picture: ReplicationView, name: str, role: str) -> str:
    if role in {UNREACHABLE, ABSENT}:
        return _nowhere(picture, name, role)
    if (container := picture.seen.nodes[name].container) is None:
        return ""
    if role == FOREIGN:
        return (
            f"the container {name} is not of group {picture.group.name}: give it another name "
            f"(`docker rename {name} …`), then `invoke start`"
        )
    if role == DOWN:
        code = f" with exit code {container.exit_code}" if container.exit_code else ""
        return f"{name} is {container.status}{code}: `invoke start`; why: {_logs(name)}"
    return _silent(picture, name, container) if role == SILENT else ""


def _silent(picture: ReplicationView, name: str, container: Container) -> str:
    if node_planned(picture, name):
        return ""
    if told := paused(picture.group, picture.seen, name):
        return told
    silence = picture.seen.nodes[name].silence
    return f"{name} runs ({container.status}) and does not answer: {silence} {_logs(name)}"


def _nowhere(picture: ReplicationView, name: str, role: str) -> str:
    node = picture.group.topology.node(name)
    if role == UNREACHABLE:
        return f"{node.host} cannot be reached: {picture.seen.nodes[name].silence} `invoke hosts`"
    make = create_command(picture.group, picture.group.instance(name), picture.seen)
    kept = picture.data.get(name)
    if kept in {preconditions.ABSENT, preconditions.EMPTY}:
        return f"{name} has no container and no data: `{make}`"
    if kept:
        return f"{name} has no container; its data is kept: `invoke start`"
    return f"{name} has no container: `invoke start` if it has data, `{make}` if it never had"


def node_planned(picture: ReplicationView, name: str) -> bool:
    """Tell whether a node runs only once the script that `--dry` prints has run."""
    return picture.seen.nodes[name].planned


def _warn_fenced(picture: ReplicationView, name: str, container: Container) -> str:
    cure = start_command(picture.group, picture.group.instance(name), container, picture.leader)
    return f"Docker would not start {name} again, its restart policy is `{NEVER}`: `{cure}`"


def _logs(name: str) -> str:
    return f"`invoke logs --node {name}`"


def of_primaries(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield that there is no primary, or more than one, or one that would come back as standby."""
    leader, led = picture.leader, picture.led
    if leader is None or led is None:
        yield from _no_primary(picture)
        return
    others = [name for name in picture.seen.primaries if name != leader]
    if others:
        yield Warning_("two-primaries", leader, picture.group.several(picture.seen))
    for name in others:
        if _older(picture.facts[name], led):
            yield Warning_("old-primary", name, _old_primary(picture, name))
    if led.read_only:
        told, cure = writes_refused(leader, led.read_only)
        yield Warning_("takes-no-writes", leader, f"{told}. {cure}")
    for name in picture.seen.primaries:
        if picture.facts[name].marked:
            yield Warning_(
                "marked",
                name,
                f"{name} is primary, and standby.signal lies in its data: a switchover was cut "
                f"short. `invoke start` lets it go on; `invoke switchover --to …` completes it",
            )


def _no_primary(picture: ReplicationView) -> Iterator[Warning_]:
    nodes = picture.seen.nodes.values()
    if any(node.planned or (node.files and not node.files.in_recovery) for node in nodes):
        return  # a primary that lets nobody in is told as that
    if silent := [name for name in picture.seen.nodes if picture.role(name) == SILENT]:
        lost = ". If it is lost: `invoke failover`" if picture.facts else ""
        text = f"no node that answers is primary; {' or '.join(silent)} may be, and does not{lost}"
        yield Warning_("no-primary", None, text)
    elif preconditions.FULL in picture.data.values() and not any(
        node.container for node in picture.seen.nodes.values()
    ):
        text = "no node has a container, as where the group was taken down; the data is kept"
        text = f"{text}: `invoke start`"
        yield Warning_("no-primary", None, text)
    else:
        yield Warning_("no-primary", None, explain_no_primary(picture.group, picture.seen))


def _older(other: Facts, led: Facts) -> bool:
    same = other.system_identifier == led.system_identifier
    return same and other.timeline < led.timeline


def _old_primary(picture: ReplicationView, name: str) -> str:
    leader = picture.leader or ""
    return (
        f"{name} is an old primary that came back: it is at timeline "
        f"{picture.facts[name].timeline}, and {leader} was promoted since. `invoke rejoin {name}`"
    )


def of_commits(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield commits that hang, and what the primary waits for where it is not as asked."""
    for name in picture.seen.primaries:
        if hung := hung_long(picture.facts[name]):
            yield Warning_("commits-hang", name, _warn_hanging(picture, name, hung))
    if picture.leader and picture.led and (told := _sync(picture, picture.leader, picture.led)):
        yield told


def _warn_hanging(picture: ReplicationView, name: str, hung: list[dict[str, Any]]) -> str:
    """Say it; on an old primary they must never be let go on, since they would be lost."""
    cure = f"`invoke start` if a standby is down; {ASYNC_CURE}"
    if name != picture.leader:
        cure = f"they are not acknowledged and must not be, as {picture.leader} is primary now"
    longest = max(float(w["seconds"]) for w in hung)
    what = "1 commit hangs" if len(hung) == 1 else f"{len(hung)} commits hang"
    return (
        f"{what} on {name}, for {longest:.0f} s, waiting for {picture.facts[name].sync_names} "
        f"(process {hung[0]['pid']}: {hung[0]['query']}). {cure}"
    )


def _sync(picture: ReplicationView, leader: str, led: Facts) -> Warning_ | None:
    asked = picture.group.topology.sync_for(picture.group.topology.node(leader))
    names, sync = led.sync_names.strip(), read_sync(led.sync_names)
    streaming = counting(sync, led) if sync else 0
    if names and (sync is None or streaming < sync.count):
        needs = f"needs {sync.count} that stream, {streaming} do" if sync else "can never be met"
        text = f"commits on {leader} wait for ever: {names} {needs}. `invoke start` if a standby is"
        return Warning_("sync-short", leader, f"{text} down; {ASYNC_CURE}")
    if sync == asked:
        return None
    if asked and not sync:
        text = f"{leader} is asynchronous, and the topology asks {asked.render()}"
        short = counting(asked, led) < asked.count
        cure = ", once enough of these stream" if short else ""
        return Warning_("sync-off", leader, f"{text}: `invoke step.require-sync`{cure}")
    wanted = asked.render() if asked else "asynchronous"
    text = f"{leader} waits for {names}, and the topology asks {wanted}"
    return Warning_("sync-differs", leader, f"{text}: `invoke step.require-sync`")


def of_holdups(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield what would make the outage of a switchover long: consumers, archiving, held replay."""
    for name, facts in picture.facts.items():
        for found in switchover_waits.of_node(picture.group.topology, name, facts):
            yield Warning_(found.code, name, f"{found.text}: {found.cure}")


def of_slots(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield slots that keep too much WAL, have lost it, or are nobody's."""
    owners = {node.slot: node.name for node in picture.group.topology.nodes.values()}
    for holder, facts in picture.facts.items():
        for slot in facts.slots:
            if told := _slot(holder, slot, owners.get(str(slot["name"]))):
                yield told


def _slot(holder: str, slot: dict[str, Any], owner: str | None) -> Warning_ | None:
    name, status, kept = slot["name"], slot["wal_status"], retained(slot)
    kept_wal = f"{format_size(kept)} of WAL"
    drop = f"`invoke psql --node {holder} --command \"SELECT pg_drop_replication_slot('{name}')\"`"
    if owner is None and not slot["active"]:
        text = f"the slot {name} of {holder} is no node's, and keeps {kept_wal}: {drop}"
        return Warning_("slot-unused", holder, text)
    if status == "lost":
        cure = f"`invoke rejoin {owner}`" if owner else drop
        text = f"the slot {name} of {holder} has lost WAL that {owner or 'it'} needs: {cure}"
        return Warning_("slot-lost", owner or holder, text)
    if kept > SLOT_BYTES or status in MAKE_ROOM:
        left = f", and {format_size(slot['left'])} more until it is lost" if slot["left"] else ""
        cure = f"`invoke start` if {owner} is down; if nobody uses it" if owner else "if it may go"
        text = f"the slot {name} of {holder} keeps {kept_wal} ({status}{left}): {cure}, {drop}"
        return Warning_("slot-retains", owner or holder, text)
    return None


def of_data(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield what a node keeps where it is gone with its container, and no copy gets it."""
    for name, node in picture.seen.nodes.items():
        if found := outside_data.of_server(picture.group.instance(name), node):
            text = outside_data.problem(picture.group, name, found, picture.facts, picture.leader)
            yield Warning_(outside_data.CODE, name, text)


# --- what hurts of a standby, each with its cure: it does not stream, has diverged, is paused ---


def of_standbys(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield what hurts of each standby that answers; a delay on purpose does not."""
    for name, facts in picture.facts.items():
        if facts.in_recovery:
            yield from _standby(picture, name, facts)


def _standby(picture: ReplicationView, name: str, facts: Facts) -> Iterator[Warning_]:
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


def _streams(picture: ReplicationView, name: str, facts: Facts, sender: Sender | None) -> bool:
    """Tell whether a standby streams: as its upstream says, or itself where that cannot be asked.

    A connection that broke without a word stays with the upstream for a while; the standby knows.
    """
    receives = facts.receiver is not None
    if picture.upstreams.get(name) in picture.facts:
        return receives and sender is not None and sender.streaming
    return receives and (facts.receiver or {}).get("status") == STREAMING


def _why(picture: ReplicationView, name: str, facts: Facts, sender: Sender | None) -> str:
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


def diverged(picture: ReplicationView, facts: Facts, sender: Sender | None) -> str:
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


# --- what is sent in clear, and certificates that end ---


def of_encryption(picture: ReplicationView) -> Iterator[Warning_]:
    """Yield who has no TLS where it is asked for, an authority amiss, and what ends soon."""
    if not picture.group.topology.encryption.on:
        return
    for name, facts in picture.facts.items():
        sender = picture.sender(name) if facts.in_recovery else None
        if facts.certificate is None:
            text = f"{name} has no TLS, and the topology asks for it: `invoke diff` has the cures"
            yield Warning_("in-clear", name, text)
        elif facts.certificate == GONE:
            text = f"the certificate of {name} has gone from under its server, as where a directory"
            yield Warning_(
                "certificate", name,
                f"{text} was put in the place of its private one: `invoke stop`, `invoke start`",
            )  # fmt: skip
        elif sender and sender.tls is None:
            text = f"{name} streams in clear from {picture.upstreams.get(name)}"
            yield Warning_("in-clear", name, f"{text}: `invoke rejoin {name}`")
    served = any(facts.certificate not in {None, GONE} for facts in picture.facts.values())
    if served and (fault := picture.group.certificates.authorities.fault()):
        yield Warning_("certificate", None, fault)
    for name in picture.group.instances:
        if told := _ending(picture, name):
            node = picture.group.topology.node(name)
            cure = picture.group.certificates.cure(node)
            yield Warning_("certificate", name, f"{told}: {cure}")


def _ending(picture: ReplicationView, name: str) -> str:
    """Say when a node's certificate ends, if that is soon; by the file here, which is laid."""
    try:
        found = picture.group.certificates.known(picture.group.topology.node(name))
    except Refused as fault:
        return fault.sentence
    if found is None or found.days > SOON:
        return ""
    word = "ends" if found.days > 0 else "ended"
    return f"the certificate of {name} {word} on {found.ends:%Y-%m-%d}"
