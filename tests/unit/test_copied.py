"""Seeding by --method copy: whose files may be copied, and what is never set aside for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import (
    SYSTEM,
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

from pgherd.docker.models import Container
from pgherd.errors import Error, Refused
from pgherd.group import preconditions
from pgherd.group.observation import NodeObservation, Observation
from pgherd.operations import connect, copy, set_aside, start_stop
from pgherd.operations.seed import SeedOptions, SeedPlan, check_seed, upstream_of
from pgherd.postgres import datadir
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import Instance

COPY, ASIDE = SeedOptions(method="copy"), SeedOptions(method="copy", set_aside=True)
DOWN = container("pa", status="exited")
PRIMARY = Disk(
    pg_version="17", empty=False, system_identifier=SYSTEM, state="shut down", timeline=1,
    checkpoint="0/5000028", ours=True,
)  # fmt: skip
STANDBY = replace(PRIMARY, state="shut down in recovery", standby_signal=True)
PROMOTED = replace(PRIMARY, timeline=2, checkpoint="0/6000028")
OTHER = replace(PROMOTED, system_identifier="1")
NONE = Disk()


@pytest.fixture(autouse=True)
def _movable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "unmovable", lambda *_: [])


def seen(mine: Facts | None, *, runs: bool = False, master: Container | None = DOWN) -> Observation:
    """A moment in which pa does not serve; s1 says this, or does not answer, or is down."""
    s1 = container("s1") if mine or runs else container("s1", status="exited")
    nodes = {"pa": NodeObservation(master, None), "s1": NodeObservation(s1, mine)}
    return Observation(nodes, {"local": {n: s.container for n, s in nodes.items() if s.container}})


def checked(
    monkeypatch: pytest.MonkeyPatch,
    found: Observation,
    asked: SeedOptions = COPY,
    *,
    theirs: Disk = PRIMARY,
    own: Disk = NONE,
) -> None:
    """Choose the upstream of s1, and check what is checked before anything is touched."""
    disks = {"pa": theirs, "s1": own}
    monkeypatch.setattr(preconditions, "data_state", lambda _: preconditions.FULL)
    monkeypatch.setattr(preconditions, "check_data_unused", lambda *_: None)
    monkeypatch.setattr(preconditions, "check_port", lambda *_: None)
    monkeypatch.setattr(Instance, "disk", lambda it, _: disks[it.name])
    made = group(topology("s1"))
    s1 = made.instance("s1")
    upstream = upstream_of(made, s1, found, asked, image())
    check_seed(SeedPlan(made, s1, upstream, image(), found), asked)


FAILED_OVER = replace(PRIMARY, state="in production", standby_signal=True)


@pytest.mark.parametrize("asked", [COPY, ASIDE, SeedOptions()])
@pytest.mark.parametrize("theirs", [FAILED_OVER, PRIMARY])
def test_the_only_primary_is_not_set_aside(
    theirs: Disk, asked: SeedOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover: pa is down, and s1 leads, with no standby yet."""
    with pytest.raises(Refused, match="s1 is the primary now: it cannot be seeded"):
        checked(monkeypatch, seen(facts(timeline=2)), asked, theirs=theirs)


@pytest.mark.parametrize("asked", [COPY, ASIDE])
def test_nor_is_one_that_does_not_answer(
    asked: SeedOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match="s1 runs, does not answer, and may be the primary"):
        checked(monkeypatch, seen(None, runs=True), asked, own=replace(PRIMARY, timeline=2))


@pytest.mark.parametrize(
    ("mine", "own"),
    [
        (None, PROMOTED),
        (None, replace(STANDBY, timeline=2)),
        (None, replace(PRIMARY, checkpoint="0/6000028")),  # started with standby.signal removed
        (standby_facts(timeline=2), NONE),
    ],
)
def test_newer_data_is_not_set_aside_unasked(
    mine: Facts | None, own: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "s1 was promoted and has newer data|The data of s1 is the primary's: `invoke start`"
    with pytest.raises(Refused, match=said):
        checked(monkeypatch, seen(mine), own=own)
    checked(monkeypatch, seen(mine), ASIDE, own=own)


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        (STANDBY, "pa is a standby"),
        (replace(PRIMARY, standby_signal=True), "pa is a standby"),  # a switchover was cut short
        (FAILED_OVER, "pa is a standby"),
        (replace(PRIMARY, state="in production"), "says 'in production', not 'shut down'"),
        (replace(PRIMARY, half_made=True), "cannot be copied"),
        (NONE, "there is no database"),
    ],
)
def test_only_a_primary_that_was_stopped_in_order_is_copied(
    theirs: Disk, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match=sentence):
        checked(monkeypatch, seen(None), theirs=theirs, own=STANDBY)


@pytest.mark.parametrize(
    "mine_or_own",
    [
        NONE,
        STANDBY,
        PRIMARY,  # step.copy-data, not marked yet
        OTHER,  # a database of its own, as step 2 makes it
        replace(PROMOTED, half_copied=True),
        standby_facts(),
        facts(system_identifier="1"),
    ],
)
def test_what_a_stopped_master_is_copied_over(
    mine_or_own: Disk | Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = mine_or_own if isinstance(mine_or_own, Facts) else None
    own = mine_or_own if isinstance(mine_or_own, Disk) else NONE
    checked(monkeypatch, seen(mine), own=own)


def test_a_standby_that_cannot_start_is_copied_over(monkeypatch: pytest.MonkeyPatch) -> None:
    checked(monkeypatch, seen(None, runs=True), own=STANDBY)


def test_a_master_that_does_not_answer_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="pa runs and does not answer"):
        checked(monkeypatch, seen(None, master=container("pa")), own=STANDBY)


