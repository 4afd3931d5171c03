"""How long writes are refused while the primary changes, with connections that are not real."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import psycopg
import pytest
from fakes import FakeHost, group, topology

from pgherd.config import loader
from pgherd.errors import Unreachable
from pgherd.operations import switchover
from pgherd.operations.data_loss import DataLoss
from pgherd.operations.failover import FailedOver
from pgherd.operations.switchover import COMMIT, TRY, Outage, Switched
from pgherd.report import changes


class Server:
    """A connection: the old primary's, which breaks, or the new one's, which takes writes later."""

    def __init__(self) -> None:
        self.broken, self.leads, self.held = (threading.Event() for _ in range(3))
        self.asked: list[str] = []
        self.closed = 0

    def execute(self, query: bytes) -> SimpleNamespace:
        """Commit, or tell that it is in recovery."""
        text = query.decode()
        self.asked.append(text)
        if self.held.is_set():  # a commit that waits for a standby: until the connection is cut
            self.broken.wait(10)
        if self.broken.is_set():
            raise psycopg.OperationalError("server closed the connection")
        row = ("0/1",) if text == COMMIT or self.leads.is_set() else (None,)
        return SimpleNamespace(fetchone=lambda: row)

    def close(self) -> None:
        """Count it."""
        self.closed += 1


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Server]:
    found = {"pa": Server(), "s1": Server()}
    monkeypatch.setattr(switchover, "connect", lambda _group, instance, _name: found[instance.name])
    monkeypatch.setattr(switchover, "cut", lambda connection: connection.broken.set())
    monkeypatch.setattr(loader, "forget_libpq_variables", lambda: None)
    monkeypatch.setattr(switchover, "LAST_COMMIT_SECONDS", 0.3)
    return found


def watch(*, dry: bool = False) -> Outage:
    made = group(topology("s1"), FakeHost(dry=dry))
    return Outage(made, made.master, made.instance("s1"))


def until(true: object) -> None:
    """Wait a moment for the other thread."""
    end = time.monotonic() + 5
    while not true() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)


def test_it_is_the_time_between_two_commits(servers: dict[str, Server]) -> None:
    with watch() as outage:
        until(lambda: len(servers["pa"].asked) > 2)
        servers["pa"].broken.set()
        until(lambda: len(servers["s1"].asked) > 2)  # it is a standby still
        time.sleep(0.05)
        servers["s1"].leads.set()
        begun = time.monotonic()
        seconds = outage.seconds()
    assert seconds is not None
    assert 0.05 < seconds < 5
    assert abs(outage.resumed_at - begun) < 1
    assert set(servers["pa"].asked) == {COMMIT}
    assert set(servers["s1"].asked) == {TRY}
    assert [server.closed for server in servers.values()] == [1, 1]


def test_the_new_one_is_not_written_to_while_the_old_one_serves(
    servers: dict[str, Server],
) -> None:
    servers["s1"].leads.set()
    with watch():
        until(lambda: len(servers["pa"].asked) > 2)
        assert servers["s1"].asked == []


def test_where_the_first_commit_does_not_come_nothing_is_told(servers: dict[str, Server]) -> None:
    with watch() as outage:
        until(lambda: servers["pa"].asked)
        servers["pa"].broken.set()
        assert outage.seconds() is None


def test_a_commit_that_hangs_does_not_hold_up_the_end(servers: dict[str, Server]) -> None:
    servers["pa"].held.set()
    begun = time.monotonic()
    with watch():
        until(lambda: servers["pa"].asked)
    assert time.monotonic() - begun < 5
    assert servers["pa"].closed == 1


@pytest.mark.parametrize("fault", [psycopg.OperationalError("refused"), Unreachable("cut off")])
def test_where_it_cannot_connect_it_tells_nothing(
    fault: Exception, servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise fault

    monkeypatch.setattr(switchover, "connect", refuse)
    with watch() as outage:
        assert outage.seconds() is None
    assert servers["pa"].asked == []


def test_with_dry_nobody_is_connected_to(servers: dict[str, Server]) -> None:
    with watch(dry=True) as outage:
        assert outage.seconds() is None
    assert [server.closed for server in servers.values()] == [0, 0]


def test_a_fault_within_is_not_hidden(servers: dict[str, Server]) -> None:
    with pytest.raises(ZeroDivisionError), watch():
        raise ZeroDivisionError
    assert servers["pa"].closed == 1


# --- what is said of it ---


def test_what_came_of_a_switchover() -> None:
    said = changes.switchover_text(Switched("s1", "pa", "0/3000028", 0.1834, 1.25))
    assert "switchover from pa to s1: writes were refused for 0.18 s" in said
    assert "s1 has the last that pa wrote, its shutdown checkpoint at 0/3000028" in said
    assert "1.2 s" in said
    bare = changes.switchover_text(Switched("s1", "pa", None, None, None))
    assert bare == (
        "switchover from pa to s1: for how long writes were refused could not be watched"
    )
    assert changes.switchover_text(None) == "nothing was to be changed"


def test_what_came_of_a_failover() -> None:
    loss = DataLoss(310, 2, acknowledged=True, sync=False)
    said = changes.failover_text(FailedOver("s1", "pa", loss, 1.234))
    assert said == (
        "failover from pa to s1: 1.23 s until the promotion\n"
        "pa: 310 bytes of its WAL, 2 commits, will be lost; `invoke rejoin pa` brings it back"
    )
    nobody = changes.failover_text(FailedOver("s1", None, DataLoss(0, None, False, False), 1.0))
    assert nobody == "failover to s1: 1.00 s until the promotion"
    assert changes.failover_text(None) == "nothing was to be changed"


def test_one_of_standbys_only_took_nobodys_place() -> None:
    said = changes.switchover_text(Switched("s1", None, None, None, None))
    assert said == "s1 is primary: all were standbys, and it had what they had"
