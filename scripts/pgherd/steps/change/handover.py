"""The moment of a switchover: the primary is stopped, and the standby that has all takes over.

What is left to be done on either server when this run is cut short is done in its turn only (see
`turn`), so that a later run, or the undoing of this one, knows what both are.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field

from pgherd.docker import Container, Image
from pgherd.errors import DeadlinePassed, Error, in_words
from pgherd.host.scope import cleaning_up
from pgherd.host.together import side_by_side
from pgherd.postgres import conf, scripts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import STOP_SECONDS, Instance
from pgherd.steps import connect, leaders
from pgherd.steps.change import turn
from pgherd.steps.change.interrupted import serve_again, unmark

CATCH_UP_SECONDS = 30  # for the standby to have what the primary had when it was asked
ARM_SECONDS = 15.0
END_SECONDS = 15.0  # from the primary's end to that of the promotion
LAST_LINES = 25  # of the successor's log, where it did not take over
SILENT_SECONDS = 10  # for a successor that does not answer to be stopped in order


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
    checkpoint: str = ""
    _armed: threading.Event = field(default_factory=threading.Event)
    _promoted: threading.Event = field(default_factory=threading.Event)
    _stopping: bool = False

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
        self.group.trace.note(f"{self.former.name}: a checkpoint; marking it as a standby to be")
        script = scripts.compose(
            "checkpoint",
            "streaming",
            "in-turn",
            "former",
            "mark-standby",
            "turn-over",
            turn=turn.OURS,
            seconds=CATCH_UP_SECONDS,
            standby=conf.sql_literal(self.successor.node.application_name),
            **connect.following_values(self.former, self.upstream),
        )
        self.former.execute(script, CATCH_UP_SECONDS + 300.0)

    def promote(self) -> None:
        """Promote the standby once it has the primary's shutdown checkpoint, and not before."""
        script = scripts.compose(
            "in-turn",
            "promote-at-end",
            "turn-over",
            turn=turn.OURS,
            timeline=self.timeline,
            seconds=STOP_SECONDS,
            start=self.start,
            promoting=turn.PROMOTING_SECONDS,
        )
        command = self.successor.inside("sh", "-s")
        self.successor.engine.must(
            command, stdin=script, timeout=STOP_SECONDS + 120.0, on_line=self._heard
        )

    def _heard(self, line: str) -> None:
        if line == "armed":
            self._armed.set()
        elif line.startswith("promoted after "):
            self.checkpoint = line.removeprefix("promoted after ")
            self._promoted.set()

    def _stop(self) -> None:
        dry, name = self.group.trace.dry, self.former.name
        if not dry and not self._armed.wait(ARM_SECONDS):
            raise DeadlinePassed(f"The promotion of {self.successor.name} could not be prepared.")
        self._stopping = True
        self.group.trace.note(f"{name}: stopping it; {self.successor.name} takes over")
        if self.container:
            self.former.engine.stop(self.container, STOP_SECONDS)
        if not dry and not self._promoted.wait(END_SECONDS):
            words = f"{self.successor.name} did not get the last of what {name} wrote."
            with suppress(Exception):  # its log tells why the stream broke
                words += f"\n{self.successor.log_tail(LAST_LINES)}"
            raise Error(words)

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
        if not promoted and self._stopping:
            container = former.container()
            if container and container.alive:
                former.engine.stop(container, STOP_SECONDS)
            serve_again(self.group, former, self.image)
        elif not promoted:
            unmark(former)
        if not promoted:
            serves = "serves again" if self._stopping else "goes on as the primary"
            self.group.trace.note(f"{former.name}: {serves}; {name} was not promoted")
        if stopped and (container := self.successor.container()):
            self.successor.engine.start(container)
            self.group.trace.note(f"{name}: started again")
            if promoted:  # else it may have its reasons not to come up, and nobody waits for it
                self.successor.wait_ready()
        return not promoted

    def _was_promoted(self) -> tuple[bool, bool]:
        """Tell whether the successor is primary, now and for good; and whether we stopped it.

        One that does not answer is stopped, so that nothing of it goes on: then its data tells.
        """
        name = self.successor.name
        try:
            turn.call_off(self.successor)
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
