"""The last three checks: a row written on the primary is read on the standby, which takes none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg import sql

from pgherd.postgres.facts import Facts
from pgherd.steps.leaders import writes_refused
from pgherd.verify.arrival import arrives, delay
from pgherd.verify.checks import CheckResult, View, not_tried
from pgherd.verify.client import Client
from pgherd.verify.examine import reseed_cure

ROWS = 3
READ_ONLY = "25006"  # read_only_sql_transaction
# A probe of a run that was killed: its name has the backend that made it, and that is gone. Earlier
# versions made a table by that name, in whatever schema was first.
LEFT_BEHIND = """
SELECT statement FROM (
  SELECT nspname, format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace
  UNION ALL
  SELECT relname, format('DROP TABLE %s', pg_class.oid::regclass) FROM pg_class WHERE relkind = 'r'
) AS probe (name, statement)
WHERE name ~ '^pgherd_probe_[0-9]+_[0-9]+$' AND NOT EXISTS (
  SELECT FROM pg_stat_activity
  WHERE name = format('pgherd_probe_%s_%s', pid, extract(epoch FROM backend_start)::bigint))
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
    try:
        _make(primary, name)
        written = _write(primary, name, timeout)
        for standby in standbys:
            facts = view.facts[standby.instance.name]
            checks += _on_standby(standby, facts, name, written, timeout)
    except psycopg.Error as fault:
        leader = view.facts[view.primary or ""]
        checks = [_not_written(primary, leader, standby, fault) for standby in standbys]
        checks += [
            not_tried("write-refused", standby.instance.name, "row-seen failed")
            for standby in standbys
        ]
    finally:
        dropped, left = _dropped(primary, name)
    if left:
        return checks + [_left_behind(primary, standby, name, left) for standby in standbys]
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


def _not_written(
    primary: Client, facts: Facts, standby: Client, fault: psycopg.Error
) -> CheckResult:
    evidence, cure = f"a query failed (SQLSTATE {fault.sqlstate}): {fault}", ""
    if fault.sqlstate == READ_ONLY and facts.read_only:
        evidence, cure = writes_refused(primary.instance.name, facts.read_only)
    return CheckResult("row-seen", standby.instance.name, False, evidence, cure)


def _make(primary: Client, name: str) -> None:
    """Make a schema of its own with a table in it; it waits for no standby.

    Whoever an application's session becomes may write there (ALTER ROLE … SET role). Nothing is
    made where it could not be dropped: an event trigger may forbid the one, or the other.
    """
    schema, connection = sql.Identifier(name), primary.live
    connection.execute("SET synchronous_commit = local")
    for (statement,) in connection.execute(LEFT_BEHIND).fetchall():
        connection.execute(str(statement).encode())
    create = sql.SQL(
        "CREATE SCHEMA {0} CREATE TABLE rows (id int PRIMARY KEY, words text) "
        "GRANT INSERT ON rows TO PUBLIC"
    ).format(schema)
    with connection.transaction(force_rollback=True):
        connection.execute(create)
        connection.execute(_drop_statement(name))
    with connection.transaction():
        connection.execute(create)
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(schema))


def _write(primary: Client, name: str, timeout: float) -> tuple[str, float, str]:
    """Commit rows; return the WAL position, the time, and what hung, if any.

    It is done with an application's settings and waits as an application's commit would, under a
    watch that at its deadline cancels this wait and no other.
    """
    connection = primary.connect_application()
    insert = sql.SQL("INSERT INTO {} VALUES {}").format(
        _rows(name), sql.SQL(", ").join(sql.SQL(f"({n}, 'row {n}')") for n in range(1, ROWS + 1))
    )
    hung = _watched(connection, timeout, lambda: connection.execute(insert))
    return str(primary.ask("SELECT pg_current_wal_insert_lsn()")), time.monotonic(), hung


def _rows(name: str) -> sql.Identifier:
    return sql.Identifier(name, "rows")


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
        query = sql.SQL("SELECT count(*) FROM {}").format(_rows(name))
        row = standby.live.execute(query).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
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
    table, other = _rows(name), sql.Identifier(name, "no")
    create = sql.SQL("CREATE TABLE {} (id int)").format(other)
    if with_table:
        tries = {
            "INSERT": sql.SQL("INSERT INTO {} VALUES (0, 'no')").format(table),
            "CREATE TABLE": create,
            "ALTER TABLE": sql.SQL("ALTER TABLE {} ADD no int").format(table),
            "DROP TABLE": sql.SQL("DROP TABLE {}").format(table),
        }
    else:
        schema = sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(f"{name}_no"))
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


def _dropped(primary: Client, name: str) -> tuple[str, str]:
    """Drop the probe; return the position of that in the WAL, and why it stays, if it does."""
    try:
        return _drop(primary, name), ""
    except psycopg.Error as fault:
        with suppress(psycopg.Error):
            if primary.ask("SELECT to_regnamespace(%s)", name) is None:  # it was never made
                return str(primary.ask("SELECT pg_current_wal_insert_lsn()")), ""
        return "", f"(SQLSTATE {fault.sqlstate}): {fault}"


def _drop(primary: Client, name: str) -> str:
    """Drop the probe without waiting for a standby; return the position of that in the WAL."""
    primary.live.execute("SET synchronous_commit = local")
    primary.live.execute(_drop_statement(name))
    return str(primary.ask("SELECT pg_current_wal_insert_lsn()"))


def _drop_statement(name: str) -> sql.Composed:
    return sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name))


def _left_behind(primary: Client, standby: Client, name: str, why: str) -> CheckResult:
    node = primary.instance.name
    evidence = f"the schema {name} is left on {node}: it could not be dropped {why}"
    cure = "`invoke verify` again drops it, once it may be dropped"
    return CheckResult("clean", standby.instance.name, False, evidence, cure)


def _clean(standby: Client, facts: Facts, name: str, dropped: str, timeout: float) -> CheckResult:
    node = standby.instance.name
    came = arrives(standby, facts, dropped, timeout)
    if facts.apply_delay:
        evidence = f"that the table was dropped, at {dropped}, is {'' if came else 'not '}received"
        return CheckResult("clean", node, came, evidence, "" if came else reseed_cure(node))
    gone = came and standby.ask("SELECT to_regnamespace(%s)", name) is None
    evidence = (
        f"the table is gone here as well, at {dropped}" if gone else "the table is still here"
    )
    cure = "" if gone else reseed_cure(node)
    return CheckResult("clean", node, gone, evidence, cure)
