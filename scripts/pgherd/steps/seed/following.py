"""A standby that is there already: connected again where it can follow, told apart where not."""

from __future__ import annotations

import re
from dataclasses import replace

from pgherd.errors import DeadlinePassed, Refused
from pgherd.postgres.conf import sql_literal
from pgherd.postgres.facts import Facts, Sender
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.shell import Script
from pgherd.steps import connect, guards, lifecycle, outside
from pgherd.steps.node import delayed, keep, run_container, serve, wait_serving
from pgherd.steps.private import streaming_password
from pgherd.steps.seed.asked import Pair
from pgherd.steps.tls.laid import as_asked

FOLLOW_SECONDS = 20  # for a standby to stream again before its log is looked at
HOPELESS_LINES = 40
# What a standby's log says, again and again, when its upstream has no WAL for it any more.
HOPELESS = (
    r"has already been removed|is not in this server's history|is not a child of this server|"
    r"forked off current database system|"
    r"can no longer (?:get changes from|access) replication slot|"
    r"system identifier differs|is not a child of database system timeline"
)
# What it says when it has a history that its upstream lacks: it may be the one to keep.
NEWER = r"is behind recovery timeline|ahead of the WAL flush position"


# How a node stands to its upstream.
STREAMS, FOLLOWS, NEW = "streams", "follows", "new"


def prospect(pair: Pair) -> str:
    """Tell, by looking only, whether a node streams already, may be made to, or wants a new copy.

    Raises:
        Refused: it runs with other options than are asked for, or somebody else has its data.
    """
    if pair.runs and pair.container:
        guards.check_spec(pair.standby, pair.container, pair.image)
    if pair.theirs is None:
        return NEW
    if pair.streams and pair.mine and as_asked(pair.standby, pair.mine):
        return STREAMS
    if pair.mine:
        same = pair.mine.system_identifier == pair.theirs.system_identifier
        # one that has a newer timeline is refused before anything is set aside
        older = pair.mine.timeline <= pair.theirs.timeline
        return FOLLOWS if same and older and pair.mine.in_recovery else NEW
    if pair.runs or guards.data_state(pair.standby) != guards.FULL:
        return NEW
    guards.check_data_unused(pair.standby, pair.seen)
    disk = pair.standby.disk(pair.image)
    outside.refuse_to_move(pair.group, pair.standby, pair.seen, disk)
    usable = disk.standby_signal and not disk.unfinished and disk.timeline <= pair.theirs.timeline
    usable = usable and not outside.lost(pair.standby.node, disk)
    same = disk.system_identifier == pair.theirs.system_identifier
    return FOLLOWS if usable and same else NEW


def following(pair: Pair, stands: str) -> Facts | None:
    """Return the upstream's facts if the node streams from it already or can be made to.

    `stands` is what `prospect` tells; the upstream lets it in already.
    """
    if stands == STREAMS:
        pair.note(f"already streams from {pair.upstream.name}")
        wait_serving(pair.group, pair.standby)
        return pair.theirs
    return made_to_follow(pair) if stands == FOLLOWS else None


def made_to_follow(pair: Pair) -> Facts | None:
    """Connect a standby of this system and see whether it streams; None if it does not."""
    connect.ensure_slot(pair.standby, pair.upstream)
    if pair.runs:
        connect.connect_running(pair.group, pair.standby, pair.upstream, pair.image)
    else:
        connect.connect_stopped(pair.group, pair.standby, pair.upstream, pair.image)
        run_container(pair.group, pair.standby, pair.image, pair.container)
    if hopeless := _hopeless(pair):
        pair.note(f"it cannot follow any more, so it is seeded anew: {hopeless}")
        lifecycle.stop_instances(pair.group, [pair.standby], clean=False)
        made = pair.standby.container()
        if made and pair.container is None:
            pair.standby.engine.remove(made)
        return None
    facts = connect.wait_streaming(pair.standby, pair.upstream, connect.STREAMING_SECONDS)
    wait_serving(pair.group, pair.standby)
    pair.note(f"streams from {pair.upstream.name}")
    _drop_former_slot(pair)
    if facts or pair.theirs is None:
        return facts
    # With --dry: once the printed script has run, it streams.
    planned = Sender(pair.standby.node.application_name, "streaming", "", None, None, None, "")
    return replace(pair.theirs, senders=(*pair.theirs.senders, planned))


def let_in(group: Group, upstream: Instance, facts: Facts | None) -> None:
    """Have a node that serves let standbys in, while there is nothing set aside yet.

    Its rules name the addresses of the other hosts, which may be new; and the password in the file
    has to be the role's. On a standby only the rules are seen to: the role comes from the primary,
    and a standby takes no write. `facts` is what the node says; None with `--dry`. Not for two at
    once on one node.
    """
    if upstream.name in group.served:
        return
    pieces: list[str | Script] = []
    if not (facts and facts.in_recovery):
        pieces = [streaming_password(group, asked=True), "role"]
    elif group.passwords.replacing():  # what it takes is asked, no more
        pieces = [streaming_password(group, asked=True)]
    keep(upstream, serve(group, upstream, *pieces))
    group.served.add(upstream.name)


def _drop_former_slot(pair: Pair) -> None:
    """Drop the slot that the node had under another application name: it would only keep WAL."""
    former = pair.mine.primary_slot if pair.mine else ""
    if former and former not in {node.slot for node in pair.group.topology.nodes.values()}:
        pair.group.trace.note(f"{pair.upstream.name}: dropping the slot {former}, used no more")
        pair.upstream.psql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "  # noqa: S608
            f"WHERE slot_name = {sql_literal(former)} AND NOT active;\n"
        )


def _delayed(pair: Pair) -> str:
    """Return why a delayed standby is slow to connect: PostgreSQL does so between two records."""
    name = pair.standby.name
    return (
        f"{name} does not stream from {pair.upstream.name} yet: it is delayed, and connects only "
        "when it has replayed what it has received before. `invoke verify` tells when; or `invoke "
        f"seed-standby --node {name} --reseed` gives it a new copy."
    )


def _hopeless(pair: Pair) -> str:
    """Wait a moment for the standby to stream; return why it never will, if it says so.

    One that is merely far behind, or still replays what it has, is no reason for a new copy; nor
    is an upstream that stops, or a host that is lost.
    """
    if pair.group.trace.dry:
        return ""
    try:
        connect.wait_streaming(pair.standby, pair.upstream, FOLLOW_SECONDS)
    except DeadlinePassed as fault:
        if delayed(pair.standby):
            raise DeadlinePassed(_delayed(pair)) from fault
        tail = pair.standby.log_tail(HOPELESS_LINES, since_start=True)
    except connect.Ended as fault:
        return fault.sentence
    else:
        return ""
    if newer := re.search(rf".*(?:{NEWER}).*", tail):
        raise Refused(
            f"{pair.standby.name} has WAL that {pair.upstream.name} has not and cannot follow it "
            f"({newer[0].strip(' |')}). `invoke rejoin {pair.standby.name}` tells what it is, and "
            "brings it back; if it may be lost, --reseed sets it aside and seeds anew."
        )
    return next((line.strip(" |") for line in tail.splitlines() if re.search(HOPELESS, line)), "")
