"""For whom the primary waits: step 10 of the tutorial, and changing it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgherd.config.sync_names import WILDCARD, Sync, same_name
from pgherd.config.topology import Topology
from pgherd.errors import DeadlinePassed, Error, Refused, quoted
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.group.sync_state import counting, in_words, read_sync, streaming, streams
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance

# --- step 10: once enough standbys stream ---

SYNC_SECONDS = 60


def require_sync(group: Group, primary: Instance, facts: Facts | None, *, defer: bool) -> None:
    """Step 10: set synchronous_standby_names as the topology asks, once enough standbys stream.

    `facts` is what the primary says now; None with `--dry`, where standbys are taken to stream.
    With `defer`, it is left for later where too few stream, instead of refused.

    Raises:
        Refused: too few stream: set now, it would make every commit wait.
        Error: it is so already, and too few stream.
    """
    asked = group.topology.sync_for(primary.node)
    names = asked.render() if asked else ""
    if facts and facts.sync_names == names:
        kind = f"synchronous: {names}" if names else "asynchronous, as asked"
        group.trace.note(f"{primary.name}: already {kind}")
        if asked and not defer:
            _see_met(primary, asked, facts)
        return
    if asked and facts and (found := counting(asked, facts)) < asked.count:
        wanted = f"{primary.name}: {names} needs {streaming(asked.count)}, and {found} do"
        if not defer:
            lacking = [
                name
                for name, instance in group.instances.items()
                if instance is not primary
                and asked.matches(instance.node.application_name)
                and not streams(facts, instance.node.application_name)
            ]
            seed = f"`invoke seed-standby --node {lacking[0]}`" if lacking else "seed them"
            raise Refused(f"{wanted}. Set now, it would make every commit wait: {seed} first.")
        group.trace.note(f"{wanted}; it stays as it is until then")
        return
    group.trace.note(f"{primary.name}: {in_words(names)}")
    set_names(primary, names, asked.count if asked else 0)


def _see_met(primary: Instance, asked: Sync, facts: Facts) -> None:
    """Raise Error where fewer standbys stream than commits wait for already."""
    if (found := counting(asked, facts)) < asked.count:
        raise Error(
            f"{primary.name}: {asked.render()} needs {streaming(asked.count)}, and "
            f"{found} do, so commits wait: `invoke start` if one is down, `invoke rejoin` for one "
            "that lost its way; `invoke sync --off` lets commits go on without."
        )


def shortened(facts: Facts, away: list[str]) -> Sync | None:
    """Return whom commits may wait for once these standbys are gone; None for nobody.

    The count is lowered to what streams without them: a commit is never made to wait for a standby
    that is not there.
    """
    sync = read_sync(facts.sync_names)
    if sync is None or not any(sync.matches(name) for name in away):
        return sync
    rest = tuple(n for n in sync.names if not any(same_name(n, name) for name in away))
    streaming = {
        s.application_name.lower()
        for s in facts.senders
        if s.streaming and any(n == WILDCARD or same_name(n, s.application_name) for n in rest)
    }
    count = min(sync.count, len(streaming - {name.lower() for name in away}))
    return Sync(method=sync.method, count=count, names=rest) if rest and count else None


def set_names(primary: Instance, names: str, count: int) -> None:
    """Set synchronous_standby_names and wait until that many standbys are synchronous."""
    literal = conf.sql_literal(names)
    script = scripts.compose("sync-names", names=literal, count=count, seconds=SYNC_SECONDS)
    primary.execute(script, SYNC_SECONDS + 30.0)


def refuse_hopeless(
    primary: Instance, names: str, topology: Topology, running: Sequence[str]
) -> None:
    """Do not wait for standbys that cannot come: fewer run than commits wait for.

    `running` are the application names of the group's nodes that run.

    Raises:
        Error: so it is. Not where the list may be met by standbys that the topology does not have.
    """
    sync = read_sync(names)
    ours = [node.application_name for node in topology.nodes.values()]
    if sync is None or any(not any(same_name(n, name) for name in ours) for n in sync.names):
        return
    there = sum(sync.matches(name) for name in running)
    if there < sync.count:
        needed = f"{sync.count} {'is' if sync.count == 1 else 'are'} needed, and {there} run"
        raise Error(
            f"{primary.name} is synchronous ({names}): {needed}, so commits wait. `invoke status` "
            "says what becomes of the others; `invoke sync --off` lets commits go on without."
        )


def wait_counting(primary: Instance, names: str) -> None:
    """Wait until as many standbys stream as commits on the primary wait for."""
    sync = Sync.parse(names)
    script = scripts.compose("synchronous", count=sync.count, seconds=SYNC_SECONDS)
    try:
        primary.execute(script, SYNC_SECONDS + 30.0)
    except DeadlinePassed as fault:
        raise DeadlinePassed(
            f"{primary.name} is synchronous ({names}), too few standbys stream after "
            f"{SYNC_SECONDS} s, and commits wait. `invoke seed-standby` mends a standby.\n"
            f"{fault.sentence}"
        ) from None


# --- changing at once whom commits wait for ---


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
        primary=primary.name, names=facts.sync_names, asked=_requested(group, primary),
        written=written.render() if written else "", standbys=standbys, waiters=facts.sync_waiters,
    )  # fmt: skip


def _leader(group: Group, seen: Observation) -> tuple[Instance, Facts]:
    primary = group.primary(seen)
    facts = seen.nodes[primary.name].facts
    if facts is None:  # with --dry
        raise Refused(f"{primary.name} does not run yet, so its standbys are not known.")
    return primary, facts


def _requested(group: Group, primary: Instance) -> str:
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
        _known_standby(group, name)
    with group.locked(tolerant=True):
        seen = group.observe()
        primary, facts = _leader(group, seen)
        preconditions.check_alter_system(group, seen, primary.name)
        for name in wanted.names:
            _refuse_name(group, primary, seen, name)
        if (found := counting(wanted, facts)) < wanted.count:
            raise Refused(
                f"{primary.name}: {wanted.render()} needs {streaming(wanted.count)}, and "
                f"{found} do. Set now, it would make every commit wait: seed them first."
            )
        _change(group, primary, facts, wanted)


def _known_standby(group: Group, name: str) -> Instance | None:
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
    named = _known_standby(group, name)
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
        preconditions.check_alter_system(group, seen, primary.name)
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
    if (asked := _requested(group, primary)) != names:
        group.trace.note(
            f"{primary.name}: the topology asks for {asked or 'asynchronous'}: "
            "`invoke step.require-sync` goes back to that"
        )


def _see_released(group: Group, primary: Instance, number: int) -> None:
    primary.execute(scripts.compose("released", seconds=SYNC_SECONDS), SYNC_SECONDS + 30.0)
    waited = "1 commit that waited was" if number == 1 else f"{number} commits that waited were"
    group.trace.note(f"{primary.name}: {waited} let go")
