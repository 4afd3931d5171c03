"""What hurts of a group, each with its cure: who is primary, commits that wait, slots, containers.

The codes are stable: programs go by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgherd.docker import Container
from pgherd.postgres.facts import Facts
from pgherd.postgres.headless import no_primary, paused
from pgherd.steps import guards, holdups, outside
from pgherd.steps.change.fence import NEVER, is_fenced
from pgherd.steps.diff.containers import made_first, restarted
from pgherd.steps.leaders import writes_refused
from pgherd.steps.standing import (
    ABSENT,
    DOWN,
    FOREIGN,
    SILENT,
    UNREACHABLE,
    Picture,
    retained,
    size,
)
from pgherd.steps.sync import counting, hung_long, read_sync

SLOT_BYTES = 1_000_000_000  # of WAL that a slot keeps, before it is told
MAKE_ROOM = {"extended", "unreserved"}  # wal_status: more than max_wal_size, and about to be lost
ASYNC_CURE = "to let commits go on without: `invoke sync --off`"


@dataclass(frozen=True)
class Warning_:  # noqa: N801 (Warning is Python's)
    """One thing that hurts: a stable code, the node (None: the group), a sentence with the cure."""

    code: str
    node: str | None
    text: str


def of_nodes(picture: Picture) -> Iterator[Warning_]:
    """Yield the nodes that are not there, and containers that Docker would not start again."""
    for name, node in picture.seen.nodes.items():
        role, container = picture.role(name), node.container
        fenced = bool(container and is_fenced(container) and role != FOREIGN)
        if (told := _not_there(picture, name, role)) and not (fenced and role == DOWN):
            yield Warning_(role if role != SILENT else "no-answer", name, told)
        if container and fenced:
            yield Warning_("fenced", name, _fenced(picture, name, container))
        if guards.is_off_network(picture.group, picture.group.instance(name), picture.seen):
            text = f"{name} is not on the network {picture.group.network}"
            cure = "no neighbour and no client reaches it: `invoke start` connects it"
            yield Warning_("off-network", name, f"{text}, so {cure}")


def _not_there(picture: Picture, name: str, role: str) -> str:
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


def _silent(picture: Picture, name: str, container: Container) -> str:
    if node_planned(picture, name):
        return ""
    if told := paused(picture.group, picture.seen, name):
        return told
    silence = picture.seen.nodes[name].silence
    return f"{name} runs ({container.status}) and does not answer: {silence} {_logs(name)}"


def _nowhere(picture: Picture, name: str, role: str) -> str:
    node = picture.group.topology.node(name)
    if role == UNREACHABLE:
        return f"{node.host} cannot be reached: {picture.seen.nodes[name].silence} `invoke hosts`"
    make = made_first(picture.group, picture.group.instance(name), picture.seen)
    kept = picture.data.get(name)
    if kept in {guards.ABSENT, guards.EMPTY}:
        return f"{name} has no container and no data: `{make}`"
    if kept:
        return f"{name} has no container; its data is kept: `invoke start`"
    return f"{name} has no container: `invoke start` if it has data, `{make}` if it never had"


def node_planned(picture: Picture, name: str) -> bool:
    """Tell whether a node runs only once the script that `--dry` prints has run."""
    return picture.seen.nodes[name].planned


def _fenced(picture: Picture, name: str, container: Container) -> str:
    cure = restarted(picture.group, picture.group.instance(name), container, picture.leader)
    return f"Docker would not start {name} again, its restart policy is `{NEVER}`: `{cure}`"


def _logs(name: str) -> str:
    return f"`invoke logs --node {name}`"


def of_primaries(picture: Picture) -> Iterator[Warning_]:
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


def _no_primary(picture: Picture) -> Iterator[Warning_]:
    nodes = picture.seen.nodes.values()
    if any(node.planned or (node.files and not node.files.in_recovery) for node in nodes):
        return  # a primary that lets nobody in is told as that
    if silent := [name for name in picture.seen.nodes if picture.role(name) == SILENT]:
        lost = ". If it is lost: `invoke failover`" if picture.facts else ""
        text = f"no node that answers is primary; {' or '.join(silent)} may be, and does not{lost}"
        yield Warning_("no-primary", None, text)
    elif guards.FULL in picture.data.values() and not any(
        node.container for node in picture.seen.nodes.values()
    ):
        text = "no node has a container, as where the group was taken down; the data is kept"
        text = f"{text}: `invoke start`"
        yield Warning_("no-primary", None, text)
    else:
        yield Warning_("no-primary", None, no_primary(picture.group, picture.seen))


def _older(other: Facts, led: Facts) -> bool:
    same = other.system_identifier == led.system_identifier
    return same and other.timeline < led.timeline


def _old_primary(picture: Picture, name: str) -> str:
    leader = picture.leader or ""
    return (
        f"{name} is an old primary that came back: it is at timeline "
        f"{picture.facts[name].timeline}, and {leader} was promoted since. `invoke rejoin {name}`"
    )


def of_commits(picture: Picture) -> Iterator[Warning_]:
    """Yield commits that hang, and what the primary waits for where it is not as asked."""
    for name in picture.seen.primaries:
        if hung := hung_long(picture.facts[name]):
            yield Warning_("commits-hang", name, _hang(picture, name, hung))
    if picture.leader and picture.led and (told := _sync(picture, picture.leader, picture.led)):
        yield told


def _hang(picture: Picture, name: str, hung: list[dict[str, Any]]) -> str:
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


def _sync(picture: Picture, leader: str, led: Facts) -> Warning_ | None:
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


def of_holdups(picture: Picture) -> Iterator[Warning_]:
    """Yield what would make the outage of a switchover long: consumers, archiving, held replay."""
    for name, facts in picture.facts.items():
        for found in holdups.of_node(picture.group.topology, name, facts):
            yield Warning_(found.code, name, f"{found.text}: {found.cure}")


def of_slots(picture: Picture) -> Iterator[Warning_]:
    """Yield slots that keep too much WAL, have lost it, or are nobody's."""
    owners = {node.slot: node.name for node in picture.group.topology.nodes.values()}
    for holder, facts in picture.facts.items():
        for slot in facts.slots:
            if told := _slot(holder, slot, owners.get(str(slot["name"]))):
                yield told


