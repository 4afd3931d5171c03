"""Tasks that are cut short: what is made ready for each, and that the group is sound afterwards.

    with changing(CHANGES["failover of a pair"], herd) as trial:
        for number, when in points(trial.counted()):
            trial.cut_short(number, when)

Every row that was acknowledged is known: those of the load clients, where they run, and counted
rows that are committed between two trials. A trial leaves the group sound, by whatever roles.
In torture.py each trial begins with the same group instead: every task of TASKS can be tried so.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from conftest import Herd, docker
from killing import Run, When, acts, count, ended, killed
from load import Load, missing, running_load, two_at_once
from stories import asked_of

LOCAL = "-c synchronous_commit=local"
NOWHERE = "host=127.0.0.1 port=1 user=nobody"


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

    def cut_short(self, number: int, when: When) -> None:
        """Kill the task at one of its commands, and run it again."""
        self.ready()
        self.cut(number, when)

    def cut(self, number: int | str, when: When) -> None:
        """Do that with what is ready."""
        if self.change.sign is signal.SIGKILL:
            self.last = killed(self.herd, number, when, *self.words)
        else:
            self.last = ended(self.herd, number, when, self.change.sign, *self.words)
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

    def counted(self) -> list[str]:
        """Run the task unharmed; return its commands."""
        self.ready()
        return self.count()

    def count(self) -> list[str]:
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
        loaded: clients write all the while.
        sign: the signal that cuts it short.
        begin: sets the group up that is there before.
        lasting: what was made ready may be kept; else it is of the moment, such as a crash.
    """

    ready: Callable[[Trial], tuple[str, ...]]
    after: Callable[[Trial], None] = lambda _trial: None
    standbys: int = 1
    strict: bool = False
    loaded: bool = True
    sign: signal.Signals = signal.SIGKILL
    begin: Callable[[Herd], None] = _whole
    lasting: bool = True


# --- switchover ---


def _next(trial: Trial) -> tuple[str, ...]:
    roles = list(trial.herd.nodes)
    new = roles[(roles.index(trial.herd.primary()) + 1) % len(roles)]
    return "switchover", "--to", trial.herd.container(new)


def _taken_over(trial: Trial) -> None:
    assert trial.herd.container(trial.herd.primary()) == trial.words[-1]


# --- failover ---


def _lost(trial: Trial) -> tuple[str, ...]:
    old = trial.herd.primary()
    docker("kill", "--signal", "KILL", trial.herd.container(old))
    return ("failover",)


def _old_comes_back(trial: Trial) -> None:
    for role in trial.herd.nodes:
        if trial.herd.status(role) != "running":
            trial.herd.invoke("rejoin", trial.herd.container(role))


# --- rejoin ---


def _failed_over(trial: Trial) -> tuple[str, ...]:
    old = trial.herd.primary()
    docker("kill", "--signal", "KILL", trial.herd.container(old))
    trial.herd.invoke("failover")
    return "rejoin", trial.herd.container(old)


def _second_primary(trial: Trial) -> tuple[str, ...]:
    """The old primary was started by hand, without its mark, and has commits of its own."""
    old = trial.herd.primary()
    words = _failed_over(trial)
    (trial.herd.data(old) / "standby.signal").unlink()
    docker("start", trial.herd.container(old))
    inside(
        trial.herd,
        old,
        "CREATE TABLE own (id int); INSERT INTO own SELECT generate_series(1, 5000)",
    )
    return words


def _emptied(trial: Trial) -> tuple[str, ...]:
    """A standby's data directory is empty."""
    role = trial.standbys[0]
    docker("stop", trial.herd.container(role))
    path = str(trial.herd.data(role))
    subprocess.run(["find", path, "-mindepth", "1", "-delete"], check=True)
    return "rejoin", trial.herd.container(role)


def _no_slot(trial: Trial) -> tuple[str, ...]:
    """A standby was down, and the primary has neither its slot nor the WAL for it any more."""
    role = trial.standbys[0]
    docker("stop", trial.herd.container(role))
    primary = trial.herd.primary()
    slot = str(trial.herd.nodes[role].get("application_name", trial.herd.container(role)))
    slot = slot.lower().replace("-", "_")
    inside(trial.herd, primary, f"SELECT pg_drop_replication_slot('{slot}')")
    inside(trial.herd, primary, "ALTER SYSTEM SET wal_keep_size = 0")
    inside(trial.herd, primary, "SELECT pg_reload_conf()")
    inside(trial.herd, primary, "SELECT pg_switch_wal()")
    for _ in range(2):
        trial.write(primary)
        inside(trial.herd, primary, "SELECT pg_switch_wal()")
        inside(trial.herd, primary, "CHECKPOINT")
    inside(trial.herd, primary, "ALTER SYSTEM RESET wal_keep_size")
    inside(trial.herd, primary, "SELECT pg_reload_conf()")
    return "rejoin", trial.herd.container(role)


