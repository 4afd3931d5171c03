"""Reading a topology: which file, and every fault in words with its path."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgherd.config import loader
from pgherd.config.nodes import Group, Node
from pgherd.config.topology import Topology
from pgherd.errors import Refused

GOOD = """
[group]
name = "pair"
sync = "FIRST 1 (standby1)"
[nodes.pmaster]
port = 5432
data = "data/pmaster_data"
[nodes.pstandby]
port = 5433
data = "data/pstandby_data"
upstream = "pmaster"
application_name = "standby1"
"""


def read(tmp_path: Path, text: str) -> Topology:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    return loader.load(path, {})


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(Refused) as caught:
        read(tmp_path, text)
    assert caught.value.code == 2
    return str(caught.value).replace(str(tmp_path / "x.toml"), "x.toml")


def test_the_default_is_the_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    topology = loader.load(environ={})
    assert topology.source == "conf/pair.toml"
    assert topology == read(tmp_path, GOOD)
    assert [node.name for node in topology.nodes.values()] == ["pmaster", "pstandby"]


def test_every_commented_key_of_the_pair_is_good(tmp_path: Path) -> None:
    text = (loader.ROOT / "conf/pair.toml").read_text(encoding="utf-8")
    lines = [
        line.removeprefix("# ") if " = " in line.split('"')[0] or line.startswith("# [") else line
        for line in text.splitlines()
    ]
    topology = read(tmp_path, "\n".join(lines))
    assert topology.group.initdb == "conf/initdb"
    assert topology.primary.settings == {"shared_buffers": "256MB", "log_connections": True}


def test_the_variable_names_a_file_here_or_in_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INVOKE_TOPOLOGY", "conf/pair.toml")
    assert loader.load().source == "conf/pair.toml"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "pair.toml").write_text(GOOD.replace('"pair"', '"mine"'), encoding="utf-8")
    assert loader.load().group.name == "mine"
    assert loader.load(environ={"INVOKE_TOPOLOGY": ""}).group.name == "pair"
    assert loader.load(loader.ROOT / "conf/pair.toml").group.name == "pair"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(Refused) as caught:
            loader.load(path, {})
        return str(caught.value).replace(f"{tmp_path}/", "")

    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    (tmp_path / "file").touch()
    assert refused(tmp_path / "no.toml") == "there is no no.toml: give another file"
    assert refused(tmp_path / "latin.toml") == "latin.toml is not UTF-8 text (byte 5): save it so"
    assert refused(tmp_path / "file" / "x") == (
        "file/x cannot be read (Not a directory): give another file"
    )
    assert (
        refused(tmp_path / "\0")
        == "\\x00 cannot be read (its name is not valid): give another file"
    )
    assert refused(tmp_path / ("x" * 300)).endswith("(File name too long): give another file")
    assert refused(tmp_path) == f"{tmp_path} is a directory, not a file: give another file"


def test_a_variable_that_names_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused) as caught:
        loader.load(environ={"INVOKE_TOPOLOGY": "no.toml"})
    assert (
        str(caught.value)
        == f"there is no {tmp_path}/no.toml and no no.toml: correct INVOKE_TOPOLOGY"
    )


def test_what_is_no_toml(tmp_path: Path) -> None:
    assert refusal(tmp_path, "[group]\nname pair") == (
        "x.toml is not valid TOML: Expected '=' after a key in a key/value pair (at line 2, "
        "column 6); correct it there"
    )
    assert refusal(tmp_path, "a = " + "9" * 5000) == (
        "x.toml is not valid TOML: it has a number too long to read"
    )
    assert refusal(tmp_path, "a = " + "[" * 5000) == (
        "x.toml is nested too deeply to be a topology"
    )
    assert read(tmp_path, "\ufeff" + GOOD) == read(tmp_path, GOOD)


def test_the_empty_file(tmp_path: Path) -> None:
    assert refusal(tmp_path, "") == (
        "x.toml: 3 faults:\n  group: missing\n  nodes: missing\n"
        "  nodes: one node must have no upstream: the primary"
    )


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(datetime.date(2026, 1, 1))
    | st.sampled_from(["pmaster", "pstandby", "local", "ANY 1 (*)", "volume:vv", "~/x", "::"])
)
KEYS = st.sampled_from([*Node.model_fields, *Group.model_fields, "root", "pa", "pb"]) | st.text()
TREES = st.recursive(
    ATOMS, lambda part: st.lists(part) | st.dictionaries(KEYS, part), max_leaves=12
)
NODES = st.dictionaries(
    st.sampled_from(["pmaster", "pstandby", "PMASTER", "x y"]),
    TREES | st.dictionaries(st.sampled_from(list(Node.model_fields)), ATOMS),
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(KEYS, TREES)
    | st.fixed_dictionaries({"group": TREES, "nodes": NODES, "hosts": TREES})
)
def test_any_tree_is_a_topology_or_refused(tree: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "_parsed", lambda *_: tree)
        try:
            topology = loader.load(environ={})
        except Refused as refused:
            head, *lines = str(refused).split("\n  ")
            assert re.fullmatch(r"conf/pair.toml: [0-9]+ faults?:", head)
            assert all(": " in line and "pydantic" not in line for line in lines)
        else:
            assert Topology.model_validate(topology) == topology


@settings(max_examples=50, deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_topology_or_refused(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "_bytes", lambda _: content)
        with pytest.raises(Refused):
            loader.load(environ={})


def test_libpq_variables_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"PGHOSTADDR": "10.0.0.1", "PGSERVICE": "x", "PG_X": "y", "HOME": "/h", "xPG": "z"}
    monkeypatch.setattr(os, "environ", environ)
    loader.forget_libpq_variables()
    assert environ == {"HOME": "/h", "xPG": "z"}


def test_local_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loader.local_path("data/x/../y") == loader.ROOT / "data" / "y"
    assert loader.local_path("/srv//pg/") == Path("/srv/pg")
    assert loader.local_path("~/pg") == tmp_path / "pg"
    with pytest.raises(Refused, match="volume:v1 is a Docker volume: it has no path"):
        loader.local_path("volume:v1")
    with pytest.raises(Refused, match="no home directory is known for ~nobody-here/x"):
        loader.local_path("~nobody-here/x")


def test_secrets_lie_apart_for_each_group_and_host() -> None:
    assert loader.secrets_dir("pair") == loader.ROOT / "data/secrets/pair"
    assert loader.secrets_dir("pair", "u@box:22") == loader.ROOT / "data/secrets/pair@u@box:22"
    for bad in ("..", "", "a/b"):
        with pytest.raises(Refused, match="cannot name a directory of secrets"):
            loader.secrets_dir(bad)


def test_a_conf_file_that_is_gone() -> None:
    with pytest.raises(Refused, match=re.escape("there is no conf/gone.conf: restore it")):
        loader.conf_file("gone.conf")
    assert loader.conf_file("pair.toml").startswith("# The default topology")
