"""A group at work for a long time, with a switchover every minute: `invoke torture.soak`.

pgbench writes on whichever node is primary, by a connection string with both; readers on whichever
is standby; a client of ours inserts rows and knows which were acknowledged. No error but those of a
change of primary, no row lost, and nothing grows: memory and open files of the servers, and of a
`pgherd` that runs all the while (`invoke status --watch`), are told at the end of each minute.

    invoke torture.soak --minutes 20
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from conftest import INVOKE, ROOT, Herd, docker, new_herd
from equal import equal_and_whole
from load import two_at_once
from stories import Story, living

SCALE, CLIENTS, RATE = "5", "4", "100"  # 75 MB; connections; transactions a second
EVERY = 60.0  # seconds between two switchovers
PAUSE = 0.2  # before a client that lost its server begins anew
PART_AT_LEAST = 0.25  # of the transactions that the rate asks for: clients begin anew, and wait
GROWTH_AT_MOST = 1.3  # memory at the end against that once it is warm, by medians
FILES_MORE = 30  # open files, likewise: each client has some
# What clients may be told while the primary changes, and nothing else.
EXPECTED = re.compile(
    "|".join(
        [
            "terminating connection due to administrator command",
            "the database system is (shutting|starting)|not accepting connections|in recovery",
            "server closed the connection|[Cc]onnection refused|[Cc]onnection reset|SSL SYSCALL",
            # Of a connection that is not made, the reason follows; a password is none of them.
            "connection to server(?!.*authentication failed)|could not (connect|receive data)",
            "no connection|No such file",
            "session is (not )?read-only|cannot execute .* in a read-only transaction",
            "canceling statement due to conflict with recovery|User query might have needed",
            "canceling the wait for synchronous|committed locally|not have been replicated",
            "Is the server running|This probably means|before or while processing",
            "Run was aborted|aborted while|aborted in command|was not run|could not create",
            "^CONTEXT: |^progress: |^pgbench [(]|^$",
        ]
    )
)
TOLD = re.compile(r"progress: [0-9.]+ s, ([0-9.]+) tps")
TELL_EVERY = 5  # seconds


@dataclass
class Bench:
    """One pgbench after the other, each until it loses its server.

    Attributes:
        name: what it does.
        words: its arguments.
        uri: of all nodes.
        done: transactions so far, about.
        begun: how often it began.
        strange: what it said that it ought not to.
    """

    name: str
    words: Sequence[str]
    uri: str
    image: str
    container: str
    password: str
    done: int = 0
    begun: int = 0
    strange: Counter[str] = field(default_factory=Counter)

    def run(self, over: threading.Event) -> None:
        """Go on until it is over."""
        while not over.is_set():
            self.begun += 1
            words = ["docker", "run", "--rm", "--name", self.now, "--network", "host",
                     "--user", "postgres", "--env", "PGPASSWORD", "--entrypoint", "pgbench",
                     self.image, "--no-vacuum", "--progress", str(TELL_EVERY), *self.words,
                     self.uri]  # fmt: skip
            environment = {**os.environ, "PGPASSWORD": self.password}
            found = subprocess.run(
                words, capture_output=True, text=True, check=False, env=environment
            )
            self.done += sum(round(float(tps) * TELL_EVERY) for tps in TOLD.findall(found.stderr))
            for line in found.stderr.splitlines():
                if not EXPECTED.search(line):
                    self.strange[line] += 1
            over.wait(PAUSE)

    @property
    def now(self) -> str:
        """The container that is at work."""
        return f"{self.container}-{self.begun}"

    def end(self) -> None:
        """End that, so that the next one looks for its server anew."""
        docker("rm", "--force", self.now, check=False)


@dataclass(frozen=True)
class Sample:
    """What was in use at the end of a minute: memory in MB, and open files."""

    memory: dict[str, float]
    files: dict[str, int]


def sample(herd: Herd, watcher: subprocess.Popen[bytes]) -> Sample:
    """Look at all processes of each server, by its role now, and at the one of ours that runs."""
    memory, files = {}, {}
    primary = herd.primary()
    for node in herd.nodes:
        role = "primary" if node == primary else "standby"
        top = docker("top", herd.container(node), "-eo", "pid", check=False).split()[1:]
        memory[role] = sum(_memory(int(pid)) for pid in top)
        files[role] = sum(_files(int(pid)) for pid in top)
    memory["pgherd"], files["pgherd"] = _memory(watcher.pid), _files(watcher.pid)
    return Sample(memory, files)


def _memory(pid: int) -> float:
    """Return what a process has to itself, in MB: of shared memory its part."""
    with suppress(OSError):
        found = re.search(
            r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE
        )
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def _files(pid: int) -> int:
    with suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0


@contextmanager
def benches(herd: Herd, image: str) -> Iterator[list[Bench]]:
    """Let clients write and read while the block lasts."""
    hosts = ",".join(address for address, _ in herd.places)
    ports = ",".join(str(port) for _, port in herd.places)
    base = f"host={hosts} port={ports} user=postgres dbname=postgres"
    common = ["--client", CLIENTS, "--jobs", "1", "--time", "86400", "--rate", RATE]
    kinds = {"writers": ([], "read-write"), "readers": (["--select-only"], "prefer-standby")}
    made = [
        Bench(kind, [*common, *words], f"{base} target_session_attrs={whom}", image,
              f"{herd.name}-{kind}", herd.password())
        for kind, (words, whom) in kinds.items()
    ]  # fmt: skip
    over = threading.Event()
    threads = [threading.Thread(target=bench.run, args=(over,)) for bench in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        over.set()
        for bench in made:
            bench.end()
        for thread in threads:
            thread.join(30)


@contextmanager
def watching(herd: Herd, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let a status be watched all the while."""
    with (directory / "watched").open("wb") as out:
        words = [*INVOKE, "status", "--watch", "--json", "--interval", "5"]
        watcher = subprocess.Popen(
            words, cwd=ROOT, env=herd.environment(), stdin=subprocess.DEVNULL, stdout=out,
            stderr=out,
        )  # fmt: skip
        try:
            yield watcher
        finally:
            watcher.send_signal(signal.SIGINT)
            watcher.wait(60)


