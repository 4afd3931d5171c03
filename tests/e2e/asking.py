"""What several files of tests ask of a group's servers, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

from conftest import Herd


def until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Ask until the answer is yes, or the time is over; the last answer is to be asserted."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def slots(herd: Herd, role: str = "master") -> list[str]:
    """Return the names of a server's replication slots, sorted."""
    ordered = "array_agg(slot_name::text ORDER BY slot_name::text)"
    names = f"SELECT coalesce({ordered}, '{{}}') FROM pg_replication_slots"
    found: list[str] = herd.sql(role, names)
    return found
