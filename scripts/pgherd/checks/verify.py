"""The checks by name, in the order in which they are made, and what each came to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from pgherd.checks.client_view import (
    RECEIVED_TO,
    REPLAYED_TO,
    SHOW_CERTIFICATES,
    UNTRUSTED,
    Client,
    arrives,
    connect_all,
    delay,
    replays,
)
from pgherd.checks.wal import compare_wal
from pgherd.config.sync_names import Sync
from pgherd.docker.engine import docker
from pgherd.errors import DeadlinePassed, Error, Refused
from pgherd.group.group import Group
from pgherd.group.node_config import as_asked, is_delayed, tls_conninfo
from pgherd.group.outside_data import astray
from pgherd.group.primary import writes_refused
from pgherd.group.sync_state import HUNG_SECONDS, counting, hung_long, read_sync
from pgherd.hosts.commands import assignments, command_line
from pgherd.hosts.parallel import run_all
from pgherd.postgres import scripts
from pgherd.postgres.conf import SESSION, SUPERUSER_SESSION, session_options
from pgherd.postgres.facts import Facts, ahead
from pgherd.postgres.instance import Instance

KEPT = "tablespaces"  # made only where there are some, and nothing else depends on it
EXAMINED = (
    "standby-up", "in-recovery", "same-system", "streaming", "encrypted", "sync", "replay", KEPT,
)  # fmt: skip
PROBED = ("row-seen", "write-refused", "clean")


@dataclass(frozen=True)
class CheckResult:
    """One check of one node: whether it holds, what was seen, and what to do if it does not."""

    name: str
    node: str
    ok: bool
    evidence: str
    cure: str = ""


def not_tried(name: str, node: str, reason: str) -> CheckResult:
    """Return a check that counts as failed, since it was not made."""
    return CheckResult(name, node, ok=False, evidence=f"not tried: {reason}")


Outcome = tuple[bool, str, str]  # whether it holds, the evidence, the cure


@dataclass
class View:
    """What was seen of the group: facts by node, who is primary, and the checks made of it."""

    facts: dict[str, Facts] = field(default_factory=dict)
    primary: str | None = None
    checks: list[CheckResult] = field(default_factory=list)


# --- the check `sync`: is the standby counted as the topology asks, and does no commit hang? ---

LET_GO = (
    "`invoke start` or `invoke seed-standby` bring the standby back; to let the commits go on "
    "without it: `invoke sync --off`"
)


def sync_check(group: Group, view: View, name: str) -> Outcome:
    """Return whether the standby is counted as the topology asks."""
    facts = view.facts[view.primary or ""]
    asked = group.topology.sync_for(group.instance(view.primary or "").node)
    names = facts.sync_names
    if told := hanging_commits(view):
        return told
    if read_sync(names) != asked:
        wanted = f"'{asked.render()}'" if asked else "asynchronous"
        evidence = f"synchronous_standby_names is '{names}', and the topology asks {wanted}"
        return False, evidence, "`invoke step.require-sync`"
    return _sync_state(group, facts, asked, name)


def hanging_commits(view: View) -> Outcome | None:
    """Return what is to be said of commits that wait for a standby for long; None if none does."""
    facts = view.facts.get(view.primary or "")
    hung = hung_long(facts) if facts else []
    if not facts or not hung:
        return None
    longest = max(float(w["seconds"]) for w in hung)
    what = "1 commit hangs" if len(hung) == 1 else f"{len(hung)} commits hang"
    evidence = (
        f"{what} on {view.primary}, for {longest:.0f} s: too few standbys of {facts.sync_names} "
        f"stream (process {hung[0]['pid']}: {hung[0]['query']})"
    )
    return False, evidence, LET_GO


def _sync_state(group: Group, facts: Facts, asked: Sync | None, name: str) -> Outcome:
    application = group.instance(name).node.application_name
    sender = facts.sender(application)
    if asked is None or not asked.matches(application):
        return True, "asynchronous, as the topology asks", ""
    state = sender.sync_state if sender else "not there"
    evidence = f"sync_state is {state}, with {asked.render()}"
    counted = state in {"sync", "quorum"} or (
        state == "potential" and counting(asked, facts) >= asked.count
    )
    return counted, evidence, "`invoke step.require-sync`"


# --- the first checks: everything that can be seen without writing anything ---

# A check that is made although another failed, since it tells why.
TELLS_WHY = {"in-recovery": "same-system", "sync": "replay"}
STUCK_SECONDS = 2.0  # of no replay, though there is WAL to replay
SETTLE_SECONDS = 5.0  # a standby that was just started is not streaming at once


def standbys_of(group: Group, primary: str | None) -> list[str]:
    """Return the nodes that ought to be standbys: all but the primary, asked or observed."""
    leader = primary or group.master.name
    return [name for name in group.instances if name != leader]


def examine(group: Group, clients: dict[str, Client], timeout: float) -> View:
    """Make the first checks; give a standby that is still connecting a moment."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        view = _look_once(group, clients, timeout)
        if time.monotonic() > end or not _settling(group, view):
            return view
        time.sleep(0.2)


