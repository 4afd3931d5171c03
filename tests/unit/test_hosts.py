"""Groups that span hosts: who reaches whom, who is let in, which image, what differs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import ANSWER, SYSTEM, FakeHost, Said, topology
from test_docker import image_record

from pgherd.errors import Error, Refused, Unreachable
from pgherd.group import node_config, platforms
from pgherd.group.group import Group, read_answers
from pgherd.group.node_config import hba_rules
from pgherd.group.platforms import HostReport
from pgherd.hosts.commands import Trace
from pgherd.hosts.parallel import run_all
from pgherd.operations.image import carry, ensure_image
from pgherd.postgres.facts import NoAnswer
from pgherd.report import findings, uris

FAR = {"host": "boxb", "listen": "192.0.2.2"}


def spanning(**plans: FakeHost) -> Group:
    """A primary and a standby `s1` on boxa, a standby `s2` on boxb."""
    asked = topology(
        "s1", "s2",
        pa={"host": "boxa", "listen": "192.0.2.1"},
        s1={"host": "boxa", "listen": "192.0.2.1"},
        s2=FAR,
    )  # fmt: skip
    fakes = {"boxa": FakeHost(), "boxb": FakeHost()} | plans
    for name, fake in fakes.items():
        fake.name = name
    return Group(asked, Trace(), fakes)


# --- who reaches whom ---


def test_beside_each_other_they_meet_in_dockers_network() -> None:
    made = spanning()
    text = node_config.conninfo(made.instance("s1"), made.master)
    assert "host=pa port=5432" in text
    assert "connect_timeout" not in text


def test_from_another_host_by_the_published_address() -> None:
    made = spanning()
    text = node_config.conninfo(made.instance("s2"), made.master)
    assert "host=192.0.2.1 port=5432" in text
    assert "connect_timeout=10" in text


def test_who_is_let_in() -> None:
    made = spanning()
    beside, alone = (hba_rules(made.instance(name))[1] for name in ("pa", "s2"))
    assert "samenet" in beside
    assert "samenet" not in alone
    assert "$elsewhere" in beside
    assert "$neighbours" not in beside + alone
    assert made.master.places.elsewhere == ("192.0.2.2",)
    assert made.instance("s2").places.elsewhere == ("192.0.2.1",)


def test_a_lone_host_lets_nobody_in_from_elsewhere() -> None:
    made = Group(topology("s1"), Trace(), {"local": FakeHost()})
    assert made.master.places.elsewhere == ()


# --- asking ---


def test_answers_of_several_servers_in_one_round_trip() -> None:
    warned = "== pa stderr\nWARNING: collation version mismatch\n"
    said = (
        "== s1 2\n\n== s1 stderr\npsql: error: gone\n\n"
        f"== pa 0\n{json.dumps(ANSWER, indent=1)}\n{warned}"
    )
    found = read_answers(said)
    assert getattr(found["pa"], "system_identifier", None) == SYSTEM
    assert found["s1"] == NoAnswer("On s1: psql: error: gone")
    assert read_answers("") == {}


# --- the image ---


def layers(*names: str, **changes: Any) -> Said:
    """An engine that has an image of these layers."""
    built = {"RootFS": {"Layers": names}, "Os": "linux", "Architecture": "amd64"}
    record = image_record("postgres:17", **built | changes)
    return Said(json.dumps([record]))


AMD64 = Said("linux/amd64\n")
NOTHING_THERE = Said("[]\n", "No such image", 1)


def test_the_same_image_may_have_another_id() -> None:
    """Stores of different kinds name the same image differently."""
    here, there = layers("a", "b"), layers("a", "b", Id="sha256:other")
    made = spanning(
        boxa=FakeHost({"docker image inspect": here}),
        boxb=FakeHost({"docker image inspect": there}),
    )
    image = ensure_image(made)
    assert image.at("boxa").id == "sha256:postgres:17"
    assert image.at("boxb").id == "sha256:other"
    assert made.master.spec(image) != made.instance("s2").spec(image)


def test_another_image_of_that_name_is_left_and_the_masters_carried() -> None:
    mine, other = layers("a"), layers("b")
    inspected = [other, other, other, other, other, mine]
    boxb = FakeHost(
        {"docker image inspect": inspected, "docker load": Said(), "docker version": AMD64}
    )
    boxa = FakeHost(
        {"docker image inspect": mine, "docker save": Said("archive"), "docker tag": Said()}
    )
    made = spanning(boxa=boxa, boxb=boxb)
    there = ensure_image(made).at("boxb").ref
    assert there.startswith("pgherd/carried:")
    assert f"docker tag sha256:postgres:17 {there}" in boxa.ran
    assert f"docker save {there}" in boxa.ran
    assert [call.stdin for call in boxb.calls if call.argv[1] == "load"] == ["archive"]


def test_architectures_do_not_mix() -> None:
    made = spanning(
        boxa=FakeHost({"docker image inspect": layers("a")}),
        boxb=FakeHost({"docker image inspect": layers("b", Architecture="arm64")}),
    )
    with pytest.raises(Refused, match="boxb has linux/arm64, and boxa linux/amd64"):
        ensure_image(made)


def test_nor_is_one_for_another_carried() -> None:
    """A pull by digest would bring the other architecture's, and load takes any."""
    boxb = FakeHost({"docker image inspect": NOTHING_THERE, "docker version": Said("linux/arm64")})
    made = spanning(boxa=FakeHost({"docker image inspect": layers("a")}), boxb=boxb)
    with pytest.raises(Refused, match="boxb has linux/arm64, and boxa linux/amd64"):
        ensure_image(made)


