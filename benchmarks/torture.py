"""Each task, killed at each of its external commands, and run again: `invoke torture`.

    invoke torture                                       # all of it: hours
    invoke torture --task failover --sample 6            # six points of each failover, spread
    invoke torture --task seed-standby --method copy
    invoke torture --task "failover of a pair" --at 12:after   # one point, once more
    invoke torture --minutes 30, then invoke torture --resume  # what is left

A task is run once unharmed, which counts the commands that it starts. Then the run is killed
(SIGKILL) before each of them; and, for those that do more than look, while it runs, and when it is
done and before its result is seen. The same task is run again: it has to come to its end, with one
primary, every row that was acknowledged, and a verify that passes: tests/e2e/trial.py. A point
that the run did not reach, since it had fewer commands than the one before, tells nothing.

Each try begins with the same group, from a snapshot; several groups are at work side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from changes import TASKS
from conftest import ROOT, docker, new_herd
from killing import MOMENTS, Command, When, end_what_goes_on
from rack import Rack
from trial import Change, Trial, group_of, points

ROW = "{:<28} {:>8} {:>6} {:>7} {:>9} {:>6} {:>8}"
RECORD = ROOT / "data" / "torture.jsonl"
Point = tuple[int, When]


@contextmanager
def rack(change: Change, major: str) -> Iterator[Rack]:
    """Set up the group of a task; take it away in the end, whatever state it is in."""
    directory = Path(tempfile.mkdtemp())
    herd = new_herd(directory, major, **group_of(change))
    try:
        herd.invoke("image")
        yield Rack.of(change, herd)
    finally:
        end_what_goes_on(herd)
        herd.clear()
        shutil.rmtree(directory, ignore_errors=True)


# --- what is asked for ---


@dataclass(frozen=True)
class Asked:
    """What to try.

    Attributes:
        names: of the tasks.
        major: of PostgreSQL.
        sample: how many points of each task; 0 for all.
        at: one point alone.
        until: when to stop, by the monotonic clock.
        passed: what needs not be tried again.
    """

    names: list[str]
    major: str
    sample: int
    at: Point | None
    until: float
    passed: set[tuple[str, str, int, str]]

    def chosen(self, name: str, commands: Sequence[Command]) -> list[Point]:
        """Return the points of a task that are to be tried, in their order."""
        if self.at:
            return [self.at]
        found = list(points(list(commands)))
        if 0 < self.sample < len(found):
            step = len(found) / self.sample
            found = [found[int((n + 0.5) * step)] for n in range(self.sample)]
        return [(n, when) for n, when in found if (self.major, name, n, when) not in self.passed]


@dataclass
class Tally:
    """What became of one task's points."""

    commands: int = 0
    tried: int = 0
    failed: int = 0
    unreached: int = 0
    left: int = 0


def tried(asked: Asked, name: str, begun: Callable[[Point, int], bool]) -> Tally:
    """Try one task; `begun` says of each point whether to go on with it."""
    tally = Tally()
    try:
        with rack(TASKS[name], asked.major) as mine:
            commands = mine.count()
            tally.commands = len(commands)
            _tell(name, commands)
            chosen = asked.chosen(name, commands)
            for place, point in enumerate(chosen):
                if not begun(point, place):
                    tally.left = len(chosen) - place
                    break
                tally.tried += 1
                _try(asked, name, mine, point, tally)
    except Exception as why:  # noqa: BLE001 - else this thread ends, and nobody knows of it
        tally.failed += 1
        print(f"{name}: it could not be tried: {why!r}", file=sys.stderr, flush=True)
    return tally


def _try(asked: Asked, name: str, mine: Rack, point: Point, tally: Tally) -> None:
    """Try one point, and count it; it is on record if it was reached and passed."""
    number, when = point
    try:
        mine.cut_short(number, when)
    except Exception as why:  # noqa: BLE001 - it has failed, whatever it is
        tally.failed += 1
        words = f'invoke torture --task "{name}" --at {number}:{when} --major {asked.major}'
        said = str(why) if isinstance(why, AssertionError) else repr(why)
        print(f"FAILED {name}, {when} command {number}: {said}\n{_last_words(mine.trial)}\n"
              f"FAILED again: {words}", file=sys.stderr, flush=True)  # fmt: skip
        return
    if not mine.trial.reached(number):
        tally.unreached += 1
        return
    with RECORD.open("a", encoding="utf-8") as record:
        record.write(json.dumps([asked.major, name, number, when]) + "\n")