def _settling(group: Group, view: View) -> bool:
    """Tell whether what failed may pass by itself in a moment: only a standby that connects."""
    failed = {check.name for check in view.checks if not check.ok and check.cure} - {KEPT}
    if not failed or failed - {"streaming", "sync"} or view.primary is None:
        return False
    facts = view.facts[view.primary]
    asked = group.topology.sync_for(group.instance(view.primary).node)
    return read_sync(facts.sync_names) == asked and not hung_long(facts)


def _look_twice(clients: dict[str, Client], view: View) -> View:
    """Look again after a while: a long statement may have come to its commit just now."""
    time.sleep(HUNG_SECONDS)
    again = {name: clients[name].facts() for name in view.facts}
    for name, facts in again.items():
        known = {(w["pid"], w["since"]) for w in view.facts[name].sync_waiters}
        still = tuple(w for w in hung_long(facts) if (w["pid"], w["since"]) in known)
        again[name] = replace(facts, sync_waiters=still)
    return View(again)


def _look_once(group: Group, clients: dict[str, Client], timeout: float) -> View:
    view = View({name: c.facts() for name, c in clients.items() if c.connection})
    if any(hung_long(facts) for facts in view.facts.values()):
        view = _look_twice(clients, view)
    leads = group.leader(view.facts, group.count_own(view.facts))
    view.primary = leads.name if leads else None
    for name in standbys_of(group, view.primary):
        view.checks += _examine_one(group, clients, view, name, timeout)
    return view


def _examine_one(
    group: Group, clients: dict[str, Client], view: View, name: str, timeout: float
) -> Iterator[CheckResult]:
    """Make the checks in their order; the first that fails ends them, the rest are not tried."""
    checks = {
        "standby-up": lambda: _standby_up(clients[name], view.facts.get(name)),
        "in-recovery": lambda: _in_recovery(view, name),
        "same-system": lambda: _same_system(clients, view, name),
        "streaming": lambda: _streaming(group, clients, view, name),
        "encrypted": lambda: _encrypted(group, view, name),
        "sync": lambda: sync_check(group, view, name),
        "replay": lambda: _replay(clients, view, name, timeout),
        KEPT: lambda: _tablespaces(group, view, name),
    }
    failed = ""
    for check in EXAMINED:
        if check == "encrypted" and not group.topology.encryption.on:
            continue
        if check == KEPT and not any(view.facts[n].outside for n in _both(view, name)):
            continue
        if check == "sync" and failed and (hanging := hanging_commits(view)):
            yield CheckResult(check, name, *hanging)  # told even where the standby is down
            continue
        if failed and TELLS_WHY.get(failed) != check:
            yield not_tried(check, name, f"{failed} failed")
            continue
        try:
            ok, evidence, cure = checks[check]()
        except psycopg.Error as fault:
            ok, evidence, cure = False, f"a query failed: {fault}", ""
        failed = failed or ("" if ok else check)
        yield CheckResult(check, name, ok, evidence, "" if ok else cure)


def _standby_up(client: Client, facts: Facts | None) -> Outcome:
    node = client.instance.node
    if facts is None and "password authentication failed" in client.fault:
        cure = "put the role's password into the group's postgres.password, or the file's into it"
        return False, client.fault, f"{cure}: `invoke psql` and \\password"
    if facts is None and "postgres.password is missing" in client.fault:
        return False, client.fault, "copy it from the checkout that made the group"
    if facts is None and UNTRUSTED in client.fault:
        return False, client.fault, SHOW_CERTIFICATES
    if facts is None:
        made = f"`invoke seed-standby --node {node.name}` if it was never seeded"
        return False, client.fault, f"`invoke start` if it is down; {made}"
    where = node.place
    return True, f"{where} answers, PostgreSQL {facts.version_num // 10000}", ""


