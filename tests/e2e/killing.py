"""An invoke that is killed at its Nth external command: before it, while it runs, or after it.

    for number in acts(count(herd, "seed-standby")):
        unseeded(herd)
        killed(herd, number, "after", "seed-standby")
        herd.invoke("seed-standby")

Which of them change something, and what, they tell themselves: pgherd starts each of these with the
name of its act in the environment (PGHERD_ACT). Where a number is not certain, since another run of
the task was killed before, that name finds it: killed(herd, Act("put-back"), "after",
"aside.restore", name). What selects nothing is a failure.

Or it gets another signal there, and may clean up: `ended`.

`shim/docker` stands first on the PATH of the invoke, in the place of each program that one starts
(PROGRAMS), so that it sees the commands of shell scripts as well. Kill is SIGKILL, to the invoke
alone: what it had going on goes on, as with `kill -9`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conftest import INVOKE, ROOT, Herd

SHIM = Path(__file__).with_name("shim") / "docker"
# What pgherd starts on its own machine, and what its scripts do there that changes something.
PROGRAMS = ("docker", "sh", "test", "find", "mkdir", "rmdir", "rm", "mv", "cp", "ssh")
DURING_SECONDS = 0.3
RUN_SECONDS = 240.0

When = Literal["before", "during", "after"]
MOMENTS: tuple[When, ...] = ("before", "during", "after")


@dataclass(frozen=True)
class Command:
    """One that an invoke started: its words, docker's without that one, and the names of its act.

    One that only looks has none.
    """

    words: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.words.splitlines()[0] if self.words else ''} ({' '.join(self.names)})"


@dataclass(frozen=True)
class Act:
    """The first command of an act: one of the act's names, and a shell's pattern for its words."""

    name: str
    words: str = "*"


At = int | Act


@dataclass(frozen=True)
class Run:
    """What became of it.

    Attributes:
        code: the exit status; that of SIGKILL is -9.
        said: stdout and stderr.
        commands: those that began, or were about to, in their order.
        hit: it came to the act at which it was to get a signal.
    """

    code: int
    said: str
    commands: list[Command]
    hit: bool = False

    @property
    def killed(self) -> bool:
        """It was, and had not ended before."""
        return self.code == -signal.SIGKILL


def count(herd: Herd, *words: str) -> list[Command]:
    """Run a task unharmed; return its commands. How often it asks again is chance."""
    run = _run(herd, 0, "before", words)
    assert run.code == 0, f"invoke {' '.join(words)}: {run.code}\n{run.said}"
    return run.commands


def acts(commands: list[Command], name: str = "") -> list[int]:
    """Return the numbers of those that are more than a look, or of those of one name.

    There has to be one: else nothing would be tried, and the test pass.
    """
    fitting = (name,) if name else ()
    found = [n for n, one in enumerate(commands, 1) if one.names and {*fitting} <= {*one.names}]
    assert found, f"none is an act {name}:\n" + "\n".join(map(str, commands))
    return found


def killed(herd: Herd, at: At, when: When, *words: str) -> Run:
    """Run a task and kill it at a command, counted from 1, or at an act, which it has to come to.

    It ends unharmed if it comes to its end with fewer commands; it must not fail.
    """
    run = _run(herd, at, when, words)
    assert run.killed or run.code == 0, f"invoke {' '.join(words)}: {run.code}\n{run.said}"
    _reached(run, at)
    assert "Traceback" not in run.said, run.said
    return run


def ended(herd: Herd, at: At, when: When, sign: signal.Signals, *words: str) -> Run:
    """Run a task and send it a signal at a command; it may clean up, and its status tells of it."""
    run = _run(herd, at, when, words, sign)
    came = not isinstance(at, int) or len(run.commands) >= at
    assert run.code == (128 + sign if came else 0), (
        f"invoke {' '.join(words)}: {run.code}\n{run.said}"
    )
    _reached(run, at)
    assert "Traceback" not in run.said, run.said
    return run


def _reached(run: Run, at: At) -> None:
    if isinstance(at, Act):
        there = "\n".join(map(str, run.commands))
        assert run.hit, f"no command was an act {at.name} with the words {at.words}:\n{there}"


def _run(
    herd: Herd,
    at: At,
    when: When,
    words: tuple[str, ...],
    sign: signal.Signals = signal.SIGKILL,
) -> Run:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        commands = Path(place, "commands")
        environment = herd.environment(
            PATH=f"{_links(Path(place))}:{os.environ['PATH']}", SHIM_REAL=f"{place}/real",
            SHIM_COMMANDS=str(commands), SHIM_WHEN=when, SHIM_SECONDS=str(DURING_SECONDS),
            SHIM_SIGNAL=sign.name.removeprefix("SIG"),
            SHIM_AT=str(at) if isinstance(at, int) else "",
            SHIM_ACT=at.name if isinstance(at, Act) else "",
            SHIM_WORDS=at.words if isinstance(at, Act) else "",
        )  # fmt: skip
        itself = ["/bin/sh", "-c", 'echo $$ >"$SHIM_COMMANDS/pid"; exec "$@"', "sh"]
        with tempfile.TemporaryFile("w+") as said:  # a pipe would be held by what goes on
            done = subprocess.run(
                [*itself, *INVOKE, *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                stdout=said, stderr=said, timeout=RUN_SECONDS, check=False,
            )  # fmt: skip
            said.seek(0)
            files = [file for file in commands.iterdir() if file.name.isdecimal()]
            files.sort(key=lambda file: int(file.name))
            hit = (commands / "hit").exists()
            return Run(done.returncode, said.read(), [_command(file) for file in files], hit)


def _command(file: Path) -> Command:
    act, _, words = file.read_text().partition("\n")
    return Command(words.rstrip("\n"), tuple(act.split()))


def _links(place: Path) -> Path:
    """Lay the shim in the place of each program; return the directory for the PATH."""
    for name in ("commands", "real", "shim"):
        (place / name).mkdir()
    for name in PROGRAMS:
        if program := shutil.which(name):
            (place / "real" / name).symlink_to(program)
            (place / "shim" / name).symlink_to(SHIM)
    return place / "shim"


def end_what_goes_on(herd: Herd) -> None:
    """End what runs that were killed have left at work on this machine, in no particular order."""
    mark = f"INVOKE_TOPOLOGY={herd.topology}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
