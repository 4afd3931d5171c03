"""The moment of a switchover: the primary is stopped, and the standby that has all takes over.

What is left to be done on either server when this run is cut short is done in its turn only (see
`turn`), so that a later run, or the undoing of this one, knows what both are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from pgherd.docker import Container, Image
from pgherd.errors import DeadlinePassed, Error, in_words
from pgherd.host.scope import cleaning_up
from pgherd.host.together import side_by_side
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import TIMED_OUT, Instance
from pgherd.shell import Result
from pgherd.steps import connect, holdups, leaders
from pgherd.steps.change import turn
from pgherd.steps.change.interrupted import serve_again, unmark
from pgherd.steps.change.successor import end_holders
from pgherd.steps.holdups import Holdup
from pgherd.steps.sync import waits_for

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
            side_by_side(lambda act: act(), [self.promote, self._stop])
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
            turn=turn.OURS,
            seconds=self.seconds,
            standby=conf.sql_literal(self.successor.node.application_name),
            ours=", ".join(map(conf.sql_literal, ours)),
            ended=", ".join(map(str, ended or [0])),
            **connect.following_values(self.former, self.upstream),
        )
        try:
            said = self.former.execute(script, CHECKPOINT_SECONDS + self.seconds)
        except DeadlinePassed as fault:
            raise DeadlinePassed(
                f"{self.successor.name} did not receive within {self.seconds} s what {name} had "
                f"written{turn.paused(self.successor)}.\n{fault.sentence}"
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
            turn=turn.OURS,
            timeline=self.timeline,
            seconds=CHECKPOINT_SECONDS,
            start=self.start,
            patience=self.seconds,
            promoting=turn.PROMOTING_SECONDS,
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
                held = holdups.of_replay(name, facts)
                return f"{text} {self.seconds} s: {held.text}. {held.cure}."
        return f"{text} {self.seconds} s."

    def _stop(self) -> None:
        dry, name = self.group.trace.dry, self.former.name
        if not dry and not self._armed.wait(ARM_SECONDS):
            raise DeadlinePassed(
                f"The promotion of {self.successor.name} could not be prepared"
                f"{turn.paused(self.successor)}."
            )
        self._stopping, self._begun = True, time.monotonic()
        self.group.trace.note(f"{name}: stopping it; {self.successor.name} takes over")
        if self.container and dry:
            self.former.engine.stop(self.container, CHECKPOINT_SECONDS)
        elif self.container:
            side_by_side(lambda act: act(), [self._end, self._watch_end])
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
        return self.former.engine.run(command, stdin=script, timeout=limit, on_line=self._told)

    def _told(self, line: str) -> None:
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
            if sender and holdups.is_ours(self.group.topology, sender):
                ours.append(holdups.who(sender))
            else:
                others.append(holdups.who(sender) if sender else f"process {pid} ({rest.strip()})")
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
            serve_again(self.group, former, self.image)
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
            side_by_side(lambda act: act(), acts)

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
                turn.call_off(self.successor, SILENT_SECONDS)
            return False, False
        try:
            # Only where it has all may it have been asked for, and take its time.
            turn.call_off(
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
            return leaders.leads(disk), container.alive
