"""What has come up once servers were started: who serves, as what, and who follows whom."""

from __future__ import annotations

from collections.abc import Sequence

from pgherd.errors import Error, room_wanted
from pgherd.group.group import Group, explain_no_primary, paused
from pgherd.group.node_status import ReplicationView
from pgherd.group.observation import Observation
from pgherd.group.primary import is_running
from pgherd.operations import connect, sync, tls_transition
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance

LAST_LINES = 40  # of a log, in which a full disk may be told


def wait_for_group(group: Group, left: Sequence[str] = ()) -> None:
    """Say what came up, as what; wait until the primary has its standbys.

    `left` are the nodes that were left out.

    Raises:
        Error: something was left out, or does not answer or follow; with its cure.
    """
    if group.trace.dry:
        return
    seen = group.observe()
    for name, node in seen.nodes.items():
        if node.facts:
            role = "standby" if node.facts.in_recovery else "primary"
            group.trace.note(f"{name}: serves, as {role}")
        elif is_running(node):
            group.trace.note(f"{name}: does not answer. {node.silence}")
    silent = [n for n, s in seen.nodes.items() if is_running(s) and not s.facts]
    if silent:
        raise Error(why_silent(group, silent[0], seen))
    if not seen.primaries and seen.facts:
        raise Error(_no_primary(group, seen, left))
    tls_transition.as_asked(group, seen)
    if _twice(seen):
        group.primary(seen)  # says which are two, and what to do
    stray = strays_of(group, seen)
    for name in seen.primaries:
        if facts := seen.nodes[name].facts:
            _settle_primary(group, group.instance(name), facts, seen, wait=not stray)
    _refuse_stray([*left, *stray], seen)


def _refuse_stray(stray: list[str], seen: Observation) -> None:
    if stray:
        cures = " ".join(f"`invoke rejoin {name}`" for name in stray)
        raise Error(
            f"All that can be is started, but {' and '.join(stray)} does not follow "
            f"{seen.primaries[0]}, the primary: {cures}."
        )


def _no_primary(group: Group, seen: Observation, left: Sequence[str]) -> str:
    """Say that what was started are standbys; one that was left out may have been primary."""
    if not left:
        return explain_no_primary(group, seen)
    names = " and ".join(left)
    return (
        f"All that can be is started, and these are standbys. {names} may have been primary: if it "
        "cannot be put back, `invoke failover` makes the standby that has most the primary, and "
        f"`invoke rejoin {left[0]}` brings it back then."
    )


def strays_of(group: Group, seen: Observation) -> list[str]:
    """Return the standbys that serve and do not follow the one primary, in the end."""
    picture = ReplicationView(group, seen)
    running = [name for name, facts in picture.facts.items() if facts.in_recovery]
    return [n for n in running if picture.leader and picture.root(n) != picture.leader]


def why_silent(group: Group, name: str, seen: Observation) -> str:
    """Say of a server that runs and does not answer what to do; a full disk is in its log."""
    instance = group.instance(name)
    node = instance.node
    full = room_wanted(node.host, instance.log_tail(LAST_LINES), node.data)
    told = paused(group, seen, name)
    return f"{full}{told or f'{name} runs and does not answer: `invoke logs` tells why'}."


def _twice(seen: Observation) -> bool:
    """Tell whether two nodes are primaries of one system; each may have its own."""
    systems = [f.system_identifier for n in seen.primaries if (f := seen.nodes[n].facts)]
    return len(set(systems)) < len(systems)


def _settle_primary(
    group: Group, primary: Instance, facts: Facts, seen: Observation, *, wait: bool
) -> None:
    for name, node in seen.nodes.items():
        slot = group.instance(name).node.slot
        follows = node.facts and node.facts.in_recovery and node.facts.primary_slot == slot
        if follows and not facts.slot(slot):
            connect.ensure_slot(group.instance(name), primary)
    if facts.sync_names and wait:
        running = [
            group.instance(n).node.application_name
            for n, s in seen.nodes.items()
            if is_running(s) and n != primary.name
        ]
        sync.refuse_hopeless(primary, facts.sync_names, group.topology, running)
        sync.wait_counting(primary, facts.sync_names)
