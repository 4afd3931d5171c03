"""Who leads, who follows whom, who is waited for: decided by what was observed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import psycopg
import pytest
from fakes import (
    OURS,
    FakeHost,
    Said,
    container,
    facts,
    group,
    observation,
    sender,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.checks import client_view, verify
from pgherd.checks.client_view import Client
from pgherd.checks.verify import View, _look_twice, examine
from pgherd.config import loader
from pgherd.config.sync_names import Sync
from pgherd.docker.models import Container
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable
from pgherd.group import sync_state
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.hosts.commands import Secret
from pgherd.operations import sync
from pgherd.postgres.facts import Facts

if TYPE_CHECKING:
    from pgherd.client import Connection

S1, S2 = sender("s1"), sender("s2")


def waiter(**changes: object) -> dict[str, object]:
    """A commit that waits for a standby."""
    return {"pid": 9, "since": "12:00:00", "seconds": 60.4, "query": "COMMIT"} | changes


CATCHING_UP = sender("s1", state="catchup")


# --- step 10 ---


@pytest.mark.parametrize(
    ("asked", "senders", "found"),
    [
        ("s1", [S1, S2], 1),
        ("*", [S1, S2], 2),
        ("S1, s2", [S1, S2], 2),
        ("s1", [CATCHING_UP], 0),
        ("*", [S1, sender("S1")], 1),  # one that connects twice is one standby
        ("s3", [S1, S2], 0),
    ],
)
def test_counting(asked: str, senders: list[Facts], found: int) -> None:
    assert sync_state.counting(Sync.parse(asked), facts(*senders)) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "senders", "waits"),
    [
        ("FIRST 1 (s1)", [S1], True),
        ("FIRST 1 (S1)", [S1], True),
        ("FIRST 1 (s1, s2)", [S1, S2], False),
        ("ANY 2 (s1, s2)", [S1, S2], True),
        ("FIRST 1 (s2)", [S1, S2], False),
        ("FIRST 1 (s1)", [CATCHING_UP], False),  # they wait already: no worse without it
        ("FIRST 2 (s1)", [S1], False),
        ("", [S1], False),
    ],
)
def test_waits_for(names: str, senders: list[Facts], waits: bool) -> None:
    found = facts(*senders, sync_names=names)  # type: ignore[arg-type]
    assert sync_state.waits_for(found, "s1") is waits


@pytest.mark.parametrize(("names", "read"), [("", None), (" ", None), ("FIRST 2 (a)", None)])
def test_a_list_that_no_topology_asks_for(names: str, read: None) -> None:
    assert sync_state.read_sync(names) is read


def required(
    asked: str, found: Facts | None, *, defer: bool = True, plan: dict[str, Said] | None = None
) -> list[str]:
    """Make step 10 on the primary; return the scripts that it ran there."""
    host = FakeHost(plan)
    made = group(topology("s1", "s2", sync=asked), host)
    sync.require_sync(made, made.master, found, defer=defer)
    assert all(call.argv[:2] == ("docker", "exec") for call in host.calls)
    return [call.stdin for call in host.calls]


EXEC = {"docker exec --interactive --user postgres pa sh -s": Said()}


def test_sync_is_required_once_enough_stream(capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = required("ANY 2 (s1, s2)", facts(S1, S2), plan=EXEC)
    assert "names=''\"'\"'ANY 2 (s1, s2)'\"'\"''\ncount=2\nseconds=60\n" in script
    assert capsys.readouterr().err == "pa: synchronous: ANY 2 (s1, s2)\n"


def test_sync_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert required("s1", facts(S1, sync_names="FIRST 1 (s1)")) == []
    assert required("", facts(S1)) == []
    assert capsys.readouterr().err.splitlines() == [
        "pa: already synchronous: FIRST 1 (s1)",
        "pa: already asynchronous, as asked",
    ]


def test_sync_is_taken_back() -> None:
    (script,) = required("", facts(S1, sync_names="FIRST 1 (s1)"), plan=EXEC)
    assert "count=0\n" in script


def test_too_few_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert required("ANY 2 (s1, s2)", facts(S1)) == []
    wanted = "pa: ANY 2 (s1, s2) needs 2 standbys that stream, and 1 do"
    assert capsys.readouterr().err == f"{wanted}; it stays as it is until then\n"
    with pytest.raises(Refused) as caught:
        required("ANY 2 (s1, s2)", facts(S1), defer=False)
    assert caught.value.sentence.startswith(f"{wanted}. Set now, it would make every commit wait")


def test_on_another_primary_its_own_name_is_the_former_ones() -> None:
    host = FakeHost({"docker exec": Said()})
    made = group(topology("s1", "s2", sync="s1"), host)
    sync.require_sync(made, made.instance("s1"), facts(sender("pa")), defer=False)
    assert "FIRST 1 (pa)" in host.calls[0].stdin


def test_commits_that_wait_are_said() -> None:
    host = FakeHost({"docker exec": Said(code=75), "docker logs": Said(err="the last words\n")})
    with pytest.raises(DeadlinePassed) as caught:
        sync.wait_counting(group(topology("s1"), host).master, "FIRST 1 (s1)")
    assert caught.value.sentence.startswith(
        "pa is synchronous (FIRST 1 (s1)), too few standbys stream after 60 s, and commits wait."
    )
    assert "  | the last words" in caught.value.sentence


# --- who leads ---


@pytest.fixture
def trio() -> Group:
    return group(topology("s1", "s2", "s3", s3={"upstream": "s2"}))


def test_the_primary_is_the_one_observed(trio: Group) -> None:
    seen = observation(pa=standby_facts(), s1=facts(), s2=standby_facts(), s3=None)
    assert seen.primaries == ["s1"]
    assert trio.primary(seen).name == "s1"


def test_followers_follow_the_primary_observed(trio: Group) -> None:
    seen = observation(pa=standby_facts(), s1=facts(), s2=standby_facts(), s3=standby_facts())
    followed = {
        name: trio.upstream_of(trio.instance(name), ["s1"], seen).name for name in ("pa", "s2")
    }
    assert followed == {"pa": "s1", "s2": "s1"}
    assert trio.upstream_of(trio.instance("s3"), ["s1"], seen).name == "s2"  # a cascade stays


def test_two_primaries_are_refused(trio: Group) -> None:
    seen = observation(pa=facts(), s1=facts(), s2=None, s3=None)
    with pytest.raises(Refused, match=r"2 nodes are primary .* pa leads"):
        trio.primary(seen)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            NodeObservation(None, None),
            "pa does not run yet: `invoke setup-master` makes it; or `invoke",
        ),
        (
            NodeObservation(container("pa", status="exited"), None),
            "No node of g is primary (pa is exited)",
        ),
        (
            NodeObservation(container("pa"), None, "psql: error"),
            "pa does not answer, and may be the primary: `invoke logs",
        ),
        (
            NodeObservation(container("pa", status="paused"), None, "x"),
            "pa is paused, and may be the primary",
        ),
    ],
)
def test_no_primary_is_said(trio: Group, found: NodeObservation, sentence: str) -> None:
    with pytest.raises(Refused) as caught:
        trio.primary(Observation({"pa": found}, {}))
    assert caught.value.sentence.startswith(sentence)


def test_dry_counts_on_the_master_that_will_run(trio: Group) -> None:
    planned = NodeObservation(container("pa", planned=True), None)
    assert trio.primary(Observation({"pa": planned}, {})).name == "pa"


def test_an_unknown_node_is_refused(trio: Group) -> None:
    with pytest.raises(Refused, match="no node 'x' in group g: it has pa, s1, s2, s3"):
        trio.instance("x")


# --- verify ---


class Server:
    """A connection that answers the few questions of verify from facts."""

    def __init__(self, found: Facts) -> None:
        self.found = found

    def execute(self, query: bytes, values: object = None) -> SimpleNamespace:
        """Answer: positions are equal everywhere, and there is one WAL file."""
        answers: dict[str, object] = {
            "SELECT pg_last_wal_replay_lsn()": self.found.lsn,
            "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())": self.found.lsn,
            "SELECT pg_current_wal_flush_lsn()": self.found.lsn,
            "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn": True,
        }
        text = query if isinstance(query, str) else query.decode()
        row: tuple[object, ...] | None
        if "walfile" in text:
            row = ("000000010000000000000003", 4096)
        elif "pg_ls_waldir" in text:
            row = ([],)
        elif "wal_segment_size" in text:
            row = (16777216,)
        elif ".history" in text:
            row = (None,)  # the first timeline has no such file
        else:
            row = ("a sum" if "md5" in text else answers[text],)
        return SimpleNamespace(fetchone=lambda: row, values=values)


def clients(made: Group, monkeypatch: pytest.MonkeyPatch, **nodes: Facts) -> dict[str, Client]:
    """Clients of all nodes; those without facts do not answer."""
    module = import_module("pgherd.checks.verify")  # the package has a function of that name
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(module, "HUNG_SECONDS", 0.0)  # what is slept between two looks
    monkeypatch.setattr(made, "count_own", lambda _: {})  # which asks by docker
    monkeypatch.setattr(Client, "facts", lambda self: nodes[self.instance.name])
    return {
        name: Client(instance, cast("Connection", Server(nodes[name])))
        if name in nodes
        else Client(instance, None, f"{name} does not answer")
        for name, instance in made.instances.items()
    }


def outcomes(view: View) -> dict[str, str]:
    """What the checks came to, in one word each."""
    words = {True: "ok", False: "failed"}
    return {
        f"{c.name} {c.node}": "not tried" if c.evidence.startswith("not tried") else words[c.ok]
        for c in view.checks
    }


def test_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1", sync="s1"))
    found = {"pa": facts(S1, sync_names="s1"), "s1": standby_facts()}
    view = examine(made, clients(made, monkeypatch, **found), 1.0)
    assert view.primary == "pa"
    assert outcomes(view) == {
        "standby-up s1": "ok", "in-recovery s1": "ok", "same-system s1": "ok",
        "streaming s1": "ok", "sync s1": "ok", "replay s1": "ok",
    }  # fmt: skip


def test_swapped_roles_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1", sync="s1"))
    found = {"s1": facts(sender("pa"), sync_names="pa"), "pa": standby_facts()}
    view = examine(made, clients(made, monkeypatch, **found), 1.0)
    assert view.primary == "s1"
    assert set(outcomes(view).values()) == {"ok"}


def test_after_the_first_failure_the_rest_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1", "s2"))
    found = {"pa": facts(S2), "s2": standby_facts(system_identifier="1")}
    view = examine(made, clients(made, monkeypatch, **found), 1.0)
    assert outcomes(view) == {
        "standby-up s1": "failed", "in-recovery s1": "not tried", "same-system s1": "not tried",
        "streaming s1": "not tried", "sync s1": "not tried", "replay s1": "not tried",
        "standby-up s2": "ok", "in-recovery s2": "ok", "same-system s2": "failed",
        "streaming s2": "not tried", "sync s2": "not tried", "replay s2": "not tried",
    }  # fmt: skip
    assert view.checks[1].evidence == "not tried: standby-up failed"


@pytest.mark.parametrize(
    ("primary", "standby", "check", "evidence"),
    [
        (facts(S1), facts(), "in-recovery", "it is a second primary"),
        (facts(), standby_facts(), "streaming", "pg_stat_replication of pa has no row for s1"),
        (facts(S1), standby_facts(receiver=None), "streaming", "s1 itself receives nothing"),
        (facts(S1), standby_facts(), "sync", "is '', and the topology asks 'FIRST 1 (s1)'"),
        (
            facts(sender("s1", sync_state="async"), sync_names="s1"),
            standby_facts(),
            "sync",
            "sync_state is async, with FIRST 1 (s1)",
        ),
        (
            facts(
                S1,
                sync_names="s1",
                sync_waiters=(waiter(),),
            ),
            standby_facts(),
            "sync",
            "1 commit hangs on pa, for 60 s",
        ),
        (
            facts(S1, sync_names="s1"),
            standby_facts(replay_paused=True),
            "replay",
            "replay is paused",
        ),
        (
            facts(S1, sync_names="s1"),
            standby_facts(lsn="0/4000000"),
            "replay",
            "diverged: it has replayed to 0/4000000, and pa is only at 0/3000000",
        ),
    ],
)
def test_faults_are_seen(
    primary: Facts, standby: Facts, check: str, evidence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = group(topology("s1", sync="s1"))
    view = examine(made, clients(made, monkeypatch, pa=primary, s1=standby), 1.0)
    first = next(c for c in view.checks if not c.ok)
    assert first.name == check
    assert evidence in first.evidence
    assert "`invoke " in first.cure


@pytest.mark.parametrize("name", ["pa", "s1"])
def test_a_certificate_of_another_authority_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting a server that answers mends nothing."""
    made = group(topology("s1"))

    def connect(*_: object, **__: object) -> Connection:
        raise psycopg.OperationalError("connection failed: SSL error: certificate verify failed")

    monkeypatch.setattr(client_view, "connect", connect)
    monkeypatch.setattr(type(made.passwords), "known", lambda *_: Secret("x", "p"))
    shown = client_view._attempt(made, made.instance(name))
    assert f"not by the authority in {made.certificates.root}" in shown.fault
    assert "does not answer" not in shown.fault
    found = {"pa": facts(S1), "s1": standby_facts()}
    del found[name]
    view = examine(made, clients(made, monkeypatch, **found) | {name: shown}, 1.0)
    first = next(c for c in view.checks if not c.ok)
    assert (shown.fault in first.evidence, "invoke start" in first.cure) == (True, False)
    assert "`invoke tls`" in first.cure


