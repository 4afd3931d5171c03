"""Whether what a primary wrote has come to a standby: replayed or, on a delayed one, received."""

from __future__ import annotations

import time

from pgherd.postgres.facts import Facts
from pgherd.verify.client import Client

REPLAYED_TO = "pg_last_wal_replay_lsn()"
# What is replayed was received, also before the last start, of which the first function is silent.
RECEIVED_TO = "greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
REPLAYED = f"SELECT {REPLAYED_TO} >= %s::pg_lsn"
RECEIVED = f"SELECT {RECEIVED_TO} >= %s::pg_lsn"


def replays(standby: Client, target: str, timeout: float) -> bool:
    """Wait until the standby has replayed up to a WAL position of the primary."""
    return _reaches(standby, REPLAYED, target, timeout)


def arrives(standby: Client, facts: Facts, target: str, timeout: float) -> bool:
    """Wait until the standby has replayed up to there; a delayed one, until it has it on disk."""
    query = RECEIVED if facts.apply_delay else REPLAYED
    return _reaches(standby, query, target, timeout)


def delay(facts: Facts) -> str:
    """Return by how much a standby replays later than it receives, as one says it."""
    seconds = facts.apply_delay / 1000
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def _reaches(standby: Client, query: str, target: str, timeout: float) -> bool:
    end = time.monotonic() + timeout
    while not standby.ask(query, target):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