def test_what_does_not_arrive_whole_is_an_error() -> None:
    lost = Said(err="EOF", code=1)
    boxb = FakeHost(
        {"docker image inspect": NOTHING_THERE, "docker load": lost, "docker version": AMD64}
    )
    boxa = FakeHost({"docker image inspect": layers("a"), "docker save": Said("half")})
    made = spanning(boxa=boxa, boxb=boxb)
    image = made.sites["boxa"].engine.image("postgres:17")
    assert image
    with pytest.raises(Error, match="did not arrive whole on boxb"):
        carry(made.sites["boxa"].engine, made.sites["boxb"].engine, image)


# --- in what they differ ---


def test_differences_are_told() -> None:
    first = HostReport("a", ("pa",), engine="20.10.24", platform="linux/amd64")
    later = HostReport("b", ("s1",), engine="28.2.2", platform="linux/amd64", skew=90.0, doubt=0.1)
    told = list(platforms.differences([first, later]))
    assert len(told) == 2
    assert "the clocks of a and b are 90 s apart" in told[0]
    assert told[1] == "hosts: a has Docker 20.10, and b 28.2"
    assert list(platforms.differences([first, first])) == []


def test_a_clock_that_may_be_right_is_not_told() -> None:
    slow = HostReport("b", (), skew=3.0, doubt=2.0)
    assert list(platforms.differences([HostReport("a", ()), slow])) == []


def test_a_host_that_does_not_answer_has_its_line() -> None:
    made = spanning(boxb=FakeHost({"sh -s": Unreachable("boxb is away.")}))
    said = Said("engine 28.2.2 linux/amd64\nimage postgres:17\nfree 1000000\n")
    made.sites["boxa"].host.plan = {("sh",): said}  # type: ignore[attr-defined]
    found = platforms.survey(made)
    assert [(r.name, r.ok, r.fault) for r in found] == [
        ("boxa", True, ""),
        ("boxb", False, "boxb is away."),
    ]
    text = findings.hosts_text(found).splitlines()
    assert text[1].split()[:4] == ["boxa", "pa,", "s1", "28.2.2"]
    assert "1.0 GB" in text[1]
    assert "cannot be reached" in text[2]
    assert text[3] == "boxb: boxb is away."
    answer = json.loads(findings.hosts_json("g", found))
    assert (answer["ok"], [host["ok"] for host in answer["hosts"]]) == (False, [True, False])


# --- side by side ---


def test_the_first_error_is_the_one_that_is_raised() -> None:
    def act(number: int) -> int:
        if number == 2:
            raise Refused("the second")
        return number

    with pytest.raises(Refused, match="the second"):
        run_all(act, [1, 2, 3])
    assert run_all(act, [1, 3]) == [1, 3]


# --- where clients connect ---


def test_a_port_for_its_own_host_needs_a_tunnel() -> None:
    asked = topology("s1", pa={"host": "ada@box"}, s1={"host": "ada@box"})
    over = ["ssh", "-F", "/a b", "-p", "2222", "ada@box"]
    assert uris.tunnels(asked, {"ada@box": over}) == [
        "ssh -N -L5432:127.0.0.1:5432 -L5433:127.0.0.1:5433 -F '/a b' -p 2222 ada@box"
    ]
    assert uris.tunnels(topology("s1"), {"local": []}) == []


def test_where_it_comes_from_is_not_where_it_listens() -> None:
    asked = topology("s1", s1={"host": "box", "address": "192.0.2.9"}, pa={"listen": "192.0.2.1"})
    assert uris.lines(asked)[1] == "postgresql://postgres@127.0.0.1:5433/postgres"
    assert uris.tunnels(asked, {"box": ["ssh", "box"]}) == ["ssh -N -L5433:127.0.0.1:5433 box"]


def test_uris_have_the_addresses() -> None:
    made = spanning()
    assert uris.lines(made.topology)[-1] == (
        "postgresql://postgres@192.0.2.1:5432,192.0.2.1:5433,192.0.2.2:5434/postgres"
        "?target_session_attrs=read-write"
    )