def test_replay_is_looked_at_where_sync_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1", sync="s1"))
    found = {"pa": facts(S1), "s1": standby_facts()}
    view = examine(made, clients(made, monkeypatch, **found), 1.0)
    assert outcomes(view)["sync s1"] == "failed"
    assert outcomes(view)["replay s1"] == "ok"


def test_nothing_is_written_where_the_examination_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1", "s2"))
    given = clients(made, monkeypatch, pa=facts(S2), s2=standby_facts())

    @contextmanager
    def connected(_: Group) -> Iterator[dict[str, Client]]:
        yield given

    monkeypatch.setattr(verify, "connect_all", connected)
    verdict = verify.verify(made)
    assert [f"{c.name} {c.node}" for c in verdict.checks] == [
        f"{check} {node}"
        for check in (
            "standby-up", "in-recovery", "same-system", "streaming", "sync", "replay",
            "row-seen", "write-refused", "clean",
        )
        for node in ("s1", "s2")
    ]  # fmt: skip
    assert verdict.ok is False
    assert verdict.log == {}
    assert {c.evidence for c in verdict.checks[-6:]} == {
        "not tried: an examination failed, so nothing was written"
    }


@pytest.mark.parametrize(
    ("fault", "status", "sentence"),
    [
        ("", 2, r'g has no standby to verify: .*`upstream = "pa"`, then `invoke add-standby'),
        ("pa shows another: certificate verify failed", 1, "failed\n`invoke tls` shows"),
        ("pa does not answer: refused", 1, "pa does not answer: refused\n`invoke start`"),
    ],
)
def test_a_group_without_a_standby_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, fault: str, status: int, sentence: str
) -> None:
    made = group(topology())

    @contextmanager
    def connected(_: Group) -> Iterator[dict[str, Client]]:
        yield {"pa": Client(made.master, None, fault)}

    monkeypatch.setattr(verify, "connect_all", connected)
    with pytest.raises(Error, match=sentence) as caught:
        verify.verify(made)
    assert caught.value.code == status
    with pytest.raises(Refused, match="no standby to verify"):
        verify.as_script(made)


