"""Whether standbys have just what their primary has, and whether what they have is whole.

    equal_and_whole(herd)    # every table of every database, every index; on each node

The primary is to be idle meanwhile: what is compared is what all had at one position of the WAL.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

import psycopg
from conftest import Herd

ARRIVE_SECONDS = 120.0
TRIES = 5
LOCAL = "-c synchronous_commit=local"
DATABASES = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
# All that is stored, large objects and the catalog's rows of roles and tables among it.
TABLES = """
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p'
  AND (n.nspname NOT IN ('pg_catalog', 'information_schema')
       OR c.relname IN ('pg_authid', 'pg_class', 'pg_attribute', 'pg_largeobject', 'pg_database'))
ORDER BY 1
"""
# A row's text has all that can be seen of it; the sum does not depend on their order.
SUM = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {} t"
INDEXES = """
SELECT c.oid::regclass::text,
  bt_index_check(index => c.oid, heapallindexed => true)::text
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'
  AND i.indisvalid AND i.indisready
"""
HEAPS = """
SELECT c.oid::regclass::text, blkno, offnum, msg
FROM pg_class c, LATERAL verify_heapam(relation => c.oid)
WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p'
"""

Connection = psycopg.Connection[Any]


def equal_and_whole(herd: Herd) -> int:
    """Compare each standby with the primary and check all heaps and B-trees.

    A failed assertion names the node, and what differs or is damaged.

    Returns:
        how many tables were compared.
    """
    primary = herd.primary()
    standbys = [role for role in herd.nodes if role != primary]
    compared = 0
    for database in _column(herd, primary, "postgres", DATABASES):
        _prepared(herd, primary, database)
        for role in standbys:
            compared += _compared(herd, primary, role, database)
        for role in (primary, *standbys):
            assert damages(herd, role, database) == [], f"{role}, {database}"
    return compared


def _compared(herd: Herd, primary: str, standby: str, database: str) -> int:
    """Compare the tables; again where a vacuum may have been at work on the primary meanwhile."""
    for tries_left in reversed(range(TRIES)):
        sums = sums_of(herd, primary, database)
        arrived(herd, standby, herd.sql(primary, "SELECT pg_current_wal_flush_lsn()::text"))
        theirs = sums_of(herd, standby, database)
        differing = sorted(name for name in sums | theirs if sums.get(name) != theirs.get(name))
        if not differing:
            return len(sums)
        assert tries_left, f"{standby} differs from {primary}: {differing}"
        time.sleep(1)
    return 0


def arrived(herd: Herd, role: str, position: str) -> None:
    """Wait until a standby has replayed up to a position."""
    end = time.monotonic() + ARRIVE_SECONDS
    while not herd.sql(role, f"SELECT pg_last_wal_replay_lsn() >= '{position}'"):
        assert time.monotonic() < end, f"{role} has not replayed {position}"
        time.sleep(0.05)


def sums_of(herd: Herd, role: str, database: str) -> dict[str, str]:
    """Return for each table how many rows it has, and the sum of their hashes."""
    with _connected(herd, role, database) as connection:
        names = [str(row[0]) for row in connection.execute(TABLES)]
        rows = ((name, connection.execute(SUM.format(name).encode()).fetchone()) for name in names)
        return {name: json.dumps(row) for name, row in rows}


def damages(herd: Herd, role: str, database: str) -> list[str]:
    """Return what amcheck finds: of heaps each page, of indexes the first one's fault."""
    with _connected(herd, role, database) as connection:
        found = [str(row) for row in connection.execute(HEAPS.encode())]
        try:
            connection.execute(INDEXES.encode())
        except psycopg.errors.InternalError_ as fault:  # index_corrupted, data_corrupted
            found.append(str(fault))
        return found


def _connected(herd: Herd, role: str, database: str, **options: Any) -> Connection:
    return psycopg.connect(
        host="127.0.0.1", port=herd.nodes[role]["port"], user="postgres", dbname=database,
        password=herd.password(), connect_timeout=10, autocommit=True, **options,
    )  # fmt: skip


def _column(herd: Herd, role: str, database: str, query: str) -> list[str]:
    with _connected(herd, role, database) as connection:
        return [str(row[0]) for row in connection.execute(query.encode())]


def _prepared(herd: Herd, primary: str, database: str) -> None:
    """Have amcheck there. Its commit waits for nobody: whether it arrives is seen anyway."""
    with ExitStack() as stack:
        connection = stack.enter_context(_connected(herd, primary, database, options=LOCAL))
        connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
