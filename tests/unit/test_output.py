"""What befalls the output, the input and the place of a run: an act goes on, a look says so.

Each is a run of Invoke in a process of its own, as a shell starts it, with tasks that note, print,
write a file at their end, and wait where they are told to.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import ROOT

TASKS = f"""\
import os, sys, time
from pathlib import Path

sys.path[:0] = [{str(ROOT / "scripts")!r}]
from invoke.collection import Collection
from invoke.tasks import task
from pgherd.hosts.lock import hold_lock
from pgherd.hosts.parallel import cleaning_up
from pgherd.tasks.common import (
    confirm, open_group, print_report, print_result, print_stream, register_tasks, report_errors,
)

HERE = Path(__file__).parent
LINES = 5


def noted(c, text):
    open_group(c).trace.note(text)


@task
@report_errors
def act(c):
    with hold_lock(HERE / "lock", "it"):
        for number in range(LINES):
            noted(c, f"line {{number}}")
            print(f"said {{number}}", flush=True)
    (HERE / "done").touch()
    print_result(c, "it is done")


@task
@report_errors
def fail(c):
    from pgherd.errors import Refused

    noted(c, "about to be refused")
    raise Refused("It is refused.")


@task
@report_errors
def look(c, bad=False, away=False):
    print_report(c, "it looks well", ok=not bad, unreachable=away)


@task
@report_errors
def follow(c):
    for number in range(100_000):
        print_stream(f"{{number}}")
    (HERE / "done").touch()


@task
@report_errors
def ask(c):
    print(confirm("Really?", yes=False))


@task
@report_errors
def work(c, acted=False, fails=False, swallows=False):
    open_group(c).trace.acted = acted
    try:
        (HERE / "ready").touch()
        if fails:
            raise RuntimeError
        time.sleep(20)
    except BaseException:
        with cleaning_up():
            (HERE / "cleaning").touch()
            for _ in range(10):
                time.sleep(0.05)
                noted(c, "undoing")
            (HERE / "undone").touch()
        if not swallows:
            raise


@task
@report_errors
def chatty(c):
    for number in range(5000):
        noted(c, f"{{number}} {{'x' * 80}}")
    (HERE / "done").touch()


@task
@report_errors
def long(c):
    print_report(c, "x" * 300_000)


@task
@report_errors
def fill(c):
    for number in range(3):
        if number == 2:
            os.truncate(HERE / "log", 0)
        noted(c, f"line {{number}}")


@task
@report_errors
def place(c):
    print(Path.cwd())


ns = Collection(act, fail, look, follow, ask, work, chatty, place, fill, long)
ns.configure({{"pgherd": {{"on": ""}}}})
register_tasks(ns)
"""
SECONDS = 30


@dataclass
class Project:
    """A folder with those tasks."""

    place: Path

    @property
    def words(self) -> list[str]:
        """The words that run Invoke on them, from wherever."""
        return [sys.executable, "-m", "invoke", "--search-root", str(self.place)]

    def has(self, name: str) -> bool:
        """Tell whether a task has left its mark."""
        return (self.place / name).exists()

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a task to its end; what it says is kept, where nothing else is said."""
        chosen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.run(
            [*self.words, *words], cwd=options.pop("cwd", self.place), text=True, check=False,
            timeout=SECONDS, env=environment(), **{"stdin": subprocess.DEVNULL, **chosen},
        )  # fmt: skip

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell, in which $invoke is the program."""
        return subprocess.run(
            ["bash", "-c", text, "bash"], cwd=self.place, text=True, check=False, timeout=SECONDS,
            capture_output=True, env=environment(invoke=" ".join(self.words)),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def begin(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start a task."""
        chosen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [*self.words, *words], cwd=self.place, text=True, env=environment(),
            **{"stdin": subprocess.DEVNULL, **chosen},
        )  # fmt: skip

    def wait_for(self, name: str) -> None:
        """Wait until a task has left its mark."""
        until(lambda: self.has(name))


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("INVOKE_")} | more


def until(so: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "tasks.py").write_text(TASKS, encoding="utf-8")
    return Project(tmp_path)


def told_well(text: str) -> None:
    """See that what is said is for people."""
    for words in ("Traceback", "Exception ignored", "fault of pgherd itself", "Error:"):
        assert words not in text, text


# --- an act goes on, and its status is as ever ---

