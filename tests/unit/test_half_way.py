"""A group on its way to TLS: no stream is told to connect as its upstream does not serve yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeHost, Said, facts, image, observation, sender, standby_facts, topology
from fakes import group as fake_group
from test_certificates import with_tls

from pgherd.config.nodes import Encryption
from pgherd.errors import Error, Refused
from pgherd.group import node_config
from pgherd.group.group import Group
from pgherd.group.node_config import settings
from pgherd.group.observation import Observation
from pgherd.operations import connect, failover, followers, switchover, tls_transition, wait
from pgherd.operations.failover import detach_standbys
from pgherd.operations.prepare import STALE
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance
from pgherd.security.authority import Certificates
from pgherd.security.passwords import Passwords

EXEC = "docker exec"
Make = Callable[..., Group]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """A group of three that is asked to have TLS, or is not any more; with certificates here."""

    def make(*, tls: bool = True, **plan: Said | list[Said]) -> Group:
        commands = {EXEC: Said(), "docker": Said(), "mkdir": Said(), "test": Said()}
        host = FakeHost(commands | {f"docker {verb}": said for verb, said in plan.items()})
        asked = with_tls("s1", "s2") if tls else topology("s1", "s2")
        group = fake_group(asked, host)
        group.certificates = Certificates(tmp_path, group.topology, group.trace, Path)
        group.passwords = Passwords(tmp_path, group.trace)
        group.image = image()
        return group

    return make


def primary(group: Group, name: str = "pa", *, tls: bool) -> Facts:
    """A primary that serves with TLS as is asked, or without; both standbys stream from it."""
    wanted = hashlib.sha256(settings(group.instance(name)).encode()).hexdigest()
    laid = {"certificate": "x", "settings": wanted} if tls else {}
    return facts(sender("s1"), sender("s2"), **laid)


def standby(group: Group, name: str, upstream: str = "pa", *, tls: bool) -> Facts:
    """A standby that connects with TLS, or without, and serves so."""
    instance = group.instance(name)
    asked = instance.encryption
    instance.encryption = Encryption(tls)
    info = node_config.conninfo(instance, group.instance(upstream))
    instance.encryption = asked
    slot = instance.node.slot
    keys = {"primary_conninfo": info, "primary_slot": slot}
    return standby_facts(**keys, certificate="x" if tls else None)


def on_the_way(group: Group, *, tls: bool, led: bool) -> Observation:
    """A moment in which the standbys connect with TLS or without; `led`: the primary serves so."""
    streams = {name: standby(group, name, tls=tls) for name in ("s1", "s2")}
    return observation(pa=primary(group, tls=led), **streams)


def following(group: Group) -> list[str]:
    """Whom scripts have told to follow somebody."""
    host = group.here
    assert isinstance(host, FakeHost)
    return [call.argv[5] for call in host.calls if "SET primary_conninfo" in call.stdin]


@pytest.mark.parametrize("asked", [True, False])
def test_start_leaves_a_stream_as_it_is_while_its_upstream_serves_as_before(
    made: Make, asked: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = made(tls=asked)
    seen = on_the_way(group, tls=not asked, led=not asked)
    monkeypatch.setattr(group, "observe", lambda: seen)
    monkeypatch.setattr(wait, "_settle_primary", lambda *_, **__: None)
    wait.wait_for_group(group)
    assert following(group) == []
    said, does = capsys.readouterr().err, "does not serve with" if asked else "still serves with"
    assert f"s1: follows as before, as pa {does} TLS: `invoke diff` has the cures" in said


@pytest.mark.parametrize("asked", [True, False])
def test_start_connects_standbys_as_asked_to_one_that_serves_so(made: Make, asked: bool) -> None:
    group = made(tls=asked)
    tls_transition.as_asked(group, on_the_way(group, tls=not asked, led=asked))
    assert following(group) == ["s1", "s2"]


def test_where_client_certificates_are_given_up_the_upstream_is_first(made: Make) -> None:
    """It asks for them as long as it has the settings of before."""
    group = made()
    seen = on_the_way(group, tls=False, led=True)
    before = replace(primary(group, tls=True), settings="of before")
    nodes = {**seen.nodes, "pa": replace(seen.nodes["pa"], facts=before)}
    tls_transition.as_asked(group, replace(seen, nodes=nodes))
    assert following(group) == []


def test_a_standby_has_what_it_verifies_with_before_it_connects_so(made: Make) -> None:
    group = made(exec=[Said(f"{STALE}\n"), Said(), Said()])
    connect.follow(group, group.instance("s2"), group.master)
    host = group.here
    assert isinstance(host, FakeHost)
    scripts = (c for c in host.calls if "pem" in c.stdin or "_conninfo" in c.stdin)
    asked, laid, checked, told = scripts
    assert asked.stdin == told.stdin
    assert "stale tls" in checked.stdin
    assert asked.stdin.index("stale tls") < asked.stdin.index("SET primary_conninfo")
    assert laid.argv[1] == "run"
    assert "BEGIN CERTIFICATE" in laid.stdin


def test_what_is_laid_and_not_seen_by_the_server_is_told(made: Make) -> None:
    """Its container has the directory that was there before; the passfile in it may be the same."""
    group = made(exec=[Said(f"{STALE}\n"), Said(f"{STALE}\n")])
    with pytest.raises(Error, match=r"s2 runs with another directory .*`invoke stop`, then"):
        connect.follow(group, group.instance("s2"), group.master)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("led", [True, False])
def test_a_switchover_half_way_is_refused_and_nothing_changed(
    made: Make, asked: bool, led: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the primary serves as asked, and its standbys connect as before."""
    group = made(tls=asked)
    seen = on_the_way(group, tls=not asked, led=led)
    monkeypatch.setattr(group, "locked", lambda **_: nullcontext())
    monkeypatch.setattr(group, "observe", lambda: seen)
    monkeypatch.setattr(switchover, "ensure_image", lambda *_: image())
    with pytest.raises(Refused, match="`invoke diff` names what brings it there; then this again"):
        switchover.switchover(group, "s1")
    host = group.here
    assert isinstance(host, FakeHost)
    assert host.calls == []
    tls_transition.refuse_tls_transition(group, on_the_way(group, tls=asked, led=asked))