def _in_recovery(view: View, name: str) -> Outcome:
    if view.facts[name].in_recovery:
        return True, "pg_is_in_recovery() is true", ""
    mine, leader = view.facts[name], view.primary or ""
    evidence = (
        f"it is a second primary, of timeline {mine.timeline}, and {leader} is at "
        f"{view.facts[leader].timeline}: pg_is_in_recovery() is false, it takes writes of its own"
    )
    cure = (
        f"`invoke rejoin {name}` fences it, keeps aside what it has of its own, and lets it follow "
        f"{leader}"
    )
    return False, evidence, cure


def _same_system(clients: dict[str, Client], view: View, name: str) -> Outcome:
    if view.primary is None:
        faults = [client.fault for client in clients.values() if client.fault]
        fault = "; ".join(faults) or "every node is in recovery"
        cure = SHOW_CERTIFICATES if UNTRUSTED in fault else "`invoke start`"
        return False, f"no primary to compare with: {fault}", cure
    mine = view.facts[name].system_identifier
    theirs = view.facts[view.primary].system_identifier
    if mine == theirs:
        return True, f"system identifier {mine}, as on {view.primary}", ""
    return (
        False,
        f"it belongs to another system: {mine}, and {view.primary} is {theirs}",
        f"`invoke seed-standby --node {name} --set-aside`",
    )


def _upstream(group: Group, view: View, name: str) -> str:
    asked = group.instance(name).node.upstream
    if asked is None or asked == group.master.name:
        return view.primary or group.master.name
    return asked


def _streaming(group: Group, clients: dict[str, Client], view: View, name: str) -> Outcome:
    upstream = _upstream(group, view, name)
    application = group.instance(name).node.application_name
    facts = view.facts.get(upstream)
    sender = facts.sender(application) if facts else None
    receives = view.facts[name].receiver is not None
    evidence = f"pg_stat_replication of {upstream} has no row for {application}"
    if sender:
        evidence = f"{upstream} has {application}, {sender.state}, sent to {sender.sent}"
        evidence += "" if receives else f", but {name} itself receives nothing"
    if sender and sender.streaming and receives:
        return True, evidence, ""
    if view.facts[name].apply_delay and not receives:
        evidence += (
            f"; it is delayed by {delay(view.facts[name])}, and connects only when it has "
            "replayed what it has received before"
        )
    if diverged := _divergence(clients, view, name):
        return False, f"{evidence}; diverged: {diverged}", rebuild_hint(name)
    return (
        False,
        evidence,
        f"`invoke seed-standby --node {name}`; `invoke logs --node {name}` tells why",
    )


def _encrypted(group: Group, view: View, name: str) -> Outcome:
    """Return whether the upstream sees the standby come by TLS, and the standby verified it."""
    upstream, instance = _upstream(group, view, name), group.instance(name)
    sender = view.facts[upstream].sender(instance.node.application_name)
    verified = as_asked(instance, view.facts[name])
    cure = f"`invoke step.allow-replication`, then `invoke rejoin {name}`"
    if sender is None or sender.tls is None:
        return False, f"{upstream} sends to {name} in clear: pg_stat_ssl has no TLS", cure
    way = " ".join(f"{key}={value}" for key, value in tls_conninfo(view.facts[name]).items())
    evidence = f"{upstream} sends by {sender.tls}, {sender.cipher}; {name} has {way or 'nothing'}"
    return verified, evidence, cure


