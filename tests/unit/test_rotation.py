"""Whose password is changed in which order, and what is refused before anything is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from fakes import (
    Call,
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
)

from pgherd.config import loader
from pgherd.errors import DeadlinePassed, Error, Refused
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.operations import rotate
from pgherd.report import changes

FOLLOWS = "host=pa user=replicator application_name=s1 passfile=/etc/pgherd/passfile"
SET, LAY = "docker exec", "docker run"
_STANDS = NodeObservation(
    container("s1", status="paused"), None, "Container s1 is paused, unpause it"
)
PAUSED = Observation(
    {"pa": NodeObservation(container("pa"), facts()), "s1": _STANDS}, {"local": {}}
)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory with the passwords of group `g`."""
    monkeypatch.setattr(loader, "secrets_dir", lambda *_: tmp_path)
    for role in ("postgres", "replicator"):
        (tmp_path / f"{role}.password").write_text(f"former-{role}\n")
    return tmp_path


class Host(FakeHost):
    """A host whose helpers say that they are armed, as soon as they begin."""

    said = "written 0/3000000\n"
    helper = Said("armed\nchanged passfile\n")

    def run(self, command: Any, **options: Any) -> Any:
        """Answer what is planned for each kind of command."""
        self.plan = {
            ("docker", "run"): self.helper,
            ("docker", "exec"): Said(self.said),
            ("test",): Said(),
        }
        return super().run(command, **options)


def made(host: FakeHost, monkeypatch: pytest.MonkeyPatch, seen: Observation | None = None) -> Group:
    """A primary and the standby s1, which streams."""
    found = seen or observation(pa=facts(sender("s1")), s1=standby_facts(primary_conninfo=FOLLOWS))
    the_group = group(topology("s1"), host)
    monkeypatch.setattr(the_group, "observe", lambda **_: found)
    monkeypatch.setattr(rotate, "ensure_image", lambda *_: image())
    monkeypatch.setattr(type(the_group.instances["pa"]), "facts", lambda _: facts(sender("s1")))
    return the_group


def acts(host: FakeHost) -> list[Call]:
    return [call for call in host.calls if not call.reads]


def where(call: Call) -> str:
    """Return what a command is and whose."""
    words = list(call.argv)
    node = words[words.index("--name") + 1] if "--name" in words else words[5]
    return f"{words[1]} {node}"


@pytest.mark.usefixtures("secrets")
def test_both_roles(monkeypatch: pytest.MonkeyPatch, secrets: Path) -> None:
    host = Host()
    done = rotate.rotate(made(host, monkeypatch))
    assert [where(call) for call in acts(host)] == [
        "run pgherd-g-s1",  # armed, before
        "exec pa",  # the roles are changed
        "run pgherd-g-pa",
        "exec s1",  # it has replayed that
    ]
    helper, change, own, _ = acts(host)
    new = {r: (secrets / f"{r}.password").read_text().strip() for r in ("postgres", "replicator")}
    assert "former-replicator\n" in helper.stdin
    assert f"{new['replicator']}\n" in helper.stdin
    assert new["postgres"] not in helper.stdin + own.stdin
    assert "replication=true" in helper.stdin
    assert "application_name=pgherd" in helper.stdin  # none that commits may wait for
    assert all(f"{word}\n" in change.stdin for word in [*new.values(), "former-postgres"])
    assert [word for call in host.calls for word in call.argv if word in new.values()] == []
    assert (set(done.roles), done.unbroken, done.reconnected) == (set(new), ("s1",), ())