def _lagging(trial: Trial) -> tuple[str, ...]:
    """A standby runs, has lost its primary, and is behind."""
    role = trial.standbys[0]
    inside(trial.herd, role, f"ALTER SYSTEM SET primary_conninfo = '{NOWHERE}'")
    inside(trial.herd, role, "SELECT pg_reload_conf()")
    trial.write(rows=20000)
    return "rejoin", trial.herd.container(role)


def inside(herd: Herd, role: str, statements: str) -> str:
    """Run statements as superuser in the container, once the server answers; wait for nobody."""
    script = (
        "until pg_isready -q -h 127.0.0.1; do sleep 0.05; done; "
        f'PGOPTIONS="{LOCAL}" psql -XAtq -v ON_ERROR_STOP=1 -c "$1"'
    )
    return docker("exec", "--user", "postgres", herd.container(role), "sh", "-ec", script, "sh",
                  statements)  # fmt: skip


# --- setting up, and taking down ---


def _of(*words: str) -> Callable[[Trial], tuple[str, ...]]:
    return lambda _trial: words


def _nothing(_herd: Herd) -> None:
    """There is nothing yet."""


def _alone(herd: Herd) -> None:
    """There is a primary, and no trace of a standby."""
    herd.invoke("setup-master")


def _pair_of_four(herd: Herd) -> None:
    """There is a pair; of two further nodes one is to follow the other."""
    herd.nodes["standby3"]["upstream"] = herd.container("standby2")
    herd.write()
    herd.invoke("setup-master", "seed-standby")


def _two_more(trial: Trial) -> tuple[str, ...]:
    return "add-standby", ",".join(map(trial.herd.container, ("standby2", "standby3")))


def _goes_on(trial: Trial) -> None:
    """What was set up is there, can be built on, and is not set up again."""
    assert "already runs" in trial.herd.invoke("setup-master").stderr
    trial.write()
    trial.herd.invoke("seed-standby")


def _down(trial: Trial) -> None:
    """All is gone but the data, which serves again."""
    herd = trial.herd
    assert [herd.status(role) for role in herd.nodes] == [""] * len(herd.nodes)
    assert docker("network", "ls", "--quiet", "--filter", f"name=^pgherd-{herd.name}$") == ""
    herd.invoke("setup-master", "seed-standby")


def _purge(trial: Trial) -> tuple[str, ...]:
    return "down", "--purge", "--confirm", trial.herd.name


def _purged(trial: Trial) -> None:
    """All is gone; what was set aside is put back in its place by hand, and serves again."""
    herd = trial.herd
    assert not herd.secrets().exists()
    places = [herd.secrets(), *map(herd.data, herd.nodes)]
    for place in places:
        (aside,) = place.parent.glob(f"{place.name}_bk_*")
        assert not place.exists()
        aside.rename(place)
    _down(trial)


CHANGES = {
    "switchover of a pair": Change(_next, _taken_over),
    "switchover and Ctrl-C": Change(_next, _taken_over, sign=signal.SIGINT),
    "switchover and SIGTERM": Change(_next, _taken_over, sign=signal.SIGTERM),
    "switchover of three, strict": Change(_next, _taken_over, standbys=2, strict=True),
    "failover of a pair": Change(_lost, _old_comes_back, lasting=False),
    "failover of three": Change(_lost, _old_comes_back, standbys=2, lasting=False),
    "rejoin that follows": Change(_failed_over),
    "rejoin by pg_rewind": Change(_second_primary, loaded=False),
    "rejoin without data": Change(_emptied, loaded=False),
    "rejoin without WAL": Change(_no_slot, loaded=False),
    "rejoin of one that runs": Change(_lagging, loaded=False),
}

COPY = ("seed-standby", "--method", "copy", "--yes")
# The longest ones first.
TASKS = {
    "seed-standby by copy": Change(_of(*COPY), begin=_alone),
    "add-standby": Change(_two_more, standbys=3, begin=_pair_of_four),
    **CHANGES,
    "down and purge": Change(_purge, _purged),
    "down": Change(_of("down"), _down),
    "seed-standby by basebackup": Change(_of("seed-standby"), begin=_alone),
    "setup-master": Change(_of("setup-master"), _goes_on, loaded=False, begin=_nothing),
}


def points(commands: list[str]) -> Iterator[tuple[int, When]]:
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
    return {"standbys": change.standbys, **asked_of(change.standbys, strict=change.strict)}


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
