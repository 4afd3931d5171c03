"""What makes a switchover's outage long: whom the primary waits for as it ends, what holds replay.

`status` and `doctor` warn of it while all is well, and `switchover` refuses it: they ask here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pgherd.config.topology import Topology
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Facts, Sender

LATE_SECONDS = 60.0  # whoever receives was asked for an answer by then (wal_sender_timeout)
SILENT_SECONDS = 20.0  # a standby reports every 10 s (wal_receiver_status_interval)
HELD_SECONDS = 5.0  # replay waits for many a query, and not for long


@dataclass(frozen=True)
class Holdup:
    """One thing that a switchover would wait for.

    Attributes:
        code: as `status` has it; stable.
        node: where it is.
        text: a sentence that says what is, without the full stop.
        cure: what ends it.
        pid: the server process that `--force` ends, where it is one that receives.
        sure: whether it is no use to wait a little and look again.
    """

    code: str
    node: str
    text: str
    cure: str
    pid: int | None = None
    sure: bool = True


def of_node(topology: Topology, name: str, facts: Facts) -> Iterator[Holdup]:
    """Yield what is worth a warning on one node, by what its server says."""
    for sender in strangers(topology, facts) if not facts.in_recovery else ():
        if why := late(facts, sender):
            yield of_receiver(name, sender, f"{why}: a switchover would wait for it")
    yield from of_archiver(name, facts)
    if facts.held and held_for(facts) > HELD_SECONDS:
        yield of_replay(name, facts)


def of_switchover(
    topology: Topology, primary: str, theirs: Facts, standby: str, mine: Facts, target: str
) -> Iterator[Holdup]:
    """Yield what a switchover would have to wait for; whoever receives has to be at `target`."""
    for sender in strangers(topology, theirs):
        if sender.confirmed < lsn_to_int(target):
            why = late(theirs, sender)
            text = why or f"has not confirmed what {primary} has written by now"
            yield replace(of_receiver(primary, sender, text), sure=bool(why))
    for sender in theirs.senders:
        if sender.state == "backup":
            yield of_receiver(primary, sender, "takes a base backup, which would be broken off")
        elif (sender.silent or 0) > SILENT_SECONDS and is_ours(topology, sender):
            yield of_receiver(primary, sender, f"has told nothing for {sender.silent:.0f} s")
    yield from of_archiver(primary, theirs)
    if mine.held:
        yield replace(of_replay(standby, mine), sure=held_for(mine) > HELD_SECONDS)


# --- who receives ---


def is_ours(topology: Topology, sender: Sender) -> bool:
    """Tell whether it is a standby of the group that receives."""
    names = {node.application_name.lower() for node in topology.nodes.values()}
    return sender.plugin is None and sender.application_name.lower() in names


def strangers(topology: Topology, facts: Facts) -> Iterator[Sender]:
    """Yield who streams and is no standby of the group, as logical consumers and pg_receivewal.

    A base backup, and one that has asked for nothing yet, end when the primary does.
    """
    for sender in facts.senders:
        if sender.state not in {"startup", "backup"} and not is_ours(topology, sender):
            yield sender


def late(facts: Facts, sender: Sender) -> str:
    """Say how somebody who streams is late; empty where it is not.

    What was written before the last checkpoint is as old as that.
    """
    connected, last = sender.connected or 0.0, facts.checkpoint or {"redo": "0/0", "seconds": 0}
    age = min(float(last["seconds"]), connected)
    if age > LATE_SECONDS and sender.confirmed < lsn_to_int(last["redo"]):
        return f"has not confirmed what was written {age:.0f} s ago"
    told = connected if sender.silent is None else min(sender.silent, connected)
    return f"has told nothing for {told:.0f} s" if told > LATE_SECONDS else ""


def of_receiver(node: str, sender: Sender, what: str) -> Holdup:
    """Return the holdup of somebody who receives."""
    cure = (
        f"let it come to its end, or stop it; {_ending(node, terminate=[sender.pid])} ends it here"
    )
    return Holdup("consumer-late", node, f"{who(sender)} on {node} {what}", cure, sender.pid)


def who(sender: Sender) -> str:
    """Say who receives: process, name, role and slot."""
    of = [f"{sender.application_name or 'no name'} of {sender.user}"]
    of += [f"slot {sender.slot}"] * bool(sender.slot) + [sender.plugin or ""] * bool(sender.plugin)
    return f"process {sender.pid} ({', '.join(of)})"


def _ending(node: str, *, cancel: list[Any] | None = None, terminate: list[Any]) -> str:
    """Return the command that ends sessions."""
    calls = [f"pg_cancel_backend({pid})" for pid in cancel or ()]
    calls += [f"pg_terminate_backend({pid})" for pid in terminate]
    return f'`invoke psql --node {node} --command "SELECT {", ".join(calls)}"`'


# --- archiving ---


def of_archiver(node: str, facts: Facts) -> Iterator[Holdup]:
    """Yield an archiver that fails, or hangs: a server that ends lets it archive all first."""
    archiver = facts.archiver
    if archiver is None or not archiver["files"]:
        return
    cure = f"correct archive_command; `invoke logs --node {node}` tells what it says"
    wait = f"{archiver['files']} WAL files wait to be archived, and pile up"
    if archiver["fails"] is not None:
        text = f"archiving on {node} fails, last {float(archiver['fails']):.0f} s ago: {wait}"
        yield Holdup("archive-fails", node, text, cure)
    elif float(archiver["seconds"]) > LATE_SECONDS:
        oldest = f"the oldest for {float(archiver['seconds']):.0f} s"
        text = f"archiving on {node} hangs or is slow: {wait}, {oldest}"
        yield Holdup("archive-late", node, text, cure)


# --- replay ---


def held_for(facts: Facts) -> float:
    """Return for how many seconds replay has been held; of a snapshot it is not known better."""
    since = (facts.held or {})["seconds"]
    return float(facts.replayed_age or 0 if since is None else since)


def of_replay(node: str, facts: Facts) -> Holdup:
    """Return the holdup of sessions for which replay waits (max_standby_streaming_delay)."""
    holders = (facts.held or {})["holders"]
    by = " and ".join(f"{_holder(row)}" for row in holders) or "a query that nothing tells of"
    text = f"replay on {node} is held for {held_for(facts):.0f} s by {by}"
    cancel, terminate = ends(facts)
    cure = f"{_ending(node, cancel=cancel, terminate=terminate)} ends that"
    return Holdup("replay-held", node, text, cure if holders else f"end the queries on {node}")


def _holder(row: dict[str, Any]) -> str:
    name = f"{row['application_name'] or 'no name'} of {row['user']}"
    return f"process {row['pid']} ({name}, {row['state']}: {' '.join(row['query'].split())})"


def ends(facts: Facts) -> tuple[list[Any], list[Any]]:
    """Return the processes that hold replay: those with a query to be cancelled, and the others.

    An idle transaction is not ended by a cancel, though that says so.
    """
    holders = (facts.held or {"holders": []})["holders"]
    running = [row["pid"] for row in holders if row["state"] == "active"]
    return running, [row["pid"] for row in holders if row["state"] != "active"]
