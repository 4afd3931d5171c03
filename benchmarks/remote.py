"""How long the three tasks take on a remote host, as a ratio to the same on the local engine.

The remote host is one of the rig's, on this machine: what is measured is the price of SSH, not that
of a network. Both alternate in one run, with the image present on both. SSH logins and sessions are
counted by what the host's sshd logs.

    invoke bench --remote --rounds 5
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

import bench

sys.path.insert(0, str(bench.ROOT / "tests" / "rig"))
from host import Host
from machine import lacking
from rig import rig

RATIO_AT_MOST = 1.25
ROUND_TRIPS_AT_MOST = 3
LOOKS = (["verify"], ["steps"], ["logs"], ["hosts"])


def main(rounds: int) -> int:
    """Print the medians, their ratio, logins and round trips; 1 if one is more than it may be."""
    if why := lacking():
        print(f"no further Docker host can be had: {why}", file=sys.stderr)
        return 2
    image = bench.the_image()
    with rig(hosts=1, images=(image,)) as made:
        host, variables = made.hosts["hosta"], made.environment()
        here, there, logins = [], [], []
        for number in range(1, rounds + 1):
            here.append(bench.with_pgherd(image))
            before = len(host.logins())
            there.append(bench.with_pgherd(image, host.name, **variables))
            logins.append(len(host.logins()) - before)  # of the three tasks, and of the purge
            print(f"round {number}: here {here[-1]:.2f} s, there {there[-1]:.2f} s", flush=True)
        trips = _round_trips(image, host, variables)
    ratio = statistics.median(there) / statistics.median(here)
    print(f"median here {statistics.median(here):.2f} s, there {statistics.median(there):.2f} s")
    print(f"ratio {ratio:.2f} (at most {RATIO_AT_MOST})")
    print(f"SSH logins in a run: {max(logins) / 2:g} (1)")
    for look, count in trips.items():
        print(f"round trips of `invoke {look}`: {count} (at most {ROUND_TRIPS_AT_MOST})")
    slow = ratio > RATIO_AT_MOST or max(trips.values()) > ROUND_TRIPS_AT_MOST
    return int(slow or any(count != 2 for count in logins))


def _round_trips(image: str, host: Host, variables: dict[str, str]) -> dict[str, int]:
    """Count what each look at a pair asks of its host once the connection is open."""
    counts = {}
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, **variables}
        environment |= bench.topology(image, directory, host.name, data=".")
        bench.timed([bench.INVOKE, "setup-master", "seed-standby"], environment)
        for look in LOOKS:
            before = len(host.sessions())
            bench.timed([bench.INVOKE, *look], environment)
            counts[look[0]] = len(host.sessions()) - before - 1  # the first belongs to the login
        name = Path(environment["INVOKE_TOPOLOGY"]).stem
        down = ["down", "--purge", "--confirm", name, "--delete-data"]
        bench.timed([bench.INVOKE, *down], environment)
    return counts


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
