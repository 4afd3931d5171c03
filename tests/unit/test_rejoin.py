"""A node comes back: by which way, what is kept of it, and what is refused before."""

from __future__ import annotations

import math
import re
import shlex
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
from pgherd.errors import Error, Refused, Unreachable
from pgherd.group import node_config, preconditions
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.group.rejoin_method import Method, RejoinMethod
from pgherd.operations import connect, rejoin, seed, set_aside, sync
from pgherd.operations.seed import SeedOptions
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import Instance

PROMOTED = facts(timeline=2, history="1\t0/5000148\tpromoted\n", lsn="0/7000000")
DISK = Disk(
    pg_version="17", empty=False, system_identifier=SYSTEM, state="in production", timeline=1,
    checkpoint="0/5000028", rewindable=True,
)  # fmt: skip


class Coming:
    """pa comes back to s1, which was promoted; the acts are only noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, disk: Disk = DISK, said: str = "") -> None:
        self.host = FakeHost(
            {
                "sh -s": Said("full"),
                "docker run": Said(said),
                "docker stop": Said(),
                "docker update": Said(),
                "docker exec": Said(),
            }
        )
        self.group = group(topology("s1", sync="s1"), self.host)
        self.pa, self.s1 = self.group.master, self.group.instance("s1")
        self.box = container("pa", status="exited", restart="no")
        self.theirs = PROMOTED
        self.mine: Facts | None = None
        self.did: list[str] = []
        self.follows, self.rewinds = True, True
        monkeypatch.setattr(Instance, "disk", lambda *_: disk)
        monkeypatch.setattr(Instance, "container", lambda _: self.box)
        monkeypatch.setattr(Instance, "facts", lambda _: self.theirs)
        monkeypatch.setattr(Group, "observe", lambda _: self.seen)
        monkeypatch.setattr(rejoin, "ensure_image", lambda *_: image())
        monkeypatch.setattr(preconditions, "check_passwords", lambda *_: None)
        monkeypatch.setattr(preconditions, "check_port", lambda *_: self.did.append("port"))
        monkeypatch.setattr(seed, "make_follow", self._follow)
        monkeypatch.setattr(seed, "allow_standby", lambda *_: self.did.append("let in"))
        monkeypatch.setattr(seed, "seed", lambda *_: self.did.append("seed"))
        monkeypatch.setattr(sync, "require_sync", lambda *_, **__: self.did.append("sync"))
        monkeypatch.setattr(connect, "ensure_slot", lambda *_: self.did.append("slot"))
        monkeypatch.setattr(connect, "wait_streaming", lambda *_: self.did.append("streams"))
        monkeypatch.setattr(rejoin, "wait_serving", lambda *_: None)
        monkeypatch.setattr(rejoin, "run_container", lambda *_: self.did.append("start"))
        monkeypatch.setattr(rejoin, "rewind", self._rewind)
        monkeypatch.setattr(set_aside, "copy_aside", self._copy)
        monkeypatch.setattr(set_aside, "drop_copy", lambda *_: self.did.append("drop"))

    @property
    def seen(self) -> Observation:
        """The group as it is: once pa was stopped, it is."""
        box = self.box if "stop" not in self.verbs else replace(self.box, status="exited")
        mine = self.mine if box.alive else None
        nodes = {
            "pa": NodeObservation(box, mine),
            "s1": NodeObservation(container("s1"), self.theirs),
        }
        return Observation(nodes, {"local": {"pa": box, "s1": container("s1")}})

    @property
    def verbs(self) -> list[str]:
        """What was done to pa by docker, the end (slots that are dropped) left out."""
        did = [call.argv[1] for call in self.host.calls if not call.reads]
        return [verb for verb in did if verb != "exec"]

    def _follow(self, _: object) -> Facts | None:
        self.did.append("follow")
        return self.theirs if self.follows else None

    def _rewind(self, *_: object) -> None:
        self.did.append("rewind")
        if not self.rewinds:
            raise Error("On pa: failed\n  | pg_rewind: error: could not find previous WAL record")

    def _copy(self, *_: object, **__: object) -> str:
        self.did.append("copy")
        return "/d/pa_bk"

    def comes(self, max_loss: float | None = math.inf) -> list[str]:
        """Let pa rejoin; return what was done."""
        rejoin.rejoin(self.group, "pa", SeedOptions(max_loss=max_loss))
        return self.did


OWN = "beyond=0/5000180 54 2\nlast=0/5000160 34 2026-01-01 00:00:00 UTC\n"
LOST = 0x160 - 0x148 + 34  # bytes, to the end of the last commit


def test_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    coming = Coming(monkeypatch)
    assert coming.comes() == ["port", "let in", "follow", "sync"]
    assert "docker update --restart unless-stopped pa" in coming.host.ran  # no fence any more
    assert "strangers='pa s1'\n" in coming.host.calls[-2].stdin  # nobody streams from it
    assert capsys.readouterr().err == (
        "pa: it can follow as it is: it has nothing beyond 0/5000148 of timeline 1\n"
    )


def test_rewound_and_what_it_had_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coming = Coming(monkeypatch, said=OWN)
    assert coming.comes() == [
        "port", "let in", "slot", "copy", "rewind", "start", "streams", "sync",
    ]  # fmt: skip
    assert "pa: 2 commits of its own are in /d/pa_bk" in capsys.readouterr().err


def test_rewound_and_nothing_of_worth_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch, said="beyond=0/5000180 54 0\n")
    assert coming.comes()[-2:] == ["drop", "sync"]


def test_where_nobody_can_count_the_copy_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch, replace(DISK, checkpoint="0/9000000"))
    assert "drop" not in coming.comes()
    assert "rewind" in coming.did


def test_where_it_cannot_be_rewound_it_is_copied_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coming = Coming(monkeypatch, said=OWN)
    coming.rewinds = False
    assert coming.comes() == ["port", "let in", "slot", "copy", "rewind", "seed", "sync"]
    said = capsys.readouterr().err
    assert "pg_rewind could not: could not find previous WAL record" in said
    assert "its data is kept as /d/pa_bk" in said


def test_where_it_does_not_follow_it_is_copied_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch)
    coming.follows = False
    assert coming.comes() == ["port", "let in", "follow", "seed", "sync"]


def test_without_checksums_it_is_copied_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coming = Coming(monkeypatch, replace(DISK, rewindable=False), OWN)
    assert coming.comes() == ["port", "let in", "seed", "sync"]
    assert "2 commits of its own are in what was set aside" in capsys.readouterr().err


def test_without_data_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch)
    coming.host.plan["sh", "-s"] = Said("empty")
    assert coming.comes() == ["port", "let in", "seed", "sync"]


def test_a_standby_that_has_nothing_of_its_own_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coming = Coming(monkeypatch)
    coming.box, coming.mine = container("pa"), standby_facts(lsn="0/5000148")
    assert coming.comes() == ["let in", "follow", "sync"]
    assert coming.verbs == []


def test_an_old_primary_that_runs_is_fenced_and_rewound(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch, said=OWN)
    coming.box, coming.mine = container("pa"), facts(lsn="0/6000000")
    assert "rewind" in coming.comes()
    assert "docker stop -t 30 pa" in coming.host.ran
    assert coming.did[0] == "let in"  # its port is its own


def test_one_that_streams_already(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coming = Coming(monkeypatch)
    info = node_config.conninfo(coming.pa, coming.s1)
    coming.box = container("pa")
    coming.mine = standby_facts(primary_conninfo=info, primary_slot="pa")
    coming.theirs = replace(PROMOTED, senders=(sender("pa"),))
    assert coming.comes() == ["sync"]
    assert capsys.readouterr().err == "pa: already follows s1\n"


# --- refused ---


def test_commits_of_its_own_are_refused_before_anything_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coming = Coming(monkeypatch)
    coming.host.plan["docker", "exec"] = Said(OWN)
    coming.box, coming.mine = container("pa"), standby_facts(timeline=3, lsn="0/6000000")
    coming.mine = replace(coming.mine, history="1 0/5000148\n")
    with pytest.raises(Refused, match=r"pa has 2 commits \(.*2026.*\) that s1 has not") as refused:
        coming.comes(None)
    assert f"`invoke rejoin pa --max-loss {LOST}`" in refused.value.sentence
    assert "`docker stop s1`, then `invoke failover --to pa`" in refused.value.sentence
    assert (coming.verbs, coming.did) == ([], [])


@pytest.mark.parametrize("lost", [None, LOST - 1])
def test_commits_of_one_that_is_down(lost: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch, said=OWN)
    with pytest.raises(Refused, match=f"{lost or 0} bytes of it may be lost") as refused:
        coming.comes(lost)
    assert f"`invoke rejoin pa --max-loss {LOST}`" in refused.value.sentence
    assert coming.verbs == []
    assert coming.comes(LOST)[-1] == "sync"


def test_what_cannot_be_counted_is_lost_only_where_any_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coming = Coming(monkeypatch, replace(DISK, checkpoint="0/9000000"))
    with pytest.raises(Refused, match="`invoke rejoin pa --max-loss any`"):
        coming.comes(10**15)
    assert coming.comes()[-1] == "sync"


def test_commits_that_waited_for_the_one_that_leads_were_told_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coming = Coming(monkeypatch, replace(DISK, sync_names="FIRST 1 (s1)"), OWN)
    assert "rewind" in coming.comes(None)


def test_what_a_failover_has_weighed_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "rewind" in Coming(monkeypatch, replace(DISK, standby_signal=True), OWN).comes(None)
    coming = Coming(
        monkeypatch, replace(DISK, standby_signal=True, state="in archive recovery"), OWN
    )
    with pytest.raises(Refused, match="Clients may have been told of what pa has"):
        coming.comes(None)  # a standby


def test_one_that_wrote_more_meanwhile_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch, said=OWN)
    coming.host.plan |= {
        ("docker", "exec"): Said("beyond=0/5000180 54 0\n"),
        ("docker", "start"): Said(),
    }
    coming.box, coming.mine = container("pa"), facts(lsn="0/6000000")
    with pytest.raises(Refused, match="pa has 2 commits"):
        coming.comes(None)
    assert coming.verbs[-1] == "start"
    assert "rewind" not in coming.did


def test_another_systems_server_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch)
    coming.box, coming.mine = container("pa"), standby_facts(system_identifier="1", timeline=9)
    with pytest.raises(Refused, match="a database of another system"):
        coming.comes()
    assert (coming.verbs, coming.did) == ([], [])


@pytest.mark.parametrize(
    ("pa", "s1", "sentence"),
    [
        (facts(), standby_facts(), "pa is the primary: there is nothing for it to follow"),
        (None, standby_facts(), "No node of g is primary"),
    ],
)
def test_who_is_to_be_followed(pa: Facts | None, s1: Facts, sentence: str) -> None:
    made = group(topology("s1"), FakeHost())
    seen = observation(pa=pa, s1=s1)
    seen = Observation(
        {**seen.nodes, "pa": NodeObservation(container("pa", status="exited"), pa)}, {}
    )
    with pytest.raises(Refused, match=re.escape(sentence)):
        rejoin._leader(made, made.master, seen)


def test_of_two_primaries_the_older_one_follows() -> None:
    made = group(topology("s1"), FakeHost())
    seen = observation(pa=facts(), s1=facts(timeline=2))
    assert rejoin._leader(made, made.master, seen) is made.instance("s1")


def test_a_host_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(monkeypatch)
    monkeypatch.setattr(Group, "locked", lambda *_, **__: coming.host.lease("", ""))
    coming.group.away = {"local": "local cannot be reached."}
    with pytest.raises(Unreachable):
        coming.comes()


# --- data beside itself ---


def beside(*plan: str, **node: str) -> tuple[Group, FakeHost]:
    host = FakeHost(dict.fromkeys(["mkdir", "sh", "rmdir", "docker", *plan], Said()))
    return group(topology("s1", s1=node), host), host


def test_a_directory_is_copied_under_a_name_that_says_so_until_it_is_whole() -> None:
    made, host = beside(data='/d/it\'s a "place", this')
    target = set_aside.copy_aside(made, made.instance("s1"), image())
    assert re.fullmatch(r"/d/it's a \"place\", this_bk_\d{8}T\d{6}Z", target)
    made_dir, copied, moved = host.calls
    assert made_dir.stdin.endswith('mkdir -- "$part"\n')
    assert f"{target}.part" in shlex.split(made_dir.stdin)[1]
    doubled = target.replace('"', '""')
    assert f'type=bind,"source={doubled}.part",target=/aside' in copied.argv
    assert "cp -a /var/lib/postgresql/data/. /aside/" in copied.stdin
    # what a killed run has left is made anew
    assert copied.stdin.index("find /aside -mindepth 1 -delete") < copied.stdin.index("cp -a")
    assert moved.stdin.startswith("source=")
    assert '[ ! -e "$target" ]\nmv -- "$source" "$target"\n' in moved.stdin


def test_a_volume_is_copied_to_another_one() -> None:
    made, host = beside(data="volume:v1")
    host.plan["docker", "volume", "inspect"] = Said(code=1)
    s1 = made.instance("s1")
    what = ("", set_aside.EMPTY)
    target = set_aside._copy(made, s1, image(), s1.data_mounts(), set_aside.now_stamp(), what)
    assert target.startswith("v1_bk_")
    _, create, copied = host.calls
    assert create.argv[:3] == ("docker", "volume", "create")
    assert f"type=volume,source={target},target=/aside" in copied.argv
    emptied = copied.stdin.rindex("-mindepth 1 -delete")
    assert copied.stdin.index("cp -a") < copied.stdin.index("rm /aside/pgherd.unf") < emptied
    host.calls.clear()
    set_aside.drop_copy(made.instance("s1"), image(), target)
    assert host.ran == [f"docker volume rm {target}"]


def test_a_copy_that_fails_is_an_error_and_keeps_its_name() -> None:
    made, host = beside()
    host.plan["docker",] = Said(code=1, err="cp: No space left on device")
    with pytest.raises(Error) as caught:
        set_aside.copy_aside(made, made.instance("s1"), image())
    assert caught.value.sentence.startswith("The disk of local is full: make room there")
    assert [call.argv[0] for call in host.calls] == ["sh", "docker"]


def test_a_directory_that_is_dropped() -> None:
    made, host = beside()
    set_aside.drop_copy(made.instance("s1"), image(), "/d/s1_bk_x")
    assert host.calls[0].argv[-1] == "-s"
    assert "type=bind,source=/d/s1_bk_x,target=/var/lib/postgresql/data" in host.calls[0].argv
    assert not [word for word in host.calls[0].argv if "/d/s1," in word]  # only the copy is there
    assert host.calls[1].argv == ("rmdir", "--", "/d/s1_bk_x")


# --- pg_rewind ---


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("On pa: x\n  | pg_rewind: error: no common ancestor\n  | more", "no common ancestor"),
        ("On pa: x\n  | gosu: not found", "gosu: not found"),
    ],
)
def test_the_reason_why_it_could_not(said: str, why: str) -> None:
    assert rejoin.reason(Error(said)) == why


def test_a_way_has_its_words() -> None:
    assert RejoinMethod(Method.REWIND, "x").commits == 0
    assert [kind.value for kind in Method] == [
        "it can follow as it is", "pg_rewind", "a new base backup",
    ]  # fmt: skip
    assert isinstance(container("pa"), Container)
