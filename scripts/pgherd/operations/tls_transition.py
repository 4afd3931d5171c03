"""A group on its way to TLS, or away from it: the topology asks for it, and some are not there yet.

`invoke diff` names what brings each there, one after the other. A stream that is there goes on
meanwhile. A new one needs both of its ends: the upstream lets in nobody otherwise than is asked
once it has come there, and cannot serve so before.
"""

from __future__ import annotations

import hashlib

from pgherd.errors import Refused
from pgherd.group import node_config
from pgherd.group.group import Group
from pgherd.group.node_config import leads_to, settings
from pgherd.group.observation import Observation
from pgherd.operations.connect import follow
from pgherd.operations.prepare import report_changes, serve
from pgherd.postgres.facts import GONE, Facts
from pgherd.postgres.instance import Instance


def serves_as_asked(instance: Instance, facts: Facts) -> bool:
    """Tell whether a server has TLS, or has none, as the topology asks, so that one may connect so.

    Whether it asks for client certificates is in its settings alone.
    """
    if not instance.encryption.on:
        return not _serves(facts)
    wanted = hashlib.sha256(settings(instance).encode()).hexdigest()
    return _serves(facts) and facts.settings == wanted


def _serves(facts: Facts) -> bool:
    """Tell whether a server has TLS, and will have it after a reload as well."""
    return facts.certificate not in {None, GONE}


def apply_tls(group: Group, upstream: Instance, facts: Facts | None) -> None:
    """Bring a server that runs to what is asked, before others are told to connect to it so."""
    if facts and upstream.name not in group.served and not serves_as_asked(upstream, facts):
        report_changes(upstream, serve(group, upstream))
        group.served.add(upstream.name)


def as_asked(group: Group, seen: Observation) -> None:
    """Have standbys that run connect with TLS, or without it, as is asked; whom they follow stays.

    One whose upstream has not come there yet goes on as it is: its stream would end.
    """
    for name, node in seen.nodes.items():
        instance, facts = group.instance(name), node.facts
        if facts and facts.in_recovery and not node_config.as_asked(instance, facts):
            for other in group.instances.values():
                if leads_to(facts.primary_conninfo, instance, other):
                    _connected(group, instance, other, seen)


def _connected(group: Group, instance: Instance, upstream: Instance, seen: Observation) -> None:
    mine, theirs = (seen.nodes[i.name].facts for i in (instance, upstream))
    if theirs and serves_as_asked(upstream, theirs):
        follow(group, instance, upstream)
        if mine and not serves_as_asked(instance, mine):
            note = "its own server is not as asked yet: `invoke diff` has the cure"
            group.trace.note(f"{instance.name}: {note}")
        return
    lacks = "does not serve with" if instance.encryption.on else "still serves with"
    group.trace.note(
        f"{instance.name}: follows as before, as {upstream.name} {lacks} TLS: `invoke diff` "
        "has the cures"
    )


def refuse_tls_transition(group: Group, seen: Observation) -> None:
    """Refuse a change of primary that can wait while some have TLS otherwise than is asked.

    Were it called off, the old primary would let in nobody who connects as before.

    Raises:
        Refused: a server, or a standby's connection, is otherwise than asked.
    """
    for name, node in seen.nodes.items():
        instance, facts = group.instance(name), node.facts
        if facts is None:
            continue
        told = facts.primary_conninfo if facts.in_recovery else ""
        same = _serves(facts) == instance.encryption.on
        if not same or (told and not node_config.as_asked(instance, facts)):
            asks = "asks for TLS" if instance.encryption.on else "asks for no TLS"
            raise Refused(
                f"{group.topology.source or group.name} {asks}, and {name} is not so yet, or "
                "connects otherwise: streams could break on the way. `invoke diff` names what "
                "brings it there; then this again."
            )
