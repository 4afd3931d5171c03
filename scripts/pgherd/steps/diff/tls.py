"""In what a node's TLS differs from what the topology asks for."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.certificates import SOON, names
from pgherd.postgres.facts import GONE, Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.steps.diff.containers import Difference
from pgherd.steps.tls import laid

ASKED = {True: "connections are encrypted (TLS)", False: "connections need no TLS"}
FOUND = {True: "the server has TLS, and lets in nobody without", False: "the server has no TLS"}


def of_server(group: Group, instance: Instance, facts: Facts) -> Iterator[Difference]:
    """Yield whether a server has TLS though it ought not to, or no or another certificate."""
    name, on = instance.name, instance.encryption.on
    command = (
        f"invoke seed-standby --node {name}"
        if facts.in_recovery
        else "invoke step.allow-replication"
    )
    if bool(facts.certificate) != on:
        yield Difference("tls", name, ASKED[on], FOUND[not on], command)
        return
    yield from _certificate(group, instance, facts, command) if on else ()


def _certificate(
    group: Group, instance: Instance, facts: Facts, command: str
) -> Iterator[Difference]:
    kept, node, name = group.certificates, instance.node, instance.name
    known = kept.known(node)
    if known and known.days <= SOON:
        asked, found = f"one for {SOON:.0f} days more", f"it is good until {known.ends:%Y-%m-%d}"
        yield Difference("certificate", name, asked, found, kept.cure(node).strip("`"))
    elif not kept.good(node):
        found = f"one by {known.issuer} for {', '.join(known.names)}" if known else "none is here"
        asked = f"a certificate by {kept.root} for {', '.join(names(node))}"
        yield Difference("certificate", name, asked, found, command)
    elif facts.certificate == GONE:
        asked = f"the certificate in {kept.path(node)}"
        yield Difference(
            "certificate", name, asked, "the server's file is gone", "invoke stop start"
        )
    elif facts.certificate != kept.known_digest(node):
        asked = f"the certificate in {kept.path(node)}"
        yield Difference("certificate", name, asked, "another one", command)


def of_connection(instance: Instance, facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield in what a standby connects by TLS otherwise than it ought to."""
    if not laid.as_asked(instance, facts):
        both = laid.parameters(instance), laid.told(facts)
        asked, found = (" ".join(f"{k}={v}" for k, v in said.items()) or "no TLS" for said in both)
        yield "tls", f"it connects with {asked}", f"it connects with {found}"
