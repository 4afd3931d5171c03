"""Many standbys at once: in which order, what is refused, and what one failure means for others."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import pytest
from fakes import (
    SYSTEM,
    FakeHost,
    Said,
    facts,
    group,
    image,
    observation,
    sender,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.config.topology import Topology
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import Cancelled, run_each
from pgherd.operations import seed
from pgherd.operations.seed import (
    FOLLOWS,
    NEW,
    STREAMS,
    SeedOptions,
    SeedPlan,
    allow_standby,
    levels,
    refuse_unknown,
    upstream_of,
    will_follow,
)
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance
from pgherd.security.passwords import Passwords

# --- side by side, where none depends on another ---


def test_a_failure_stops_nobody_else() -> None:
    together = threading.Barrier(3, timeout=10)

    def act(number: int) -> int:
        together.wait()
        if number == 2:
            raise Refused("two")
        return number * 10

    one, two, three = run_each(act, [1, 2, 3])
    assert (one, three) == (10, 30)
    assert isinstance(two, Refused)


def test_what_is_given_up_from_outside_is() -> None:
    def act(_: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run_each(act, [1])


# --- order ---


def chain() -> Topology:
    """s1 and s2 follow the primary, s3 follows s2, s4 follows s3."""
    return topology("s1", "s2", "s3", "s4", s3={"upstream": "s2"}, s4={"upstream": "s3"})


def ordered(made: Group, names: list[str], seen: Observation) -> list[list[str]]:
    nodes = [made.instance(name) for name in names]
    upstreams = {n.name: upstream_of(made, n, seen, SeedOptions(), image()) for n in nodes}
    return [
        [n.name for n in level] for level in levels(made, nodes, upstreams, seen, SeedOptions())
    ]


def only(primary: str, *standbys: str) -> Observation:
    """A moment in which these nodes answer and the others do not."""
    found: dict[str, Facts | None] = dict.fromkeys(["pa", "s1", "s2", "s3", "s4"])
    found |= dict.fromkeys(standbys, standby_facts()) | {primary: facts()}
    return observation(**found)


def test_each_comes_after_its_upstream() -> None:
    made = group(chain())
    assert ordered(made, ["s4", "s3", "s1", "s2"], only("pa")) == [["s1", "s2"], ["s3"], ["s4"]]
    assert ordered(made, ["s4", "s1"], only("pa", "s3")) == [["s4", "s1"]]


def test_who_follows_the_primary_follows_another_one_as_well() -> None:
    made = group(chain())
    assert ordered(made, ["s1", "s3", "pa"], only("s2")) == [["s1", "s3", "pa"]]


def test_an_upstream_that_does_not_serve_is_refused() -> None:
    with pytest.raises(Refused, match="`invoke add-standby s2,s3` seeds both"):
        ordered(group(chain()), ["s3"], only("pa"))


def test_of_two_primaries_the_one_that_leads_is_followed() -> None:
    seen = observation(pa=facts(sender("s1")), s1=None, s2=facts(), s3=None, s4=None)
    assert ordered(group(chain()), ["s1"], seen) == [["s1"]]
    with pytest.raises(Refused, match=r"2 nodes are primary .* pa leads: s1 streams"):
        ordered(group(chain()), ["s3"], seen)


# --- how a node stands ---


def pair(mine: Facts | None, theirs: Facts | None, host: FakeHost | None = None) -> SeedPlan:
    made = group(topology("s1"), host)
    return SeedPlan(
        made, made.instance("s1"), made.master, image(), observation(pa=theirs, s1=mine)
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        (standby_facts(primary_slot="s1"), facts(sender("s1")), STREAMS),
        (standby_facts(primary_slot="other"), facts(sender("s1")), FOLLOWS),
        (standby_facts(primary_slot="s1"), facts(), FOLLOWS),
        (standby_facts(timeline=2), facts(sender("s1")), NEW),
        (standby_facts(system_identifier="1"), facts(sender("s1")), NEW),
        (facts(), facts(), NEW),
        (standby_facts(), None, NEW),
    ],
)
def test_how_a_node_stands(
    mine: Facts, theirs: Facts | None, stands: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgherd.group.preconditions.check_spec", lambda *_: True)
    assert will_follow(pair(mine, theirs)) == stands


@pytest.mark.parametrize(("found", "role"), [(facts(), True), (standby_facts(), False)])
def test_no_role_is_made_on_a_standby(found: Facts, role: bool, tmp_path: Path) -> None:
    host = FakeHost({"docker exec": Said(), "sh -s": Said()})
    made = group(topology("s1"), host)
    made.passwords = Passwords(tmp_path, host.trace)
    for _ in range(2):
        allow_standby(made, made.instance("s1"), found)
    (script,) = [call.stdin for call in host.calls if call.argv[:2] == ("docker", "exec")]
    assert ("CREATE ROLE replicator" in script) is role
    assert "pg_hba.conf" in script


# --- another source ---


def test_the_source_is_waited_for() -> None:
    host = FakeHost({
        "docker exec --interactive --user postgres pa": Said("0/5000028\n"),
        "docker exec --interactive --user postgres s2": Said(code=75),
        "docker logs": Said(),
    })  # fmt: skip
    made = group(topology("s1", "s2"), host)
    seen = observation(pa=facts(), s1=None, s2=standby_facts())
    this = SeedPlan(made, made.instance("s1"), made.master, image(), seen)
    with pytest.raises(DeadlinePassed, match="s2 has not replayed 0/5000028 after 300 s"):
        seed.wait_for_slot(this, made.instance("s2"))
    first, second, *_ = host.calls
    assert "slot=s1\n" in first.stdin
    assert "position=0/5000028\n" in second.stdin


@pytest.mark.parametrize(
    ("name", "found", "sentence"),
    [
        ("s1", standby_facts(), "s1 is the one to be seeded"),
        ("s2", None, "s2 does not run"),
        ("s2", standby_facts(system_identifier="1"), f"of system 1, and pa of {SYSTEM}"),
        ("s2", standby_facts(timeline=2), "of timeline 2, and pa of 1"),
        ("x", None, "no node 'x'"),
    ],
)
def test_what_is_no_source(name: str, found: Facts | None, sentence: str) -> None:
    made = group(topology("s1", "s2"))
    seen = observation(pa=facts(), s1=None, s2=found)
    with pytest.raises(Refused, match=sentence):
        seed.choose_source(made, made.instance("s1"), made.master, seen, name)


@pytest.mark.parametrize("name", ["", "pa"])
def test_the_upstream_is_no_other_source(name: str) -> None:
    made = group(topology("s1"))
    seen = observation(pa=facts(), s1=None)
    assert seed.choose_source(made, made.instance("s1"), made.master, seen, name) is None


# --- one of many fails ---


@pytest.fixture
def seeding(monkeypatch: pytest.MonkeyPatch) -> dict[str, Error]:
    """Seed nothing: those named here fail, the others stream."""
    failing: dict[str, Error] = {}
    made: list[str] = []

    def seed_one(this: SeedPlan, _: SeedOptions) -> Facts:
        if fault := failing.get(this.standby.name):
            raise fault
        made.append(this.standby.name)
        return facts(sender(this.standby.name))

    monkeypatch.setattr(seed, "seed", seed_one)
    monkeypatch.setattr(seed, "will_follow", lambda _: NEW)
    monkeypatch.setattr(seed, "check_seed", lambda *_: None)
    monkeypatch.setattr(seed, "allow_standby", lambda *_: None)
    monkeypatch.setattr(seed, "ensure_image", lambda *_: image())
    monkeypatch.setattr(seed, "require_sync", lambda *_, **__: None)
    monkeypatch.setattr(preconditions, "check_passwords", lambda *_: None)
    monkeypatch.setattr(preconditions, "check_name", lambda *_: None)
    seen = only("pa")

    def observe(_: Group, **__: object) -> Observation:
        return only("pa", *made) if made else seen

    monkeypatch.setattr(Group, "observe", observe)
    monkeypatch.setattr(Instance, "facts", lambda _: facts())
    return failing


def test_the_others_come_to_their_end(
    seeding: dict[str, Error], capsys: pytest.CaptureFixture[str]
) -> None:
    seeding["s2"] = Refused("s2: its port is taken.")
    with pytest.raises(Error) as caught:
        seed.seed_standbys(group(chain()), ["s1", "s2", "s3", "s4"], SeedOptions())
    assert caught.value.sentence == "s2: its port is taken."
    assert not isinstance(caught.value, Refused)  # s1 was seeded, so something was changed
    said = capsys.readouterr().err.splitlines()
    assert "s2: failed: s2: its port is taken." in said
    assert "s3: failed: s3 was left: s2, its upstream, failed." in said
    assert "s4: failed: s4 was left: s3, its upstream, failed." in said


def test_a_refusal_stays_one_where_nothing_was_done(seeding: dict[str, Error]) -> None:
    seeding["s1"] = Refused("no")
    with pytest.raises(Refused):
        seed.seed_standbys(group(chain()), ["s1"], SeedOptions())
    seeding["s2"] = Unreachable("gone")
    with pytest.raises(Unreachable):
        seed.seed_standbys(group(chain()), ["s2"], SeedOptions())


def test_all_but_the_primary(seeding: dict[str, Error], monkeypatch: pytest.MonkeyPatch) -> None:
    assert seeding == {}
    seeded: list[str] = []

    def seed_one(this: SeedPlan, _: SeedOptions) -> Facts:
        seeded.append(this.standby.name)
        return facts()

    monkeypatch.setattr(seed, "seed", seed_one)
    monkeypatch.setattr(Group, "observe", lambda *_, **__: only("s1", "s2", "s3"))
    seed.add_standbys(group(chain()), [], SeedOptions(), every=True)
    assert sorted(seeded) == ["s2", "s3", "s4"]
    for names, every in (([], False), (["s1"], True)):
        with pytest.raises(Refused, match="Which standbys"):
            seed.add_standbys(group(chain()), names, SeedOptions(), every=every)


# --- lines for the topology ---


def test_the_lines_that_a_topology_lacks() -> None:
    listening = "LISTEN 0 128 127.0.0.1:5434 0.0.0.0:*\n"
    host = FakeHost({"sh -c": [Said(), Said(listening)]})  # containers, then who listens
    made = group(topology("s1", pa={"data": "data/pa_data"}), host)
    with pytest.raises(Refused) as caught:
        refuse_unknown(made, ["s2", "s1", "s2", "s.3"])
    head, _, tables = caught.value.sentence.partition("\n\n")
    assert head.startswith("s2, s.3 are no nodes of g.")
    assert tomllib.loads(tables)["nodes"] == {
        "s2": {"host": "local", "port": 5435, "data": "data/s2_data", "upstream": "pa"},
        "s.3": {"host": "local", "port": 5436, "data": "data/s.3_data", "upstream": "pa"},
    }
    refuse_unknown(made, ["s1"])
    with pytest.raises(Refused, match="is no name for a node"):
        refuse_unknown(made, ["-x"])


def test_a_volume_and_another_hosts_address_are_passed_on() -> None:
    keys = {"data": "volume:g-pa-data", "listen": "10.0.0.1", "address": "10.0.0.1"}
    made = group(topology("s1", pa=keys), FakeHost({"sh -c": Said()}))
    with pytest.raises(Refused) as caught:
        refuse_unknown(made, ["s2"])
    table = tomllib.loads(caught.value.sentence.partition("\n\n")[2])["nodes"]["s2"]
    assert (table["data"], table["listen"]) == ("volume:g-s2-data", "10.0.0.1")
