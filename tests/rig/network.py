"""One link that all hosts of a rig and this machine are on, in a namespace of its own.

In a namespace of its own, since the `FORWARD DROP` of this machine's Docker would part the hosts.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

from machine import run
from space import Space

RANGE = ipaddress.IPv4Network("10.213.0.0/16")
FIRST = 11  # the last number of the first host's address; this machine's is 1


class Lan(Space):
    """A bridge with a cable to each host.

    Attributes:
        number: the third number of the addresses, which no other rig has.
        link: the name of this machine's own end.
    """

    def __init__(self, directory: Path, link: str) -> None:
        super().__init__(directory, "lan")
        self.number = 0
        self.link = link

    def lay(self, *, stay: bool) -> None:
        """Make the bridge, and this machine's cable to it: only one may choose at a time."""
        self.begin(own=("run",), stay=stay)
        self.run("ip", "link", "add", "bridge", "type", "bridge")
        self.run("ip", "link", "set", "bridge", "up")
        self.number = free_number()
        run("ip", "link", "add", "name", self.link, "type", "veth",
            "peer", "name", "machine", "netns", str(self.pid))  # fmt: skip
        run("ip", "address", "add", f"{self.address(1)}/24", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        self.plug("machine")

    def address(self, last: int) -> str:
        """Return an address of the link."""
        return str(RANGE[self.number * 256 + last])

    def plug(self, port: str) -> None:
        """Put a cable's end into the bridge."""
        self.run("ip", "link", "set", port, "master", "bridge", "up")

    def attach(self, space: Space, address: str) -> None:
        """Lay a cable to a host; there is no way on from the link, thus no default route."""
        run("ip", "link", "add", "name", "eth0", "netns", str(space.pid), "type", "veth",
            "peer", "name", space.name, "netns", str(self.pid))  # fmt: skip
        self.plug(space.name)
        space.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        space.run("ip", "link", "set", "eth0", "up")

    def switch(self, port: str, *, on: bool) -> None:
        """Put a cable in, or pull it out."""
        self.run("ip", "link", "set", port, "up" if on else "down")


def free_number() -> int:
    """Return a third number of addresses that this machine has no way to yet."""
    taken = set()
    for route in json.loads(run("ip", "-json", "-4", "route", "show", "table", "main")):
        if route["dst"] != "default":
            network = ipaddress.IPv4Network(route["dst"], strict=False)
            if network.subnet_of(RANGE):
                taken.add(network.network_address.packed[2])
    return min(set(range(1, 255)) - taken)
