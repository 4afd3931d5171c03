"""What nodes contradict each other in, and what a sound topology tells."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pgherd.config.nodes import Node
from pgherd.config.sync_names import Sync
from pgherd.config.topology import Topology
from pgherd.errors import Refused


def tree(**changes: Any) -> dict[str, Any]:
    """Make a group of a primary pa and its standbys s1 and s2, s3 behind s2; changes by a__key."""
    nodes: dict[str, dict[str, Any]] = {
        "pa": {"port": 1, "data": "pa"},
        "s3": {"port": 4, "data": "s3", "upstream": "s2"},
        "s1": {"port": 2, "data": "s1", "upstream": "pa"},
        "s2": {"port": 3, "data": "volume:s2", "upstream": "pa"},
    }
    whole: dict[str, Any] = {"group": {"name": "g"}, "nodes": nodes, "hosts": {}}
    for path, value in changes.items():
        table, key = path.split("__")
        (nodes[table] if table in nodes else whole.setdefault(table, {}))[key] = value
    return whole


def topology(**changes: Any) -> Topology:
    return Topology.model_validate(tree(**changes))


def faults(**changes: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        topology(**changes)
    return [
        ".".join(map(str, fault["loc"])) + ": " + fault["msg"].removeprefix("Value error, ")
        for fault in caught.value.errors()
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"pa__upstream": "s3"}, "nodes: one node must have no upstream: the primary"),
        ({"pa__upstream": "s3"}, "nodes.pa.upstream: goes round in a circle: pa -> s3 -> s2 -> pa"),
        ({"s1__upstream": "s1"}, "nodes.s1.upstream: goes round in a circle: s1 -> s1"),
        ({"s1__upstream": None}, "nodes: pa, s1 have no upstream, but only the primary has none"),
        ({"s1__upstream": "pq"}, 'nodes.s1.upstream: no node "pq" in this file'),
        ({"s1__upstream": "PA"}, 'nodes.s1.upstream: no node "PA" in this file'),
        (
            {"s3__upstream": "s22"},
            'nodes.s3.upstream: no node "s22" in this file (did you mean s2?)',
        ),
        ({"s1__port": 1}, "nodes.s1.port: 1 is the port of pa on local too"),
        (
            {"s1__port": 1, "s1__listen": "0.0.0.0"},  # noqa: S104
            "nodes.s1.port: 1 is the port of pa on local too",
        ),
        ({"s1__port": 1, "pa__listen": "::"}, "nodes.s1.port: 1 is the port of pa on local too"),
        ({"s1__data": "x/../pa/"}, "nodes.s1.data: is the directory of pa too"),
        ({"s1__data": "pa/x"}, "nodes.s1.data: lies within the directory of pa"),
        ({"pa__data": "s1/x"}, "nodes.s1.data: holds the directory of pa within it"),
        ({"s1__data": "volume:s2"}, "nodes.s2.data: is the volume of s1 too"),
        (
            {"pa__tablespaces": {"/srv/fast": "x"}},
            (
                "nodes.s1.tablespaces: lacks /srv/fast, which pa has: a tablespace has the same"
                " path on every node"
            ),
        ),
        (
            {"pa__tablespaces": {"/f": "x"}, "s1__tablespaces": {"/f": "pa/x"}},
            "nodes.s1.tablespaces./f: lies within the directory of pa",
        ),
        (
            {"pa__tablespaces": {"/f": "x"}, "s1__tablespaces": {"/f": "./x"}},
            "nodes.s1.tablespaces./f: is the directory of pa (/f) too",
        ),
        (
            {"pa__tablespaces": {"/f": "pa/x"}},
            "nodes.pa.tablespaces./f: lies within the directory of pa",
        ),
        (
            {"pa__tablespaces": {"/f": "volume:s2"}},
            "nodes.s2.data: is the volume of pa (/f) too",
        ),
        (
            {"s1__application_name": "PA"},
            'nodes.s1.application_name: "PA" is the name of pa too (case is ignored)',
        ),
        (
            {"s1__application_name": "a-b", "s2__application_name": "a.b"},
            "nodes.s2.application_name: makes the slot a_b, which is the one of s1",
        ),
        (
            {"nodes__PA": {"port": 9, "data": "z", "upstream": "pa", "application_name": "z"}},
            "nodes.PA: differs from pa by the letters' case only",
        ),
        ({"group__sync": "s4x"}, 'group.sync: "s4x" is no node\'s application_name'),
        (
            {"group__sync": "standby", "s1__application_name": "standby1"},
            'group.sync: "standby" is no node\'s application_name (did you mean standby1?)',
        ),
        ({"group__sync": "pa"}, 'group.sync: "pa" is pa, the primary: it cannot wait for itself'),
        ({"group__sync": "s3"}, 'group.sync: "s3" is s3, which follows s2, not the primary'),
        (
            {"group__sync": "3 (*)"},
            (
                "group.sync: waits for 3 standbys but 2 can follow the primary,"
                " so every commit would hang"
            ),
        ),
        (
            {"group__strict": True},
            "group.strict: true needs group.sync: without it no commit waits for a standby",
        ),
        (
            {"hosts__box": {}, "s1__host": "bax", "pa__address": "h"},
            "hosts.box: no node runs there (did you mean bax?)",
        ),
        (
            {"hosts__local": {"root": "/x"}},
            "hosts.local: has no root: relative paths of this machine lie in the project",
        ),
        (
            {"s1__host": "box"},
            "nodes.pa.address: missing: nodes on other hosts need its address, and s1 follows it",
        ),
        (
            {"s1__host": "box", "pa__address": "10.0.0.1"},
            "nodes.pa.listen: 127.0.0.1 is for its own host only, and s1 follows it from box",
        ),
        (
            {"s1__host": "box", "pa__listen": "10.0.0.1"},
            "nodes.s1.address: missing: pa is on another host and lets it in by its address",
        ),
        (
            {"s1__host": "box", "pa__listen": "10.0.0.1", "s1__address": "localhost"},
            "nodes.s1.address: must be one that other hosts reach, not localhost",
        ),
    ],
)
def test_contradictions(changes: dict[str, Any], fault: str) -> None:
    assert fault in faults(**changes)


SAME = "must be the same on every node: a standby with less than its primary does not start"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"s1__settings": {"max_connections": 50}}, ["s1 max_connections"]),
        (
            {"pa__settings": {"max_wal_senders": 20}, "s1__settings": {"max_wal_senders": 10}},
            ["pa max_wal_senders", "s1 max_wal_senders"],
        ),
        (
            {"s3__settings": {"max_worker_processes": 9, "max_locks_per_transaction": 99}},
            ["s3 max_worker_processes", "s3 max_locks_per_transaction"],
        ),
        ({"s1__settings": {"max_replication_slots": 5, "work_mem": "1MB"}}, []),
        ({n + "__settings": {"max_connections": 50} for n in ("pa", "s1", "s2", "s3")}, []),
    ],
)
def test_settings_that_are_to_be_the_same(changes: dict[str, Any], found: list[str]) -> None:
    if not found:
        topology(**changes)
        return
    wanted = [f"nodes.{line.replace(' ', '.settings.')}: {SAME}" for line in found]
    assert faults(**changes) == wanted


def test_one_fault_is_told_once() -> None:
    assert len(faults(s1__upstream="s1")) == 1
    assert len(faults(s2__upstream="s3")) == 1
    assert len(faults(s1__application_name="PA")) == 1


def test_no_fault_hides_another() -> None:
    told = faults(
        group__name="-", group__sync="ANY 1 (nobody)", x__y=1, hosts__box={}, pa__port="1",
        pa__adress="h", s1__data="pa", s1__host=5, s2__port=4, s3__name="other", s3__data="pa",
    )  # fmt: skip
    assert [line.split(": ")[0] for line in told] == [
        *("group.name", "nodes.pa.port", "nodes.pa.adress", "nodes.s1.host", "x"),
        *("nodes.s3.name", "nodes.s3.data", "nodes.s2.port"),
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"pa__port": 0, "s1__port": 1}, "nodes.pa.port"),
        ({"pa__data": "", "s1__data": "data"}, "nodes.pa.data"),
        ({"s1__upstraem": "pa", "s1__upstream": None}, "nodes.s1.upstraem"),
        ({"s1__upstream": 1}, "nodes.s1.upstream"),
        ({"group__snyc": "s1", "group__strict": True}, "group.snyc"),
        ({"group__sync": 1, "group__strict": True}, "group.sync"),
        ({"s1__application_name": "", "group__sync": "standby1"}, "nodes.s1.application_name"),
        (
            {"s1__host": "box", "s1__address": "b", "pa__address": 1, "pa__listen": "192.0.2.1"},
            "nodes.pa.address",
        ),
    ],
)
def test_a_made_up_value_makes_no_fault(changes: dict[str, Any], fault: str) -> None:
    changed = tree(**changes)
    if changed["nodes"]["s1"]["upstream"] is None:
        del changed["nodes"]["s1"]["upstream"]
    with pytest.raises(ValidationError) as caught:
        Topology.model_validate(changed)
    assert [".".join(map(str, found["loc"])) for found in caught.value.errors()] == [fault]


def test_what_only_looks_like_a_contradiction() -> None:
    topology(s1__port=1, s1__listen="127.0.0.2")
    topology(s1__data="pa_1", pa__data="volume:s1")
    topology(
        s1__host="box", s1__address="10.0.0.2", s1__port=1, s1__data="pa", pa__listen="10.0.0.1"
    )
    topology(group__sync="ANY 2 (*)")
    topology(group__sync="", group__strict=False)


def test_data_of_another_host_lies_below_its_root() -> None:
    remote = {
        "pa__address": "h", "pa__listen": "192.0.2.1", "s1__host": "box", "s1__address": "b",
        "s2__host": "box", "s2__address": "b", "s3__address": "h", "s1__listen": "192.0.2.2",
    }  # fmt: skip
    same = faults(**remote, s2__data="~/pgherd/s1", s3__upstream="s1")
    assert same == ["nodes.s2.data: is the directory of s1 too"]
    topology(
        **remote, s2__data="~/pgherd/s1", hosts__box={"root": "/srv"},
        s3__upstream="s1",
    )  # fmt: skip


def test_what_it_tells() -> None:
    group = topology(group__sync="ANY 1 (S1, s2)")
    assert group.primary.name == "pa"
    assert [node.name for node in group.standbys] == ["s1", "s2", "s3"]
    assert group.upstream_of(group.node("s3")) == group.node("s2")
    assert group.upstream_of(group.primary) is None
    assert list(group.nodes) == ["pa", "s3", "s1", "s2"]
    with pytest.raises(Refused) as caught:
        group.node("x")
    assert str(caught.value) == "no node 'x' in group g: it has pa, s3, s1, s2"


def test_sync_never_names_the_primary_itself() -> None:
    group = topology(group__sync="ANY 1 (S1, s2)")
    wanted = {"pa": 'ANY 1 ("S1", s2)', "s1": "ANY 1 (pa, s2)", "s3": 'ANY 1 ("S1", s2)'}
    for name, text in wanted.items():
        assert group.sync_for(group.node(name)) == Sync.parse(text)
    assert topology().sync_for(group.node("s1")) is None


def test_it_is_frozen_and_compares_by_what_is_asked() -> None:
    data = tree(pa__settings={"work_mem": "4MB", "jit": False})
    group = Topology.model_validate(data, context={"source": "a.toml"})
    assert group.source == "a.toml"
    assert group == Topology.model_validate(data)
    assert hash(group) == hash(Topology.model_validate(data))
    assert group == Topology(group=group.group, nodes=group.nodes, hosts=group.hosts)
    assert group == Topology.model_validate(group.model_dump())
    assert group != topology()
    with pytest.raises(ValidationError, match="frozen"):
        group.group = group.group
    for read_only in (group.nodes, group.primary.settings):
        with pytest.raises(TypeError):
            read_only["x"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "slot"),
    [("standby1", "standby1"), ("Stand-By 1.a", "stand_by_1_a"), ("x" * 63, "x" * 63)],
)
def test_slots_and_volumes(name: str, slot: str) -> None:
    node = Node(name="n1", port=1, data="volume:v1", application_name=name)
    assert node.slot == slot
    assert node.volume == "v1"
    assert Node(name="n1", port=1, data="v1").volume is None
    assert Node(name="n1", port=1, data="v1").application_name == "n1"
