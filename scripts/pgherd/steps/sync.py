"""Making the primary wait for its standbys: step 10 of the tutorial."""

from __future__ import annotations

from pgherd.errors import DeadlinePassed, Refused
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.sync import Sync

SYNC_SECONDS = 60


def read_sync(names: str) -> Sync | None:
    """Return a server's synchronous_standby_names; None where it is asynchronous.

    A list that can never be met (`FIRST 2 (a)`), which PostgreSQL takes and Sync does not, counts
    as none too: it is not what any topology asks for, and gets replaced.
    """
    try:
        return Sync.parse(names) if names.strip() else None
    except Refused:
        return None


def counting(sync: Sync, facts: Facts, *, without: str = "") -> int:
    """Return how many standbys stream now that a commit may wait for."""
    names = {
        s.application_name.lower()
        for s in facts.senders
        if s.streaming and sync.matches(s.application_name)
    }
    return len(names - {without.lower()})


def waits_for(facts: Facts, application_name: str) -> bool:
    """Tell whether commits would begin to wait for ever if this standby went away now."""
    sync = read_sync(facts.sync_names)
    if sync is None:
        return False
    now = counting(sync, facts)
    return now >= sync.count > counting(sync, facts, without=application_name)


def require_sync(group: Group, primary: Instance, facts: Facts | None, *, defer: bool) -> None:
    """Step 10: set synchronous_standby_names as the topology asks, once enough standbys stream.

    `facts` is what the primary says now; None with `--dry`, where standbys are taken to stream.
    With `defer`, it is left for later where too few stream, instead of refused.

    Raises:
        Refused: too few stream: set now, it would make every commit wait.
    """
    asked = group.topology.sync_for(primary.node)
    names = asked.render() if asked else ""
    if facts and facts.sync_names == names:
        kind = f"synchronous: {names}" if names else "asynchronous, as asked"
        group.trace.note(f"{primary.name}: already {kind}")
        return
    if asked and facts and (found := counting(asked, facts)) < asked.count:
        wanted = f"{primary.name}: {names} needs {asked.count} standbys that stream, and {found} do"
        if not defer:
            raise Refused(f"{wanted}. Set now, it would make every commit wait: seed them first.")
        group.trace.note(f"{wanted}; it stays as it is until then")
        return
    group.trace.note(f"{primary.name}: {f'synchronous: {names}' if names else 'asynchronous'}")
    set_names(primary, names, asked.count if asked else 0)


def set_names(primary: Instance, names: str, count: int) -> None:
    """Set synchronous_standby_names and wait until that many standbys are synchronous."""
    literal = conf.sql_literal(names)
    script = scripts.compose("sync-names", names=literal, count=count, seconds=SYNC_SECONDS)
    primary.execute(script, SYNC_SECONDS + 30.0)


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