def test_the_proof_by_hand_names_each_standby() -> None:
    script = verify.as_script(group(topology("s1", "s2")))
    assert [line for line in script.splitlines() if line.startswith(("primary=", "standby="))] == [
        "primary=pa", "standby=s1", "primary=pa", "standby=s2",
    ]  # fmt: skip


@pytest.mark.parametrize("labels", [{}, OURS | {"pgherd.home": "/other/data"}])
def test_a_foreign_container_is_not_asked(labels: dict[str, str]) -> None:
    """Only a container with the group's labels has a say, whatever it answers."""
    foreign: Container = container("pa", labels=labels)
    made = group(topology(), FakeHost())
    assert made._observe_node(foreign, facts(), "local") == NodeObservation(foreign, None)
    assert made._observe_node(container("pa"), facts(), "local") == NodeObservation(
        container("pa"), facts()
    )


def test_of_two_primaries_the_one_promoted_last_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1"))
    view = examine(made, clients(made, monkeypatch, pa=facts(S1), s1=facts(timeline=2)), 1.0)
    assert view.primary == "s1"
    assert outcomes(view)["in-recovery pa"] == "failed"


@pytest.mark.parametrize(
    ("then", "hangs"),
    [
        ([waiter()], True),
        ([waiter(pid=10)], False),
        ([waiter(since="12:00:01")], False),  # another commit of the same session
        ([], False),
        ([waiter(seconds=1.0)], False),
    ],
)
def test_a_hanging_commit_is_seen_twice(
    then: list[dict[str, object]], hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = group(topology("s1", sync="s1"))
    looks = {"pa": facts(S1, sync_names="s1", sync_waiters=tuple(then)), "s1": standby_facts()}
    first = View({**looks, "pa": facts(S1, sync_waiters=(waiter(),))})
    again = _look_twice(clients(made, monkeypatch, **looks), first)
    assert again.facts["pa"].sync_waiters == ((waiter(),) if hangs else ())
    assert again.facts["pa"].sync_names == "s1"


def test_a_hanging_commit_is_told_where_the_standby_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = group(topology("s1", sync="s1"))
    found = facts(sync_names="s1", sync_waiters=(waiter(), waiter(pid=10)))
    view = examine(made, clients(made, monkeypatch, pa=found), 1.0)
    told = {check.name: check for check in view.checks}
    assert told["standby-up"].ok is False
    assert told["sync"].evidence.startswith("2 commits hang on pa, for 60 s: too few standbys of s")
    assert "`invoke sync --off`" in told["sync"].cure


def test_a_query_that_fails_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(topology("s1"))
    given = clients(made, monkeypatch, pa=facts(S1), s1=standby_facts())

    def execute(*_: object) -> None:
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(given["s1"].connection, "execute", execute)
    failed = examine(made, given, 1.0).checks[-1]
    assert (failed.name, failed.ok) == ("replay", False)
    assert failed.evidence == "a query failed: the connection is lost"


@pytest.mark.parametrize(
    ("seconds", "fault", "sentence"),
    [
        (60.0, Unreachable, "verify was cut short: gone"),
        (0.0, DeadlinePassed, "verify took more than 0 s: gone"),
    ],
)
def test_connections_that_are_cut(
    seconds: float, fault: type[Error], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_view, "WATCH_SECONDS", seconds)
    monkeypatch.setattr(client_view, "_attempt", lambda _, instance: Client(instance, None, "x"))
    monkeypatch.setattr(loader, "forget_libpq_variables", lambda: None)

    def work() -> None:
        with client_view.connect_all(group(topology())):
            for watch in threading.enumerate() if not seconds else []:
                if isinstance(watch, threading.Timer):
                    watch.join(5)
            raise psycopg.OperationalError("gone")

    with pytest.raises(fault) as caught:
        work()
    assert caught.value.sentence == sentence


@pytest.mark.parametrize(
    ("names", "running", "refused"),
    [
        ("FIRST 1 (s1)", ["s1"], False),
        ("FIRST 1 (s1)", [], True),
        ("ANY 1 (s1, s2)", ["s2"], False),
        ("ANY 2 (s1, s2)", ["S2"], True),
        ("FIRST 1 (s1, elsewhere)", [], False),  # one that the topology does not know may come
        ("*", [], False),
    ],
)
def test_nobody_waits_for_standbys_that_do_not_run(
    names: str, running: list[str], refused: bool
) -> None:
    asked = topology("s1", "s2")
    primary = group(asked, FakeHost()).master
    if not refused:
        return sync.refuse_hopeless(primary, names, asked, running)
    with pytest.raises(Error, match="so commits wait"):
        sync.refuse_hopeless(primary, names, asked, running)
    return None
