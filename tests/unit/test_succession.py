"""Another node is primary: who follows whom then, and for whom its commits wait."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeHost, Said, facts, group, observation, sender, standby_facts, topology
from hypothesis import given
from hypothesis import strategies as st

from pgherd.config.sync_names import Sync
from pgherd.config.topology import Topology
from pgherd.group import node_config
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.hosts.commands import Secret
from pgherd.operations import connect
from pgherd.operations import followers as succession
from pgherd.postgres import scripts
from pgherd.postgres.facts import Facts
from pgherd.security.passwords import Passwords


def serving(made: Group, *down: str) -> Observation:
    """A moment in which all of a group's nodes answer, except for those that are down."""
    return observation(**{n: None if n in down else standby_facts() for n in made.instances})


def upstreams(made: Group, primary: str, *down: str) -> dict[str, str]:
    """Whom each node follows, by name."""
    found = succession.plan_upstreams(made, made.instance(primary), serving(made, *down))
    return {i.name: upstream.name for i, upstream in found.items()}


@pytest.mark.parametrize(
    ("primary", "followed"),
    [
        ("pa", {"s1": "pa", "s2": "s1", "s3": "s2", "s4": "pa"}),
        ("s1", {"pa": "s1", "s2": "s1", "s3": "s2", "s4": "s1"}),
        ("s2", {"pa": "s2", "s1": "s2", "s3": "s2", "s4": "s2"}),
        ("s3", {"pa": "s3", "s1": "s3", "s2": "s1", "s4": "s3"}),
        ("s4", {"pa": "s4", "s1": "s4", "s2": "s1", "s3": "s2"}),
    ],
)
def test_who_follows_whom(primary: str, followed: dict[str, str]) -> None:
    asked = topology("s1", "s2", "s3", "s4", s2={"upstream": "s1"}, s3={"upstream": "s2"})
    assert upstreams(group(asked), primary) == followed


def test_who_cascades_follows_the_primary_while_its_upstream_is_down() -> None:
    asked = topology("s1", "s2", "s3", s2={"upstream": "s1"}, s3={"upstream": "s2"})
    assert upstreams(group(asked), "pa", "s1") == {"s1": "pa", "s2": "pa", "s3": "s2"}
    assert upstreams(group(asked), "s2", "s1", "pa") == {"pa": "s2", "s1": "s2", "s3": "s2"}


@st.composite
def trees(draw: st.DrawFn) -> tuple[Topology, str, list[str]]:
    """Each standby follows any node before it; any node is primary, and any others are down."""
    names = [f"s{n}" for n in range(1, draw(st.integers(1, 6)) + 1)]
    keys: dict[str, dict[str, Any]] = {}
    for count, name in enumerate(names):
        keys[name] = {"upstream": draw(st.sampled_from(["pa", *names[:count]]))}
    down = draw(st.lists(st.sampled_from(["pa", *names]), unique=True))
    return topology(*names, sync="", **keys), draw(st.sampled_from(["pa", *names])), down


@given(trees())
def test_all_come_from_the_primary_and_none_in_a_circle(
    tree: tuple[Topology, str, list[str]],
) -> None:
    asked, primary, down = tree
    followed = upstreams(group(asked), primary, *(name for name in down if name != primary))
    assert followed.keys() == asked.nodes.keys() - {primary}
    for name in followed:
        at, steps = name, 0
        while at != primary:
            at, steps = followed[at], steps + 1
            assert steps < len(asked.nodes), f"a circle from {name}: {followed}"


# --- whom commits wait for ---


