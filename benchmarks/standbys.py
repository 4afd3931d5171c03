"""How long eight standbys take that are added at once, as a ratio to adding them one by one.

Both ways alternate in one run, on groups of their own with the image present: times on a shared
machine are noisy, their ratio is not. Python's start counts: once here, eight times there.

    invoke bench --standbys --rounds 3
"""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import bench

STANDBYS = 8
RATIO_AT_MOST = 0.6
FIRST_PORT, LAST_PORT = 20000, 32000  # below those that the kernel gives to clients


def added(image: str, *, at_once: bool) -> float:
    """Return the seconds that adding the standbys to a primary took; all is gone afterwards."""
    directory = tempfile.mkdtemp()
    names, environment = _topology(image, directory)
    name = Path(environment["INVOKE_TOPOLOGY"]).stem
    calls = [",".join(names)] if at_once else names
    try:
        bench.timed([bench.INVOKE, "setup-master"], environment)
        return sum(bench.timed([bench.INVOKE, "add-standby", call], environment) for call in calls)
    finally:
        down = ["down", "--purge", "--confirm", name, "--delete-data"]
        bench.timed([bench.INVOKE, *down], environment)
        (bench.ROOT / "data" / f".{name}.lock").unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def _topology(image: str, directory: str) -> tuple[list[str], dict[str, str]]:
    """Write a topology of a primary and its standbys; return their names and the variable."""
    name = f"many{secrets.token_hex(3)}"
    port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
    standbys = [f"{name}-s{number}" for number in range(1, STANDBYS + 1)]
    text = f'[group]\nname = "{name}"\nimage = "{image}"\n'
    for number, node in enumerate([f"{name}-m", *standbys]):
        text += f'[nodes.{node}]\nport = {port + number}\ndata = "{directory}/{node}"\n'
        text += f'upstream = "{name}-m"\n' if number else ""
    path = Path(directory) / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return standbys, {**os.environ, "INVOKE_TOPOLOGY": str(path)}


def main(rounds: int) -> int:
    """Print both medians and their ratio; 1 if it is above what it may be."""
    image = bench.the_image()
    once, each = [], []
    for number in range(1, rounds + 1):
        each.append(added(image, at_once=False))
        once.append(added(image, at_once=True))
        print(f"round {number}: one by one {each[-1]:.2f} s, at once {once[-1]:.2f} s", flush=True)
    ratio = statistics.median(once) / statistics.median(each)
    print(
        f"median of {STANDBYS} standbys: one by one {statistics.median(each):.2f} s, "
        f"at once {statistics.median(once):.2f} s"
    )
    print(f"ratio {ratio:.2f} (at most {RATIO_AT_MOST})")
    return int(ratio > RATIO_AT_MOST)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