def soak(major: str, minutes: float) -> bool:
    """Print a line for each minute, and what came of it all; tell whether all is well."""
    directory = Path(tempfile.mkdtemp())
    herd = new_herd(directory, major)
    try:
        image = herd.invoke("image").stdout.strip()
        with living(herd, directory) as story:
            words = ["--initialize", "--quiet", "--scale", SCALE, "--username", "postgres"]
            primary = herd.container(herd.primary())
            docker("exec", primary, "pgbench", *words, "postgres")
            with watching(herd, directory) as watcher, benches(herd, image) as made:
                samples = list(_minutes(story, minutes, watcher, made))
            return _judged(story, made, samples, minutes)
    finally:
        herd.clear()
        shutil.rmtree(directory, ignore_errors=True)


def _minutes(
    story: Story, minutes: float, watcher: subprocess.Popen[bytes], made: list[Bench]
) -> Iterator[Sample]:
    end = time.monotonic() + minutes * 60
    number = 0
    while (begun := time.monotonic()) < end:
        number += 1
        outage = story.switchover()
        made[-1].end()  # whose server is primary now
        time.sleep(max(0.0, begun + EVERY - time.monotonic()))
        now = sample(story.herd, watcher)
        used = ", ".join(f"{n} {mb:.0f} MB {now.files[n]} files" for n, mb in now.memory.items())
        lost = len(story.lost())
        ended = ", ".join(f"{bench.name} began {bench.begun} times" for bench in made)
        print(f"minute {number}: switchover {outage.seen:.2f} s; {used}; {ended}; lost {lost}",
              flush=True)  # fmt: skip
        yield now
        if lost:
            return


def _judged(story: Story, made: list[Bench], samples: list[Sample], minutes: float) -> bool:
    story.load.end()
    rows = story.load.acknowledged()
    lost, two = len(story.lost()), len(two_at_once(rows))
    print(f"{len(rows)} rows acknowledged, {lost} lost, {two} by two primaries at once")
    least = round(minutes * 60 * int(RATE) * PART_AT_LEAST)
    idle = [bench.name for bench in made if bench.done < least]
    for bench in made:
        few = f", fewer than {least}" if bench.name in idle else ""
        strange = f"strange: {dict(bench.strange) or 'nothing'}"
        print(f"{bench.name}: {bench.done} transactions{few}; {strange}")
    story.herd.checks()
    print(f"{equal_and_whole(story.herd)} tables equal on both, amcheck clean")
    grown = _grown(samples)
    text = f"not judged by {len(samples)} minutes" if grown is None else ", ".join(grown) or "none"
    print(f"growth: {text}")
    sound = lost == two == 0 and not any(bench.strange for bench in made)
    return bool(rows) and sound and not grown and not idle


def _grown(samples: list[Sample]) -> list[str] | None:
    """Compare the last third of the minutes with the second one; the first is to get warm.

    With fewer than three of them there is nothing to compare, and the answer is None.
    """
    third = len(samples) // 3
    if not third:
        return None
    warm, last = samples[third : 2 * third], samples[-third:]
    grown = []
    for name in samples[0].memory:
        one, two = ([s.memory[name] for s in part] for part in (warm, last))
        if statistics.median(two) > GROWTH_AT_MOST * statistics.median(one) + 10:
            grown.append(
                f"{name}: memory {statistics.median(one):.0f} to {statistics.median(two):.0f} MB"
            )
        before, after = (statistics.median(s.files[name] for s in part) for part in (warm, last))
        if after > before + FILES_MORE:
            grown.append(f"{name}: {before:.0f} to {after:.0f} open files")
    return grown


def main() -> int:
    """Do it; 1 if something is not as it is to be."""
    parser = argparse.ArgumentParser(prog="invoke torture.soak")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--major", default="17")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return int(not soak(asked.major, asked.minutes))
    except (AssertionError, psycopg.Error, json.JSONDecodeError) as why:
        print(why, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
