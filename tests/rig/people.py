"""`invoke rig.up` and `rig.down`: Docker hosts for people to try pgherd on, until they are taken.

usage: people.py up [--hosts N] | down
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from machine import BASE, alone, lacking
from rig import NAMES, Rig, clear, forget_images, is_up

ADVICE = """\
{hosts}
Each has an engine, an sshd and files of its own. In this shell:

    export INVOKE_SSH_CONFIG={rig.ssh_config}
    invoke on hosta setup-master seed-standby verify
    ssh -F {rig.ssh_config} hosta

As member@hosta you may use Docker but are not root; as stranger@hosta you may not.
`invoke rig.down` takes the hosts away, with all that is on them.
"""


def up(name: str, hosts: int) -> None:
    """Make hosts that stay, and say how they are reached."""
    directory = BASE / name
    advice = directory / "advice"
    if directory.exists() and is_up(directory):
        if not advice.exists():
            sys.exit("The rig is being made by another process; wait for it.")
        print("The rig is up already:", advice.read_text(), sep="\n\n", end="")
        return
    made = Rig(directory)
    try:
        made.make(hosts, stay=True)
        lines = [f"    {host.name}  {host.address}" for host in made.hosts.values()]
        advice.write_text(ADVICE.format(rig=made, hosts="\n".join(lines) + "\n"))
    except BaseException:
        made.clear()
        raise
    print("The rig is up:", advice.read_text(), sep="\n\n", end="")


def down(name: str) -> None:
    """Take the hosts away."""
    directory = BASE / name
    if not directory.exists():
        print("There is no rig; nothing to take away.")
        return
    with alone():
        clear(directory)
        forget_images()
    print("The rig is gone.")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="invoke rig")
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--hosts", type=int, choices=range(1, len(NAMES) + 1), default=3)
    parser.add_argument("--name", default="up", help=argparse.SUPPRESS)  # for tests
    asked = parser.parse_args()
    if lacking():
        print(f"No rig can be had: {lacking()}.", file=sys.stderr)
        sys.exit(2)
    try:
        up(asked.name, asked.hosts) if asked.what == "up" else down(asked.name)
    except (RuntimeError, TimeoutError, subprocess.SubprocessError, OSError) as fault:
        sys.exit(f"The rig could not be made or taken away: {fault}")


if __name__ == "__main__":
    main()
