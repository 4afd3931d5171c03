"""Addresses: networks that Docker has left to give, forwarding, and who has a port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network, ip_network
from itertools import islice

from pgherd.checks.base import PROBLEM, WARNING, Finding
from pgherd.checks.collect import HostCase, NodeCase
from pgherd.config.values import for_others, is_everywhere
from pgherd.docker.models import Container
from pgherd.group import preconditions

# libnetwork's ipamutils: 31 networks, where the daemon's default-address-pools says nothing else.
POOLS = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)
POOLS_CURE = (
    "docker network prune removes those without containers; or widen default-address-pools in "
    "/etc/docker/daemon.json"
)


def free_networks(pools: Iterable[tuple[str, int]], used: Iterable[str], most: int = 3) -> int:
    """Count the networks that Docker could still make, up to `most`.

    Args:
        pools: each with the prefix length of the networks in it.
        used: subnets of networks, and routes of the host, which Docker avoids as well.
        most: where to stop: pools may hold very many.
    """
    taken = list(_networks(used))
    free = (
        subnet
        for base, size in pools
        for pool in _networks([base])
        for subnet in pool.subnets(new_prefix=max(size, pool.prefixlen))
        if not any(subnet.overlaps(other) for other in taken)
    )
    return sum(1 for _ in islice(free, most))


def _networks(texts: Iterable[str]) -> Iterator[IPv4Network]:
    for text in texts:
        with suppress(ValueError):  # IPv6, or a word such as `default`
            network = ip_network(text, strict=False)
            if isinstance(network, IPv4Network) and network.prefixlen:
                yield network


def pools(host: HostCase) -> Iterator[Finding]:
    """Yield that Docker has no network left to give."""
    asked = host.sheet.docker.get("DefaultAddressPools") or ()
    given = [(str(pool["Base"]), int(pool["Size"])) for pool in asked] or list(POOLS)
    subnets = [subnet for nets in host.sheet.networks.values() for subnet in nets]
    if free_networks(given, [*subnets, *host.sheet.routes]):
        return
    count = len(host.sheet.networks)
    text = f"Docker {host.where} has no address range left for another network ({count} are there)"
    if host.network in host.sheet.networks:
        yield host.finding("networks-used-up", WARNING, text, POOLS_CURE)
    else:
        needs = f"{text}, and {host.network} has to be made"
        yield host.finding("networks-used-up", PROBLEM, needs, POOLS_CURE)


def forwarding(host: HostCase) -> Iterator[Finding]:
    """Yield that the kernel forwards nothing, so that published ports are not reached."""
    info = host.sheet.docker.get("IPv4Forwarding")
    if info is False or host.sheet.kernel.get("net/ipv4/ip_forward") == "0":
        published = [node.node.listen for node in host.nodes]
        public = any(for_others(listen) or is_everywhere(listen) for listen in published)
        level = PROBLEM if public else WARNING
        text = f"IPv4 forwarding is off {host.where}: other hosts do not reach published ports"
        yield host.finding("no-forwarding", level, text, "sudo sysctl -w net.ipv4.ip_forward=1")


def port(node: NodeCase) -> Iterator[Finding]:
    """Yield who has a node's port, where its own server does not run."""
    if node.runs:
        return
    asked = node.node
    if who := _holder(node, node.beside.values()):
        text = f"Port {asked.port} of {asked.listen} is taken by {who}"
        cure = f"free it, or give {node.name} another `port` in the topology"
        yield node.finding("port-taken", PROBLEM, text, cure)


def _holder(node: NodeCase, containers: Iterable[Container]) -> str:
    asked = node.node
    for other in containers:
        for address, number in other.ports if other.alive and other.name != node.name else ():
            if number == asked.port and preconditions.same_address(address, asked.listen):
                return f"the container {other.name}"
    found = (
        preconditions.listener(line, asked.listen, asked.port) for line in node.sheet.listeners
    )
    return next(filter(None, found), "")


def address(node: NodeCase) -> Iterator[Finding]:
    """Yield an address to listen on that the host has not."""
    listen, known = node.node.listen, node.sheet.addresses
    if not known or not for_others(listen) or node.sheet.endpoint.startswith(("ssh", "tcp")):
        return
    if not any(text.partition("/")[0] == listen for text in known):
        text = f"nodes.{node.name}.listen: {listen} is no address of {node.node.host}"
        yield node.finding("no-address", PROBLEM, text, "`ip address` there shows which it has")


HOST_CHECKS = (pools, forwarding)
NODE_CHECKS = (port, address)
