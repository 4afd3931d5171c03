"""Standbys that leave, and whom commits wait for: what is refused, what is kept, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import (
    OURS,
    FakeHost,
    Said,
    container,
    facts,
    group,
    image,
    observation,
    sender,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.config import loader
from pgherd.config.sync_names import Sync
from pgherd.docker.models import Container, Mount
from pgherd.errors import DeadlinePassed, Error, Refused
from pgherd.group import preconditions
from pgherd.group.group import Group, Site
from pgherd.group.observation import Observation
from pgherd.hosts.commands import Script, Tool, Trace
from pgherd.hosts.local import LocalHost
from pgherd.operations import remove, set_aside, sync
from pgherd.operations.remove import RemovedNode, removed_nodes
from pgherd.postgres.facts import Facts
from pgherd.report.changes import sync_text

S1, S2 = sender("s1"), sender("s2")
DATA, PRIVATE = "/var/lib/postgresql/data", "/etc/pgherd"

# --- the list ---


@pytest.mark.parametrize(
    ("names", "senders", "away", "rest"),
    [
        ("FIRST 1 (s1, s2)", [S1, S2], ["s1"], "FIRST 1 (s2)"),
        ("FIRST 2 (s1, s2)", [S1, S2], ["S1"], "FIRST 1 (s2)"),
        ("ANY 2 (s1, s2, s3)", [S1, S2], ["s3"], "ANY 2 (s1, s2)"),
        ("FIRST 1 (s1)", [S1], ["s1"], ""),
        ("FIRST 1 (s1, s2)", [S1], ["s1"], ""),  # s2 is not there: commits would wait for it
        ("FIRST 1 (s1)", [], ["s3"], "FIRST 1 (s1)"),  # no worse without one that is not listed
        ("FIRST 2 (*)", [S1, S2], ["s1"], "FIRST 1 (*)"),
        ("*", [S1], ["s1"], ""),
        ("", [S1], ["s1"], ""),
    ],
)
def test_the_list_is_shortened(names: str, senders: list[Any], away: list[str], rest: str) -> None:
    left = sync.shortened(facts(*senders, sync_names=names), away)
    assert (left.render() if left else "") == rest


def going(made: Group, *names: str, found: Facts | None = None) -> list[RemovedNode]:
    """Nodes of the topology that are to be removed."""
    return [
        RemovedNode(
            made.instance(name), container(name), found, made.instance(name).node.slot, name,
            asked=True,
        )
        for name in names
    ]  # fmt: skip


def shorten(strict: bool, consent: bool) -> list[str]:
    host = FakeHost({"docker exec": Said()})
    asked = topology("s1", sync="s1")
    keys = asked.group.model_copy(update={"strict": strict})
    made = group(asked.model_copy(update={"group": keys}), host)
    found = facts(S1, sync_names="s1")
    remove._shorten(made, made.master, found, going(made, "s1"), consent=consent)
    return [call.stdin for call in host.calls]


def test_strict_wants_consent() -> None:
    with pytest.raises(Refused, match="--allow-async"):
        shorten(strict=True, consent=False)
    for strict, consent in ((True, True), (False, False)):
        (script,) = shorten(strict=strict, consent=consent)
        assert "count=0\n" in script


# --- who cannot be removed ---


def refused(made: Group, seen: Observation, *names: str, found: Facts | None = None) -> None:
    remove._refuse(made, going(made, *names, found=found), made.instance("pa"), seen)


def test_who_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions, "check_data_unused", lambda *_: None)
    host = FakeHost({"sh -s": Said("absent")})
    made = group(topology("s1", "s2", s2={"upstream": "s1"}), host)
    seen = observation(pa=facts(S1), s1=standby_facts(), s2=None)
    with pytest.raises(Refused, match="pa is primary now"):
        refused(made, seen, "pa")
    with pytest.raises(Refused, match=r"s1 is followed by s2.*`invoke remove-standby s1,s2`"):
        refused(made, seen, "s1")
    refused(made, seen, "s1", "s2")
    refused(made, seen, "s2")
    with pytest.raises(Refused, match="s2 is followed by elsewhere"):
        refused(made, seen, "s2", found=standby_facts(senders=(sender("elsewhere"),)))


def test_a_former_primary_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that have it as upstream follow the one that is primary now."""
    monkeypatch.setattr(preconditions, "check_data_unused", lambda *_: None)
    made = group(topology("s1", "s2"), FakeHost({"sh -s": Said("absent")}))
    seen = observation(pa=standby_facts(), s1=facts(), s2=standby_facts())
    remove._refuse(made, going(made, "pa"), made.instance("s1"), seen)