def _divergence(clients: dict[str, Client], view: View, name: str) -> str:
    """Return how a standby that does not stream has gone its own way; empty if nothing tells so."""
    standby, primary = clients[name], clients[view.primary or ""]
    replayed = str(standby.ask("SELECT pg_last_wal_replay_lsn()"))
    if ahead(replayed, str(primary.ask("SELECT pg_current_wal_flush_lsn()"))):
        return f"it has replayed to {replayed}, where {view.primary} has not come yet"
    same, extent = compare_wal(primary, standby, replayed)
    if not same:
        return extent
    if view.facts[name].apply_delay:
        return ""  # that it does not replay what it has is as it should be
    # The stream may have written the primary's bytes over its own, which it replayed before.
    received = str(standby.ask(f"SELECT {RECEIVED_TO}"))
    if ahead(received, replayed) and not replays(standby, received, STUCK_SECONDS):
        return f"it has WAL to {received}, and none of it fits what it replayed to {replayed}"
    return ""


def _replay(clients: dict[str, Client], view: View, name: str, timeout: float) -> Outcome:
    rebuild = rebuild_hint(name)
    if view.facts[name].replay_paused:
        resume = 'psql --command "SELECT pg_wal_replay_resume()"'
        return False, "replay is paused", f"`invoke {resume} --node {name}`"
    standby, primary, facts = clients[name], clients[view.primary or ""], view.facts[name]
    replayed = str(standby.ask("SELECT pg_last_wal_replay_lsn()"))
    target = str(primary.ask("SELECT pg_current_wal_flush_lsn()"))  # asked after: never behind
    if ahead(replayed, target):
        return (
            False,
            f"diverged: it has replayed to {replayed}, and {view.primary} is only at {target}",
            rebuild,
        )
    if not arrives(standby, facts, target, timeout):
        at = standby.ask(f"SELECT {RECEIVED_TO if facts.apply_delay else REPLAYED_TO}")
        did = "receipt" if facts.apply_delay else "replay"
        evidence = f"{did} is at {at} after {timeout:g} s, and {view.primary} was at {target}"
        return False, evidence, f"`invoke logs --node {name}` tells why; {rebuild}"
    same, extent = compare_wal(primary, standby, target)
    evidence = f"replayed to {target}, as far as {view.primary}; {extent}"
    if facts.apply_delay:
        evidence = (
            f"received to {target}, as far as {view.primary}, and replayed {delay(facts)} later: "
            f"it is at {replayed} now; {extent}"
        )
    return same, evidence if same else f"diverged: {extent}", rebuild


def _both(view: View, name: str) -> list[str]:
    """Return the primary and a standby, as far as they answer."""
    return [n for n in (view.primary, name) if n and n in view.facts]


def _tablespaces(group: Group, view: View, name: str) -> Outcome:
    """Return whether all tablespaces lie where the topology declares a place, on both sides."""
    told = [(n, one) for n in _both(view, name) for one in view.facts[n].outside]
    for node, one in told:
        if astray(group.instance(node).node, [one]):
            evidence = f"on {node} {one.what} is at {one.path}, in no place that is declared for it"
            return False, evidence, "`invoke status` tells the way out"
    paths = ", ".join(dict.fromkeys(one.path for _, one in told))
    return True, f"what lies outside the data directory is in places of its own: {paths}", ""


def rebuild_hint(name: str) -> str:
    """Return what to do about a standby that is not a copy of its primary any more."""
    return f"`invoke seed-standby --node {name} --rebuild --allow-async`"


# --- the probe: a row is written and read, a write is refused ---

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
    hung = _watch(connection, timeout, lambda: connection.execute(insert))
    return str(primary.ask("SELECT pg_current_wal_insert_lsn()")), time.monotonic(), hung


def _rows(name: str) -> sql.Identifier:
    return sql.Identifier(name, "rows")


