"""The last three checks: a row written on the primary is read on the standby, which takes none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg import sql

from pgherd.postgres.facts import Facts
from pgherd.verify.arrival import arrives, delay
from pgherd.verify.checks import CheckResult, View, not_tried
from pgherd.verify.client import Client
from pgherd.verify.examine import reseed_cure

ROWS = 3
READ_ONLY = "25006"  # read_only_sql_transaction
# A probe of a run that was killed: its name has the backend that made it, and that is gone.
LEFT_BEHIND = """
SELECT relname FROM pg_class
WHERE relkind = 'r' AND relname ~ '^pgherd_probe_[0-9]+_[0-9]+$' AND NOT EXISTS (
  SELECT FROM pg_stat_activity
  WHERE relname = format('pgherd_probe_%s_%s', pid, extract(epoch FROM backend_start)::bigint))
"""
OWN_NAME = """
SELECT format('pgherd_probe_%s_%s', pid, extract(epoch FROM backend_start)::bigint)
FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""


def probe(clients: dict[str, Client], view: View, timeout: float) -> list[CheckResult]:
    """Write on the primary, read and try to write on each standby, and clean up on both."""
    primary = clients[view.primary or ""]
    standbys = [c for name, c in clients.items() if name != view.primary]
    name = str(primary.ask(OWN_NAME))
    checks: list[CheckResult] = []
    dropped = ""
    try:
        written = _write(primary, name, timeout)
        for standby in standbys:
            facts = view.facts[standby.instance.name]
            checks += _on_standby(standby, facts, name, written, timeout)
    except psycopg.Error as fault:
        checks = [_failed("row-seen", standby, fault) for standby in standbys]
        checks += [
            not_tried("write-refused", standby.instance.name, "row-seen failed")
            for standby in standbys
        ]
    finally:
        with suppress(psycopg.Error):
            dropped = _drop(primary, name)
    return checks + [
        _clean(standby, view.facts[standby.instance.name], name, dropped, timeout)
        for standby in standbys
    ]


def _on_standby(
    standby: Client, facts: Facts, name: str, written: tuple[str, float, str], timeout: float
) -> list[CheckResult]:
    seen = _row_seen(standby, facts, name, written, timeout)
    if not seen.ok:
        return [seen, not_tried("write-refused", standby.instance.name, "row-seen failed")]
    return [seen, _write_refused(standby, name, with_table=not facts.apply_delay)]


def _failed(check: str, standby: Client, fault: psycopg.Error) -> CheckResult:
    evidence = f"a query failed (SQLSTATE {fault.sqlstate}): {fault}"
    return CheckResult(check, standby.instance.name, ok=False, evidence=evidence)


def _write(primary: Client, name: str, timeout: float) -> tuple[str, float, str]:
    """Make the table and commit rows; return the WAL position, the time, and what hung, if any.

    Housekeeping commits without waiting for a standby. The rows wait as an application's would,
    under a watch that at its deadline cancels this wait and no other.
    """
    table = sql.Identifier(name)
    connection = primary.live
    connection.execute("SET synchronous_commit = local")
    for (left,) in connection.execute(LEFT_BEHIND).fetchall():
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(str(left))))
    connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, words text)").format(table))
    connection.execute("RESET synchronous_commit")
    insert = sql.SQL("INSERT INTO {} SELECT n, 'row ' || n FROM generate_series(1, %s) n")
    hung = _watched(connection, timeout, lambda: connection.execute(insert.format(table), [ROWS]))
    return str(primary.ask("SELECT pg_current_wal_insert_lsn()")), time.monotonic(), hung


def _watched(
    connection: psycopg.Connection[tuple[object, ...]], timeout: float, act: Callable[[], object]
) -> str:
    warnings: list[str] = []

    def heard(diagnostic: psycopg.errors.Diagnostic) -> None:
        warnings.append(diagnostic.message_primary or "")

    connection.add_notice_handler(heard)
    watch = threading.Timer(timeout, connection.cancel_safe)
    watch.start()
    try:
        act()
    finally:
        watch.cancel()
        watch.join()
        connection.remove_notice_handler(heard)
    return next((w for w in warnings if "synchronous replication" in w), "")