@pytest.mark.parametrize(
    ("asked", "former", "primary", "names", "after"),
    [
        ("s1", "pa", "s1", "FIRST 1 (s1)", "FIRST 1 (pa)"),
        ("s1", "s1", "pa", "FIRST 1 (pa)", "FIRST 1 (s1)"),
        ("s1", "pa", "s1", "s1", "FIRST 1 (pa)"),  # written otherwise, it is the same
        ("FIRST 2 (s1, s2)", "pa", "s2", "FIRST 2 (s1, s2)", "FIRST 2 (s1, pa)"),
        ("FIRST 2 (s1, s2)", "s2", "s1", "FIRST 2 (s1, pa)", "FIRST 2 (pa, s2)"),
        ("ANY 1 (s1, s2)", "pa", "s1", "ANY 1 (s1, s2)", "ANY 1 (pa, s2)"),
        ("*", "pa", "s1", "*", "FIRST 1 (*)"),
        # not in the list, it does not come into it
        ("s1", "pa", "s2", "FIRST 1 (s1)", "FIRST 1 (s1)"),
        # the operator's own setting goes on, with the former in the new one's place
        ("s1", "pa", "s1", "ANY 1 (s1, s2)", "ANY 1 (pa, s2)"),
        ("s1", "pa", "s1", "FIRST 1 (s2)", "FIRST 1 (s2)"),
        ("", "pa", "s1", "FIRST 1 (s1)", "FIRST 1 (pa)"),
        ("s1", "pa", "s1", "", "FIRST 1 (pa)"),  # a change of primary leaves it blank as well
        ("", "pa", "s1", "", None),
        ("s1", "pa", "s1", "FIRST 2 (s1)", "FIRST 1 (pa)"),  # can never be met: PostgreSQL takes it
    ],
)
def test_sync_after(asked: str, former: str, primary: str, names: str, after: str | None) -> None:
    made = group(topology("s1", "s2", sync=asked))
    found = succession.sync_after(made, made.instance(former), made.instance(primary), names)
    assert (found.render() if found else None) == after


@pytest.mark.parametrize(
    "asked", ["s1", "FIRST 2 (s1, s2)", "ANY 2 (s1, s2, s3)", "*", "ANY 1 (s3)"]
)
@pytest.mark.parametrize("via", [["s1"], ["s1", "s2"], ["s3", "s1", "s2"]])
def test_forth_and_back_it_is_as_before(asked: str, via: list[str]) -> None:
    made = group(topology("s1", "s2", "s3", sync=asked))
    names = Sync.parse(asked).render()
    for former, primary in zip(["pa", *via], [*via, "pa"], strict=True):
        own = made.instance(primary).node.application_name
        found = succession.sync_after(made, made.instance(former), made.instance(primary), names)
        assert found is not None
        assert "*" in names or not any(name == own for name in found.names)  # never for itself
        names = found.render()
    assert names == Sync.parse(asked).render()


# --- who follows already ---


def test_follows() -> None:
    made = group(topology("s1", "s2"))
    s1, pa, s2 = made.instance("s1"), made.master, made.instance("s2")
    info = node_config.conninfo(s1, pa)

    def follows(found: Facts | None) -> bool:
        return succession.follows(s1, pa, observation(pa=facts(), s1=found, s2=None))

    assert follows(standby_facts(primary_conninfo=info, primary_slot="s1"))
    assert not follows(standby_facts(primary_conninfo=info, primary_slot=""))
    assert not follows(standby_facts(primary_conninfo=info, primary_slot="s2"))
    assert not follows(facts(primary_conninfo=info, primary_slot="s1"))  # it is a primary itself
    assert not follows(None)
    other = node_config.conninfo(s1, s2)
    assert not follows(standby_facts(primary_conninfo=other, primary_slot="s1"))


# --- made ready, and settled ---

EXEC = "docker exec --interactive --user postgres"


def prepared(asked: Topology, successor: str, wanted: str) -> str:
    host = FakeHost({f"{EXEC} {successor} sh": Said()})
    made = group(asked, host)
    sync = Sync.parse(wanted) if wanted else None
    its = made.instance(successor)
    plan = succession.plan_upstreams(made, its, serving(made))
    succession.prepare(made, its, sync, plan)
    (call,) = host.calls
    assert made.passwords.of("replicator").value in call.stdin
    assert made.passwords.of("replicator").value not in " ".join(call.argv)
    return call.stdin


@pytest.fixture
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Passwords, "of", lambda *_: Secret("a secret", "/nowhere"))


@pytest.mark.usefixtures("_secrets")
def test_a_successor_gets_slots_for_those_that_will_stream_from_it() -> None:
    asked = topology("s1", "s2", "s3", s3={"upstream": "s2"})
    assert "slots='pa s2'\n" in prepared(asked, "s1", "FIRST 1 (pa)")
    assert "slots='pa s1 s3'\n" in prepared(asked, "s2", "")