def test_after_a_failover_one_that_others_follow_serves_as_they_connect(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby that cascades is told to connect with TLS once its upstream has that."""
    group = made()
    serves: list[str] = []

    def serve(_: Group, instance: Instance) -> str:
        serves.append(instance.name)
        return ""

    monkeypatch.setattr(tls_transition, "serve", serve)
    pa, s1, s2 = (group.instance(name) for name in ("pa", "s1", "s2"))
    monkeypatch.setattr(followers, "plan_upstreams", lambda *_: {pa: s1, s2: pa})
    for step in ("prepare", "wait_for_followers", "tidy"):
        monkeypatch.setattr(followers, step, lambda *_, **__: None)
    monkeypatch.setattr(type(s1), "facts", lambda _: primary(group, "s1", tls=True))
    seen = observation(
        pa=standby(group, "pa", "s1", tls=False),
        s1=primary(group, "s1", tls=False),
        s2=standby(group, "s2", tls=False),
    )
    failover._others_follow(group, s1, seen)
    assert serves == ["pa"]
    assert following(group) == ["pa", "s2"]


def test_standbys_let_go_of_a_lost_primary_however_they_are_connected(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And follow it as before where it is not replaced."""
    group = made(exec=Said("has 0/1\n"))
    seen = on_the_way(group, tls=False, led=False)
    seen = replace(seen, nodes={**seen.nodes, "pa": replace(seen.nodes["pa"], facts=None)})
    monkeypatch.setattr(followers, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(failover, "_observe_candidate_last", lambda *_: seen)

    def refused() -> None:
        with detach_standbys(group, group.master, group.instance("s1"), seen):
            raise Refused("too much would be lost")

    with pytest.raises(Refused, match="too much"):
        refused()
    host = group.here
    assert isinstance(host, FakeHost)
    assert following(group) == ["s2", "s2"]
    away, back = (c.stdin for c in host.calls if "SET primary_conninfo" in c.stdin)
    assert "verify-full" in away
    assert "verify-full" not in back
