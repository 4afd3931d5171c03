"""An invoke that is killed at its Nth external command: before it, while it runs, or after it.

    for number in acts(count(herd, "seed-standby")):
        unseeded(herd)
        killed(herd, number, "after", "seed-standby")
        herd.invoke("seed-standby")

A command that has no certain number, since another run of the task was killed before, is found by a
pattern of the shell for its words: killed(herd, "mv -- *", "after", "restore", name).

Or it gets another signal there, and may clean up: `ended`.

`shim/docker` stands first on the PATH of the invoke, in the place of each program that one starts
(PROGRAMS), so that it sees the commands of shell scripts as well. Kill is SIGKILL, to the invoke
alone: what it had going on goes on, as with `kill -9`.
"""

from __future__ import annotations

import os
import re
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
class Run:
    """What became of it.

    Attributes:
        code: the exit status; that of SIGKILL is -9.
        said: stdout and stderr.
        commands: those that began, or were about to, in their order; docker's without that word.
    """

    code: int
    said: str
    commands: list[str]

    @property
    def killed(self) -> bool:
        """It was, and had not ended before."""
        return self.code == -signal.SIGKILL


def count(herd: Herd, *words: str) -> list[str]:
    """Run a task unharmed; return its commands. How often it asks again is chance."""
    run = _run(herd, 0, "before", words)
    assert run.code == 0, f"invoke {' '.join(words)}: {run.code}\n{run.said}"
    return run.commands


def acts(commands: list[str]) -> list[int]:
    """Return the numbers of those that are more than a look."""
    looks = re.compile(
        r"ps |logs |version|info|\S+ ls|(\S+ )?inspect |exec .* psql |test |find |sh -[cs]( |$)"
    )
    return [number for number, words in enumerate(commands, 1) if not looks.match(words)]


def killed(herd: Herd, number: int | str, when: When, *words: str) -> Run:
    """Run a task and kill it at a command, counted from 1, or the first that matches a pattern.

    It ends unharmed if it comes to its end with fewer commands; it must not fail.
    """
    run = _run(herd, number, when, words)
    assert run.killed or run.code == 0, f"invoke {' '.join(words)}: {run.code}\n{run.said}"
    assert "Traceback" not in run.said, run.said
    return run


def ended(herd: Herd, number: int | str, when: When, sign: signal.Signals, *words: str) -> Run:
    """Run a task and send it a signal at a command; it may clean up, and its status tells of it."""
    run = _run(herd, number, when, words, sign)
    came = not isinstance(number, int) or len(run.commands) >= number
    assert run.code == (128 + sign if came else 0), (
        f"invoke {' '.join(words)}: {run.code}\n{run.said}"
    )
    assert "Traceback" not in run.said, run.said
    return run


def _run(
    herd: Herd,
    number: int | str,
    when: When,
    words: tuple[str, ...],
    sign: signal.Signals = signal.SIGKILL,
) -> Run:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        commands = Path(place, "commands")
        environment = herd.environment(
            PATH=f"{_links(Path(place))}:{os.environ['PATH']}", SHIM_REAL=f"{place}/real",
            SHIM_COMMANDS=str(commands), SHIM_AT=str(number), SHIM_WHEN=when,
            SHIM_SECONDS=str(DURING_SECONDS), SHIM_SIGNAL=sign.name.removeprefix("SIG"),
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
            return Run(done.returncode, said.read(), [file.read_text() for file in files])


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
