"""What the nodes of one topology contradict each other in."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import combinations, product
from typing import NamedTuple

from pgherd.config.nodes import Group, HostSettings, Node
from pgherd.config.sync_names import WILDCARD, same_name
from pgherd.config.values import LOCAL, Fault, meant, only_here, volume_of

# --- groups that span hosts: who reaches whom, which host is which ---


def faults_between_hosts(node: Node, upstream: Node) -> Iterator[Fault]:
    """Check that a node can reach its upstream on another host, and that this can let it in."""
    there = ("nodes", upstream.name)
    if upstream.reached_at is None:
        sentence = f"missing: nodes on other hosts need its address, and {node.name} follows it"
        yield Fault((*there, "address"), sentence)
    if only_here(upstream.listen):
        sentence = f"is for its own host only, and {node.name} follows it from {node.host}"
        yield Fault((*there, "listen"), f"{upstream.listen} {sentence}")
    if ":" in (upstream.reached_at or ""):
        # Docker's proxy carries it into an IPv4 network, and everybody comes from the gateway.
        sentence = "must be an IPv4 address where nodes on other hosts follow it, not"
        key = "address" if upstream.address else "listen"
        yield Fault((*there, key), f"{sentence} {upstream.reached_at}")
    if node.reached_at is None:
        sentence = f"missing: {upstream.name} is on another host and lets it in by its address"
        yield Fault(("nodes", node.name, "address"), sentence)
    for one in (node, upstream):
        if one.address and only_here(one.address):
            sentence = f"must be one that other hosts reach, not {one.address}"
            yield Fault(("nodes", one.name, "address"), sentence)


def host_faults(
    nodes: Mapping[str, Node], hosts: Mapping[str, HostSettings], *, complete: bool
) -> Iterator[Fault]:
    """Find faults of the hosts themselves.

    Settings of a host that no node uses are no fault, unless a name is misspelt: the group may be
    placed there by `invoke on`.
    """
    used: Collection[str] = [node.host for node in nodes.values()]
    for name in hosts:
        if name == LOCAL:
            sentence = "has no root: relative paths of this machine lie in the project"
            yield Fault(("hosts", name), sentence)
        elif name not in used and complete and (hint := meant(name, used)):
            yield Fault(("hosts", name), f"no node runs there{hint}")
    known: dict[str, str] = {}
    for node in nodes.values():
        first = known.setdefault(_machine(node.host), node.host)
        if first != node.host:
            sentence = f'"{node.host}" is the machine that is "{first}" above: write it the same'
            yield Fault(("nodes", node.name, "host"), sentence)


# Written by pgherd where the group has TLS; without it they are the user's.
TLS_SETTINGS = ("ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file")
OLD_TLS = re.compile(r"|tlsv1(\.1)?")


def tls_faults(
    group: Group, nodes: Mapping[str, Node], *, complete: bool = True
) -> Iterator[Fault]:
    """Find what is said of TLS and contradicts other things that are said.

    `complete` says that no node is missing: only then it is known whether the group spans hosts.
    """
    spans = len({node.host for node in nodes.values()}) > 1
    on = spans if group.tls is None else group.tls
    said = {"tls_ca": group.tls_ca, "tls_ca_key": group.tls_ca_key}
    if any(said.values()) and not all(said.values()):
        lacks, has = sorted(said, key=lambda key: bool(said[key]))
        yield Fault(("group", lacks), f"missing: group.{has} is there, and both are needed")
    if not on and complete:
        needs = {**said, "tls_client_certificates": group.tls_client_certificates}
        for key in (key for key, value in needs.items() if value):
            yield Fault(("group", key), "needs group.tls = true: without TLS it means nothing")
    for node in nodes.values() if on else ():
        for name, value in node.settings.items():
            where = ("nodes", node.name, "settings", name)
            if name.lower() in TLS_SETTINGS:
                sentence = "cannot be set here: with group.tls pgherd writes it"
                yield Fault(where, sentence)
            old = OLD_TLS.fullmatch(str(value).strip().lower())
            if name.lower() == "ssl_min_protocol_version" and old:
                yield Fault(where, "must be TLSv1.2 or TLSv1.3 where group.tls is true", value)


def _machine(host: str) -> str:
    """Return a destination without its user: host and port tell the machine."""
    return re.sub(r"^.*@", "", host).lower()


# --- what nodes of one topology contradict each other in ---

# Pure comparison: data paths are compared as text, so links and mounts are not seen through.

# A standby with less than its primary does not start (xlog.c, CheckRequiredParameterValues).
SAME_EVERYWHERE = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
PLACES = {"data", "tablespaces"}  # the keys that say where data lies
MOST_NODES = 100  # a primary has 40 slots, and each node may follow any
SAME = "must be the same on every node: a standby with less than its primary does not start"


class Parts(NamedTuple):
    """As much of a topology as is sound by itself.

    `names` are those of all nodes; `doubts` are the (node, key) whose value is made up; `complete`
    says that no upstream, host or application name is missing or made up.
    """

    group: Group | None
    nodes: Mapping[str, Node]
    names: Collection[str]
    hosts: Mapping[str, HostSettings]
    doubts: Collection[tuple[str, str]] = frozenset()
    complete: bool = True


def contradictions(parts: Parts, locate: Callable[[str], object]) -> Iterator[Fault]:
    """Find every fault that no single value has, except those that only made-up values have."""
    for fault in _upstream_faults(parts):
        if fault.where[1:] not in parts.doubts:
            yield fault
    if len(parts.names) > MOST_NODES:  # each pair is compared below
        yield Fault(("nodes",), f"are {len(parts.names)}, and a group has at most {MOST_NODES}")
        return
    for one, other in combinations(parts.nodes.values(), 2):
        for fault in _pair_faults(one, other, parts.hosts, locate):
            keys = PLACES if PLACES & set(fault.where) else {fault.where[-1]}
            if not set(product((one.name, other.name), keys)) & set(parts.doubts):
                yield fault
    for node in parts.nodes.values():
        if not set(product([node.name], PLACES)) & set(parts.doubts):
            yield from _data_faults(node, node, parts.hosts, locate)
    if parts.group:
        yield from _sync_faults(parts, parts.group)
        yield from tls_faults(parts.group, parts.nodes, complete=parts.complete)
    yield from _settings_faults(parts)
    yield from _tablespace_faults(parts)
    yield from host_faults(parts.nodes, parts.hosts, complete=parts.complete)


def _upstream_faults(parts: Parts) -> Iterator[Fault]:
    roots = [
        name
        for name, node in parts.nodes.items()
        if node.upstream is None and (name, "upstream") not in parts.doubts
    ]
    if len(roots) > 1:
        sentence = f"{', '.join(roots)} have no upstream, but only the primary has none"
        yield Fault(("nodes",), sentence)
    if not roots and parts.complete:
        yield Fault(("nodes",), "one node must have no upstream: the primary")
    for node in parts.nodes.values():
        if node.upstream is not None:
            yield from _faults_towards(node.upstream, node, parts)


def _faults_towards(name: str, node: Node, parts: Parts) -> Iterator[Fault]:
    """Check one node's way to the upstream of that name."""
    where = ("nodes", node.name, "upstream")
    if name not in parts.names:
        yield Fault(where, f'no node "{name}" in this file{meant(name, parts.names)}')
    circle = _circle(node, parts.nodes)
    if circle and node.name == min(circle, key=list(parts.nodes).index):
        yield Fault(where, f"goes round in a circle: {' -> '.join([*circle, node.name])}")
    upstream = parts.nodes.get(name)
    if upstream and upstream.host != node.host:
        yield from faults_between_hosts(node, upstream)


