"""Whatever a topology file holds, it is a topology, or refused in words with the place in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fuzzing import NASTY, WORDS, changed, check_told, fuzz, nearly, toml
from hypothesis import example, given
from hypothesis import strategies as st

from pgherd.config import loader
from pgherd.config.topology import Topology
from pgherd.errors import Refused

PAIR: dict[str, Any] = {
    "group": {"name": "pair", "image": "postgres:17", "sync": "FIRST 1 (s1)", "strict": False},
    "nodes": {
        "pa": {"port": 5432, "data": "data/pa", "settings": {"work_mem": "8MB", "a.b": 1.5}},
        "pb": {"port": 5433, "data": "data/p b", "upstream": "pa", "application_name": "s1"},
        "pc": {"port": 5434, "data": "volume:pc", "upstream": "pb", "listen": "127.0.0.2"},
    },
}
SPREAD: dict[str, Any] = {
    "group": {"name": "g", "sync": 'ANY 2 ("s-1", "s 2")', "initdb": "conf/initdb"},
    "nodes": {
        "pa": {"port": 5432, "data": "pa", "host": "ada@box:22", "listen": "192.0.2.1"},
        "s-1": {"port": 1, "data": "~/x", "upstream": "pa", "host": "local", "address": "a.b"},
        "s2": {"port": 2, "data": "/é", "upstream": "pa", "host": "ada@box:22",
               "application_name": "s 2"},
    },
    "hosts": {"ada@box:22": {"root": "/srv/pgherd"}},
}  # fmt: skip
WELL_MADE = [toml(PAIR), toml(SPREAD), (loader.ROOT / "conf/pair.toml").read_text("utf-8")]
FAULT = re.compile(
    r'(group|nodes|hosts|"(?:[^"\\]|\\.)*"|[\w-]+)(\.("(?:[^"\\]|\\.)*"|[\w-]+))*: .+'
)


def load(path: Path, content: bytes, environ: dict[str, str] | None = None) -> Topology | None:
    """Read a file with this content; see that a refusal is one that can be shown."""
    path.write_bytes(content)
    try:
        return loader.load(path, environ or {})
    except Refused as refused:
        check_told(refused)
        head, *lines = refused.sentence.split("\n  ")
        if head.endswith(("fault:", "faults:")):
            assert all(FAULT.fullmatch(line) or line.startswith("and ") for line in lines), lines
        else:
            assert str(path) in head or "INVOKE_HOST" in head
        return None


@pytest.mark.parametrize("text", WELL_MADE)
def test_what_is_well_made_is_a_topology(tmp_path: Path, text: str) -> None:
    assert load(tmp_path / "x.toml", text.encode())


NASTIES = st.sampled_from(NASTY)
BAD = NASTIES | st.integers() | st.dictionaries(NASTIES, NASTIES, max_size=2)


@fuzz(70)
@given(tree=changed([PAIR, SPREAD], BAD), host=st.just("") | NASTIES)
@example(tree=PAIR | {"nodes": {f"n{n}": {"port": n} for n in range(3000)}}, host="")
@example(tree={f"k{n}\x1b": n for n in range(3000)}, host="")
def test_a_changed_tree(tmp_path_factory: pytest.TempPathFactory, tree: Any, host: str) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.toml"
    text = toml(tree).encode("utf-8", "replace")
    found = load(path, text, {"INVOKE_HOST": host} if host else None)
    if found:
        assert Topology.model_validate(found) == found
        assert {found.primary.name, *(node.name for node in found.standbys)} == set(found.nodes)


@fuzz(60)
@given(text=nearly(WELL_MADE))
@example(text="[" + "a." * 2_000 + "b]\nx = 1")
@example(text='group = "' + "x" * 900_000 + '"')
@example(text="# " + "x" * 1_000_001)
def test_a_changed_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    load(tmp_path_factory.getbasetemp() / "text.toml", text.encode("utf-8", "replace"))


@fuzz(40)
@given(content=st.binary(max_size=60), at=st.integers(0, 300))
def test_bytes_within_a_text(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, at: int
) -> None:
    text = WELL_MADE[0].encode()
    load(tmp_path_factory.getbasetemp() / "bytes.toml", text[:at] + content + text[at:])


@fuzz(60)
@given(topology=WORDS, host=WORDS)
def test_the_variables(topology: str, host: str) -> None:
    try:
        loader.load(environ={"INVOKE_TOPOLOGY": topology, "INVOKE_HOST": host})
    except Refused as refused:
        check_told(refused)
