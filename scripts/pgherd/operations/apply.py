"""`invoke apply`: what runs gets the settings, rules and files that the topology asks for."""

from __future__ import annotations

from pgherd.errors import Error
from pgherd.group import node_config, preconditions
from pgherd.group.group import Group
from pgherd.group.node_config import as_asked
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import run_all
from pgherd.operations import connect, setup
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import connect_all, wait_serving
from pgherd.postgres.instance import Instance


def apply(group: Group) -> None:
    """Lay settings, rules, passfile and certificates on each server that runs, and reload it.

    A setting that counts from the next start only is laid, and told. Nothing is started, restarted
    or seeded, and nobody follows another node after it: `invoke diff` names what is left. A standby
    whose connection is to have TLS, or no more, connects anew.

    Raises:
        Refused: there is no primary, or more than one; a container is another's; PostgreSQL does
            not take a setting.
        Error: the others have all of it, and a server that runs does not answer.
    """
    with group.locked():
        seen = group.observe()
        for instance in group.instances.values():
            preconditions.check_name(group, instance, seen)
        primary = group.primary(seen)
        ensure_image(group, seen)
        connect_all(group, seen)
        # The role and its password come first: a standby's passfile has to agree with them.
        setup.allow_replication(group, primary)
        standbys = [
            group.instance(name)
            for name, node in seen.nodes.items()
            if node.facts and name != primary.name
        ]
        run_all(lambda standby: _bring_standby(group, standby, seen), standbys)
        _tell_of_others(group, seen)


def _bring_standby(group: Group, standby: Instance, seen: Observation) -> None:
    """Lay what a standby lacks; have it connect with TLS, or without, where that is otherwise."""
    wait_serving(group, standby)
    facts = seen.facts[standby.name]
    if as_asked(standby, facts):
        return
    upstream = group.upstream_of(standby, seen.primaries, seen)
    if node_config.leads_to(facts.primary_conninfo, standby, upstream):
        connect.follow(group, standby, upstream)
        connect.wait_streaming(standby, upstream, connect.STREAMING_SECONDS)


def _tell_of_others(group: Group, seen: Observation) -> None:
    """Say who got nothing: a server that is down gets it when it is started.

    Raises:
        Error: one runs, and does not answer.
    """
    silent = {name: node.silence for name, node in seen.nodes.items() if node.silence}
    for name, node in seen.nodes.items():
        if not node.facts and not node.planned and name not in silent:
            group.trace.note(f"{name}: is down: it gets its settings when it is started")
    if silent:
        name, why = next(iter(silent.items()))
        raise Error(
            f"{', '.join(silent)}: not reached, the others are as asked. {name} does not answer: "
            f"{why}. `invoke logs --node {name}` may tell why; then `invoke apply` again."
        )