def _circle(node: Node, nodes: Mapping[str, Node]) -> list[str]:
    """Follow the upstreams: the way back to this node, or nothing."""
    way, at = [node.name], nodes.get(node.upstream or "")
    while at and at.name not in way:
        way.append(at.name)
        at = nodes.get(at.upstream or "")
    return way if at and at.name == node.name else []


def _pair_faults(
    one: Node, other: Node, hosts: Mapping[str, HostSettings], locate: Callable[[str], object]
) -> Iterator[Fault]:
    """Compare two nodes, either of which may have to be a standby beside the other."""
    here = ("nodes", other.name)
    if one.name.lower() == other.name.lower():
        yield Fault(here, f"differs from {one.name} by the letters' case only")
    if same_name(one.application_name, other.application_name):
        sentence = f'"{other.application_name}" is the name of {one.name} too (case is ignored)'
        yield Fault((*here, "application_name"), sentence)
    elif one.slot == other.slot:
        sentence = f"makes the slot {other.slot}, which is the one of {one.name}"
        yield Fault((*here, "application_name"), sentence)
    if one.host == other.host:
        yield from _port_faults(one, other)
        yield from _data_faults(one, other, hosts, locate)


def _port_faults(one: Node, other: Node) -> Iterator[Fault]:
    if one.port == other.port and _overlap(one.listen, other.listen):
        sentence = f"{other.port} is the port of {one.name} on {one.host} too"
        yield Fault(("nodes", other.name, "port"), sentence)


def _data_faults(
    one: Node, other: Node, hosts: Mapping[str, HostSettings], locate: Callable[[str], object]
) -> Iterator[Fault]:
    """Compare the places of two nodes' data, or those of one with each other."""
    same = one is other
    pairs = combinations(_places(one), 2) if same else product(_places(one), _places(other))
    for (theirs, its), (mine, own) in pairs:
        if fault := _place_fault((one, theirs), (other, mine), hosts, locate):
            whose = one.name if its == ("data",) else f"{one.name} ({its[-1]})"
            yield Fault(("nodes", other.name, *own), fault.format(whose))


