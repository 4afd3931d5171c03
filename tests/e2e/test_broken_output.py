"""Tasks whose output breaks, or that are cut short with it: they come to their end or are undone.

`invoke switchover --to … 2>&1 | head -1` has once left nobody primary, with exit status 0. So each
task that acts is run with a reader that ends after N lines, a full disk, a terminal that is closed,
and Ctrl-C to the whole pipeline. What broken output alone befalls ends with 0, and all is sound.
What a signal cuts short ends with 128 and its number; whoever was primary serves, or who took over;
and the same command again brings it to its end.

By `invoke test --all` each task is tried at each line that it prints; here are samples.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from changes import OTHERS, TASKS
from conftest import INVOKE, ROOT, Herd, MakeHerd
from killing import Run
from rack import Rack
from trial import Change, Trial, changing, group_of, inside

SECONDS = 240.0
Way = Callable[[Herd, tuple[str, ...], int], Run]


# --- how the output breaks ---


def _begin(herd: Herd, words: tuple[str, ...], **options: Any) -> subprocess.Popen[bytes]:
    chosen = {"stdin": subprocess.DEVNULL, "bufsize": 0, **options}
    return subprocess.Popen([*INVOKE, *words], cwd=ROOT, env=herd.environment(), **chosen)


def _ended(run: subprocess.Popen[bytes], said: bytes = b"") -> Run:
    return Run(run.wait(SECONDS), said.decode("utf-8", "replace"), [])


@contextmanager
def _heard(sign: signal.Signals, *, ignored: bool = False) -> Iterator[None]:
    """Let a program that is started here be ended by a signal, or ignore it, whatever we do."""
    before = signal.signal(sign, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(sign, before)


def reader(herd: Herd, words: tuple[str, ...], lines: int) -> Run:
    """Somebody reads so many lines of both streams: `2>&1 | head -n …`."""
    run = _begin(herd, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.stdout
    said = b"".join(run.stdout.readline() for _ in range(lines))
    run.stdout.close()
    return _ended(run, said)


def full(herd: Herd, words: tuple[str, ...], streams: int) -> Run:
    """The disk of its log is full: of stdout (1), of stderr (2), of both (3)."""
    with Path("/dev/full").open("w") as log:
        out, err = (log if streams & bit else subprocess.DEVNULL for bit in (1, 2))
        return _ended(_begin(herd, words, stdout=out, stderr=err))


def terminal(herd: Herd, words: tuple[str, ...], lines: int, *, nohup: bool = False) -> Run:
    """Its terminal is closed after so many lines: writing fails from then on, and SIGHUP comes."""
    ours, theirs = pty.openpty()

    def own() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with _heard(signal.SIGHUP, ignored=nohup):
        run = _begin(herd, words, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own)
    os.close(theirs)
    said = b""
    with suppress(OSError):  # it ended before
        while said.count(b"\n") < lines:
            said += os.read(ours, 4096)
    os.close(ours)
    return _ended(run, said)


def nohup(herd: Herd, words: tuple[str, ...], lines: int) -> Run:
    """The same, and it was begun by nohup."""
    return terminal(herd, words, lines, nohup=True)


def ctrl_c(herd: Herd, words: tuple[str, ...], lines: int) -> Run:
    """Ctrl-C after so many lines, to all of `invoke … 2>&1 | tee`."""
    pipe = subprocess.PIPE
    with _heard(signal.SIGINT):
        run = _begin(herd, words, stdout=pipe, stderr=subprocess.STDOUT, process_group=0)
        tee = subprocess.Popen(["cat"], stdin=run.stdout, stdout=pipe, process_group=run.pid)
    assert run.stdout
    run.stdout.close()
    with tee:
        assert tee.stdout
        said = b"".join(tee.stdout.readline() for _ in range(lines))
        os.killpg(run.pid, signal.SIGINT)
    return _ended(run, said)


SIGNALS: dict[Way, signal.Signals] = {terminal: signal.SIGHUP, ctrl_c: signal.SIGINT}
# There is no one primary before these, or none where they are done.
HEADLESS = ("failover", "rejoin", "down", "setup-master", "aside.restore", "stop", "start")


def tried(trial: Trial, way: Way, lines: int) -> None:
    """Run the task so; it has come to its end, or a primary serves and the next run brings it."""
    run = trial.last = way(trial.herd, trial.words, lines)
    shown = f"{way.__name__} {lines}: {run.code}\n{run.said}"
    for words in ("Traceback", "fault of pgherd itself", "Exception ignored"):
        assert words not in run.said, shown
    assert run.code in {0, 128 + SIGNALS.get(way, -128)}, shown
    if run.code == 0:
        trial.change.after(trial)
        trial.sound()
        trial.write()
    else:
        if not trial.words[0].startswith(HEADLESS):
            for role in trial.herd.nodes:
                if trial.herd.status(role) == "running":
                    inside(trial.herd, role, "SELECT")  # it may just have been started
            assert trial.herd.primary(), shown
        trial.again()


# --- samples ---


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    return make_herd("17")


@pytest.mark.parametrize(
    ("name", "way", "lines"),
    [
        ("switchover of a pair", reader, 1),
        ("switchover of a pair", terminal, 3),
        ("failover of a pair", reader, 1),
    ],
)
def test_a_change_of_primary(herd: Herd, name: str, way: Way, lines: int) -> None:
    with changing(TASKS[name], herd) as trial:
        trial.ready()
        tried(trial, way, lines)


# --- all ---


SIGNALLED = {name for name, change in TASKS.items() if change.sign is not signal.SIGKILL}


@pytest.fixture(scope="module", params=[name for name in TASKS | OTHERS if name not in SIGNALLED])
def rack(request: pytest.FixtureRequest, make_herd: MakeHerd) -> Rack:
    change: Change = (TASKS | OTHERS)[request.param]
    return Rack.of(change, make_herd("17", **group_of(change)))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", [reader, full, terminal, nohup, ctrl_c])
def test_a_task(rack: Rack, way: Way) -> None:
    with rack.fresh() as trial:
        whole = reader(trial.herd, trial.words, 1000)
    assert whole.code == 0, whole.said
    lines = len(whole.said.splitlines())
    first = int(way in SIGNALS)  # before the first line it is Python that a signal ends
    for number in (1, 2, 3) if way is full else range(first, lines + 1):
        with rack.fresh() as trial:
            tried(trial, way, number)
