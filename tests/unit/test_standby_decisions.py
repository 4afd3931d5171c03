"""Who leads, who follows whom, who is waited for: decided by what was observed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from fakes import (
    SYSTEM,
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

from pgherd import verify as verify_room
from pgherd.docker import Container
from pgherd.errors import DeadlinePassed, Refused
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.group import Group, Observation, Seen
from pgherd.steps import lifecycle, sync
from pgherd.sync import Sync
from pgherd.verify.client import Client
from pgherd.verify.examine import View, examine
from pgherd.verify.wal import compare_wal

if TYPE_CHECKING:
    from pgherd.verify.client import Connection

S1, S2 = sender("s1"), sender("s2")
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
    assert sync.counting(Sync.parse(asked), facts(*senders)) == found  # type: ignore[arg-type]


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
    assert sync.waits_for(found, "s1") is waits


@pytest.mark.parametrize(("names", "read"), [("", None), (" ", None), ("FIRST 2 (a)", None)])
def test_a_list_that_no_topology_asks_for(names: str, read: None) -> None:
    assert sync.read_sync(names) is read


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
    with pytest.raises(Refused, match="Two nodes are primary at once: pa and s1"):
        trio.primary(seen)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Seen(None, None), "pa does not run yet: `invoke setup-master` makes it."),
        (Seen(container("pa", status="exited"), None), "No node of g is primary (pa is exited)"),
        (Seen(container("pa"), None, "psql: error"), "pa does not answer: psql: error"),
    ],
)
def test_no_primary_is_said(trio: Group, found: Seen, sentence: str) -> None:
    with pytest.raises(Refused) as caught:
        trio.primary(Observation({"pa": found}, {}))
    assert caught.value.sentence.startswith(sentence)


def test_dry_counts_on_the_master_that_will_run(trio: Group) -> None:
    planned = Seen(container("pa", planned=True), None)
    assert trio.primary(Observation({"pa": planned}, {})).name == "pa"


def test_an_unknown_node_is_refused(trio: Group) -> None:
    with pytest.raises(Refused, match="no node 'x' in group g: it has pa, s1, s2, s3"):
        trio.instance("x")


# --- step 9 ---

COPY = Disk(pg_version="17", empty=False, system_identifier=SYSTEM)
MARKED = Disk(pg_version="17", empty=False, system_identifier=SYSTEM, standby_signal=True)
OTHER = Disk(pg_version="17", empty=False, system_identifier="1")


@pytest.mark.parametrize(
    ("down", "running", "refused"),
    [
        ({"pa": COPY, "s1": COPY}, {}, True),
        ({"s1": COPY}, {"pa": facts()}, True),
        ({"pa": COPY, "s1": MARKED}, {}, False),
        ({"pa": COPY, "s1": OTHER}, {}, False),
        ({"s1": COPY}, {"pa": standby_facts()}, False),
        ({"s1": COPY}, {}, False),
    ],
)
def test_an_unmarked_copy_is_not_started(
    down: dict[str, Disk], running: dict[str, Facts], refused: bool
) -> None:
    made = group(topology("s1"))
    seen = observation(**{"pa": None, "s1": None, **running})
    if not refused:
        lifecycle.refuse_two_primaries(made, seen, down)
        return
    with pytest.raises(Refused, match="The data of s1 is a copy of pa's and not marked"):
        lifecycle.refuse_two_primaries(made, seen, down)


# --- verify ---


class Server:
    """A connection that answers the few questions of verify from facts."""

    def __init__(self, found: Facts, wal: str = "the same bytes") -> None:
        self.found = found
        self.wal = wal

    def execute(self, query: bytes, values: object = None) -> SimpleNamespace:
        """Answer: positions are equal everywhere, and there is one WAL file."""
        answers: dict[str, object] = {
            "SELECT pg_last_wal_replay_lsn()": self.found.lsn,
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
        else:
            row = (self.wal if "md5" in text else answers[text],)
        return SimpleNamespace(fetchone=lambda: row, values=values)


def clients(made: Group, monkeypatch: pytest.MonkeyPatch, **nodes: Facts) -> dict[str, Client]:
    """Clients of all nodes; those without facts do not answer."""
    monkeypatch.setattr(import_module("pgherd.verify.examine"), "SETTLE_SECONDS", 0.0)
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
                sync_waiters=({"pid": 9, "seconds": 60.4, "query": "COMMIT"},),
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

    monkeypatch.setattr(verify_room, "connected", connected)
    verdict = verify_room.verify(made)
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


def test_the_proof_by_hand_names_each_standby() -> None:
    script = verify_room.as_script(group(topology("s1", "s2")))
    assert [line for line in script.splitlines() if line.startswith(("primary=", "standby="))] == [
        "primary=pa", "standby=s1", "primary=pa", "standby=s2",
    ]  # fmt: skip


def test_a_foreign_container_is_not_asked() -> None:
    """Only a container with the group's label is; the plan has no answer for any other."""
    foreign: Container = container("pa", labels={})
    host = FakeHost()
    made = group(topology(), host)
    assert made._look(made.master, foreign) == Seen(foreign, None)
    assert host.calls == []


def test_other_bytes_in_the_wal_are_a_divergence() -> None:
    made = group(topology("s1"), FakeHost({}))
    one, other = (
        Client(made.instance(name), cast("Connection", Server(facts(), wal=wal)))
        for name, wal in (("pa", "these bytes"), ("s1", "those bytes"))
    )
    same, extent = compare_wal(one, other, "0/3001000")
    assert (same, extent) == (False, "its WAL file 000000010000000000000003 is not that of pa")
