"""Switchover: a standby takes over as planned, and the old primary follows it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psycopg

from pgherd.client import Connection, connect, cut
from pgherd.config import loader
from pgherd.config.sync_names import Sync
from pgherd.docker.models import Container, Image
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable, in_words, quoted
from pgherd.group import outside_data, preconditions
from pgherd.group import primary as leadership
from pgherd.group.group import Group, is_paused, paused
from pgherd.group.observation import Observation
from pgherd.group.sync_state import waits_for
from pgherd.hosts.commands import Result, assignments
from pgherd.hosts.parallel import cleaning_up, run_all
from pgherd.operations import connect as operations_connect
from pgherd.operations import followers as succession
from pgherd.operations import recovery, run_token, set_aside, tls_transition
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import bring_passfile, wait_serving
from pgherd.operations.recovery import resume_primary, unmark
from pgherd.operations.rejoin import bring_back
from pgherd.postgres import conf, scripts, switchover_waits
from pgherd.postgres.conf import lsn_to_int, sql_literal
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import TIMED_OUT, Instance
from pgherd.postgres.switchover_waits import Holdup

# --- how long writes are refused meanwhile, as a client sees it ---

# Through the published ports it commits an empty message (`pg_logical_emit_message`) every few
# milliseconds: a commit like any other, that waits for synchronous standbys, and needs no table.

NAME = "pgherd switchover"
BEFORE_SECONDS = 0.01  # between two commits while the old primary serves
AFTER_SECONDS = 0.004  # between two tries on the new one
LAST_COMMIT_SECONDS = 30.0  # for the first commit after all else is done
COMMIT = "SELECT pg_logical_emit_message(true, 'pgherd', '')"
TRY = f"SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE ({COMMIT}) END"


class Outage:
    """A client that watches two nodes while the one takes the other's place.

    It never fails: where it cannot connect, it tells nothing.
    """

    def __init__(self, group: Group, old: Instance, new: Instance) -> None:
        self._group = group
        self._nodes = [old, new]
        self._connections: list[Connection] = []
        self._over = threading.Event()
        self._resumed = threading.Event()
        self._last = self._first = 0.0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._group.trace.dry:
            return self
        loader.forget_libpq_variables()
        with suppress(psycopg.Error, Unreachable):
            self._connections = run_all(
                lambda instance: connect(self._group, instance, NAME), self._nodes
            )
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        for connection in self._connections:
            cut(connection)
            connection.close()
        if self._thread:
            self._thread.join()

    def seconds(self) -> float | None:
        """Return the time between the last commit on the old primary and the first on the new.

        It waits for that first commit. None where it could not be watched, or did not come.
        """
        if self._thread is None or not self._resumed.wait(LAST_COMMIT_SECONDS) or not self._last:
            return None
        return self._first - self._last

    @property
    def resumed_at(self) -> float:
        """When the first commit on the new primary was acknowledged, by the monotonic clock."""
        return self._first

    def _watch(self) -> None:
        old, new = self._connections
        with suppress(psycopg.Error):
            while not self._over.wait(BEFORE_SECONDS):
                old.execute(COMMIT.encode())
                self._last = time.monotonic()
        with suppress(psycopg.Error):
            while not self._over.wait(AFTER_SECONDS):
                row = new.execute(TRY.encode()).fetchone()
                if row and row[0] is not None:
                    self._first = time.monotonic()
                    self._resumed.set()
                    return


# --- who may take the primary's place in a switchover ---

NEAR = 16 * 1024 * 1024  # bytes that a standby may lack, or have still to replay
REPLAY_LATE_SECONDS = 10.0  # by which it may replay later than the primary writes
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
    preconditions.check_name(group, instance, seen)
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
        if lacking > NEAR or late > REPLAY_LATE_SECONDS:
            behind = f", and is {late:.0f} s late" if late > REPLAY_LATE_SECONDS else ""
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
        found = list(switchover_waits.of_switchover(topology, *both, target))
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
    cancel, terminate = switchover_waits.ends(facts)
    calls = [f"pg_cancel_backend({pid})" for pid in cancel]
    calls += [f"pg_terminate_backend({pid})" for pid in terminate]
    if calls:
        successor.psql(f"SELECT {', '.join(calls)};\n")
        group.trace.note(f"{switchover_waits.of_replay(successor.name, facts).text}: ended")


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


def attach_to_primary(
    group: Group, successor: Instance, primary: Instance, seen: Observation
) -> None:
    """Let a standby that cascades stream from the primary, so that it gets the end of its WAL.

    One that does already is left as it is. To be called once nothing is refused any more.

    Raises:
        DeadlinePassed: it does not stream from there.
    """
    mine, theirs = seen.nodes[successor.name].facts, seen.nodes[primary.name].facts
    if mine is None or theirs is None or theirs.sender(successor.node.application_name):
        return
    group.trace.note(f"{successor.name}: cascades; it follows {primary.name} itself first")
    operations_connect.ensure_slot(successor, primary)
    tls_transition.apply_tls(group, primary, theirs)
    operations_connect.follow(group, successor, primary)
    operations_connect.wait_streaming(successor, primary, operations_connect.STREAMING_SECONDS)


# --- the moment: the primary stops, the standby takes over ---

# What is left to be done on either server when this run is cut short is done in its turn only (see
# `turn`), so that a later run, or the undoing of this one, knows what both are.

CHECKPOINT_SECONDS = 3600  # that a server may need to write one: to give up would be a crash
ARM_SECONDS = 15.0
END_SECONDS = 15.0  # from the primary's end to that of the stream, and from replay to promotion
QUIET_SECONDS = 3.0  # that a stop takes without a word
GLANCE_SECONDS = 1.0
HASTE_SECONDS = 3  # for an archiver, where the primary is to serve again
LAST_LINES = 25  # of the successor's log, where it did not take over
SILENT_SECONDS = 10  # for a successor that does not answer to be stopped in order
NOT_WRITTEN = 74  # of sh/ending.sh: the shutdown checkpoint is not written yet


@dataclass
class Handover:
    """From one primary to the next.

    Attributes:
        group: the group of both.
        former: the primary, up or already stopped.
        successor: the standby.
        upstream: whom the old primary is to follow: the new one, or a standby of it.
        image: what their files are worked on with.
        start: a WAL position of the successor before the primary's shutdown checkpoint.
        timeline: the timeline of both.
        container: the old primary's.
        theirs: what the old primary said of itself; None if that is down already.
        seconds: how long others are waited for: consumers, the archiver, queries on the standby.
        found: what was found that would have to be waited for, and is ended instead; None where
            nothing is to be ended by force.
        checkpoint: afterwards, the position of the shutdown checkpoint, which the new one has.
    """

    group: Group
    former: Instance
    successor: Instance
    upstream: Instance
    image: Image
    start: str
    timeline: int
    container: Container | None = None
    theirs: Facts | None = None
    seconds: int = 30
    found: list[Holdup] | None = None
    checkpoint: str = ""
    _armed: threading.Event = field(default_factory=threading.Event)
    _received: threading.Event = field(default_factory=threading.Event)
    _promoted: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)  # promoted, or failed
    _ended: threading.Event = field(default_factory=threading.Event)  # of the old primary
    _arming: bool = False
    _stopping: bool = False
    _begun: float = 0.0
    _spared: str = ""
    _waits: str = ""

    def take_place(self) -> None:
        """Mark the primary, and stop it while the promotion waits inside the standby for its end.

        Raises:
            Error: the standby did not get all, or could not be promoted; the old primary serves
                again, unless the sentence says that this could not be told.
        """
        if self.group.trace.dry:  # one after the other: a script has no two hands
            self._mark_former()
            self._stop()
            self.promote()
            return
        try:
            self._mark_former()
            run_all(lambda act: act(), [self.promote, self._stop])
        except BaseException as fault:
            with cleaning_up():
                if not self._called_off(fault):
                    return
            raise

    def _mark_former(self) -> None:
        """Have the running primary write all it has, and come back as a standby when it does.

        Raises:
            DeadlinePassed: the successor did not catch up.
        """
        name = self.former.name
        self.group.trace.note(f"{name}: a checkpoint; marking it as a standby to be")
        ours = [i.node.application_name.lower() for i in self.group.instances.values()]
        ended = [h.pid for h in self.found or () if h.pid is not None]
        script = scripts.compose(
            "checkpoint",
            "streaming",
            "in-turn",
            "former",
            "mark-standby",
            "turn-over",
            *(["end-receivers"] if self.found is not None else []),
            turn=run_token.RUN_TOKEN,
            seconds=self.seconds,
            standby=conf.sql_literal(self.successor.node.application_name),
            ours=", ".join(map(conf.sql_literal, ours)),
            ended=", ".join(map(str, ended or [0])),
            **operations_connect.following_values(self.former, self.upstream),
        )
        try:
            said = self.former.execute(script, CHECKPOINT_SECONDS + self.seconds)
        except DeadlinePassed as fault:
            raise DeadlinePassed(
                f"{self.successor.name} did not receive within {self.seconds} s what {name} had "
                f"written{run_token.paused(self.successor)}.\n{fault.sentence}"
            ) from None
        self._spared = said.partition("spared ")[2].strip()

    def promote(self) -> None:
        """Promote the standby once it has the primary's shutdown checkpoint, and not before.

        Raises:
            DeadlinePassed: it has that, and did not replay it.
        """
        script = scripts.compose(
            "in-turn",
            "promote-at-end",
            "turn-over",
            turn=run_token.RUN_TOKEN,
            timeline=self.timeline,
            seconds=CHECKPOINT_SECONDS,
            start=self.start,
            patience=self.seconds,
            promoting=run_token.PROMOTING_SECONDS,
        )
        self._arming = True
        command = self.successor.inside("sh", "-s")
        try:
            result = self.successor.engine.run(
                command, stdin=script, timeout=CHECKPOINT_SECONDS + 120.0, on_line=self._heard
            )
            if result.code == TIMED_OUT and self._received.is_set():
                raise DeadlinePassed(self._not_replayed())
            if not result.ok:
                raise Error(f"A docker command failed: {result.complaint()}")
        finally:
            self._over.set()

    def _heard(self, line: str) -> None:
        if line == "armed":
            self._armed.set()
        elif line.startswith("received "):
            self._received.set()
        elif line.startswith("promoted after "):
            self.checkpoint = line.removeprefix("promoted after ")
            self._received.set()
            self._promoted.set()

    def _not_replayed(self) -> str:
        """Say that the successor has all and has not replayed it, and who holds that up."""
        name = self.successor.name
        text = f"{name} has all that {self.former.name} wrote, and did not replay it within"
        with suppress(Error):
            facts = self.successor.facts()
            if facts.held:
                held = switchover_waits.of_replay(name, facts)
                return f"{text} {self.seconds} s: {held.text}. {held.cure}."
        return f"{text} {self.seconds} s."

    def _stop(self) -> None:
        dry, name = self.group.trace.dry, self.former.name
        if not dry and not self._armed.wait(ARM_SECONDS):
            raise DeadlinePassed(
                f"The promotion of {self.successor.name} could not be prepared"
                f"{run_token.paused(self.successor)}."
            )
        self._stopping, self._begun = True, time.monotonic()
        self.group.trace.note(f"{name}: stopping it; {self.successor.name} takes over")
        if self.container and dry:
            self.former.engine.stop(self.container, CHECKPOINT_SECONDS)
        elif self.container:
            run_all(lambda act: act(), [self._end, self._watch_end])
        if not dry:
            self._await_promotion()

    def _end(self) -> None:
        self._ended.clear()
        try:
            if self.container:
                self.former.engine.stop(self.container, CHECKPOINT_SECONDS)
        finally:
            self._ended.set()

    def _watch_end(self) -> None:
        """Say what the primary waits for as it ends; give it up where that takes too long.

        Once the standby has taken over it is ended: all that it wrote is there.

        Raises:
            DeadlinePassed: the standby has not taken over.
        """
        force = self.found is not None
        if not force and self._ended.wait(QUIET_SECONDS):
            return
        archiver = any(holdup.code.startswith("archive-") for holdup in self.found or ())
        archiving = HASTE_SECONDS if archiver else self.seconds
        code = NOT_WRITTEN
        while code == NOT_WRITTEN:
            code = self._see_end(archiving, grace="1" if force else "", spared=self._spared).code
            if code in {NOT_WRITTEN, TIMED_OUT} and not self._takes_over():
                told = f"{self.former.name} did not end within {self.seconds} s: {self._waits}"
                raise DeadlinePassed(f"{told}.")
        if code == TIMED_OUT and self.container:
            has_all = f"{self.successor.name} has all that it wrote"
            self.group.trace.note(f"{self.former.name}: {self._waits}; it is ended, as {has_all}")
            self.former.engine.stop(self.container, 1)

    def _takes_over(self) -> bool:
        """Tell whether the standby has taken over; where it has all, it may still do so."""
        if self._received.is_set():
            self._over.wait(self.seconds + END_SECONDS)
        return self._promoted.is_set()

    def _see_end(self, archiving: int, *, grace: str, spared: str = "") -> Result:
        """See what the primary waits for as it ends, until it has ended; see `sh/ending.sh`."""
        left = max(1, self.seconds - int(time.monotonic() - self._begun))
        script = scripts.compose(
            "ending", seconds=left, archiving=archiving, grace=grace, spared=spared
        )
        command, limit = self.former.inside("sh", "-s"), CHECKPOINT_SECONDS + 60.0
        return self.former.engine.run(command, stdin=script, timeout=limit, on_line=self._read_line)

    def _read_line(self, line: str) -> None:
        what, _, more = line.partition(" ")
        self._waits = "it waits for its sessions to end"
        if what == "checkpoint":
            self._waits = "it writes its shutdown checkpoint"
        elif what == "archiver":
            self._waits = f"it waits for its archiver ({more.strip()})"
        elif what == "walsenders":
            self._waits = f"it waits for {self._receivers(more)}"
        self.group.trace.note(f"{self.former.name}: {self._waits}")

    def _receivers(self, titles: str) -> str:
        """Name the walsenders; those of our standbys only where there are no others."""
        known = {str(s.pid): s for s in self.theirs.senders} if self.theirs else {}
        ours: list[str] = []
        others: list[str] = []
        for title in titles.split(";"):
            pid, _, rest = title.strip().partition(" ")
            sender = known.get(pid)
            if sender and switchover_waits.is_ours(self.group.topology, sender):
                ours.append(switchover_waits.who(sender))
            else:
                others.append(
                    switchover_waits.who(sender) if sender else f"process {pid} ({rest.strip()})"
                )
        return " and ".join(others or ours)

    def _await_promotion(self) -> None:
        """Wait until the standby that has all has taken over.

        Raises:
            Error: it has not all, or does not take over.
        """
        name, former = self.successor.name, self.former.name
        if not self._received.wait(END_SECONDS):
            words = f"{name} did not get the last of what {former} wrote."
            with suppress(Exception):  # its log tells why the stream broke
                words += f"\n{self.successor.log_tail(LAST_LINES)}"
            raise Error(words)
        until = time.monotonic() + self.seconds + END_SECONDS
        while not self._over.wait(GLANCE_SECONDS):
            if time.monotonic() > until:
                raise DeadlinePassed(
                    f"{name} has all that {former} wrote; its promotion takes long."
                )
            if self.found is not None and (facts := self.successor.facts()).held:
                end_holders(self.group, self.successor, facts)

    # --- what fails is undone ---

    def _called_off(self, fault: BaseException) -> bool:
        """Call the promotion off and let the old primary serve again; False where it was promoted.

        Raises:
            Error: whether it was cannot be told.
        """
        former, name = self.former, self.successor.name
        try:
            promoted, stopped = self._was_promoted()
        except Exception as silence:  # noqa: BLE001 (whatever it is, nobody knows then)
            raise Error(
                f"Whether {name} was promoted cannot be told: {in_words(silence)}\n"
                f"{former.name} is marked as a standby, so that it is no second primary. "
                f"`invoke switchover --to {name}` goes on once {name} answers."
            ) from fault
        if self._stopping:
            self._end_in_order(self.seconds if promoted else HASTE_SECONDS)
        if not promoted and self._stopping:
            self._let_replay()
            resume_primary(self.group, former, self.image)
        elif not promoted:
            unmark(former)
        if not promoted:
            serves = "goes on as the primary"
            if self._stopping:
                refused = time.monotonic() - self._begun
                serves = f"serves again; writes were refused for {refused:.1f} s"
            self.group.trace.note(f"{former.name}: {serves}; {name} was not promoted")
        if stopped and (container := self.successor.container()):
            self.successor.engine.start(container)
            self.group.trace.note(f"{name}: started again")
            if promoted:  # else it may have its reasons not to come up, and nobody waits for it
                self.successor.wait_ready()
        return not promoted

    def _end_in_order(self, archiving: int) -> None:
        """Bring the stop of the primary to its end, with whoever holds that up ended."""
        self.container = self.former.container()
        if self.container and self.container.alive:
            acts: list[Callable[[], None]] = [self._end, lambda: self._hasten(archiving)]
            run_all(lambda act: act(), acts)

    def _hasten(self, archiving: int) -> None:
        if self._ended.wait(GLANCE_SECONDS / 4):
            return
        code = NOT_WRITTEN
        while code == NOT_WRITTEN:
            code = self._see_end(archiving, grace="0").code
        if code == TIMED_OUT and self.container:
            self.former.engine.stop(self.container, 1)

    def _let_replay(self) -> None:
        """Where commits will wait for the successor, end what holds up its replay.

        Its stream is broken, and the server asks for another one between two records only.
        """
        name = self.successor.node.application_name
        if not (self._received.is_set() and self.theirs and waits_for(self.theirs, name)):
            return
        until = time.monotonic() + SILENT_SECONDS
        with suppress(Exception):
            while (facts := self.successor.facts()).held and time.monotonic() < until:
                end_holders(self.group, self.successor, facts)

    def _was_promoted(self) -> tuple[bool, bool]:
        """Tell whether the successor is primary, now and for good; and whether we stopped it.

        One that does not answer is stopped, so that nothing of it goes on: then its data tells.
        """
        name = self.successor.name
        if not self._arming:
            with suppress(Exception):
                run_token.cancel_pending_promotion(self.successor, SILENT_SECONDS)
            return False, False
        try:
            # Only where it has all may it have been asked for, and take its time.
            run_token.cancel_pending_promotion(
                self.successor, self.seconds if self._received.is_set() else SILENT_SECONDS
            )
            return not self.successor.facts().in_recovery, False
        except Exception as silence:
            container = self.successor.container()
            if container is None:
                raise
            if container.alive:
                self.successor.engine.stop(container, SILENT_SECONDS)
                self.group.trace.note(f"{name}: did not answer, so it was stopped to see its data")
            disk = self.successor.disk(self.image)
            if disk.pg_version is None:
                raise silence from None
            return leadership.is_primary_data(disk), container.alive


# --- the planned change of primary: a standby takes over, and the old primary follows it ---

# 1. examine: one primary, a standby that streams from it and is near, and nobody to be waited for
# 2. prepare the standby: slots, rules, for whom its commits wait
# 3. prepare the primary: a checkpoint, so that it has little to write; marked as a standby to be
# 4. arm the promotion, which waits inside the standby for the end of the stream
# 5. stop the primary: it ships all that it has, its shutdown checkpoint last; the standby takes
#    over
# 6. let the others follow the new primary, and start the old one, which needs no rewind
# 7. have commits wait for standbys again
#
# From step 3 on the old primary cannot come back as a primary, so two never take writes. What fails
# before the promotion is undone, and the old primary serves again; after it, all is brought to its
# end, whatever signal comes. Where a run was cut short, the next one first takes its turn, so that
# nothing of it goes on (`turn`), and goes on from what it finds (`interrupted`).

WAIT_SECONDS = 30  # for others, unless said otherwise
LONGEST_WAIT = 3600
ANSWER_SECONDS = 40  # for a server that serves to be prepared


@dataclass(frozen=True)
class Switched:
    """What came of a switchover.

    Attributes:
        primary: the node that is primary now.
        former: the one that was; None where all were standbys.
        checkpoint: the position of its shutdown checkpoint, which the new one has.
        refused: seconds without an acknowledged commit; None where that could not be watched.
        asynchronous: seconds in which commits waited for nobody though they ought to; None where
            there were none.
    """

    primary: str
    former: str | None
    checkpoint: str | None
    refused: float | None
    asynchronous: float | None


def waiting(text: str) -> int:
    """Read how many seconds others are waited for. Raises Refused for what is no such number."""
    if text and not (re.fullmatch(r"[0-9]{1,4}", text) and 0 < int(text) <= LONGEST_WAIT):
        raise Refused(f"--timeout is seconds, from 1 to {LONGEST_WAIT}, not {quoted(text)}.")
    return int(text or WAIT_SECONDS)


def switchover(
    group: Group, name: str, *, seconds: int = WAIT_SECONDS, force: bool = False
) -> Switched | None:
    """Make a standby the primary, with nothing lost; None where it is primary already.

    Run again after it was cut short, it goes on from where it was.

    Args:
        group: the group.
        name: the standby.
        seconds: how long others are waited for: consumers, the archiver, queries on the standby.
        force: those that would have to be waited for are ended.

    Raises:
        DeadlinePassed: others were waited for, and the old primary serves again.
        Refused: the node is no standby that streams and is near; nothing was changed.
        Error: a stage failed; the sentence tells who serves.
    """
    with group.locked(tolerant=True):
        seen = run_token.cancel_pending_promotions(group, group.observe())
        successor = candidate(group, name, seen)
        preconditions.check_alter_system(group, seen)
        image = ensure_image(group, seen)
        if seen.primaries == [successor.name]:
            group.trace.note(f"{name}: already primary")
            _bring_others_back(group, successor, seen, image)
            return None
        if not seen.primaries and not seen.nodes[successor.name].planned:
            if done := _resume(group, successor, seen, image):
                return done
            seen = group.observe()
        former = group.primary(seen)
        refuse_cut_short(group, former, seen)
        refuse_unfit(successor, former, seen)
        outside_data.refuse_to_change(group, (former, successor), seen)
        refuse_few_sessions(successor, former)
        tls_transition.refuse_tls_transition(group, seen)
        found = held_up(group, successor, former, seen, 0 if force else seconds)
        if not force:
            refuse_held_up(successor, found)
        tell_transactions(group, former, seen)
        attach_to_primary(group, successor, former, seen)
        if any(holdup.node == successor.name for holdup in found):
            release_replay(group, successor, seconds)
        ended = found if force else None
        return _switch(group, former, successor, seen, image, ended, seconds)


def _switch(
    group: Group,
    former: Instance,
    successor: Instance,
    seen: Observation,
    image: Image,
    ended: list[Holdup] | None,
    seconds: int,
) -> Switched:
    """Change the primary while it serves."""
    theirs, mine = seen.nodes[former.name].facts, seen.nodes[successor.name].facts
    asked = group.topology.sync_for(former.node)  # with --dry, it is what will be so then
    names = theirs.sync_names if theirs else asked.render() if asked else ""
    wanted = succession.sync_after(group, former, successor, names)
    start, timeline = (mine.lsn or "0/0", mine.timeline) if mine else ("0/0", 1)
    plan = succession.plan_upstreams(group, successor, seen)
    there = seen.nodes[former.name].container
    handover = Handover(
        group, former, successor, plan[former], image, start, timeline, there, theirs, seconds,
        ended,
    )  # fmt: skip
    ours, limit = assignments(turn=run_token.RUN_TOKEN), ANSWER_SECONDS
    preparing: list[Callable[[], None]] = [
        lambda: succession.prepare(group, successor, wanted, plan, seconds=limit),
        lambda: wait_serving(group, former, ours, "take-turn", seconds=limit),
    ]
    answering = list(zip((successor, former), preparing, strict=True))
    run_all(lambda pair: _in_time(*pair), answering)
    with Outage(group, former, successor) as outage:
        handover.take_place()
        with cleaning_up():  # from here on nothing can be undone
            return _let_others_follow(group, handover, plan, seen, wanted, outage)


def _in_time(instance: Instance, act: Callable[[], None]) -> None:
    """Prepare a server. One that does not answer is told of, also where its container is paused."""
    try:
        act()
    except DeadlinePassed as fault:
        paused = run_token.paused(instance)
        raise DeadlinePassed(
            f"{instance.name} does not answer{paused}.\n{fault.sentence}"
        ) from None


def _resume(group: Group, successor: Instance, seen: Observation, image: Image) -> Switched | None:
    """Go on where no node is primary (see `interrupted`); None where the old one serves again."""
    facts = seen.nodes[successor.name].facts
    found = recovery.last_primary(group, seen, image, facts) if facts else None
    if found is None:
        return _promote_one_of_standbys(group, successor, seen, image)
    former, disk = found
    if recovery.has_all(successor, disk):
        return _complete(group, former, successor, seen, (image, disk))
    group.trace.note(f"{successor.name}: may lack what {former.name} wrote last")
    recovery.resume_primary(group, former, image)
    if succession.follows(successor, former, seen):
        operations_connect.wait_streaming(successor, former, operations_connect.STREAMING_SECONDS)
    return None


def _complete(
    group: Group,
    former: Instance,
    successor: Instance,
    seen: Observation,
    there: tuple[Image, Disk],
) -> Switched:
    """Go on where the primary was stopped already and the standby has all that it wrote."""
    group.trace.note(f"{former.name}: was stopped, and {successor.name} has all that it wrote")
    image, disk = there
    bring_passfile(group, successor)  # the former one's is laid by the password that is known then
    wanted = succession.sync_after(group, former, successor, disk.sync_names)
    plan = succession.plan_upstreams(group, successor, seen)
    upstream, start, timeline = plan[former], disk.checkpoint, disk.timeline
    operations_connect.connect_stopped(group, former, upstream, image)
    if (container := former.container()) and container.alive:
        raise Refused(f"{former.name} was started meanwhile: this again.")
    handover = Handover(group, former, successor, upstream, image, start, timeline, container)
    succession.prepare(group, successor, wanted, plan)
    with cleaning_up():
        handover.promote()
        return _let_others_follow(group, handover, plan, seen, wanted, None)


def _promote_one_of_standbys(
    group: Group, successor: Instance, seen: Observation, image: Image
) -> Switched:
    """Promote one of a group that has standbys only, once it has what the others have."""
    recovery.get_all(group, successor, seen)
    plan = succession.plan_upstreams(group, successor, seen)
    wanted = group.topology.sync_for(successor.node)
    succession.prepare(group, successor, wanted, plan)
    group.trace.note(f"{successor.name}: all are standbys, and it has what they have: promoting it")
    with cleaning_up():
        recovery.promote(successor)
        group.trace.note(f"{successor.name}: is primary now")
    _bring_others_back(group, successor, group.observe(), image)  # that may take a base backup
    return Switched(successor.name, None, None, None, None)


def _let_others_follow(
    group: Group,
    handover: Handover,
    plan: succession.Upstreams,
    seen: Observation,
    wanted: Sync | None,
    outage: Outage | None,
) -> Switched:
    """Let all others follow the new primary; the old one is down, and connected to it."""
    former, successor = handover.former, handover.successor
    begun = time.monotonic()
    group.trace.note(f"{successor.name}: is primary now")
    running = [i for i in plan if (facts := seen.nodes[i.name].facts) and facts.in_recovery]
    followers = {i: plan[i] for i in (former, *running)}
    _all_follow(handover, followers, seen)
    settled = succession.wait_for_followers(group, successor, followers, wanted)
    refused = outage.seconds() if outage else None
    since = outage.resumed_at if outage and refused is not None else begun
    late = time.monotonic() - since
    asynchronous = late if wanted and settled and not group.topology.group.strict else None
    # Only now: a primary that goes on after all has to wait for whom it waited.
    wait_serving(group, former, assignments(names=sql_literal("")), "first-names")
    run_all(lambda i: succession.tidy(group, i, plan), list(followers))
    return Switched(successor.name, former.name, handover.checkpoint, refused, asynchronous)


def _all_follow(handover: Handover, followers: succession.Upstreams, seen: Observation) -> None:
    """Let each node follow its upstream; those that follow the old primary once that serves."""
    below = [i for i, upstream in followers.items() if upstream is handover.former]
    others = [i for i in followers if i not in below]
    run_all(lambda i: _follow(handover, i, followers[i], seen), others)
    if below:
        handover.former.wait_ready()
        run_all(lambda i: _follow(handover, i, followers[i], seen), below)


def _follow(handover: Handover, instance: Instance, upstream: Instance, seen: Observation) -> None:
    group, former = handover.group, handover.former
    if upstream is not handover.successor:  # that one has the slots already
        operations_connect.ensure_slot(instance, upstream)
    if instance is former:
        if handover.theirs and handover.theirs.archiver:
            disk = former.disk(handover.image)
            set_aside.keep_unarchived(group, former, handover.image, disk.unarchived)
        group.trace.note(f"{former.name}: starting it, as a standby of {upstream.name}")
        if handover.container:
            former.engine.start(handover.container)
    elif not succession.follows(instance, upstream, seen):
        if upstream is not handover.successor:
            tls_transition.apply_tls(group, upstream, seen.nodes[upstream.name].facts)
        operations_connect.follow(group, instance, upstream)


def _bring_others_back(group: Group, primary: Instance, seen: Observation, image: Image) -> None:
    """Bring every other node to follow the primary, where an earlier run left that undone."""
    upstreams = succession.plan_upstreams(group, primary, seen)
    for instance, upstream in upstreams.items():
        there = seen.nodes[instance.name].container and instance.node.host not in group.away
        if there and not succession.follows(instance, upstream, seen):
            bring_back(group, instance, primary, seen, image)
    following = {i: u for i, u in upstreams.items() if seen.nodes[i.name].container}
    succession.wait_for_followers(group, primary, following, group.topology.sync_for(primary.node))
