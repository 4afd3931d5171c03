"""A task that is cut short at one of its commands and run again, and that all is sound afterwards.

    with changing(CHANGES["failover of a pair"], herd) as trial:
        for number, when in points(trial.counted()):
            trial.cut_short(number, when)

Every row that was acknowledged is known: those of the load clients, where they run, and counted
rows that are committed between two trials. A trial leaves the group sound, by whatever roles. Which
tasks there are: changes.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from conftest import Herd, docker
from killing import At, Command, Run, When, acts, count, ended, killed
from load import Load, missing, running_load, two_at_once
from stories import asked_of

LOCAL = "-c synchronous_commit=local"
NOWHERE = "host=127.0.0.1 port=1 user=nobody"  # for a standby that is to lose its upstream


@dataclass
class Trial:
    """A group, the rows that it acknowledged, and the change that is to be cut short."""

    herd: Herd
    change: Change
    load: Load | None = None
    rows: int = 0
    words: tuple[str, ...] = field(default=())
    last: Run | None = None  # the one that was cut short

    @property
    def standbys(self) -> list[str]:
        """The roles of those that are not primary."""
        return [role for role in self.herd.nodes if role != self.herd.primary()]

    def write(self, role: str = "", *, rows: int = 10) -> None:
        """Commit rows on the primary, and know that they were; not for a standby to have."""
        with self.herd.connect(role or self.herd.primary(), options=LOCAL) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS counted (id int PRIMARY KEY)")
            connection.execute(
                "INSERT INTO counted SELECT generate_series(%s::int, %s::int)",
                (self.rows + 1, self.rows + rows),
            )
        self.rows += rows

    def ready(self) -> None:
        """Make ready what the task is for, and say its words."""
        self.words = self.change.ready(self)

    def again(self) -> None:
        """Run the task once more, and what belongs to it; then all is sound."""
        self.herd.invoke(*self.words)
        self.change.after(self)
        self.sound()
        self.write()

    def cut_short(self, at: At, when: When) -> None:
        """Kill the task at one of its commands, and run it again."""
        self.ready()
        self.cut(at, when)

    def cut(self, at: At, when: When) -> None:
        """Do that with what is ready."""
        if self.change.sign is signal.SIGKILL:
            self.last = killed(self.herd, at, when, *self.words)
        else:
            self.last = ended(self.herd, at, when, self.change.sign, *self.words)
            self.told(self.last)
        self.again()

    def reached(self, number: int) -> bool:
        """Tell whether the one that was cut short last had come to that command."""
        if not self.last:
            return False
        if self.change.sign is signal.SIGKILL:
            return self.last.killed
        return len(self.last.commands) >= number  # it may end well for all that

    def told(self, run: Run) -> None:
        """One that could clean up has left a primary, and said which, if it had begun."""
        for role in self.herd.nodes:
            if self.herd.status(role) == "running":
                inside(self.herd, role, "SELECT")  # it may just have been started
        primary = self.herd.container(self.herd.primary())
        if "marking it" in run.said:
            said = "serves again", "goes on as the primary", "is primary now"
            assert any(f"{primary}: {words}" in run.said for words in said), run.said

    def counted(self) -> list[Command]:
        """Run the task unharmed; return its commands."""
        self.ready()
        return self.count()

    def count(self) -> list[Command]:
        """Do that with what is ready."""
        commands = count(self.herd, *self.words)
        self.change.after(self)
        self.sound()
        self.write()
        return commands

    def sound(self) -> None:
        """One primary, every acknowledged row, verify passes, and nothing is left at work."""
        herd = self.herd
        names = [herd.container(role) for role in herd.nodes]
        shape = "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}"
        states = docker("inspect", "--format", shape, *names).splitlines()
        assert states == ["running unless-stopped"] * len(names), states
        primary = herd.primary()
        assert herd.sql(primary, "SELECT count(*) FROM counted") == self.rows
        if self.load:
            rows = self.load.acknowledged()
            assert missing(rows, partial(herd.sql, primary)) == set()
            assert two_at_once(rows) == []
        herd.checks()
        assert docker("ps", "--all", "--quiet", "--filter", f"name=pgherd-{herd.name}-") == ""


def _whole(herd: Herd) -> None:
    """Set up the whole group."""
    herd.invoke("setup-master")
    for role in list(herd.nodes)[1:]:
        herd.invoke("seed-standby", "--node", herd.container(role))


@dataclass(frozen=True)
class Change:
    """A task that is cut short.

    Attributes:
        ready: makes ready what it is for, and returns the words of the task.
        after: what belongs to a sound end, once it has come to its own.
        standbys: of the group.
        strict: commits rather wait than run without a standby.
        tls: all is encrypted.
        loaded: clients write all the while.
        sign: the signal that cuts it short.
        begin: sets the group up that is there before.
        lasting: what was made ready may be kept; else it is of the moment, such as a crash.
    """

    ready: Callable[[Trial], tuple[str, ...]]
    after: Callable[[Trial], None] = lambda _trial: None
    standbys: int = 1
    strict: bool = False
    tls: bool = False
    loaded: bool = True
    sign: signal.Signals = signal.SIGKILL
    begin: Callable[[Herd], None] = _whole
    lasting: bool = True


def inside(herd: Herd, role: str, statements: str) -> str:
    """Run statements as superuser in the container, once the server answers; wait for nobody."""
    script = (
        "until pg_isready -q -h 127.0.0.1; do sleep 0.05; done; "
        f'PGOPTIONS="{LOCAL}" psql -XAtq -v ON_ERROR_STOP=1 -c "$1"'
    )
    return docker("exec", "--user", "postgres", herd.container(role), "sh", "-ec", script, "sh",
                  statements)  # fmt: skip


def points(commands: list[Command]) -> Iterator[tuple[int, When]]:
    """Yield where to kill: each that acts before, during and after it; a look before it.

    When a look is done nothing has changed until the next command, before which it is killed.
    """
    acting = {*acts(commands), len(commands)}
    for number in range(1, len(commands) + 1):
        yield number, "before"
        if number in acting:
            yield number, "during"
            yield number, "after"


def group_of(change: Change) -> dict[str, Any]:
    """Return the keys of the group that a change wants."""
    asked = asked_of(change.standbys, strict=change.strict)
    return {"standbys": change.standbys, "tls": change.tls, **asked}


@contextmanager
def changing(change: Change, herd: Herd) -> Iterator[Trial]:
    """Set the group up where it is not there; where they are to, clients write meanwhile."""
    if not any(herd.status(role) for role in herd.nodes):
        change.begin(herd)
    trial = Trial(herd, change)
    with ExitStack() as stack:
        if change.loaded:
            load = running_load(herd.places, herd.password(), herd.directory)
            trial.load = stack.enter_context(load)
        herd.sql(herd.primary(), "DROP TABLE IF EXISTS counted")
        trial.write()
        yield trial