@pytest.mark.usefixtures("_secrets")
def test_its_first_commits_wait_only_where_that_is_strict() -> None:
    asked = topology("s1", sync="s1")
    assert "names=''\"'\"''\"'\"''\n" in prepared(asked, "s1", "FIRST 1 (pa)")
    strict = asked.model_copy(update={"group": asked.group.model_copy(update={"strict": True})})
    assert "names=''\"'\"'FIRST 1 (pa)'\"'\"''\n" in prepared(strict, "s1", "FIRST 1 (pa)")
    script = prepared(asked, "s1", "")
    order = [
        script.index(scripts.fragment(n)) for n in ("take-turn", "first-names", "slot", "reload")
    ]
    assert order == sorted(order)


def settled(
    found: Facts, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, list[str], list[str]]:
    """Settle s1 as primary; return what came of it, who was waited for, and what was run there."""
    waited: list[str] = []
    monkeypatch.setattr(
        connect, "wait_streaming", lambda one, other, _: waited.append(f"{one.name}<{other.name}")
    )
    host = FakeHost({f"{EXEC} s1 sh": Said()})
    made = group(topology("s1", "s2", "s3", s3={"upstream": "s2"}), host)
    primary = made.instance("s1")
    monkeypatch.setattr(type(primary), "facts", lambda _: found)
    sync = Sync.parse(wanted) if wanted else None
    followers = succession.plan_upstreams(made, primary, serving(made))
    done = succession.wait_for_followers(made, primary, followers, sync)
    return done, sorted(waited), [call.stdin for call in host.calls]


def test_commits_wait_again_once_enough_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    done, waited, ran = settled(facts(sender("pa")), "FIRST 1 (pa)", monkeypatch)
    assert done
    assert waited == ["pa<s1", "s2<s1", "s3<s2"]
    assert len(ran) == 1
    assert "FIRST 1 (pa)" in ran[0]
    assert "count=1\n" in ran[0]


def test_they_do_not_where_too_few_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, _, ran = settled(facts(sender("pa")), "FIRST 2 (pa, s2)", monkeypatch)
    assert (done, ran) == (False, [])
    assert "asynchronous; `invoke step.require-sync`" in capsys.readouterr().err
    done, _, ran = settled(facts(sync_names="FIRST 1 (pa)"), "FIRST 1 (pa)", monkeypatch)
    assert (done, ran) == (False, [])
    assert "commits wait until enough do" in capsys.readouterr().err


def test_what_is_so_is_left_so(monkeypatch: pytest.MonkeyPatch) -> None:
    known = facts(sender("pa"), sync_names="FIRST 1 (pa)")
    assert settled(known, "FIRST 1 (pa)", monkeypatch)[2] == []
    assert settled(facts(), "", monkeypatch)[2] == []
    assert "count=0\n" in settled(known, "", monkeypatch)[2][0]  # left over from a strict moment


@pytest.mark.parametrize(("wanted", "set_"), [("FIRST 1 (pa)", True), ("FIRST 2 (pa, s3)", False)])
def test_with_dry_those_count_that_will_stream(
    wanted: str, set_: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that waited for more of them would never end; s3 streams from another one."""
    made = group(topology("s1", "s2", "s3", s3={"upstream": "s2"}), FakeHost(dry=True))
    primary = made.instance("s1")
    followers = succession.plan_upstreams(made, primary, serving(made))
    assert succession.wait_for_followers(made, primary, followers, Sync.parse(wanted)) is set_
    assert ("ALTER SYSTEM SET synchronous_standby_names" in capsys.readouterr().out) is set_


def test_slots_for_those_that_follow_another_are_dropped() -> None:
    host = FakeHost({f"{EXEC} pa sh": Said()})
    made = group(topology("s1", "s2", "s3", s2={"upstream": "pa"}, s3={"upstream": "s2"}), host)
    all_upstreams = succession.plan_upstreams(made, made.instance("s1"), serving(made))
    succession.tidy(made, made.master, all_upstreams)
    assert "strangers='pa s1 s2 s3'\n" in host.calls[0].stdin