def test_what_will_be_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --dry: the data is still as it is before the printed script has run."""
    planned = container("pa", status="exited", planned=True)
    checked(monkeypatch, seen(None, master=planned), theirs=NONE)


def test_a_standby_is_not_stopped_for_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    found = observation(pa=standby_facts(), s1=standby_facts())
    with pytest.raises(Refused, match="pa is a standby"):
        checked(monkeypatch, found)


# --- any method ---


@pytest.mark.parametrize("mine", [facts(system_identifier="1", timeline=2),
                                  facts(sender("x"), system_identifier="1")])  # fmt: skip
def test_a_primary_of_another_system_is_not_set_aside_unasked(
    mine: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = observation(pa=facts(), s1=mine)
    with pytest.raises(Refused, match="s1 is the primary of another system"):
        checked(monkeypatch, found, SeedOptions())
    checked(monkeypatch, found, SeedOptions(set_aside=True))
    checked(monkeypatch, observation(pa=facts(), s1=facts(system_identifier="1")), SeedOptions())


def test_newer_data_of_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = observation(pa=facts(), s1=None)
    with pytest.raises(Refused, match="s1 was promoted and has newer data"):
        checked(monkeypatch, found, SeedOptions(), own=PROMOTED)
    checked(monkeypatch, found, SeedOptions(), own=STANDBY)


@pytest.mark.parametrize("s1", [None, standby_facts()])
def test_the_only_primary_follows_no_standby_of_its_own(s1: Facts | None) -> None:
    made = group(topology("s1", "s2", s2={"upstream": "s1"}))
    found = observation(pa=None, s1=s1, s2=facts())
    with pytest.raises(Refused, match="s2 is the primary now"):
        upstream_of(made, made.instance("s2"), found, SeedOptions(set_aside=True), image())
    other = observation(pa=None, s1=standby_facts(system_identifier="1"), s2=facts())
    assert upstream_of(made, made.instance("s2"), other, SeedOptions(), image()) is made.instance(
        "s1"
    )


# --- the master runs again ---

READY, AWAY = Said(), Said(err="Container pa is restarting, wait until it is running", code=1)
ENDED = Said(code=datadir.KILLED)
ENDING = (  # 20.10, on stdout; a newer CLI with it
    Said("OCI runtime exec failed: read init-p: connection reset by peer: unknown", code=126),
    Said(err="unable to upgrade to tcp, received 409", code=1),
)


@pytest.mark.parametrize(
    ("there", "log", "answers", "did"),
    [
        (container("pa", status="exited"), "", [READY], ["start", "exec"]),
        (container("pa"), "LOG:  database system is ready to accept connections", [], []),
        # somebody started it while its data was held
        (container("pa", status="restarting"), datadir.SENTENCE, [AWAY, READY],
         ["exec", "stop", "start", "exec"]),
        (container("pa"), datadir.SENTENCE, [ENDED, READY], ["exec", "stop", "start", "exec"]),
        *((container("pa"), datadir.SENTENCE, [ending, READY], ["exec", "stop", "start", "exec"])
          for ending in ENDING),
        (container("pa"), datadir.SENTENCE, [READY], ["exec"]),  # it got its data by now
        (None, "", [], []),
    ],
)  # fmt: skip
def test_the_master_is_started_again(
    there: Container | None,
    log: str,
    answers: list[Said],
    did: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the copy failed."""
    host = FakeHost({
        "docker": Said(), "docker logs": Said(log), "docker exec": answers, "sh": Said(),
    })  # fmt: skip
    made = group(topology("s1"), host)
    found = [container("pa")]
    monkeypatch.setattr(Instance, "container", lambda _: found.pop() if found else there)
    monkeypatch.setattr(connect, "ensure_slot", lambda *_: None)
    monkeypatch.setattr(start_stop, "stop_instances", lambda *_: None)

    def fails(*_: object) -> None:
        raise Error("no")

    monkeypatch.setattr(copy, "copy_data", fails)
    with pytest.raises(Error, match="no"):
        copy.copy_from_running(made, made.instance("s1"), made.master, image(), [])
    assert [call.argv[1] for call in host.calls if not call.reads] == did


def test_a_master_that_is_still_on_its_way_down_is_started_once_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C ends the docker command that stops it, and not what the engine does."""
    host = FakeHost({"docker": Said(), "docker logs": Said(), "docker exec": READY})
    made = group(topology("s1"), host)

    def there(_: Instance) -> Container:
        stopped = any(call.argv[1] == "stop" for call in host.calls)
        return container("pa", status="exited" if stopped else "running")

    def cut_short(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Instance, "container", there)
    monkeypatch.setattr(connect, "ensure_slot", lambda *_: None)
    monkeypatch.setattr(start_stop, "stop_instances", cut_short)
    with pytest.raises(KeyboardInterrupt):
        copy.copy_from_running(made, made.instance("s1"), made.master, image(), [])
    did = [call.argv[1] for call in host.calls if not call.reads]
    assert did == ["stop", "start", "exec"]
