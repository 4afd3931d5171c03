"""A group on another host than its file says: placed as a whole, or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgherd.config import loader
from pgherd.errors import Refused

FILE = """
[group]
name = "g"
[nodes.pa]
port = 5432
data = "pa"
[nodes.s1]
{host}
port = 5433
data = "s1"
upstream = "pa"
"""


def written(folder: Path, host: str = "") -> Path:
    path = folder / "g.toml"
    path.write_text(FILE.format(host=host), encoding="utf-8")
    return path


@pytest.mark.parametrize("host", ["", 'host = "local"'])
def test_a_group_is_placed_as_a_whole(tmp_path: Path, host: str) -> None:
    placed = loader.load(written(tmp_path, host), {}, on="box")
    assert [node.host for node in placed.nodes.values()] == ["box", "box"]
    assert (placed.placed_on, placed.hosts_used) == ("box", ("box",))


def test_by_the_variable_as_well(tmp_path: Path) -> None:
    for on in ("", "box"):
        placed = loader.load(written(tmp_path), {"INVOKE_HOST": "box"}, on=on)
        assert placed.hosts_used == ("box",)


def test_a_group_that_lives_there_anyway_is_not_placed(tmp_path: Path) -> None:
    path = written(tmp_path, 'host = "box"')
    path.write_text(path.read_text().replace("[nodes.pa]", '[nodes.pa]\nhost = "box"'))
    assert loader.load(path, {}, on="box") == loader.load(path, {})
    assert loader.load(path, {}, on="box").placed_on == ""


def test_task_and_variable_may_not_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"`invoke on a` and INVOKE_HOST=b contradict each other"):
        loader.load(written(tmp_path), {"INVOKE_HOST": "b"}, on="a")


def test_the_file_has_the_last_word(tmp_path: Path) -> None:
    for on, environ in (("a", {}), ("", {"INVOKE_HOST": "a"})):
        with pytest.raises(Refused) as caught:
            loader.load(written(tmp_path, 'host = "box"'), environ, on=on)
        assert re.search(r'nodes\.s1\.host: is "box" here, and .* says "a"', caught.value.sentence)


def test_local_has_a_meaning_beside_another_host(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r'nodes\.pa\.host: is "local" here'):
        loader.load(written(tmp_path, 'host = "box"'), {"INVOKE_HOST": "box"})


def test_what_is_no_destination_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"must be .local. or an SSH destination"):
        loader.load(written(tmp_path), {}, on="-oProxyCommand=x")


def test_the_passwords_of_a_placed_group_are_its_own(tmp_path: Path) -> None:
    placed = loader.load(written(tmp_path), {}, on="ada@box")
    assert loader.secrets_dir(placed.group.name, placed.placed_on).name == "g@ada@box"


def test_the_ssh_configuration_may_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(loader.SSH_CONFIG_VARIABLE, raising=False)
    assert loader.ssh_config() is None
    (tmp_path / "config").write_text("Host a\n")
    monkeypatch.setenv(loader.SSH_CONFIG_VARIABLE, str(tmp_path / "config"))
    assert loader.ssh_config() == str(tmp_path / "config")
    monkeypatch.setenv(loader.SSH_CONFIG_VARIABLE, str(tmp_path / "no"))
    with pytest.raises(Refused, match="correct INVOKE_SSH_CONFIG"):
        loader.ssh_config()