# --- slots ---


def test_a_slot_is_dropped_wherever_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    host = FakeHost({"docker exec": Said()})
    made = group(topology("s1", "s2", "s3"), host)
    slot = {"name": "s1", "active": False, "wal_status": "reserved"}
    seen = observation(pa=facts(slots=(slot,)), s1=None, s2=standby_facts(slots=(slot,)), s3=None)
    remove._drop_slots(made, going(made, "s1"), seen)
    assert [call.argv[5] for call in host.calls] == ["pa", "s2"]
    assert all("slot=s1\n" in call.stdin for call in host.calls)
    assert "s3: does not answer; a slot there would stay" in capsys.readouterr().err


def test_a_slot_that_a_standby_out_of_reach_streams_from_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken = Said(code=75)  # until_true at its deadline
    host = FakeHost({"docker exec": [taken, taken, Said(err="no", code=3)], "docker logs": Said()})
    made = group(topology("s1"), host)
    slot = {"name": "s1", "active": True, "wal_status": "reserved"}
    seen = observation(pa=facts(slots=(slot,)), s1=None)
    with pytest.raises(DeadlinePassed):
        remove._drop_slots(made, going(made, "s1"), seen)
    made.away["local"] = "local cannot be reached"
    remove._drop_slots(made, going(made, "s1"), seen)
    with pytest.raises(Error, match="no"):  # whatever else is the matter is no such thing
        remove._drop_slots(made, going(made, "s1"), seen)
    assert "pa: the slot s1 stays, since s1 still streams from it" in capsys.readouterr().err


def test_what_another_node_has_by_now_is_not_touched() -> None:
    """A node that was given another name in the topology keeps its application name and slot."""
    made = group(topology("s2", s2={"application_name": "s1"}))
    old = RemovedNode(group(topology("s1")).instance("s1"), None, None, "s1", "s1", asked=False)
    slot = {"name": "s1", "active": True, "wal_status": "reserved"}
    seen = observation(pa=facts(S1, sync_names="s1", slots=(slot,)), s2=standby_facts())
    remove._drop_slots(made, [old], seen)
    remove._shorten(made, made.master, seen.nodes["pa"].facts, [old], consent=False)


# --- nodes that the topology has no more ---


def stray(**changes: Any) -> Container:
    mounts = (Mount("/d/old", DATA), Mount("/p/old", PRIVATE, readonly=True))
    given = {"labels": OURS | {"pgherd.node": "old"}, "mounts": mounts} | changes
    return container("old", **{"status": "exited", "ports": (("127.0.0.1", 5499),), **given})


AUTO_CONF = """\
primary_conninfo = 'host=pa user=replicator application_name=''Old One'' passfile=/etc/x'
primary_slot_name = 'old_one'
"""


def with_engine(seen: Observation, *more: Container) -> Observation:
    return Observation(
        seen.nodes, {"local": {**seen.engines["local"], **{c.name: c for c in more}}}
    )


def test_a_stray_is_known_by_its_container() -> None:
    host = FakeHost({"sh -s": Said("full"), "docker run": Said(AUTO_CONF), "test -d": Said()})
    made = group(topology("s1"), host)
    seen = with_engine(observation(pa=facts(), s1=None), stray())
    (found,) = removed_nodes(made, ["old", "old"], seen, image())
    assert (found.slot, found.application_name, found.asked) == ("old_one", "Old One", False)
    data, private = found.instance.mounts()
    assert (data.source, private.source) == ("/d/old", "/p/old")


def test_somebody_elses_container_is_no_stray() -> None:
    made = group(topology("s1"), FakeHost({"sh": Said(code=1)}))
    foreign = stray(labels={"pgherd.group": "g", "pgherd.home": "/else", "pgherd.node": "old"})
    with pytest.raises(Refused, match="no node and no container 'old' of g: pa, s1"):
        removed_nodes(
            made, ["old"], with_engine(observation(pa=facts(), s1=None), foreign), image()
        )


