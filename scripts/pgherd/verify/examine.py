"""The first checks: everything that can be seen without writing anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg

from pgherd.postgres.facts import Facts, ahead
from pgherd.postgres.group import Group
from pgherd.steps.outside import astray
from pgherd.steps.sync import HUNG_SECONDS, hung_long, read_sync
from pgherd.steps.tls.laid import as_asked, told
from pgherd.verify.arrival import RECEIVED_TO, REPLAYED_TO, arrives, delay, replays
from pgherd.verify.checks import EXAMINED, KEPT, CheckResult, Outcome, View, not_tried
from pgherd.verify.client import SHOW_CERTIFICATES, UNTRUSTED, Client
from pgherd.verify.synchronous import hanging as hung
from pgherd.verify.synchronous import sync_check
from pgherd.verify.wal import compare_wal

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
        view = _once(group, clients, timeout)
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


def _seen_twice(clients: dict[str, Client], view: View) -> View:
    """Look again after a while: a long statement may have come to its commit just now."""
    time.sleep(HUNG_SECONDS)
    again = {name: clients[name].facts() for name in view.facts}
    for name, facts in again.items():
        known = {(w["pid"], w["since"]) for w in view.facts[name].sync_waiters}
        still = tuple(w for w in hung_long(facts) if (w["pid"], w["since"]) in known)
        again[name] = replace(facts, sync_waiters=still)
    return View(again)


def _once(group: Group, clients: dict[str, Client], timeout: float) -> View:
    view = View({name: c.facts() for name, c in clients.items() if c.connection})
    if any(hung_long(facts) for facts in view.facts.values()):
        view = _seen_twice(clients, view)
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
        if check == "sync" and failed and (hanging := hung(view)):
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
        return False, f"{evidence}; diverged: {diverged}", reseed_cure(name)
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
    way = " ".join(f"{key}={value}" for key, value in told(view.facts[name]).items())
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
    reseed = reseed_cure(name)
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
            reseed,
        )
    if not arrives(standby, facts, target, timeout):
        at = standby.ask(f"SELECT {RECEIVED_TO if facts.apply_delay else REPLAYED_TO}")
        did = "receipt" if facts.apply_delay else "replay"
        evidence = f"{did} is at {at} after {timeout:g} s, and {view.primary} was at {target}"
        return False, evidence, f"`invoke logs --node {name}` tells why; {reseed}"
    same, extent = compare_wal(primary, standby, target)
    evidence = f"replayed to {target}, as far as {view.primary}; {extent}"
    if facts.apply_delay:
        evidence = (
            f"received to {target}, as far as {view.primary}, and replayed {delay(facts)} later: "
            f"it is at {replayed} now; {extent}"
        )
    return same, evidence if same else f"diverged: {extent}", reseed


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


def reseed_cure(name: str) -> str:
    """Return what to do about a standby that is not a copy of its primary any more."""
    return f"`invoke seed-standby --node {name} --reseed --async-meanwhile`"
