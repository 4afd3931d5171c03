"""How long the three tasks take, as a ratio to the same work by hand.

Both ways alternate in one run, with the image present, and neither verifies the base backup: times
on a shared machine are noisy, their ratio is not. Python's start counts as pgherd's.

    invoke bench --rounds 5
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INVOKE = str(Path(sys.executable).with_name("invoke"))
TASKS_AT_MOST = 1.15
LIST_AT_MOST = 0.3  # seconds


def _ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Run a command that has to succeed; return its seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started


def _quiet(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)


def by_hand(image: str) -> float:
    """Time the plain shell script, and take away what it made."""
    name, directory, ports = f"hand{secrets.token_hex(3)}", tempfile.mkdtemp(), _ports()
    variables = {"name": name, "image": image, "directory": directory}
    variables |= {"master_port": str(ports[0]), "standby_port": str(ports[1])}
    try:
        return timed([str(ROOT / "benchmarks" / "by-hand.sh")], {**os.environ, **variables})
    finally:
        _quiet("docker", "rm", "-f", "-v", f"{name}-master", f"{name}-standby")
        _quiet("docker", "network", "rm", f"{name}-net")
        _emptied(image, directory)


def with_pgherd(image: str, host: str = "local", **variables: str) -> float:
    """Time the three tasks in one invoke, and take away what they made."""
    directory = tempfile.mkdtemp()
    environment = {**os.environ, **variables}
    environment |= topology(image, directory, host, data=directory if host == "local" else ".")
    name = Path(environment["INVOKE_TOPOLOGY"]).stem
    tasks = ["setup-master", "seed-standby", "--no-verify-backup", "verify"]
    try:
        return timed([INVOKE, *tasks], environment)
    finally:
        timed([INVOKE, "down", "--purge", "--confirm", name, "--delete-data"], environment)
        (ROOT / "data" / f".{name}.lock").unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def topology(image: str, directory: str, host: str, *, data: str) -> dict[str, str]:
    """Write the topology of a pair on a host; return the variable that names it."""
    name, ports = f"herd{secrets.token_hex(3)}", _ports()
    path = Path(directory) / f"{name}.toml"
    path.write_text(
        f'[group]\nname = "{name}"\nimage = "{image}"\nsync = "FIRST 1 (standby1)"\n'
        f'[nodes.{name}-master]\nhost = "{host}"\nport = {ports[0]}\ndata = "{data}/{name}-m"\n'
        f'[nodes.{name}-standby]\nhost = "{host}"\nport = {ports[1]}\ndata = "{data}/{name}-s"\n'
        f'upstream = "{name}-master"\napplication_name = "standby1"\n',
        encoding="utf-8",
    )
    return {"INVOKE_TOPOLOGY": str(path)}


def _emptied(image: str, directory: str) -> None:
    """Remove a directory whose files belong to a container's user."""
    mount = f"type=bind,source={directory},target=/emptied"
    words = ["--network", "none", "--mount", mount, "--entrypoint", "find"]
    _quiet("docker", "run", "--rm", *words, image, "/emptied", "-mindepth", "1", "-delete")
    shutil.rmtree(directory, ignore_errors=True)


def the_image() -> str:
    """Have the default topology's image present; return its name."""
    done = subprocess.run([INVOKE, "image"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(rounds: int) -> int:
    """Print both medians, their ratio and the time of `invoke --list`; 1 if one is too long."""
    image = the_image()
    hand, herd = [], []
    for number in range(1, rounds + 1):
        hand.append(by_hand(image))
        herd.append(with_pgherd(image))
        print(f"round {number}: by hand {hand[-1]:.2f} s, pgherd {herd[-1]:.2f} s", flush=True)
    ratio = statistics.median(herd) / statistics.median(hand)
    listing = statistics.median(timed([INVOKE, "--list"], dict(os.environ)) for _ in range(7))
    print(f"median by hand {statistics.median(hand):.2f} s, pgherd {statistics.median(herd):.2f} s")
    print(f"ratio {ratio:.2f} (at most {TASKS_AT_MOST})")
    print(f"invoke --list {listing:.2f} s (at most {LIST_AT_MOST})")
    return int(ratio > TASKS_AT_MOST or listing > LIST_AT_MOST)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
