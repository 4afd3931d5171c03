"""A group whose task is cut short again and again, each time from the same start.

rack = Rack.of(TASKS["add-standby"], herd)
for number, when in points(rack.count()):
    rack.cut_short(number, when)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from conftest import Herd
from killing import At, Command, When
from load import running_load
from snapshot import Snapshot
from trial import Change, Trial

EVERY = 0.05  # seconds between two inserts, and two looks for a primary: the machine is busy


@dataclass
class Rack:
    """The group, and its start.

    Attributes:
        trial: the task on it.
        kept: the start.
        rows: how many rows are committed then.
    """

    trial: Trial
    kept: Snapshot
    rows: int

    @classmethod
    def of(cls, change: Change, herd: Herd) -> Rack:
        """Set the group up as the task finds it, and keep that."""
        change.begin(herd)
        trial = Trial(herd, change)
        if herd.status("master"):
            trial.write()
        if change.lasting:
            trial.ready()
        return cls(trial, Snapshot.take(herd), trial.rows)

    @contextmanager
    def fresh(self) -> Iterator[Trial]:
        """Have the start again, with clients that write where the task has them."""
        self.kept.restore()
        trial, herd = self.trial, self.trial.herd
        trial.rows, trial.load = self.rows, None
        with ExitStack() as stack:
            if trial.change.loaded:
                load = running_load(
                    herd.places, herd.password(), herd.directory, every=EVERY, pause=EVERY
                )
                trial.load = stack.enter_context(load)
            if not trial.change.lasting:
                trial.ready()
            yield trial

    def count(self) -> list[Command]:
        """Run the task unharmed; return its commands."""
        with self.fresh() as trial:
            return trial.count()

    def cut_short(self, at: At, when: When) -> None:
        """Kill it there and run it again."""
        with self.fresh() as trial:
            trial.cut(at, when)
