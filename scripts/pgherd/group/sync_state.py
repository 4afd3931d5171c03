"""For whom a primary's commits wait, by what it says."""

from __future__ import annotations

from typing import Any

from pgherd.config.sync_names import Sync
from pgherd.errors import Refused
from pgherd.postgres.facts import Facts

HUNG_SECONDS = 3.0  # a commit that waits longer than this for a standby hangs


def read_sync(names: str) -> Sync | None:
    """Return a server's synchronous_standby_names; None where it is asynchronous.

    A list that can never be met (`FIRST 2 (a)`), which PostgreSQL takes and Sync does not, counts
    as none too: it is not what any topology asks for, and gets replaced.
    """
    try:
        return Sync.parse(names) if names.strip() else None
    except Refused:
        return None


def in_words(names: str) -> str:
    """Return what a list of standbys makes a primary."""
    return f"synchronous: {names}" if names else "asynchronous"


def counting(sync: Sync, facts: Facts, *, without: str = "") -> int:
    """Return how many standbys stream now that a commit may wait for."""
    names = {
        s.application_name.lower()
        for s in facts.senders
        if s.streaming and sync.matches(s.application_name)
    }
    return len(names - {without.lower()})


def hung_long(facts: Facts) -> list[dict[str, Any]]:
    """Return the commits that wait for a standby, of statements that began long ago."""
    return [w for w in facts.sync_waiters if float(w["seconds"]) > HUNG_SECONDS]


def waits_for(facts: Facts, application_name: str) -> bool:
    """Tell whether commits would begin to wait for ever if this standby went away now."""
    sync = read_sync(facts.sync_names)
    if sync is None:
        return False
    now = counting(sync, facts)
    return now >= sync.count > counting(sync, facts, without=application_name)


def streams(facts: Facts, application_name: str) -> bool:
    """Tell whether a standby of that name streams."""
    sender = facts.sender(application_name)
    return bool(sender and sender.streaming)


def streaming(count: int) -> str:
    """Say how many standbys have to stream."""
    return "1 standby that streams" if count == 1 else f"{count} standbys that stream"