class Patient(Host):
    """A host on which every helper waits for the change, as a real one does."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.changed = threading.Event()
        self.most = room

    def room(self, wanted: int) -> int:
        """Have room for so many."""
        return min(wanted, self.most)

    def run(self, command: Any, **options: Any) -> Any:
        """Let a helper end once the roles are changed, and not before."""
        result = super().run(command, **options)
        if result.argv[:2] == ("docker", "exec") and "rotate replicator" in self.calls[-1].stdin:
            self.changed.set()
        if options.get("on_line"):
            assert self.changed.wait(5)
        return result


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(("room", "helped"), [(99, 7), (3, 2), (1, 0)])
def test_many_standbys(monkeypatch: pytest.MonkeyPatch, room: int, helped: int) -> None:
    """All helpers at once, or as many as the host lets wait while the roles are changed."""
    names = [f"s{n}" for n in range(1, 8)]
    host = Patient(room)
    seen = observation(
        pa=facts(*map(sender, names)),
        **{name: standby_facts(primary_conninfo=FOLLOWS) for name in names},
    )
    the_group = group(topology(*names), host)
    monkeypatch.setattr(the_group, "observe", lambda **_: seen)
    monkeypatch.setattr(rotate, "ensure_image", lambda *_: image())
    monkeypatch.setattr(type(the_group.instances["pa"]), "facts", lambda _: facts())
    monkeypatch.setattr(rotate, "ARM_SECONDS", 5)
    rotate.rotate(the_group)
    ran = [where(call) for call in acts(host)]
    change = ran.index("exec pa")
    laid = [f"run pgherd-g-{name}" for name in ["pa", *names]]
    assert sorted(words for words in ran if words.startswith("run")) == sorted(laid)
    assert len(ran[:change]) == helped
    assert the_group.passwords.replacing() == {}


def test_the_superuser_s_alone_touches_no_passfile(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    host = Host()
    rotate.rotate(made(host, monkeypatch), "postgres")
    assert [where(call) for call in acts(host)] == ["exec pa", "exec s1"]
    assert (secrets / "replicator.password").read_text() == "former-replicator\n"


def test_what_was_cut_short_is_completed_and_no_more(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    the_group = made(Host(), monkeypatch)
    new = the_group.passwords.replace(["postgres", "replicator"])
    done = rotate.rotate(the_group)
    assert done.completed
    for role, secret in new.items():
        assert (secrets / f"{role}.password").read_text().strip() == secret.value


def test_another_role_or_password_comes_after_it(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    the_group = made(Host(), monkeypatch)
    the_group.passwords.replace(["postgres"])
    assert rotate.rotate(the_group, "replicator").roles == ("postgres", "replicator")
    left = the_group.passwords.replace(["postgres"])["postgres"].value
    monkeypatch.setenv("INVOKE_POSTGRES_PASSWORD", "mine, not that")
    assert rotate.rotate(the_group).roles == ("postgres", "postgres")
    assert left != (secrets / "postgres.password").read_text() == "mine, not that\n"


def test_a_former_one_that_still_opens_is_an_error_and_the_new_one_is_kept(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    host = Host()
    host.said = "open postgres\nwritten 0/3000000\n"
    with pytest.raises(Error, match=r"lets postgres in by the former one as well.*`invoke audit`"):
        rotate.rotate(made(host, monkeypatch))
    assert (secrets / "postgres.password").read_text() != "former-postgres\n"


def test_where_no_helper_begins_nothing_is_changed(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    monkeypatch.setattr(rotate, "ARM_SECONDS", 0.05)
    host = Host()
    the_group = made(host, monkeypatch)
    monkeypatch.setattr(rotate, "_swap", lambda *_: None)
    with pytest.raises(DeadlinePassed, match="Nothing was changed"):
        rotate.rotate(the_group)
    assert acts(host) == []
    assert (secrets / "postgres.password").read_text() == "former-postgres\n"


def test_where_no_password_lets_a_standby_in_nothing_is_changed(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    host = Host()
    host.helper = Said(err="by neither password does pa let the role replicator in\n", code=77)
    with pytest.raises(Error, match="by neither password does pa let"):
        rotate.rotate(made(host, monkeypatch))
    assert [where(call) for call in acts(host)] == ["run pgherd-g-s1"]
    assert (secrets / "replicator.password").read_text() == "former-replicator\n"


def test_a_standby_whose_upstream_is_down_is_refused(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    seen = observation(
        pa=facts(), s1=None, s2=standby_facts(primary_conninfo=FOLLOWS.replace("pa", "s1"))
    )
    down = NodeObservation(container("s1", status="exited"), None)
    seen = Observation({**seen.nodes, "s1": down}, seen.engines)
    host = Host()
    the_group = group(topology("s1", "s2"), host)
    monkeypatch.setattr(the_group, "observe", lambda **_: seen)
    monkeypatch.setattr(rotate, "ensure_image", lambda *_: image())
    with pytest.raises(Refused, match="s2 follows s1, which is down"):
        rotate.rotate(the_group)
    assert (acts(host), (secrets / "replicator.password").exists()) == ([], True)


def test_a_damaged_file_is_told_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    (secrets / "replicator.password").write_text("")
    host = Host()
    the_group = made(host, monkeypatch)
    with pytest.raises(Refused, match="must hold one line"):
        rotate.rotate(the_group)
    assert (host.calls, the_group.passwords.pending.exists()) == ([], False)


@pytest.mark.usefixtures("secrets")
def test_a_server_with_another_private_directory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    host.said = "written 0/3000000\nstale passfile\n"
    with pytest.raises(Error, match=r"runs with another directory .*`invoke stop`, then `invoke"):
        rotate.rotate(made(host, monkeypatch), "replicator")


@pytest.mark.usefixtures("secrets")
def test_a_node_that_is_down_gets_its_passfile(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    seen = observation(pa=facts(), s1=None)
    down = NodeObservation(container("s1", status="exited"), None)
    seen = Observation({**seen.nodes, "s1": down}, seen.engines)
    rotate.rotate(made(host, monkeypatch, seen), "replicator")
    assert sorted(where(call) for call in acts(host)) == [
        "exec pa",
        "run pgherd-g-pa",
        "run pgherd-g-s1",
    ]


@pytest.mark.parametrize(
    ("seen", "role", "sentence"),
    [
        (observation(pa=facts(), s1=standby_facts()), "root", "postgres or replicator, not 'root'"),
        (observation(pa=facts(), s1=None), "", "s1 runs and does not answer"),
        (PAUSED, "", "s1 is paused and answers nobody: `docker unpause s1`"),
        (observation(pa=None, s1=standby_facts(primary_conninfo=FOLLOWS)), "", "pa is running"),
        (
            observation(
                pa=standby_facts(primary_conninfo=FOLLOWS.replace("pa", "s1"), apply_delay=60000),
                s1=facts(),
            ),
            "",
            "",
        ),
    ],
)
@pytest.mark.usefixtures("secrets")
def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, seen: Observation, role: str, sentence: str
) -> None:
    host = Host()
    the_group = made(host, monkeypatch, seen)
    if not sentence:  # a delayed standby that nobody follows is told, not refused
        assert rotate.rotate(the_group).late == ("pa",)
        return
    with pytest.raises(Refused, match=sentence):
        rotate.rotate(the_group, role)
    assert acts(host) == []
    assert not the_group.passwords.pending.exists()


@pytest.mark.usefixtures("secrets")
def test_a_standby_behind_a_delayed_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    the_group = group(topology("s1", "s2"), host)
    seen = observation(
        pa=facts(),
        s1=standby_facts(primary_conninfo=FOLLOWS, apply_delay=300000),
        s2=standby_facts(primary_conninfo=FOLLOWS.replace("pa", "s1", 1)),
    )
    monkeypatch.setattr(the_group, "observe", lambda **_: seen)
    monkeypatch.setattr(rotate, "ensure_image", lambda *_: image())
    with pytest.raises(Refused, match="s2 follows s1, which replays 300 s late"):
        rotate.rotate(the_group)
    assert acts(host) == []


def test_the_report() -> None:
    done = rotate.Rotated(("replicator", "postgres"), False, ("s1",), ("s2",), ("s3",))
    assert changes.rotation_text(done, "/s").splitlines() == [
        "replicator and postgres have new passwords: in /s",
        "no stream broke: s1",
        "connected anew meanwhile, or away: s2",
        "late on purpose, and open by the former password until then: s3",
        "applications that log in as postgres need the new one; who is in stays in",
    ]
    one = rotate.Rotated(("replicator",), True, (), (), ())
    assert changes.rotation_text(one, "/s") == "replicator has a new password: in /s"
