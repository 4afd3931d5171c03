"""What a group that spans hosts contradicts itself in: who reaches whom, which host is which."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from pgherd.node import Group, HostSettings, Node
from pgherd.rules import LOCAL, Fault, meant, only_here


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
