"""Topology and reality compared: every difference there may be, with the command that closes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from fakes import (
    OURS,
    FakeHost,
    Said,
    bind,
    container,
    facts,
    group,
    image,
    standby_facts,
    topology,
)  # fmt: skip

from pgherd.checks.containers import Difference, Further, look_further, of_node
from pgherd.checks.diff import Comparison, Note, compare, differences, notes
from pgherd.docker.models import Container, Image
from pgherd.errors import Refused, Unreachable
from pgherd.group import node_config
from pgherd.group.group import Group
from pgherd.group.node_config import settings
from pgherd.group.observation import NodeObservation, Observation
from pgherd.postgres import conf
from pgherd.postgres.facts import Facts
from pgherd.report import findings

IMAGE = image("pgherd/postgres:17")
PAIR = topology("s1", sync="FIRST 1 (s1)")
CASCADE = topology("s1", "s2", s2={"upstream": "s1"})


def slot(name: str, **changes: Any) -> dict[str, Any]:
    """A slot that is in use."""
    given = {"name": name, "active": True, "restart": "0/1", "wal_status": "reserved"}
    return {**given, "retained": 5_000_000, "left": None} | changes


def asked(herd: Group, name: str) -> str:
    """The SHA-256 of the settings that are asked for."""
    return hashlib.sha256(settings(herd.instance(name)).encode()).hexdigest()


def primary(herd: Group, name: str = "pa", **changes: Any) -> Facts:
    """A primary as the topology asks for it, with a slot for every other node."""
    sync = herd.topology.sync_for(herd.instance(name).node)
    given = {
        "settings": asked(herd, name),
        "sync_names": sync.render() if sync else "",
        "slots": tuple(slot(n.slot) for n in herd.topology.nodes.values() if n.name != name),
    }
    return facts(**given | changes)


def standby(herd: Group, name: str = "s1", upstream: str = "pa", **changes: Any) -> Facts:
    """A standby that follows as it ought to."""
    instance = herd.instance(name)
    given = {
        "settings": asked(herd, name),
        "primary_conninfo": node_config.conninfo(instance, herd.instance(upstream)),
        "primary_slot": instance.node.slot,
    }
    return standby_facts(**given | changes)


def made(herd: Group, name: str, **changes: Any) -> Container:
    """A container as it would be made now."""
    instance = herd.instance(name)
    given = {
        "labels": {**OURS, "pgherd.node": name, "pgherd.spec": instance.spec(IMAGE)},
        "image_ref": IMAGE.ref,
        "image_id": IMAGE.id,
        "ports": ((instance.node.listen, instance.node.port),),
        "mounts": (bind(instance.places.data),),
    }
    return container(name, **given | changes)


def seen(herd: Group, *others: Container, **nodes: Facts | None) -> Observation:
    """A moment in which these nodes run, in containers as they are asked for."""
    containers = {name: made(herd, name) for name in nodes} | {c.name: c for c in others}
    found = {n: NodeObservation(containers.get(n), nodes.get(n)) for n in herd.instances}
    return Observation(found, {"local": containers})


def told(
    herd: Group,
    moment: Observation,
    images: Mapping[str, Image | None] | None = None,
    **data: str,
) -> list[tuple[str, str, str]]:
    """Return of each difference what it is, the node and the command."""
    further = Further({"local": IMAGE} if images is None else images, data)
    return [(d.what, d.node, d.command) for d in differences(herd, moment, further)]


def one(herd: Group, moment: Observation) -> Difference:
    """Return the only difference."""
    [found] = differences(herd, moment, Further({"local": IMAGE}))
    return found


# --- none ---


def test_a_pair_as_it_is_asked_for() -> None:
    herd = group(PAIR)
    moment = seen(herd, pa=primary(herd), s1=standby(herd))
    assert told(herd, moment) == []
    assert list(notes(herd, moment)) == []


def test_a_pair_with_its_roles_swapped_is_a_note() -> None:
    herd = group(PAIR)
    moment = seen(herd, pa=standby(herd, "pa", "s1"), s1=primary(herd, "s1"))
    assert told(herd, moment) == []
    note = Note("s1 is primary now, and pa in the topology", "invoke switchover --to pa")
    assert list(notes(herd, moment)) == [note]


def test_a_cascade_as_it_is_asked_for() -> None:
    herd = group(CASCADE)
    s1 = standby(herd, slots=(slot("s2"),))
    assert told(herd, seen(herd, pa=primary(herd), s1=s1, s2=standby(herd, "s2", "s1"))) == []


# --- containers ---


def test_nothing_is_there() -> None:
    herd = group(PAIR)
    add = ("container", "s1", "invoke add-standby s1")
    assert told(herd, seen(herd)) == [("container", "pa", "invoke setup-master"), add]
    assert told(herd, seen(herd), pa="full", s1="empty") == [
        ("container", "pa", "invoke start"),
        add,
    ]
    sentence = "s1: /d/s1 is not a directory."
    [*_, last] = differences(herd, seen(herd), Further(data={"s1": sentence}))
    assert (last.found, last.command) == (sentence, "invoke start")


def test_the_first_primary_is_gone_and_another_leads() -> None:
    herd = group(PAIR)
    moment = seen(herd, s1=primary(herd, "s1"))
    assert told(herd, moment) == [("container", "pa", "invoke seed-standby --node pa")]


def test_the_container_of_somebody_else() -> None:
    herd = group(PAIR)
    moment = seen(herd, made(herd, "s1", labels={}), pa=primary(herd))
    found = one(herd, moment)
    assert (found.what, found.node, found.command) == (
        "container", "s1", "docker rename s1 s1-other"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "found", "command"),
    [
        ({"status": "exited", "exit_code": 137}, "is exited (exit status 137)", "invoke start"),
        ({"status": "created"}, "it is down", "invoke start"),
        ({"status": "restarting", "exit_code": 1}, "again and again", "invoke start"),
        ({"status": "paused"}, "is paused", "docker unpause s1"),
        ({}, "it does not answer", "invoke logs --node s1"),
    ],
)
def test_a_node_that_is_down(changes: dict[str, Any], found: str, command: str) -> None:
    herd = group(PAIR)
    moment = seen(herd, made(herd, "s1", **changes), pa=primary(herd), s1=None)
    difference = one(herd, moment)
    assert (difference.what, difference.node, difference.command) == ("state", "s1", command)
    assert found in difference.found


@pytest.mark.parametrize(
    ("name", "policy", "command"),
    [
        ("s1", "no", "invoke rejoin s1"),
        ("s1", "always", "docker update --restart unless-stopped s1"),
        ("pa", "no", "docker update --restart unless-stopped pa"),
        ("pa", "on-failure", "docker update --restart unless-stopped pa"),
    ],
)
def test_restart_policy(name: str, policy: str, command: str) -> None:
    herd = group(PAIR)
    moment = seen(herd, made(herd, name, restart=policy), pa=primary(herd), s1=standby(herd))
    assert told(herd, moment) == [("restart", name, command)]


def test_restart_policy_on_another_host() -> None:
    host = FakeHost()
    host.over = ("ssh", "box")
    herd = group(PAIR, host)
    moment = seen(herd, made(herd, "pa", restart="no"), pa=primary(herd), s1=standby(herd))
    over = "ssh box 'docker update --restart unless-stopped pa'"
    assert told(herd, moment) == [("restart", "pa", over)]


OTHER = {**OURS, "pgherd.node": "s1", "pgherd.spec": "other"}


def test_a_container_that_does_not_hold_its_data_is_told_with_a_restart() -> None:
    """It was made by an earlier version."""
    herd = group(PAIR)
    for status, cure in (("running", "invoke stop start"), ("exited", "invoke start")):
        earlier = made(herd, "s1", command=("docker-entrypoint.sh", "postgres"), status=status)
        found = of_node(
            herd, herd.instance("s1"), seen(herd, earlier, pa=primary(herd)), Further(), "pa"
        )
        assert [d.command for d in found if d.what == "lock"] == [cure]


@pytest.mark.parametrize(
    ("changes", "what", "asks", "found"),
    [
        ({"image_ref": "postgres:16", "image_id": "16"}, "image", IMAGE.ref, "postgres:16"),
        ({"image_id": "old"}, "image", f"{IMAGE.ref} (sha256:17)", f"{IMAGE.ref} (old)"),
        ({"ports": (("127.0.0.1", 9),)}, "port", "published on 127.0.0.1:5433", "127.0.0.1:9"),
        ({"ports": ()}, "port", "published on 127.0.0.1:5433", "not published"),
        ({"mounts": (bind("/d/x"),)}, "data", "/d/s1", "/d/x"),
        ({"mounts": ()}, "data", "/d/s1", "none"),
        ({}, "options", "the options of docker run as pgherd gives them now", "others"),
    ],
)  # fmt: skip
def test_made_otherwise(changes: dict[str, Any], what: str, asks: str, found: str) -> None:
    herd = group(PAIR)
    other = made(herd, "s1", labels=OTHER, **changes)
    moment = seen(herd, other, pa=primary(herd), s1=standby(herd))
    assert one(herd, moment) == Difference(what, "s1", asks, found, "invoke down start")
    down = seen(herd, replace(other, status="exited"), pa=primary(herd), s1=None)
    assert (what, "s1", "invoke start") in told(herd, down)


def test_made_from_an_image_that_is_not_asked_for_while_the_one_that_is_is_not_there() -> None:
    herd = group(PAIR)
    other = made(herd, "s1", labels=OTHER, image_ref="postgres:16")
    moment = seen(herd, other, pa=primary(herd), s1=standby(herd))
    assert told(herd, moment, {"local": None}) == [("image", "s1", "invoke down start")]


def test_a_container_whose_node_is_gone() -> None:
    herd = group(PAIR)
    stranger = container("s9", labels={**OURS, "pgherd.node": "s9"})
    helper = container("pgherd-g-s1", labels=OURS)
    theirs = container("x", labels={"pgherd.group": "g", "pgherd.home": "/b", "pgherd.node": "x"})
    used = primary(herd, slots=(slot("s1"), slot("s9")))
    moment = seen(herd, stranger, helper, theirs, pa=used, s1=standby(herd))
    remove = "invoke remove-standby s9"
    assert told(herd, moment) == [("slot", "pa", remove), ("stranger", "s9", remove)]


def test_a_container_that_was_left_on_another_host() -> None:
    asks = topology("s1", s1={"host": "box", "listen": "10.0.0.2"}, pa={"listen": "10.0.0.1"})
    herd = group(asks)
    left = made(herd, "s1")
    moment = Observation(
        {
            "pa": NodeObservation(made(herd, "pa"), primary(herd)),
            "s1": NodeObservation(made(herd, "s1"), standby(herd)),
        },
        {"local": {"s1": left}, "box": {}},
    )
    found = [d for d in differences(herd, moment, Further()) if d.what == "stranger"]
    assert [(d.asked, d.found, d.command) for d in found] == [
        ("it lives on box", "a container, running, on local as well",
         "docker stop s1 && docker rm s1"),
    ]  # fmt: skip


# --- who is primary ---


def test_two_primaries() -> None:
    herd = group(PAIR)
    moment = seen(herd, pa=primary(herd), s1=primary(herd, "s1", timeline=2))
    assert told(herd, moment) == [("primary", "pa", "invoke rejoin pa")]
    own = primary(herd, "s1", system_identifier="9")
    moment = seen(herd, pa=primary(herd), s1=own)
    assert told(herd, moment) == [("primary", "s1", "invoke seed-standby --node s1")]


def test_of_two_primaries_of_different_systems_the_one_that_is_followed_leads() -> None:
    herd = group(topology("s1", "s2"))
    own = primary(herd, "pa", system_identifier="9", timeline=7)
    moment = seen(herd, pa=own, s1=primary(herd, "s1"), s2=standby(herd, "s2", "s1"))
    assert told(herd, moment) == [("primary", "pa", "invoke seed-standby --node pa")]


def test_no_primary() -> None:
    herd = group(PAIR)
    both = seen(herd, pa=standby(herd, "pa", "s1"), s1=standby(herd))
    assert told(herd, both) == [("primary", "g", "invoke failover")]
    down = seen(herd, made(herd, "pa", status="exited"), pa=None, s1=standby(herd))
    start = "invoke start"
    assert told(herd, down) == [("primary", "g", start), ("state", "pa", start)]


def test_nobody_knows_who_is_primary() -> None:
    """One that is silent, or on a host that is away, may be."""
    herd = group(PAIR)
    silent = NodeObservation(made(herd, "pa"), None, "no answer")
    moment = seen(herd, pa=None, s1=standby(herd))
    moment = replace(moment, nodes={**moment.nodes, "pa": silent})
    assert told(herd, moment) == [("state", "pa", "invoke logs --node pa")]


# --- whom they follow ---


def follows(herd: Group, **changes: Any) -> list[Difference]:
    """Return in what s1 differs, with a primary as it ought to be."""
    moment = seen(herd, pa=primary(herd), s1=standby(herd, **changes))
    found = list(differences(herd, moment, Further({"local": IMAGE})))
    assert {(d.node, d.command) for d in found} == {("s1", "invoke rejoin s1")}
    return found


@pytest.mark.parametrize(
    ("conninfo", "found"),
    [
        ("", "it follows nobody"),
        ("no conninfo at all", "it follows nobody"),
        ("host=s2 port=5432 password=secret", "it follows s2"),
        ("host=else port=1 password=secret", "it follows else:1, no node of the group"),
        ("host=pa port=5433", "it follows pa:5433, no node of the group"),
    ],
)
def test_another_upstream(conninfo: str, found: str) -> None:
    herd = group(topology("s1", "s2"))
    moment = seen(
        herd, pa=primary(herd), s1=standby(herd, primary_conninfo=conninfo), s2=standby(herd, "s2")
    )
    assert one(herd, moment) == Difference(
        "upstream", "s1", "it follows pa", found, "invoke rejoin s1"
    )


def test_another_name_or_slot() -> None:
    herd = group(PAIR)
    [name, slot_] = follows(
        herd, primary_conninfo="host=pa application_name=other", primary_slot="other"
    )
    assert (name.what, name.found) == ("application-name", "application_name other")
    assert (slot_.what, slot_.asked, slot_.found) == (
        "slot", "its slot is s1", "its slot is other"
    )  # fmt: skip


def test_one_that_does_not_receive() -> None:
    herd = group(PAIR)
    [found] = follows(herd, receiver=None)
    assert (found.what, found.found) == (
        "streaming", "it does not stream: it has no receiver"
    )  # fmt: skip
    [found] = follows(herd, receiver={"status": "waiting"})
    assert found.found == "it does not stream: its receiver is waiting"


@pytest.mark.parametrize(
    ("slots", "found"),
    [
        ((), "there is none"),
        ((slot("s1", active=False, wal_status="lost"),), "it has lost its WAL"),
    ],
)
def test_a_slot_that_is_missing(slots: tuple[dict[str, Any], ...], found: str) -> None:
    herd = group(PAIR)
    moment = seen(herd, pa=primary(herd, slots=slots), s1=standby(herd))
    assert one(herd, moment) == Difference(
        "slot", "s1", "a slot s1 on pa", found, "invoke rejoin s1"
    )


def test_a_standby_of_a_standby_follows_it_with_no_primary_there() -> None:
    herd = group(CASCADE)
    moment = seen(
        herd,
        made(herd, "pa", status="exited"),
        pa=None, s1=standby(herd, slots=(slot("s2"),)), s2=standby(herd, "s2", "pa"),
    )  # fmt: skip
    assert ("upstream", "s2", "invoke rejoin s2") in told(herd, moment)


# --- the primary ---


@pytest.mark.parametrize("names", ["", "ANY 1 (s1)", "FIRST 2 (s1)"])
def test_other_synchronous_standbys(names: str) -> None:
    herd = group(PAIR)
    moment = seen(herd, pa=primary(herd, sync_names=names), s1=standby(herd))
    found = one(herd, moment)
    assert (found.what, found.node, found.command) == ("sync", "pa", "invoke step.require-sync")
    assert found.asked == "synchronous_standby_names = 'FIRST 1 (s1)'"
    assert found.found == f"synchronous_standby_names = '{names}'"


@pytest.mark.parametrize("names", ["*", "FIRST 2 (s1)"])
def test_synchronous_where_asynchronous_is_asked(names: str) -> None:
    herd = group(topology("s1"))
    moment = seen(herd, pa=primary(herd, sync_names=names), s1=standby(herd))
    assert one(herd, moment).asked == "synchronous_standby_names = ''"


def test_slots_of_nobody() -> None:
    herd = group(PAIR)
    slots = (
        slot("s1"),
        slot("x", active=False),
        slot("pg_basebackup_12"),
        slot("y", retained=None),
    )
    moment = seen(herd, pa=primary(herd, slots=slots), s1=standby(herd))
    drop = "invoke psql --node pa --command \"SELECT pg_drop_replication_slot('{}')\""
    assert told(herd, moment) == [("slot", "pa", drop.format(name)) for name in "xy"]
    found = [d.found for d in differences(herd, moment, Further({"local": IMAGE}))]
    assert found == [
        "a slot x, not in use, keeps 5 MB of WAL", "a slot y, in use, keeps 0 MB of WAL"
    ]  # fmt: skip


# --- settings ---

OWN = {"work_mem": "5MB", "cluster_name": "it's", "jit": False}


def test_other_settings() -> None:
    herd = group(PAIR)
    moment = seen(herd, pa=primary(herd, settings="x"), s1=standby(herd, settings=None))
    assert told(herd, moment) == [
        ("settings", "pa", "invoke apply"),
        ("settings", "s1", "invoke apply"),
    ]


def test_which_settings_differ_is_told() -> None:
    herd = group(topology("s1", sync="FIRST 1 (s1)", pa={"settings": OWN}))
    text = settings(herd.instance("pa"))
    same = conf.read_settings(text)
    assert (same["work_mem"], same["jit"], same["cluster_name"]) == ("5MB", "off", "it's")
    now = {name: value for name, value in same.items() if name != "jit"}
    now |= {"work_mem": "4MB", "geqo": "off"}
    moment = seen(herd, pa=primary(herd, settings="x", written=now), s1=standby(herd))
    found = one(herd, moment)
    assert found.found == (
        "geqo is 'off', and is not asked for; jit is not set, and 'off' is asked; "
        "work_mem is '4MB', and '5MB' is asked"
    )
    moment = seen(herd, pa=primary(herd, settings="x", written=same), s1=standby(herd))
    assert one(herd, moment).found == "its text is another, and its settings are the same"


def test_settings_that_wait_for_a_restart() -> None:
    herd = group(PAIR)
    due = standby(herd, restart_due=("max_connections", "wal_level"))
    found = one(herd, seen(herd, pa=primary(herd), s1=due))
    assert (found.what, found.node, found.command) == ("restart-due", "s1", "invoke stop start")
    assert found.found == "a restart is due for max_connections, wal_level"


# --- the looks ---


def test_what_an_observation_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """One question for the image of the host, one for the data of a node without container."""
    host = FakeHost({"sh -s": Said("full\n")})
    herd = group(PAIR, host)
    monkeypatch.setattr("pgherd.group.group.Site.find_image", lambda *_: IMAGE)
    assert look_further(herd, seen(herd, pa=primary(herd))) == Further(
        {"local": IMAGE}, {"s1": "full"}
    )
    assert look_further(
        group(PAIR, host),
        Observation({n: NodeObservation(None, None) for n in ("pa", "s1")}, {"local": {}}),
    ).images == {"local": None}
    monkeypatch.setattr("pgherd.group.preconditions.data_state", _refuses)
    assert look_further(herd, seen(herd, pa=primary(herd))).data == {"s1": "no directory"}


def _refuses(_: object) -> str:
    raise Refused("no directory")


def test_hosts_that_are_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their nodes are left out, and who is on them may be primary."""
    pa, s1 = {"host": "box", "listen": "10.0.0.2"}, {"listen": "10.0.0.1"}
    asks = topology("s1", tls=False, pa=pa, s1=s1)
    herd = group(asks)

    def look(site: Any) -> Any:
        if site.name == "box":
            raise Unreachable("box cannot be reached.")
        return {"s1": made(herd, "s1")}, {"s1": standby(herd)}

    monkeypatch.setattr("pgherd.group.group.Site.look", look)
    monkeypatch.setattr("pgherd.group.group.Site.find_image", lambda *_: IMAGE)
    found = compare(herd)
    assert found == Comparison("g", (), (), {"box": "box cannot be reached."})
    assert findings.diff_text(found) == "diff of g: no difference, and box cannot be reached"
    assert json.loads(findings.diff_json(found))["same"] is False