def _slot(holder: str, slot: dict[str, Any], owner: str | None) -> Warning_ | None:
    name, status, kept = slot["name"], slot["wal_status"], retained(slot)
    kept_wal = f"{size(kept)} of WAL"
    drop = f"`invoke psql --node {holder} --command \"SELECT pg_drop_replication_slot('{name}')\"`"
    if owner is None and not slot["active"]:
        text = f"the slot {name} of {holder} is no node's, and keeps {kept_wal}: {drop}"
        return Warning_("slot-unused", holder, text)
    if status == "lost":
        cure = f"`invoke rejoin {owner}`" if owner else drop
        text = f"the slot {name} of {holder} has lost WAL that {owner or 'it'} needs: {cure}"
        return Warning_("slot-lost", owner or holder, text)
    if kept > SLOT_BYTES or status in MAKE_ROOM:
        left = f", and {size(slot['left'])} more until it is lost" if slot["left"] else ""
        cure = f"`invoke start` if {owner} is down; if nobody uses it" if owner else "if it may go"
        text = f"the slot {name} of {holder} keeps {kept_wal} ({status}{left}): {cure}, {drop}"
        return Warning_("slot-retains", owner or holder, text)
    return None


def of_data(picture: Picture) -> Iterator[Warning_]:
    """Yield what a node keeps where it is gone with its container, and no copy gets it."""
    for name, node in picture.seen.nodes.items():
        if found := outside.of_server(picture.group.instance(name), node):
            text = outside.problem(picture.group, name, found, picture.facts, picture.leader)
            yield Warning_(outside.CODE, name, text)
