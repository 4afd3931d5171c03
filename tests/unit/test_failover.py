"""A lost primary's place is taken: who is fenced, what is refused, and that it is undone then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import (
    SYSTEM,
    FakeHost,
    Said,
    container,
    facts,
    group,
    image,
    sender,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.config.topology import Topology
from pgherd.docker.engine import Engine
from pgherd.docker.models import Container
from pgherd.errors import Refused, Unreachable
from pgherd.group import node_config, preconditions
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.hosts.commands import Secret
from pgherd.operations import connect, failover, fencing, run_token
from pgherd.operations.fencing import Fenced
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond
from pgherd.postgres.instance import Instance
from pgherd.security.passwords import Passwords

EXEC = "docker exec --interactive --user postgres"
CONTROL = f"""\
pg_version=17
Database system identifier:           {SYSTEM}
Database cluster state:               in production
Latest checkpoint location:           0/2000028
Latest checkpoint's TimeLineID:       1
sync_names=FIRST 1 (s1)
"""
PAIR = topology("s1", sync="s1")
TRIO = topology("s1", "s2", sync="s1")


class Lost:
    """A group whose primary pa is lost, its state, and what was done."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        asked: Topology = PAIR,
        *,
        disk: str = CONTROL,
        state: str = "exited",
        **nodes: Facts | None,
    ) -> None:
        self.host = FakeHost(
            {
                "sh -s": Said("full"),
                "docker run": Said(disk),
                "docker exec": Said(),
                "docker start": Said(),
                "docker stop": Said(),
                "docker update": Said(),
            }
        )
        self.group = group(asked, self.host)
        follows = {
            name: standby_facts(
                primary_conninfo=node_config.conninfo(self.group.instance(name), self.group.master),
                primary_slot=name,
                received="0/3000000",
            )
            for name in asked.nodes
            if name != "pa"
        }
        self.boxes: dict[str, Container | None] = {n: container(n) for n in asked.nodes}
        self.boxes["pa"] = container("pa", status=state)
        self.facts: dict[str, Facts | None] = {"pa": None, **follows, **nodes}
        monkeypatch.setattr(Group, "observe", lambda _: self.seen)
        monkeypatch.setattr(failover, "ensure_image", lambda *_: image())
        monkeypatch.setattr(Instance, "container", lambda i: self.boxes[i.name])
        monkeypatch.setattr(Instance, "facts", lambda _: facts(sender("s2"), timeline=2))
        monkeypatch.setattr(Passwords, "of", lambda *_: Secret("secret", "/nowhere"))
        monkeypatch.setattr(connect, "wait_streaming", lambda *_: None)

    @property
    def seen(self) -> Observation:
        """The group as it is."""
        nodes = {name: NodeObservation(self.boxes[name], self.facts[name]) for name in self.facts}
        return Observation(nodes, {"local": {n: b for n, b in self.boxes.items() if b}})

    @property
    def acts(self) -> list[str]:
        """What was done, in order: the verb and the node."""
        return [
            f"{call.argv[1]} {self._whom(call.argv)}"
            for call in self.host.calls
            if call.argv[0] == "docker" and not call.reads
        ]

    @staticmethod
    def _whom(argv: tuple[str, ...]) -> str:
        if argv[1] == "run":
            return argv[argv.index("--name") + 1].removeprefix("pgherd-g-")
        return argv[5] if argv[1] == "exec" else argv[-1]

    def scripts(self, node: str, verb: str = "exec") -> list[str]:
        """The scripts that were run on a node."""
        return [
            call.stdin
            for call in self.host.calls
            if call.argv[1:2] == (verb,) and self._whom(call.argv) == node
        ]

    def refused(self, name: str = "", **options: Any) -> str:
        """Say why it is refused."""
        with pytest.raises(Refused) as caught:
            failover.failover(self.group, name, **options)
        return caught.value.sentence


OWN = CONTROL + "beyond=0/3000100 54 2\n"
FOREIGN_LIST = OWN.replace("FIRST 1 (s1)", "FIRST 1 (s9)")


def test_it_is_fenced_before_the_other_is_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, state="paused")
    done = failover.failover(lost.group, "")
    assert done is not None
    assert (done.primary, done.former, done.loss.size) == ("s1", "pa", 0)
    assert lost.acts[:2] == ["update pa", "stop pa"]
    assert sorted(lost.acts[2:4]) == ["exec s1", "run pa"]  # marked, and the turn taken meanwhile
    taken, promoted = lost.scripts("s1")[:2]
    assert "flock -n 9" in taken
    assert "pg_ctl promote" not in taken
    assert "pg_ctl promote" in promoted
    (fenced,) = lost.scripts("pa", "run")
    assert "start=0/3000000\nfrom=0/3000000\n" in fenced
    order = (
        "pg_controldata",
        'beyond "$start"',
        f'{run_token.RUN_TOKEN} | lay "$PGDATA/standby.signal"',
    )
    assert [fenced.index(text) for text in order] == sorted(fenced.index(text) for text in order)
    assert "docker update --restart no pa" in lost.host.ran
    assert "docker stop -t 30 pa" in lost.host.ran