def _row_seen(
    standby: Client, facts: Facts, name: str, written: tuple[str, float, str], timeout: float
) -> CheckResult:
    node = standby.instance.name
    position, committed, hung = written
    if hung:
        return CheckResult(
            "row-seen",
            node,
            ok=False,
            evidence=f"the commit waited {timeout:g} s for a synchronous standby and was let go",
            cure="`invoke verify` again tells which standby is away",
        )
    if not arrives(standby, facts, position, timeout):
        did = "received" if facts.apply_delay else "replayed"
        evidence = f"written at {position}; not {did} there after {timeout:g} s"
        return CheckResult("row-seen", node, False, evidence, f"`invoke logs --node {node}`")
    later = (time.monotonic() - committed) * 1000
    if facts.apply_delay:
        evidence = (
            f"{ROWS} rows written at {position}, received here {later:.0f} ms after the commit; "
            f"they will be visible after its delay of {delay(facts)}"
        )
        return CheckResult("row-seen", node, True, evidence)
    try:
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
        row = standby.live.execute(query).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    if row == (ROWS,):
        evidence = f"{ROWS} rows written at {position}, read here {later:.0f} ms after the commit"
        return CheckResult("row-seen", node, True, evidence)
    evidence = (
        f"diverged: it has replayed {position}, where the rows were written, and has not got them"
    )
    return CheckResult("row-seen", node, False, evidence, reseed_cure(node))


def _write_refused(standby: Client, name: str, *, with_table: bool) -> CheckResult:
    """Try to write; where the probe's table has not come yet, only what needs none."""
    table, other = sql.Identifier(name), sql.Identifier(f"{name}_no")
    create = sql.SQL("CREATE TABLE {} (id int)").format(other)
    if with_table:
        tries = {
            "INSERT": sql.SQL("INSERT INTO {} VALUES (0, 'no')").format(table),
            "CREATE TABLE": create,
            "ALTER TABLE": sql.SQL("ALTER TABLE {} ADD no int").format(table),
            "DROP TABLE": sql.SQL("DROP TABLE {}").format(table),
        }
    else:
        schema = sql.SQL("CREATE SCHEMA {}").format(other)
        tries = {"CREATE TABLE": create, "CREATE SCHEMA": schema}
    answers = {verb: _answer(standby, statement) for verb, statement in tries.items()}
    ok = set(answers.values()) == {READ_ONLY}
    if ok:
        evidence = f"{', '.join(answers)} refused with SQLSTATE {READ_ONLY}"
    else:
        said = ", ".join(f"{verb}: {state}" for verb, state in answers.items())
        evidence = f"not all refused with SQLSTATE {READ_ONLY}: {said}"
    cure = reseed_cure(standby.instance.name)
    return CheckResult("write-refused", standby.instance.name, ok, evidence, "" if ok else cure)


def _answer(standby: Client, statement: sql.Composed) -> str:
    try:
        standby.live.execute(statement)
    except psycopg.Error as refusal:
        return refusal.sqlstate or "no SQLSTATE"
    return "done"


def _drop(primary: Client, name: str) -> str:
    """Drop the table without waiting for a standby; return the position of that in the WAL."""
    primary.live.execute("SET synchronous_commit = local")
    primary.live.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))
    return str(primary.ask("SELECT pg_current_wal_insert_lsn()"))


def _clean(standby: Client, facts: Facts, name: str, dropped: str, timeout: float) -> CheckResult:
    node = standby.instance.name
    came = arrives(standby, facts, dropped, timeout)
    if facts.apply_delay:
        evidence = f"that the table was dropped, at {dropped}, is {'' if came else 'not '}received"
        return CheckResult("clean", node, came, evidence, "" if came else reseed_cure(node))
    gone = came and standby.ask("SELECT to_regclass(%s)", name) is None
    evidence = (
        f"the table is gone here as well, at {dropped}" if gone else "the table is still here"
    )
    cure = "" if gone else reseed_cure(node)
    return CheckResult("clean", node, gone, evidence, cure)
