"""What clients notice of a switchover and a failover, and that they lose nothing by them.

    invoke bench --living --part outage --rounds 20    # invoke switchover against the same by hand
    invoke bench --living --part failover              # from the start of invoke failover
    invoke bench --living --part proof --majors 15,17  # many of both, on pairs and threes

A client inserts a row every 20 ms all the time; an outage is the longest time between two
acknowledged rows. By hand and by task alternate in one run, on one pair, in both directions. For
how much of a difference is chance, `--part noise` does both by hand.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from conftest import ROOT, Herd, docker, new_herd
from load import two_at_once
from stories import Outage, Story, asked_of, living

RATIO_AT_MOST = 0.6
SAID_WITHIN = 0.2
FAILOVER_AT_MOST = 1.5  # seconds
MAJORS = "15,17,18"
PROOF_CLIENTS = 3
QUIET_SECONDS = 1.0  # of load before each


@contextmanager
def group(major: str, standbys: int, clients: int = 1) -> Iterator[Story]:
    """Set up a group under load; take it away in the end, whatever state it is in."""
    directory = Path(tempfile.mkdtemp())
    herd = new_herd(directory, major, standbys, **asked_of(standbys))
    try:
        herd.invoke("image")
        with living(herd, directory, clients=clients) as story:
            yield story
    finally:
        with suppress(AssertionError):
            herd.invoke("down", "--purge", "--confirm", herd.name, "--delete-data")
        herd.clear()
        shutil.rmtree(directory, ignore_errors=True)


# --- the outage of a switchover ---


def by_hand(story: Story) -> Outage:
    """Switch over by the plain shell script, and bring the old primary back by it."""
    herd = story.herd
    old = herd.primary()
    new = next(role for role in herd.nodes if role != old)
    name = str(herd.nodes[old].get("application_name", herd.container(old)))
    environment = {
        **os.environ, "primary": herd.container(old), "standby": herd.container(new),
        "name": name, "slot": name.lower().replace("-", "_"),
    }  # fmt: skip
    script = str(ROOT / "benchmarks" / "switchover-by-hand.sh")
    begun = time.monotonic()
    subprocess.run([script, "switch"], env=environment, check=True)
    story.load.first(time.monotonic(), port=int(herd.nodes[new]["port"]))
    seen = story.load.longest_gap(begun).seconds
    subprocess.run([script, "back"], env=environment, check=True)
    return Outage(seen, None)


def outage(major: str, rounds: int, name: str, task: Callable[[Story], Outage]) -> bool:
    """Print the outages by hand and by task, their medians and ratio; tell whether all is well."""
    ways = {"by hand": by_hand, name: task}
    seen: dict[str, list[Outage]] = {way: [] for way in ways}
    with group(major, 1) as story:
        for number in range(1, rounds + 1):
            # Each way goes in both directions in turn: which node a client tries first matters.
            for way in list(ways) if number % 2 else reversed(list(ways)):
                time.sleep(QUIET_SECONDS)
                seen[way].append(ways[way](story))
                story.sound()
            texts = [f"{way} {outages[-1].seen:.3f} s" for way, outages in seen.items()]
            print(f"round {number}: {', '.join(texts)}", flush=True)
    medians = {way: statistics.median(o.seen for o in outages) for way, outages in seen.items()}
    hand, ours = medians.values()
    print(f"median {', '.join(f'{way} {seconds:.3f} s' for way, seconds in medians.items())}")
    print(f"ratio {ours / hand:.2f} (at most {RATIO_AT_MOST})")
    return (task is by_hand or _said_well(seen[name])) and ours / hand <= RATIO_AT_MOST


def _said_well(outages: Sequence[Outage]) -> bool:
    """Print how well the task's own word agrees with what the client saw."""
    off = [abs(o.said - o.seen) / o.seen for o in outages if o.said is not None]
    if len(off) < len(outages):
        print(f"the task said in {len(off)} of {len(outages)} rounds how long writes were refused")
        return False
    print(f"what it says is off by {statistics.median(off):.0%} (at most {SAID_WITHIN:.0%}), "
          f"in the worst round by {max(off):.0%}")  # fmt: skip
    return statistics.median(off) <= SAID_WITHIN


# --- the time of a failover ---


def failover(major: str, rounds: int) -> bool:
    """Print the seconds from the start of `invoke failover` to the first row acknowledged."""
    seconds = []
    with group(major, 1) as story:
        for number in range(1, rounds + 1):
            time.sleep(QUIET_SECONDS)
            seconds.append(story.failover())
            story.sound()
            print(f"round {number}: failover {seconds[-1]:.2f} s", flush=True)
    median = statistics.median(seconds)
    print(f"median of failover {median:.2f} s (at most {FAILOVER_AT_MOST})")
    return median <= FAILOVER_AT_MOST


# --- the long proof ---


def proof(majors: Sequence[str], rounds: int) -> bool:
    """Print a table of many switchovers and half as many failovers, for each major and group."""
    head = (
        "major",
        "group",
        "switchovers",
        "failovers",
        "acknowledged",
        "lost",
        "two",
        "longest gap",
    )
    print(("{:<6} {:<6} " + "{:>12} " * 6).format(*head), flush=True)
    results = [_proven(major, standbys, rounds) for major in majors for standbys in (1, 2)]
    return all(results)


def _proven(major: str, standbys: int, rounds: int) -> bool:
    done, fault = {"switchover": 0, "failover": 0}, ""
    with group(major, standbys, PROOF_CLIENTS) as story:
        try:
            for number in range(1, rounds + 1):
                story.switchover()
                story.sound()
                done["switchover"] += 1
                if number % 2 == 0:
                    story.failover()
                    story.sound()
                    done["failover"] += 1
        except AssertionError as why:
            fault = str(why) or "the story came to another end"
            fault += _last_words(story.herd)
        story.load.end()
        rows = story.load.acknowledged()
        try:
            lost: int | str = len(story.lost())
        except (AssertionError, OSError) as why:
            lost, fault = "?", fault or str(why)
        two = len(two_at_once(rows))
        gap = f"{story.load.longest_gap().seconds:.2f} s"
    name = "pair" if standbys == 1 else "three"
    cells = (major, name, *done.values(), len(rows), lost, two, gap)
    print(("{:<6} {:<6} " + "{:>12} " * 6).format(*cells), flush=True)
    if fault:
        print(fault, file=sys.stderr)
    return not fault and lost == 0 and two == 0


def _last_words(herd: Herd) -> str:
    tails = (docker("logs", "--tail", "15", herd.container(r), check=False) for r in herd.nodes)
    return "".join(f"\n--- {r}\n{tail}" for r, tail in zip(herd.nodes, tails, strict=True))


def main() -> int:
    """Run the parts that are asked for; 1 if something is not as it is to be."""
    parser = argparse.ArgumentParser(prog="invoke bench --living")
    parts = ("all", "outage", "failover", "proof", "noise")
    parser.add_argument("--part", choices=parts, default="all")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--majors", default=MAJORS)
    asked = parser.parse_args()
    majors = asked.majors.split(",")
    middle = "17" if "17" in majors else majors[0]
    well = True
    if asked.part == "noise":
        outage(middle, asked.rounds, "by hand again", by_hand)
    if asked.part in {"outage", "all"}:
        well &= outage(middle, asked.rounds, "invoke switchover", Story.switchover)
    if asked.part in {"failover", "all"}:
        well &= failover(middle, asked.rounds)
    if asked.part in {"proof", "all"}:
        well &= proof(majors, asked.rounds)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