def test_what_is_received_until_it_stands_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent to us, it may serve its clients: who has most is asked once it is stopped."""
    lost = Lost(monkeypatch, TRIO, state="paused")
    before, after = lost.facts["s1"], replace(lost.facts["s2"] or facts(), received="0/3000100")

    def look(_: Group) -> Observation:
        if "stop pa" in lost.acts:
            lost.facts["s2"] = after
            lost.boxes["pa"] = container("pa", status="exited", restart="no")
        return lost.seen

    monkeypatch.setattr(Group, "observe", look)
    done = failover.failover(lost.group, "")
    assert done is not None
    assert before
    assert done.primary == "s2"
    (fenced,) = lost.scripts("pa", "run")
    assert "from=0/3000100\n" in fenced


def test_where_none_can_be_chosen_any_more_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Lost(monkeypatch, state="paused")

    def look(_: Group) -> Observation:
        if "stop pa" in lost.acts:
            lost.facts["s1"] = None
        return lost.seen

    monkeypatch.setattr(Group, "observe", look)
    assert "No standby of g answers" in lost.refused()
    assert lost.acts == ["update pa", "stop pa", "update pa", "start pa"]


FAULTS = [Unreachable("box cannot be reached by SSH."), OSError(24, "too many"), SystemExit(143),
          KeyboardInterrupt()]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_what_fails_before_the_promotion_is_undone(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    lost = Lost(monkeypatch, state="paused")
    faults = [fault]

    def look(_: Group) -> Observation:
        if "stop pa" in lost.acts and faults:
            raise faults.pop()
        return lost.seen

    monkeypatch.setattr(Group, "observe", look)
    with pytest.raises(type(fault)):
        failover.failover(lost.group, "")
    assert lost.acts == ["update pa", "stop pa", "update pa", "start pa"]


def test_one_that_is_still_on_its_way_down_is_started_once_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C ends the docker command, and not what the engine does."""
    lost = Lost(monkeypatch, state="running")
    lost.facts["s1"] = replace(lost.facts["s1"] or facts(), receiver=None)
    stop = Engine.stop

    def cut_short(*_: object) -> None:
        monkeypatch.setattr(Engine, "stop", stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "stop", cut_short)
    with pytest.raises(KeyboardInterrupt):
        failover.failover(lost.group, "")
    assert lost.acts == ["update pa", "stop pa", "update pa", "start pa"]


def test_a_mark_that_nobody_heard_of_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, state="paused")
    offline = Instance.offline

    def cut_short(server: Instance, *words: Any, **options: Any) -> str:
        monkeypatch.setattr(Instance, "offline", offline)
        server.offline(*words, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Instance, "offline", cut_short)
    with pytest.raises(KeyboardInterrupt):
        failover.failover(lost.group, "")
    marked, taken_back = lost.scripts("pa", "run")
    assert f'echo {run_token.RUN_TOKEN} | lay "$PGDATA/standby.signal"' in marked
    only = taken_back.index(f'grep -sqx {run_token.RUN_TOKEN} "$PGDATA/standby.signal" || exit 0')
    assert only < taken_back.index('rm -f "$PGDATA/standby.signal"')
    assert lost.host.ran[-1] == "docker start pa"


