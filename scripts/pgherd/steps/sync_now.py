"""Whom commits on the primary wait for: told, and changed at once, whatever the topology asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgherd.errors import Refused, quoted
from pgherd.postgres import scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import guards
from pgherd.steps.sync import SYNC_SECONDS, counting, in_words, read_sync, set_names, streaming
from pgherd.sync import WILDCARD, Sync, same_name


@dataclass(frozen=True)
class SyncState:
    """Whom commits on the primary wait for.

    Attributes:
        primary: the node that is primary now.
        names: its synchronous_standby_names; empty for asynchronous.
        asked: what the topology asks for there, in canonical form.
        written: what the topology says, which is meant for the node that it asks to be primary.
        standbys: each that is connected: its node or none, its application_name, state, sync_state.
        waiters: the commits that wait now, with pid, seconds and query.
    """

    primary: str
    names: str
    asked: str
    written: str
    standbys: tuple[tuple[str, str, str, str], ...]
    waiters: tuple[dict[str, Any], ...]

    @property
    def as_asked(self) -> bool:
        """Whether it is what the topology asks for, however it is written."""
        found = read_sync(self.names)
        return (found.render() if found else self.names.strip()) == self.asked


def state(group: Group) -> SyncState:
    """Look at the primary: whom its commits wait for, who is there, how many wait."""
    seen = group.observe(tolerant=True)
    primary, facts = _leader(group, seen)
    nodes = {i.node.application_name.lower(): i.name for i in group.instances.values()}
    standbys = tuple(
        (nodes.get(s.application_name.lower(), ""), s.application_name, s.state, s.sync_state)
        for s in sorted(facts.senders, key=lambda s: s.application_name)
    )
    written = group.topology.group.sync
    return SyncState(
        primary=primary.name, names=facts.sync_names, asked=_asked(group, primary),
        written=written.render() if written else "", standbys=standbys, waiters=facts.sync_waiters,
    )  # fmt: skip


def _leader(group: Group, seen: Observation) -> tuple[Instance, Facts]:
    primary = group.primary(seen)
    facts = seen.nodes[primary.name].facts
    if facts is None:  # with --dry
        raise Refused(f"{primary.name} does not run yet, so its standbys are not known.")
    return primary, facts


def _asked(group: Group, primary: Instance) -> str:
    asked = group.topology.sync_for(primary.node)
    return asked.render() if asked else ""


def require_mode(group: Group, mode: str) -> None:
    """Make commits wait as `mode` says, whatever the topology asks for.

    Raises:
        Refused: it is no list of standbys, one of them can never be waited for, or too few of
            them stream: every commit would wait.
    """
    wanted = Sync.parse(mode)
    for name in wanted.names:
        _known(group, name)
    with group.locked(tolerant=True):
        seen = group.observe()
        primary, facts = _leader(group, seen)
        guards.check_alter_system(group, seen, primary.name)
        for name in wanted.names:
            _refuse_name(group, primary, seen, name)
        if (found := counting(wanted, facts)) < wanted.count:
            raise Refused(
                f"{primary.name}: {wanted.render()} needs {streaming(wanted.count)}, and "
                f"{found} do. Set now, it would make every commit wait: seed them first."
            )
        _change(group, primary, facts, wanted)


def _known(group: Group, name: str) -> Instance | None:
    """Return the node that has an application name; None for the wildcard. Refuse another one."""
    if name == WILDCARD:
        return None
    named = [i for i in group.instances.values() if same_name(i.node.application_name, name)]
    if not named:
        known = ", ".join(i.node.application_name for i in group.instances.values())
        raise Refused(f"{quoted(name)} is no node's application_name: there are {known}.")
    return named[0]


def _refuse_name(group: Group, primary: Instance, seen: Observation, name: str) -> None:
    """Refuse a name that no standby has which streams from the primary, or may."""
    named = _known(group, name)
    if named is None:
        return
    if named is primary:
        raise Refused(f'"{name}" is {primary.name}, the primary now: it cannot wait for itself.')
    upstream = group.upstream_of(named, [primary.name], seen)
    if upstream is not primary:
        raise Refused(
            f'"{name}" is {named.name}, which follows {upstream.name}: commits on '
            f"{primary.name} wait only for standbys that stream from it."
        )


def release(group: Group, *, yes: bool) -> None:
    """Let commits wait for nobody, and see that none of those that waited does so any more.

    Raises:
        Refused: the topology says `strict`, and it was not confirmed.
    """
    with group.locked(tolerant=True):
        seen = group.observe()
        primary, facts = _leader(group, seen)
        guards.check_alter_system(group, seen, primary.name)
        if group.topology.group.strict and not yes:
            raise Refused(
                "The topology says strict = true, that no commit returns without a standby that "
                "has it: `invoke sync --off --yes`, if it is to be so all the same."
            )
        _change(group, primary, facts, None)


def _change(group: Group, primary: Instance, facts: Facts, wanted: Sync | None) -> None:
    names = wanted.render() if wanted else ""
    kind = in_words(names)
    same = read_sync(facts.sync_names) == wanted and bool(names) == bool(facts.sync_names.strip())
    if same:
        group.trace.note(f"{primary.name}: already {kind}")
    else:
        group.trace.note(f"{primary.name}: {kind}")
        set_names(primary, names, wanted.count if wanted else 0)
    if facts.sync_waiters and not wanted:
        _see_released(group, primary, len(facts.sync_waiters))
    if (asked := _asked(group, primary)) != names:
        group.trace.note(
            f"{primary.name}: the topology asks for {asked or 'asynchronous'}: "
            "`invoke step.require-sync` goes back to that"
        )


def _see_released(group: Group, primary: Instance, number: int) -> None:
    primary.execute(scripts.compose("released", seconds=SYNC_SECONDS), SYNC_SECONDS + 30.0)
    waited = "1 commit that waited was" if number == 1 else f"{number} commits that waited were"
    group.trace.note(f"{primary.name}: {waited} let go")