def _watch(
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
    return CheckResult("row-seen", node, False, evidence, rebuild_hint(node))


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
    cure = rebuild_hint(standby.instance.name)
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
        return CheckResult("clean", node, came, evidence, "" if came else rebuild_hint(node))
    gone = came and standby.ask("SELECT to_regnamespace(%s)", name) is None
    evidence = (
        f"the table is gone here as well, at {dropped}" if gone else "the table is still here"
    )
    cure = "" if gone else rebuild_hint(node)
    return CheckResult("clean", node, gone, evidence, cure)


# --- proof that the group replicates, as a client of its published ports would see it ---

# First everything is examined and nothing is changed. Only if all of that holds, a table is made on
# the primary, its rows are waited for and read on each standby, and writes to the standbys are
# tried; the table is gone afterwards. Every wait has a deadline: `verify` never hangs.

LOG_SECONDS = 10.0
# The lines that the tutorial looks for, in the words of 14 to 18 in English.
PRIMARY_LINES = (r"is now a (?:synchronous standby|candidate for quorum)",)
STANDBY_LINES = (
    r"entering standby mode",
    r"ready to accept read-only connections",
    r"started streaming WAL from primary",
)


@dataclass(frozen=True)
class Verdict:
    """What was proven of a group, check by check, and the log lines that go with it."""

    group: str
    checks: list[CheckResult]
    seconds: float
    log: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every check passed, and there was one at least."""
        return bool(self.checks) and all(check.ok for check in self.checks)


def verify(group: Group, timeout: float = 15.0) -> Verdict:
    """Check the group from outside; `timeout` is for each single wait, in seconds.

    Raises:
        Refused: the topology has no standby.
        Error: it has none, and its one node does not answer.
    """
    started = time.monotonic()
    with connect_all(group) as clients:
        silent = clients[group.master.name].fault
        if silent and not group.topology.standbys:
            down = "`invoke start` if it is down"
            raise Error(f"{silent}\n{SHOW_CERTIFICATES if UNTRUSTED in silent else down}.")
        _refuse_alone(group)
        view, checks = _run_checks(group, clients, timeout)
    order = [*EXAMINED, *PROBED]
    checks.sort(key=lambda check: order.index(check.name))
    log = _log_lines(group, view.primary) if all(check.ok for check in checks) else {}
    return Verdict(group.name, checks, time.monotonic() - started, log)


def _refuse_alone(group: Group) -> None:
    if not group.topology.standbys:
        raise Refused(
            f"{group.name} has no standby to verify: give its topology file a table "
            f'`[nodes.NAME]` with `upstream = "{group.master.name}"`, then `invoke add-standby '
            "NAME`."
        )


def _run_checks(
    group: Group, clients: dict[str, Client], timeout: float
) -> tuple[View, list[CheckResult]]:
    view = examine(group, clients, timeout)
    if view.primary and all(check.ok for check in view.checks if check.name != KEPT):
        return view, view.checks + probe(clients, view, timeout)
    rest = [
        not_tried(name, node, "an examination failed, so nothing was written")
        for node in standbys_of(group, view.primary)
        for name in PROBED
    ]
    return view, view.checks + rest


def as_script(group: Group) -> str:
    """Return the checks as shell text, for each standby of the topology as it is asked for.

    Raises:
        Refused: the topology has no standby.
    """
    _refuse_alone(group)
    primary = group.master
    return "\n".join(
        assignments(
            primary=primary.name, standby=node.name, delayed=_delayed_nodes(group, node.name)
        )
        + _way("on_primary", primary)
        + _way("on_standby", group.instance(node.name))
        + scripts.fragment("proof")
        for node in group.topology.standbys
    )


def _delayed_nodes(group: Group, name: str) -> str:
    return "yes" if is_delayed(group.instance(name)) else ""


def _way(name: str, instance: Instance) -> str:
    """Return a shell function that hands its stdin to psql in a node's container."""
    options = session_options({**SESSION, **SUPERUSER_SESSION})
    words = ["docker", "exec", "-i", "--user", "postgres", "--env", f"PGOPTIONS={options}"]
    words += ["--env", f"PGDATABASE={instance.database or 'postgres'}"]
    words += [instance.name, "psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate"]
    return f"{name}() {{ {command_line(words, instance.host.over)}; }}\n"


def _log_lines(group: Group, primary: str | None) -> dict[str, list[str]]:
    """Return the tutorial's log lines; the primary's comes with the write that was just made."""

    def lines(instance: Instance) -> list[str]:
        wanted = PRIMARY_LINES if instance.name == primary else STANDBY_LINES
        found: dict[str, str] = {}

        def look(line: str) -> None:
            found.update({pattern: line for pattern in wanted if re.search(pattern, line)})

        with suppress(DeadlinePassed):  # a log of many GB: what was found by then has to do
            instance.engine.run(
                docker["logs", instance.name], timeout=LOG_SECONDS, on_line=look, reads=True
            )
        return [found[pattern] for pattern in wanted if pattern in found]

    instances = list(group.instances.values())
    return dict(zip(group.instances, run_all(lines, instances), strict=True))