def test_one_that_serves_others_is_not_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no connection left for us, or stands at a lock: others write on it meanwhile."""
    lost = Lost(monkeypatch, state="running")
    said = lost.refused()
    assert "pa runs, and s1 streams from it: it may serve others" in said
    assert "`docker stop pa` first" in said
    assert lost.acts == []


def test_one_that_only_a_cascade_streams_below_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """s2 streams from s1, which has lost the primary: that tells nothing of the primary."""
    chain = topology("s1", "s2", s2={"upstream": "s1"})
    lost = Lost(monkeypatch, chain, state="running")
    below = node_config.conninfo(lost.group.instance("s2"), lost.group.instance("s1"))
    lost.facts["s1"] = replace(lost.facts["s1"] or facts(), receiver=None)
    lost.facts["s2"] = replace(lost.facts["s2"] or facts(), primary_conninfo=below)
    failover.failover(lost.group, "s1")
    assert "stop pa" in lost.acts


def test_one_that_runs_and_that_nobody_receives_from_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Lost(monkeypatch, state="running")
    lost.facts["s1"] = replace(lost.facts["s1"] or facts(), receiver=None)
    failover.failover(lost.group, "")
    assert "stop pa" in lost.acts


def test_a_name_of_no_node_stands_in_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    lost.facts["pa"] = facts()
    with pytest.raises(Refused, match="no node 'nix'"):
        failover.failover(lost.group, "nix")


def test_one_that_is_down_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    failover.failover(lost.group, "")
    assert "stop pa" not in lost.acts
    assert [act for act in lost.acts if act.endswith("pa")] == ["update pa", "run pa"]


def test_without_a_container_its_data_is_still_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    lost.boxes["pa"] = None
    failover.failover(lost.group, "")
    assert [act for act in lost.acts if act.endswith("pa")] == ["run pa"]


def test_what_was_not_acknowledged_may_be_left_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Lost(monkeypatch, disk=OWN)
    done = failover.failover(lost.group, "")
    assert done is not None
    assert (done.loss.size, done.loss.acknowledged) == (310, False)
    assert "pa: 310 bytes of its WAL, 2 commits, stays behind" in capsys.readouterr().err


def test_too_much_is_refused_and_the_fence_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, disk=FOREIGN_LIST, state="paused")
    said = lost.refused()
    assert "310 bytes of its WAL, 2 commits, will be lost, and 0 bytes may be" in said
    docked = [act for act in lost.acts if act != "exec s1"]
    assert docked == ["update pa", "stop pa", "run pa", "run pa", "update pa", "start pa"]
    assert not [script for script in lost.scripts("s1") if "pg_ctl promote" in script]
    assert 'rm -f "$PGDATA/standby.signal"' in lost.scripts("pa", "run")[1]
    assert lost.host.ran[-2:] == [
        "docker update --restart unless-stopped pa", "docker start pa",
    ]  # fmt: skip


def test_so_much_may_be_lost_where_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, disk=FOREIGN_LIST)
    assert "310 bytes" in lost.refused(max_loss=309)
    again = Lost(monkeypatch, disk=FOREIGN_LIST)
    done = failover.failover(again.group, "", max_loss=310)
    assert done is not None
    assert done.loss.acknowledged


@pytest.mark.parametrize(
    ("nodes", "name", "sentence"),
    [
        ({"s1": None}, "", "No standby of g answers"),
        ({}, "pa", "pa does not run as a standby: choose s1"),
        ({"pa": facts(), "s1": standby_facts()}, "s1", "`invoke switchover --to s1` changes it"),
        (
            {"pa": facts(), "s1": facts()},
            "",
            "2 nodes are primary at once: pa (timeline 1), s1 (timeline 1). pa leads",
        ),
    ],
)
def test_refused_before_anything_is_changed(
    nodes: dict[str, Any], name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Lost(monkeypatch, **nodes)
    assert sentence in lost.refused(name)
    assert lost.acts == []


def test_a_primary_that_serves_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, pa=facts(), state="paused")
    assert lost.refused() == "pa serves as primary: there is nothing to fail over."
    assert lost.acts == []


# --- a host that is away ---


def away(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    lost.group.away = {"far": "far cannot be reached."}
    node = lost.group.master.node.model_copy(update={"host": "far"})
    lost.group.master.node = node
    monkeypatch.setattr(Group, "locked", lambda *_, **__: lost.host.lease("", ""))


def test_one_that_cannot_be_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    away(lost, monkeypatch)
    said = lost.refused()
    assert "pa cannot be fenced, as far cannot be reached" in said
    assert "`invoke failover --to s1 --skip-fencing`" in said
    assert lost.acts == []
    done = failover.failover(lost.group, "", skip_fencing=True)
    assert done is not None
    assert done.loss.size is None
    assert not [act for act in lost.acts if act.endswith("pa")]


def test_unknown_loss_is_refused_where_it_may_be_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Lost(monkeypatch, TRIO, s1=None)  # s2 has no say: commits waited for s1
    lost.boxes["s1"] = container("s1", status="exited")
    away(lost, monkeypatch)
    monkeypatch.setattr(Instance, "disk", lambda *_: Disk())
    said = lost.refused(skip_fencing=True)
    assert "unknown how much" in said
    assert not [act for act in lost.acts if act.endswith("pa")]
    assert not [script for script in lost.scripts("s2") if "pg_ctl promote" in script]


# --- what a failover that was cut short has left ---


def test_one_that_would_come_back_as_primary_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, s1=facts(timeline=2))
    monkeypatch.setattr(Instance, "disk", lambda *_: Disk(pg_version="17", empty=False))
    assert failover.failover(lost.group, "") is None
    assert lost.acts[:2] == ["update pa", "run pa"]


def test_one_that_was_fenced_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, s1=facts(timeline=2))
    marked = Disk(pg_version="17", empty=False, standby_signal=True)
    monkeypatch.setattr(Instance, "disk", lambda *_: marked)
    assert "nothing to fail over" in lost.refused()
    assert lost.acts == []


# --- the others ---


def test_a_standby_that_has_more_is_left_to_rejoin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Lost(monkeypatch, TRIO)
    promoted = facts(timeline=2, history="1\t0/3000000\tx\n")
    monkeypatch.setattr(Instance, "facts", lambda _: promoted)
    info = node_config.conninfo(lost.group.instance("s2"), lost.group.master)
    lost.facts["s2"] = standby_facts(received="0/3000100", primary_conninfo=info, primary_slot="s2")
    failover.failover(lost.group, "s1", max_loss=10**6)
    assert "s2: has WAL that s1 has not: `invoke rejoin s2`" in capsys.readouterr().err
    assert lost.scripts("s2") == []


def test_the_others_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, TRIO)
    promoted = facts(timeline=2, history="1\t0/3000000\tx\n")
    monkeypatch.setattr(Instance, "facts", lambda _: promoted)
    failover.failover(lost.group, "")
    script, tidied = lost.scripts("s2")
    assert "host=s1 " in script
    assert "strangers='pa s1 s2'\n" in tidied
    assert "SELECT pg_reload_conf()" in script


def test_a_cascade_whose_upstream_has_more_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Lost(monkeypatch, topology("s1", "s2", "s3", s3={"upstream": "s2"}))
    its = lost.facts["s2"]
    assert its
    lost.facts["s2"] = replace(its, received="0/3000100")
    promoted = facts(timeline=2, history="1\t0/3000000\tx\n")
    monkeypatch.setattr(Instance, "facts", lambda _: promoted)
    waited: list[str] = []
    monkeypatch.setattr(connect, "wait_streaming", lambda one, *_: waited.append(one.name))
    failover.failover(lost.group, "s1")
    said = capsys.readouterr().err
    assert "s2: has WAL that s1 has not: `invoke rejoin s2`" in said
    assert "s3: follows s2, which is not back yet: `invoke rejoin s2` brings both back" in said
    assert waited == []


# --- the fence by itself ---


def test_a_fence_that_finds_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    monkeypatch.setattr(preconditions, "data_state", lambda _: preconditions.EMPTY)
    found = fencing.mark_as_standby(lost.group, lost.group.master, image(), facts())
    assert found == Fenced(Disk(), None, ran=False)
    assert lost.acts == []


def test_a_second_fence_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    lost.boxes["pa"] = container("pa", status="exited", restart="no")
    fencing.stop_and_fence(lost.group, lost.group.master, lost.boxes["pa"])
    assert lost.acts == []


@pytest.mark.parametrize(
    ("disk", "ran", "acts"),
    [
        (Disk(pg_version="17"), True, ["run pa", "update pa", "start pa"]),
        (Disk(pg_version="17"), False, ["run pa", "update pa"]),
        # it was marked before: the mark stays
        (Disk(pg_version="17", standby_signal=True), False, ["update pa"]),
        (Disk(), False, ["update pa"]),
    ],
)
def test_a_lifted_fence_leaves_what_was(
    disk: Disk, ran: bool, acts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Lost(monkeypatch)
    fencing.lift_fence(lost.group, lost.group.master, image(), Fenced(disk, None, ran))
    assert lost.acts == acts


def test_only_a_fence_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    fencing.lift_restart(lost.group.master)
    assert lost.acts == []
    lost.boxes["pa"] = container("pa", restart="no")
    fencing.lift_restart(lost.group.master)
    assert lost.host.ran == ["docker update --restart unless-stopped pa"]


def test_a_newer_timeline_of_the_lost_one_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was promoted a moment ago, and the standby has not come to its timeline yet."""
    newer = CONTROL.replace("TimeLineID:       1", "TimeLineID:       2")
    lost = Lost(monkeypatch, disk=newer)
    found = fencing.mark_as_standby(lost.group, lost.group.master, image(), facts())
    assert found.beyond == Beyond(1, None)
    (script,) = lost.scripts("pa", "run")
    assert "\ntimeline=1\n" not in script  # what `examine` found is asked for


def test_with_dry_what_would_be_lost_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Lost(monkeypatch, disk=OWN)
    lost.host.trace.dry = True
    marked = Disk(pg_version="17", empty=False, sync_names="FIRST 1 (s9)", checkpoint="0/1")
    monkeypatch.setattr(Instance, "disk", lambda *_: marked)
    assert "310 bytes of its WAL, 2 commits, will be lost" in lost.refused()
    assert lost.acts == []
    assert "docker update --restart no pa" in capsys.readouterr().out


def test_a_host_that_is_away_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)

    def gone(_: Group) -> Observation:
        raise Unreachable("local cannot be reached.")

    monkeypatch.setattr(Group, "observe", gone)
    with pytest.raises(Unreachable):
        failover.failover(lost.group, "")