def test_one_that_is_gone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    made = group(topology("s1"), FakeHost({"sh": Said()}))
    assert removed_nodes(made, ["old"], observation(pa=facts(), s1=None), image()) == []
    assert capsys.readouterr().err == "old: already removed\n"


def test_it_is_told_by_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(loader, "ROOT", tmp_path)
    here = LocalHost(Trace())
    made = group(topology("s1"), FakeHost())
    site = Site(here, made.topology, "local")
    private = f"{site.private}/s1"
    told = set_aside.entry(here, private, set_aside.reason(made, "s1", set_aside.REMOVED))

    def known(name: str) -> bool:
        text = remove._trace_of(site, made, name)
        return here.run(Tool("sh")["-eus"], stdin=text).ok

    assert not known("s1")
    assert here.run(Tool("sh")["-eus"], stdin=Script((told,))).ok
    assert known("s1")
    assert not known("s")
    assert not known("1")


# --- whom commits wait for ---


def test_names_that_can_never_be_waited_for() -> None:
    made = group(topology("s1", "s2", s2={"upstream": "s1"}))
    seen = observation(pa=facts(), s1=standby_facts(), s2=standby_facts())
    for name, sentence in (
        ("nobody", "is no node's application_name: there are pa, s1, s2"),
        ("PA", "the primary now: it cannot wait for itself"),
        ("s2", "which follows s1: commits on pa wait only"),
    ):
        with pytest.raises(Refused, match=sentence):
            sync._refuse_name(made, made.master, seen, name)
    for name in ("*", "S1"):
        sync._refuse_name(made, made.master, seen, name)


def test_the_former_primary_can_be_waited_for() -> None:
    made = group(topology("s1"))
    seen = observation(pa=standby_facts(), s1=facts())
    sync._refuse_name(made, made.instance("s1"), seen, "pa")


def changed(found: Facts, wanted: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    host = FakeHost({"docker exec": Said()})
    made = group(topology("s1", "s2", sync="s1"), host)
    sync._change(made, made.master, found, Sync.parse(wanted) if wanted else None)
    return len(host.calls), capsys.readouterr().err.splitlines()


def test_what_is_changed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    back = "pa: the topology asks for FIRST 1 (s1): `invoke step.require-sync` goes back to that"
    waiter = {"pid": 9, "seconds": 60.0, "query": "COMMIT"}
    assert changed(facts(S1, sync_names="s1"), "s1", capsys) == (
        0, ["pa: already synchronous: FIRST 1 (s1)"]
    )  # fmt: skip
    assert changed(facts(S1), "ANY 1 (s1)", capsys) == (1, ["pa: synchronous: ANY 1 (s1)", back])
    assert changed(facts(), "", capsys) == (0, ["pa: already asynchronous", back])
    waits = facts(sync_names="s1", sync_waiters=(waiter, waiter))
    let_go = "pa: 2 commits that waited were let go"
    assert changed(waits, "", capsys) == (2, ["pa: asynchronous", let_go, back])


WAITS = (
    "1 commit waits for a standby, the longest for 60 s (process 9: INSERT INTO t); "
    "`invoke sync --off` lets them go on"
)


def test_whom_commits_wait_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    waiter = {"pid": 9, "seconds": 60.4, "query": "INSERT\n INTO t"}
    found = facts(sender("S1"), sender("x", sync_state="async"), sync_waiters=(waiter,))
    monkeypatch.setattr(
        Group, "observe", lambda *_, **__: observation(pa=found, s1=standby_facts())
    )
    told = sync.state(group(topology("s1", sync="s1")))
    assert not told.as_asked
    assert sync_text(told).splitlines() == [
        "pa, the primary, is asynchronous",
        "node  application_name  state      sync_state",
        "s1    S1                streaming  sync",
        "?     x                 streaming  async",
        WAITS,
        "the topology asks for FIRST 1 (s1): `invoke step.require-sync` goes back to that",
    ]


def test_of_another_primary_it_is_told_whose_name_stands_there() -> None:
    state = sync.SyncState("s1", "pa", "FIRST 1 (pa)", "FIRST 1 (s1)", (), ())
    assert sync_text(state).splitlines()[-3:] == [
        "this is what the topology asks for",
        "the file has FIRST 1 (s1): s1 cannot wait for itself, so the name of",
        "the node that the topology has as primary stands for its own",
    ]