def _tell(name: str, commands: Sequence[Command]) -> None:
    """Print which commands a task runs, on stderr."""
    lines = [f"  {n:>3} {str(one)[:130]}" for n, one in enumerate(commands, 1)]
    print("\n".join([f"{name}:", *lines]), file=sys.stderr, flush=True)


def _last_words(trial: Trial) -> str:
    """Return what the run that was cut short did and said, and the servers' logs."""
    text = ""
    if trial.last:
        text = "\n  ".join(["cut short:", *map(str, trial.last.commands), trial.last.said])
    for role in trial.herd.nodes:
        words = ["docker", "logs", "--timestamps", "--tail", "40", trial.herd.container(role)]
        log = subprocess.run(words, capture_output=True, text=True, check=False)
        text += f"\n--- {role}\n{log.stderr}"
    return text


def torture(asked: Asked, groups: int) -> bool:
    """Try all that is asked for, several tasks at once; print a line for each, and the sum."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in asked.names:
        waiting.put(name)
    over = threading.Event()
    tallies: dict[str, Tally] = {}

    def work() -> None:
        while not over.is_set() and time.monotonic() < asked.until:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            begun = time.monotonic()
            go_on = lambda *_: not over.is_set() and time.monotonic() < asked.until  # noqa: E731
            tally = tallies[name] = tried(asked, name, go_on)
            took = f"{time.monotonic() - begun:.0f}"
            print(ROW.format(name, tally.commands, tally.tried, tally.failed, tally.unreached,
                             tally.left, took), flush=True)  # fmt: skip

    print(ROW.format("task", "commands", "points", "failed", "unreached", "left", "seconds"),
          flush=True)  # fmt: skip
    with ThreadPoolExecutor(groups) as pool:
        workers = [pool.submit(work) for _ in range(groups)]
        try:
            wait(workers)  # a thread's join() that a signal cuts short takes it for ended (3.11)
        except BaseException:
            over.set()  # what is at work comes to its end, and takes its group away
            raise
    return _summed(asked, tallies)


def _summed(asked: Asked, tallies: dict[str, Tally]) -> bool:
    """Print the sum; tell whether what was asked for was tried, or left for lack of time alone."""
    points_tried = sum(tally.tried for tally in tallies.values())
    failed = sum(tally.failed for tally in tallies.values())
    unreached = sum(tally.unreached for tally in tallies.values())
    left = sum(tally.left for tally in tallies.values())
    untried = [name for name in asked.names if name not in tallies]
    reached = points_tried - unreached
    nothing_left = not points_tried and not untried and not left and bool(asked.passed)
    shown = "all passed before" if nothing_left else "nothing is shown by it"
    ended = f"{failed} failed" if failed else "all passed" if reached else shown
    beside = f", {unreached} not reached" if unreached else ""
    print(f"{points_tried} points tried{beside}, {ended}")
    if left or untried:
        print(f"left, for lack of time: {left} points; tasks not begun: {', '.join(untried) or 0}; "
              "`invoke torture --resume` goes on")  # fmt: skip
    lost = bool(untried) and time.monotonic() < asked.until  # their thread ended
    return not failed and not lost and (reached > 0 or nothing_left)


def main() -> int:
    """Try what is asked for; 1 if something did not pass."""
    asked = _arguments()
    names = [n for n in TASKS if n.startswith(asked.task) and asked.method in n]
    if asked.list or not names:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # | head has what it wanted
        print("\n".join(TASKS))
        return 0 if asked.list else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's ignores it
    passed = set()
    if asked.resume and RECORD.exists():
        lines = RECORD.read_text(encoding="utf-8").splitlines()
        passed = {(r[0], r[1], r[2], r[3]) for r in map(json.loads, lines)}
    elif not asked.at:
        RECORD.unlink(missing_ok=True)
    until = time.monotonic() + asked.minutes * 60 if asked.minutes else float("inf")
    docker("version")
    wanted = Asked(names, asked.major, asked.sample, asked.at, until, passed)
    return int(not torture(wanted, min(asked.groups, len(names))))


def _point(text: str) -> Point:
    number, _, moment = text.partition(":")
    for when in MOMENTS:
        if when == moment and number.isdecimal() and int(number):
            return int(number), when
    raise argparse.ArgumentTypeError(f"{text!r} is not like 12:after ({', '.join(MOMENTS)})")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="invoke torture")
    parser.add_argument("--task", default="", help="tasks whose name begins so")
    parser.add_argument("--method", default="", help="and has this in it")
    parser.add_argument("--sample", type=int, default=0, help="so many points of each")
    parser.add_argument("--at", type=_point, help="one point: 12:after")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--groups", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--major", default="17")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
