"""Tasks for those who work on pgherd itself: its tests, its benchmarks, hosts to try it on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

ROOT = Path(__file__).parents[3]
LONG = "PGHERD_LONG"  # tests that take long run as well: see tests/e2e/conftest.py


@task(
    optional=["mutants"],
    help={
        "unit": "only the tests that need no engine",
        "fuzz": "only those with nasty input, other ones each time and so many times as many",
        "all_": "also what takes long: each major version, faults",
        "mutants": "plant defects in a copy, one at a time: a test has to catch each (or a NAME's)",
        "options": "for pytest",
    },
)
def test(
    c: Context,  # noqa: ARG001
    unit: bool = False,  # noqa: PT028
    fuzz: int = 0,  # noqa: PT028
    all_: bool = False,  # noqa: PT028
    mutants: str | bool | None = None,  # noqa: PT028
    options: str = "",  # noqa: PT028
) -> None:
    """Run the tests; those on real servers need a Docker Engine and make their own groups."""
    # The servers' tests mostly wait: three files at once, each with groups of its own.
    # Those files come first, and the small ones of the unit tests fill what is left of the time.
    spread = ["--numprocesses=3", "--dist=loadfile", "--no-loadscope-reorder"]
    where = ["tests/unit"] if unit else spread
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits it ignored
    if mutants:  # True where no name follows
        name = [mutants] if isinstance(mutants, str) else []
        words = [sys.executable, str(ROOT / "tests" / "mutants" / "planting.py"), *name]
        os.execv(words[0], words)  # noqa: S606
    try:
        further = shlex.split(options)
    except ValueError as fault:
        raise Exit(f"--options {options!r}: {fault}.", code=2) from None
    if all_:
        os.environ[LONG] = "1"
    if fuzz > 0:
        where = [*map(str, sorted((ROOT / "tests" / "unit").glob("test_fuzz_*.py"))), "--timeout=0"]
        os.environ["FUZZ_TIMES"] = str(fuzz)
    words = [sys.executable, "-m", "pytest", *where, *further]
    os.execv(words[0], words)  # noqa: S606 (it is to take this process's place)


@task(
    help={
        "rounds": "of each way, alternating (default: 5; 20 with --living)",
        "remote": "over SSH against the local engine",
        "standbys": "eight standbys added at once against one by one",
        "living": "what clients notice of a switchover and a failover, and that they lose nothing",
        "part": "with --living: outage, failover, proof, noise or all",
        "majors": "with --living: of PostgreSQL, 15,17,18",
    }
)
def bench(
    c: Context,  # noqa: ARG001
    rounds: int = 0,
    remote: bool = False,
    standbys: bool = False,
    living: bool = False,
    part: str = "all",
    majors: str = "15,17,18",
) -> None:
    """Measure the three tasks, or life with a group, against the same work by hand, as a ratio."""
    chosen = {"living": living, "remote": remote, "standbys": standbys}
    name = next((name for name, asked in chosen.items() if asked), "bench")
    further = ["--part", part, "--majors", majors, "--rounds"] if living else []
    _benchmark(name, *further, str(rounds or (20 if living else 5)))


def _benchmark(name: str, *words: str) -> None:
    script = str(ROOT / "benchmarks" / f"{name}.py")
    os.execv(sys.executable, [sys.executable, script, *words])  # noqa: S606


@task(
    name="kills",
    default=True,
    help={
        "task": "those whose name begins so (default: all)",
        "method": "and has this word in it: copy, pg_rewind",
        "sample": "so many points of each task, spread over it (default: all)",
        "at": "one point again, as a failure names it: 12:after",
        "minutes": "stop after so long",
        "resume": "go on where the last one stopped: what has passed is not tried again",
        "groups": "how many at work side by side (default: one for each processor)",
        "major": "of PostgreSQL (default: 17)",
        "list_": "print the names of the tasks",
    },
)
def torture_kills(  # noqa: PLR0913, PLR0917
    c: Context,  # noqa: ARG001
    task: str = "",
    method: str = "",
    sample: int = 0,
    at: str = "",
    minutes: int = 0,
    resume: bool = False,
    groups: int = 0,
    major: str = "17",
    list_: bool = False,
) -> None:
    """Kill each task at each of its commands and run it again; nothing is lost: hours."""
    said: dict[str, str | int] = {
        "--task": task, "--method": method, "--sample": sample, "--at": at,
        "--minutes": minutes, "--groups": groups, "--major": major,
    }  # fmt: skip
    words = [word for option, value in said.items() if value for word in (option, str(value))]
    _benchmark("torture", *words, *["--resume"] * resume, *["--list"] * list_)


@task(name="faults")
def torture_faults(c: Context) -> None:  # noqa: ARG001
    """Run all tests of faults: engine, network, disk, directory, crashes under load."""
    files = sorted(str(file) for file in (ROOT / "tests" / "e2e").glob("test_faults_*.py"))
    os.environ[LONG] = "1"
    words = [sys.executable, "-m", "pytest", "-v", *files]
    os.execv(words[0], words)  # noqa: S606


@task(
    name="soak",
    help={"minutes": "how long (default: 20)", "major": "of PostgreSQL (default: 17)"},
)
def torture_soak(c: Context, minutes: int = 20, major: str = "17") -> None:  # noqa: ARG001
    """Keep a group at work: pgbench, readers on the standby, and a switchover every minute."""
    _benchmark("soak", "--minutes", str(minutes), "--major", major)


@task(name="up", help={"hosts": "how many, from 1 to 8"})
def rig_up(c: Context, hosts: int = 3) -> None:  # noqa: ARG001
    """Make further Docker hosts on this machine, to try pgherd on; root on Linux only."""
    _rig("up", "--hosts", str(hosts))


@task(name="down")
def rig_down(c: Context) -> None:  # noqa: ARG001
    """Take those hosts away, with all that is on them."""
    _rig("down")


def _rig(*words: str) -> None:
    script = str(ROOT / "tests" / "rig" / "people.py")
    os.execv(sys.executable, [sys.executable, script, *words])  # noqa: S606


rig = Collection("rig", rig_up, rig_down)
torture = Collection("torture", torture_kills, torture_faults, torture_soak)