def _places(node: Node) -> list[tuple[str, tuple[str, ...]]]:
    """Return the places of a node's data, each with its key in the file."""
    inside = [(place, ("tablespaces", path)) for path, place in node.tablespaces.items()]
    return [(node.data, ("data",)), *inside]


def _place_fault(
    one: tuple[Node, str],
    other: tuple[Node, str],
    hosts: Mapping[str, HostSettings],
    locate: Callable[[str], object],
) -> str:
    """Say how one place is in the way of another, `{}` for whose that is; empty if it is not."""
    volumes = volume_of(one[1]), volume_of(other[1])
    if any(volumes):
        return "is the volume of {} too" if volumes[0] == volumes[1] else ""
    mine, theirs = (_place(*place, hosts, locate) for place in (other, one))
    if mine == theirs:
        return "is the directory of {} too"
    if mine.startswith(theirs + "/"):
        return "lies within the directory of {}"
    return "holds the directory of {} within it" if theirs.startswith(mine + "/") else ""


def _overlap(one: str, other: str) -> bool:
    """Tell whether two listen addresses are in each other's way."""
    pair = {ipaddress.ip_address(one), ipaddress.ip_address(other)}
    return len(pair) == 1 or any(address.is_unspecified for address in pair)


def _place(
    node: Node, path: str, hosts: Mapping[str, HostSettings], locate: Callable[[str], object]
) -> str:
    """Write a data path in the form in which two of one host can be compared."""
    if node.host == LOCAL:
        return str(locate(path))
    root = hosts.get(node.host, HostSettings()).root
    home = path.startswith("~/")
    return posixpath.normpath(path if home else posixpath.join(root, path))


def _sync_faults(parts: Parts, group: Group) -> Iterator[Fault]:
    where = ("group", "sync")
    if group.sync is None:
        if group.strict:
            sentence = "true needs group.sync: without it no commit waits for a standby"
            yield Fault(("group", "strict"), sentence)
        return
    for name in group.sync.names:
        if name != WILDCARD and (sentence := _cannot_be_sync(name, parts)):
            yield Fault(where, sentence)
    count = sum(_follows_the_primary(node, parts.nodes) for node in parts.nodes.values())
    if WILDCARD in group.sync.names and count < group.sync.count and parts.complete:
        sentence = f"waits for {group.sync.count} standbys but {count} can follow the primary"
        yield Fault(where, f"{sentence}, so every commit would hang")


def _cannot_be_sync(name: str, parts: Parts) -> str:
    """Say why this name can never be a synchronous standby's, or nothing."""
    nodes = parts.nodes.values()
    known = {node.application_name: node for node in nodes}
    node = next((node for node in nodes if same_name(node.application_name, name)), None)
    if node is None:
        hint = meant(name, known)
        return f'"{name}" is no node\'s application_name{hint}' if parts.complete else ""
    if (node.name, "upstream") in parts.doubts:
        return ""
    if node.upstream is None:
        return f'"{name}" is {node.name}, the primary: it cannot wait for itself'
    if node.upstream in parts.nodes and not _follows_the_primary(node, parts.nodes):
        # Only directly connected standbys count (PostgreSQL manual, cascading replication).
        return f'"{name}" is {node.name}, which follows {node.upstream}, not the primary'
    return ""


def _follows_the_primary(node: Node, nodes: Mapping[str, Node]) -> bool:
    upstream = nodes.get(node.upstream or "")
    return upstream is not None and upstream.upstream is None


def _settings_faults(parts: Parts) -> Iterator[Fault]:
    """Find settings that a standby may not have lower than its primary: any node may be either."""
    for name in SAME_EVERYWHERE:
        said = {n.name: n.settings.get(name) for n in parts.nodes.values()}
        if len({str(value) for value in said.values()}) > 1:
            for node, value in said.items():
                if value is not None:
                    yield Fault(("nodes", node, "settings", name), SAME, value)


def _tablespace_faults(parts: Parts) -> Iterator[Fault]:
    """Find nodes that lack a place which others have: a tablespace has one path on all of them."""
    sound = [n for n in parts.nodes.values() if (n.name, "tablespaces") not in parts.doubts]
    inside = list(dict.fromkeys(path for node in sound for path in node.tablespaces))
    for node in sound:
        if lacking := [path for path in inside if path not in node.tablespaces]:
            having = next(n.name for n in sound if lacking[0] in n.tablespaces)
            sentence = (
                f"lacks {', '.join(lacking)}, which {having} has: a tablespace has the same path "
                "on every node"
            )
            yield Fault(("nodes", node.name, "tablespaces"), sentence)
