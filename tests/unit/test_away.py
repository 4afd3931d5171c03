"""What is decided while a host cannot be reached: who may be primary there, who may not here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import (
    ANSWER,
    FakeHost,
    Said,
    facts,
    group,
    observation,
    sender,
    standby_facts,
    topology,
)

from pgherd.errors import Refused, Unreachable
from pgherd.group.group import Group
from pgherd.group.node_config import conninfo
from pgherd.operations.data_loss import choose_standby
from pgherd.operations.failover import detach_standbys
from pgherd.operations.switchover import refuse_cut_short
from pgherd.postgres.facts import Facts
from pgherd.security.authority import Certificates

FAR = {"host": "box", "listen": "10.0.0.1"}
EXEC = "docker exec --interactive --user postgres"


def spanning(host: FakeHost | None = None, away: str = "box") -> Group:
    """A group whose standby s2 is on a host that is away, or is not."""
    here = {"listen": "10.0.0.2"}
    made = group(topology("s1", "s2", pa=here, s1=here, s2=FAR), host)
    if away:
        made.away[away] = f"{away} cannot be reached by SSH."
    return made


def standby(group: Group, name: str, upstream: str) -> Facts:
    """A standby that follows another node of the group as it ought to."""
    info = conninfo(group.instance(name), group.instance(upstream))
    return standby_facts(primary_conninfo=info, primary_slot=name)


def test_a_standby_whose_host_is_away_cannot_be_chosen() -> None:
    with pytest.raises(Unreachable, match="box cannot be reached"):
        choose_standby(spanning(), "s2", observation(pa=None, s1=standby_facts(), s2=None))


@pytest.mark.parametrize("away", ["box", ""])
def test_a_switchover_that_was_cut_short(away: str) -> None:
    made = spanning(away=away)
    seen = observation(pa=facts(sender("s1"), marked=True), s1=standby_facts(), s2=standby_facts())
    if away:
        with pytest.raises(Refused, match="s2 cannot be asked: it may wait for the end of pa"):
            refuse_cut_short(made, made.instance("pa"), seen)
    else:  # what waits there ends when the turn is taken
        refuse_cut_short(made, made.instance("pa"), seen)


def test_where_nothing_was_cut_short_nothing_is_refused() -> None:
    made = spanning()
    seen = observation(pa=facts(sender("s1")), s1=standby_facts(), s2=None)
    refuse_cut_short(made, made.instance("pa"), seen)


@pytest.fixture
def parting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[], tuple[FakeHost, Group]]:
    """A group whose standbys both follow a primary that cannot be reached."""

    def make() -> tuple[FakeHost, Group]:
        asked = Said(json.dumps({**ANSWER, "in_recovery": True}))
        has = Said("has 0/3000000\n")
        host = FakeHost({EXEC: [has, Said(), asked, has, Said(), asked, Said()]})
        made = spanning(host, "")
        made.certificates = Certificates(tmp_path, made.topology, made.trace, Path)
        again = observation(pa=None, s1=standby_facts(), s2=standby_facts())
        monkeypatch.setattr(made, "observe", lambda: again)
        monkeypatch.setattr("pgherd.operations.followers.prepare", lambda *_: None)
        return host, made

    return make


def test_the_others_let_go_of_a_lost_primary_and_go_back_where_it_is_not_replaced(
    parting: Callable[[], tuple[FakeHost, Group]],
) -> None:
    host, made = parting()
    former, successor = made.instance("pa"), made.instance("s1")
    seen = observation(pa=None, s1=standby(made, "s1", "pa"), s2=standby(made, "s2", "pa"))
    with detach_standbys(made, former, successor, seen) as later:
        assert later is not seen
    call, caught_up, looked = host.calls
    assert looked.argv[5] == "s1"  # last: what the others have from it by then, it has too
    assert (caught_up.argv[5], "0/3000000" in caught_up.stdin) == ("s1", True)
    assert call.argv[5] == "s2"
    assert "port=5433" in call.stdin
    assert "pg_stat_wal_receiver WHERE pid" in call.stdin
    host.calls.clear()

    def refused() -> None:
        with detach_standbys(made, former, successor, seen):
            raise Refused("too much would be lost")

    with pytest.raises(Refused):
        refused()
    away, _, _, back = host.calls
    assert "port=5433" in away.stdin
    assert "port=5432" in back.stdin
