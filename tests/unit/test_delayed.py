"""Verify of a standby that is delayed: judged by what it received, and able to fail."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from fakes import facts, group, sender, standby_facts, topology
from psycopg.errors import ReadOnlySqlTransaction

from pgherd.checks.client_view import RECEIVED, REPLAYED, Client, delay
from pgherd.checks.verify import CheckResult, View
from pgherd.postgres.conf import lsn_to_int
from pgherd.postgres.facts import Facts

if TYPE_CHECKING:
    from pgherd.client import Connection

probe = import_module("pgherd.checks.verify")  # the package has a function of that name
LATE = standby_facts(apply_delay=300000)


class Server:
    """A standby that has replayed and received up to somewhere; or a primary that is there."""

    def __init__(self, replayed: str, received: str, refuses: bool = True) -> None:
        self.replayed, self.received, self.refuses = replayed, received, refuses
        self.tried: list[str] = []

    def execute(self, query: Any, values: Any = None) -> SimpleNamespace:
        """Answer a question for a position; refuse all else, unless it takes writes."""
        text = query.decode() if isinstance(query, bytes) else query.as_string(None)
        if text in (REPLAYED, RECEIVED):
            at = self.replayed if text == REPLAYED else max(self.replayed, self.received)
            row: Any = (lsn_to_int(at) >= lsn_to_int(values[0]),)
        elif text.startswith(("SELECT pg_current_wal_flush_lsn", "SELECT pg_last_wal_receive")):
            row = (self.received,)
        elif text.startswith("SELECT greatest"):
            row = (max(self.received, self.replayed),)
        elif text.startswith("SELECT pg_last_wal_replay"):
            row = (self.replayed,)
        else:
            self.tried.append(text)
            if self.refuses:
                raise ReadOnlySqlTransaction
            row = None
        return SimpleNamespace(fetchone=lambda: row)


def client(server: Server, node: str = "s1") -> Client:
    instance = group(topology("s1")).instance(node)
    return Client(instance, cast("Connection", server))


def replay(late: Facts, received: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    examine = import_module("pgherd.checks.verify")
    monkeypatch.setattr(examine, "compare_wal", lambda *_: (True, "the same"))
    view = View({"pa": facts(sender("s1")), "s1": late}, "pa")
    clients = {
        "pa": client(Server("0/5000000", "0/5000000"), "pa"),
        "s1": client(Server("0/3000000", received)),
    }
    ok, evidence, _ = examine._replay(clients, view, "s1", 0.01)
    return ok, evidence


def test_what_it_received_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ok, evidence = replay(LATE, "0/5000000", monkeypatch)
    assert ok
    assert evidence.startswith("received to 0/5000000, as far as pa, and replayed 5 min later: it ")
    assert "0/3000000" in evidence


def test_one_that_has_not_received_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ok, evidence = replay(LATE, "0/4000000", monkeypatch)
    assert not ok
    assert evidence == "receipt is at 0/4000000 after 0.01 s, and pa was at 0/5000000"


def test_without_a_delay_it_has_to_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    ok, evidence = replay(standby_facts(), "0/5000000", monkeypatch)
    assert not ok
    assert evidence.startswith("replay is at 0/3000000")


def row_seen(received: str) -> CheckResult:
    standby = client(Server("0/3000000", received))
    found = probe._row_seen(standby, LATE, "t", ("0/5000000", 0.0, ""), 0.01)
    return cast("CheckResult", found)


def test_a_row_is_seen_by_its_position() -> None:
    seen = row_seen("0/5000000")
    assert seen.ok
    assert "they will be visible after its delay of 5 min" in seen.evidence
    missing = row_seen("0/4000000")
    assert not missing.ok
    assert "not received there" in missing.evidence


def test_writes_that_need_no_table_are_tried() -> None:
    server = Server("0/3000000", "0/5000000")
    assert probe._write_refused(client(server), "t", with_table=False).ok
    assert server.tried == ['CREATE TABLE "t"."no" (id int)', 'CREATE SCHEMA "t_no"']
    taken = Server("0/3000000", "0/5000000", refuses=False)
    assert not probe._write_refused(client(taken), "t", with_table=False).ok


@pytest.mark.parametrize(("received", "ok"), [("0/5000000", True), ("0/4000000", False)])
def test_clean_is_judged_by_what_was_received(received: str, ok: bool) -> None:
    standby = client(Server("0/3000000", received))
    found = probe._clean(standby, LATE, "t", "0/5000000", 0.01)
    assert found.ok is ok
    assert ("is not received" in found.evidence) is not ok


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [(300000, "5 min"), (7200000, "2 h"), (90000, "90 s"), (250, "0.25 s")],
)
def test_a_delay_is_said(milliseconds: int, said: str) -> None:
    assert delay(standby_facts(apply_delay=milliseconds)) == said