STATUS = "exit ${PIPESTATUS[0]}"  # of the first one of a pipeline
BROKEN = {
    "no stdout": "$invoke act >&-",
    "no stderr": "$invoke act 2>&-",
    "neither": "$invoke act >&- 2>&-",
    "none of the three": "$invoke act <&- >&- 2>&-",
    "a full stdout": "$invoke act >/dev/full",
    "a full stderr": "$invoke act 2>/dev/full",
    "both full": "$invoke act >/dev/full 2>&1",
    "a file that may not grow": "(ulimit -f 0; exec $invoke act >log 2>&1)",
    **{f"a reader of {n} lines": f"$invoke act 2>&1 | head -n {n}; {STATUS}" for n in (0, 1, 6)},
    "a reader of stderr": f"$invoke act 2>&1 >/dev/null | head -n 1; {STATUS}",
    "a reader of stdout": f"$invoke act | head -n 1; {STATUS}",
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_an_act_is_done_whatever_becomes_of_what_it_says(project: Project, line: str) -> None:
    ran = project.shell(line)
    assert ran.returncode == 0, ran
    assert project.has("done")
    told_well(ran.stdout + ran.stderr)


def test_an_act_whose_result_is_lost_says_so(project: Project) -> None:
    ran = project.shell("$invoke act >/dev/full")
    last = "The result could not be written to stdout: No space left on device."
    assert ran.stderr.splitlines()[-1] == last


@pytest.mark.parametrize("stream", [">&-", "2>&-", "2>/dev/full", "2>&1 | true"])
def test_a_refusal_keeps_its_status(project: Project, stream: str) -> None:
    assert project.shell(f"$invoke fail {stream}; {STATUS}").returncode == 2


def test_a_log_that_has_room_again_is_written_again(project: Project) -> None:
    log = project.place / "log"
    log.touch()
    filled = "truncate -s 1M log; (ulimit -f 1024; exec $invoke fill 2>>log)"  # in KiB
    ran = project.shell(filled)
    assert ran.returncode == 0, ran
    assert log.read_text(encoding="utf-8").strip("\0").splitlines() == ["line 2"]


# --- a reader who takes nothing ---


def test_a_reader_who_takes_nothing_holds_up_no_act(project: Project) -> None:
    """As `invoke --echo … 2>&1 | less` is one until somebody turns the page."""
    read, write = os.pipe()
    with project.begin("chatty", stderr=write, stdout=subprocess.DEVNULL) as run:
        os.close(write)
        project.wait_for("done")
        with os.fdopen(read, encoding="utf-8") as said:
            lines = said.read().splitlines()
        assert run.wait(SECONDS) == 0
    assert [line.split()[0] for line in lines] == [str(n) for n in range(5000)]


def test_a_pipe_that_is_full_and_says_so_is_waited_for(project: Project) -> None:
    """Whoever else has it may have made it one that does not wait (ssh does, and Node.js)."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with project.begin("long", stdout=write) as run:
        os.close(write)
        time.sleep(1)
        with os.fdopen(read, encoding="utf-8") as said:
            assert len(said.read()) == 300_001
        assert run.wait(SECONDS) == 0


# --- a look that cannot be told ---


@pytest.mark.parametrize("stream", [">&-", ">/dev/full"])
@pytest.mark.parametrize(("option", "status"), [("", 1), ("--bad", 1), ("--away", 3)])
def test_a_look_that_cannot_be_told_is_none(
    project: Project, stream: str, option: str, status: int
) -> None:
    ran = project.shell(f"$invoke look {option} {stream}")
    assert ran.returncode == status
    assert ran.stderr.startswith("The result could not be written to stdout: ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(("option", "status"), [("", 0), ("--bad", 1), ("--away", 3)])
def test_a_look_whose_reader_has_read_enough_is_one(
    project: Project, option: str, status: int
) -> None:
    ran = project.shell(f"$invoke look {option} | true; {STATUS}")
    assert (ran.returncode, ran.stderr) == (status, "")


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full"])
def test_a_look_needs_no_stderr(project: Project, stream: str) -> None:
    ran = project.shell(f"$invoke look {stream}")
    assert (ran.returncode, ran.stdout) == (0, "it looks well\n")


def test_what_goes_on_and_on_ends_with_its_reader(project: Project) -> None:
    ran = project.shell(f"$invoke follow | head -n 2; {STATUS}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n1\n", "")
    assert not project.has("done")
    ran = project.shell("$invoke follow >/dev/full")
    assert ran.returncode == 1
    assert ran.stderr == "No space left on device: stdout\n"
    assert not project.has("done")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("$invoke --list | true", 0),
        ("$invoke --list >/dev/full", 1),
        ("$invoke --help act | true", 0),
        ("$invoke nothing 2>&-", 2),
        ("$invoke nothing 2>&1 | true", 2),
    ],
)
def test_what_invoke_itself_prints(project: Project, line: str, status: int) -> None:
    ran = project.shell(f"{line}; {STATUS}")
    assert ran.returncode == status, ran
    told_well(ran.stdout + ran.stderr)


@pytest.mark.parametrize(("stream", "status"), [(">/dev/full", 1), ("| true", 0)])
def test_a_printed_script_that_cannot_be_told(project: Project, stream: str, status: int) -> None:
    ran = project.shell(f"$invoke --dry act {stream}; {STATUS}")
    assert ran.returncode == status
    told_well(ran.stderr)


# --- input, and the place ---


def test_without_an_input_the_answer_is_no(project: Project) -> None:
    for stream in ("<&-", "</dev/null"):
        ran = project.shell(f"$invoke ask {stream}")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "False\n", "")


def test_a_terminal_that_says_nothing_says_no(project: Project) -> None:
    keys, terminal = pty.openpty()
    with project.begin("ask", stdin=terminal, stdout=terminal, stderr=terminal) as run:
        os.close(terminal)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(keys, 1000)
        os.write(keys, b"\x04")
        assert run.wait(SECONDS) == 0
        with suppress(OSError):
            said += os.read(keys, 1000)
    os.close(keys)
    assert b"False" in said
    told_well(said.decode())


def test_a_directory_that_was_deleted(project: Project) -> None:
    ran = project.shell("mkdir gone; cd gone; rmdir ../gone; $invoke place act")
    assert (ran.returncode, ran.stderr.count("line")) == (0, 5), ran
    assert ran.stdout.splitlines()[0] == str(ROOT)
    told_well(ran.stderr)


# --- signals ---

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture(params=SIGNALS)
def sign(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """One that ends a run; it is not ignored, as a job in the background has it."""
    number = signal.Signals[request.param]
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    yield number
    signal.signal(number, before)


@pytest.mark.parametrize("acted", [True, False])
def test_a_task_that_is_cut_short(project: Project, sign: signal.Signals, acted: bool) -> None:
    with project.begin("work", *["--acted"] * acted) as run:
        project.wait_for("ready")
        run.send_signal(sign)
        _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == SIGNALS[sign.name]
    assert project.has("undone")
    last = said.splitlines()[-1]
    by = "Ctrl-C" if sign is signal.SIGINT else sign.name
    how = ". The lines above tell" if acted else ": nothing of the group was changed."
    assert last.startswith(f"Cut short by {by}{how}"), said
    told_well(said)


def test_a_second_signal_waits_for_what_is_undone(project: Project, sign: signal.Signals) -> None:
    """A closed terminal sends several: the kernel, and the shell that ends."""
    with project.begin("work") as run:
        project.wait_for("ready")
        for other in (sign, sign, signal.SIGTERM, signal.SIGINT):
            run.send_signal(other)
            time.sleep(0.05)
        _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == SIGNALS[sign.name]
    assert project.has("undone")
    assert "please wait" in said
    told_well(said)


def test_a_signal_while_a_fault_is_undone(project: Project, sign: signal.Signals) -> None:
    with project.begin("work", "--fails") as run:
        project.wait_for("cleaning")
        run.send_signal(sign)
        _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == SIGNALS[sign.name]
    assert project.has("undone")
    told_well(said)


def test_a_signal_that_came_too_late(project: Project, sign: signal.Signals) -> None:
    with project.begin("work", "--swallows") as run:
        project.wait_for("ready")
        run.send_signal(sign)
        _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == SIGNALS[sign.name]
    assert "it was done to its end" in said


def test_a_signal_that_is_ignored_stays_so(project: Project) -> None:
    """As nohup has it, and a shell for its jobs in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = project.begin("work", "--fails")
    finally:
        signal.signal(signal.SIGHUP, before)
    with run:
        project.wait_for("ready")
        run.send_signal(signal.SIGHUP)
        _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == 1, said


def test_signals_with_nobody_to_tell(project: Project, sign: signal.Signals) -> None:
    """Ctrl-C ends the whole pipeline, and a terminal that is closed takes its output away."""
    read, write = os.pipe()
    with project.begin("work", "--acted", stdout=write, stderr=write) as run:
        os.close(write)
        project.wait_for("ready")
        os.close(read)
        run.send_signal(sign)
        assert run.wait(SECONDS) == SIGNALS[sign.name]
    assert project.has("undone")
