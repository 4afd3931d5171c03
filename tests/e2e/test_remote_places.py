"""Where data lies on another machine, and the script that does the same there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from far import THREE, MakeFar
from machine import lacking
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

ROOT = "/srv/pg herd"
STRANGE = 'it\'s "quoted" $HOME `id` é'
ABSOLUTE = '/srv/else where/stand\'by, "two" $x ü'


@pytest.mark.long
def test_any_path_will_do(rigged: Rig, make_far: MakeFar) -> None:
    far = make_far("hostc", "hostc")
    far.roots["hostc"] = ROOT
    far.nodes["master"]["data"] = STRANGE
    far.nodes["standby"]["data"] = ABSOLUTE
    far.write()
    far.invoke(*THREE)
    host = rigged.hosts["hostc"]
    for path in (f"{ROOT}/{STRANGE}", ABSOLUTE):
        assert (host.place(path) / "PG_VERSION").read_text() == "17\n"
    assert {path.name for path in host.place("/srv").iterdir()} == {"pg herd", "else where"}
    assert not (host.home() / "pgherd").exists()
    assert "already" in far.invoke("seed-standby").stderr
    rebuilt = far.invoke("seed-standby", "--rebuild", "--allow-async").stderr
    assert f"setting its data aside as {ABSOLUTE}_bk_" in rebuilt
    far.checks()
    secrets = far.passwords()
    far.invoke("down", "--purge", "--confirm", far.name, "--delete-data")
    (aside,) = host.place(ABSOLUTE).parent.iterdir()
    assert aside.name.startswith(Path(ABSOLUTE).name + "_bk_")
    files = [path for path in host.place(ROOT).rglob("*") if path.is_file()]
    assert not [path for path in files if any(p in path.read_text() for p in secrets)]
    assert not [path for path in files if path.stat().st_size > 1000]  # what was set aside, and why


@pytest.mark.usefixtures("rigged")
@pytest.mark.long
def test_the_printed_script_does_the_job(make_far: MakeFar, tmp_path: Path) -> None:
    far = make_far(on="member@hostb")
    far.nodes["master"]["data"] = f"volume:{far.name}-data"
    far.write()
    before = far.docker("master", "ps", "-aq"), list(far.home("master").iterdir())
    script = far.invoke("--dry", *THREE).stdout
    assert (far.docker("master", "ps", "-aq"), list(far.home("master").iterdir())) == before
    assert script.startswith("#!/bin/sh\n")
    assert f"ssh -F {far.rig.ssh_config} member@hostb" in script
    file = tmp_path / "script.sh"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run(
        ["sh", str(file)], cwd="/", capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert len(far.passwords()) == 2
    assert not [password for password in far.passwords() if password in said + script]
    far.checks()
    again = far.invoke("setup-master", "seed-standby").stderr
    assert [f"{far.container(role)}: already" in again for role in far.nodes] == [True, True]
    assert f"{far.name}-data" in far.docker("master", "volume", "ls", "--quiet").split()
    assert (far.data("standby") / "PG_VERSION").exists()
    far.invoke("down", "--purge", "--confirm", far.name, "--delete-data")
    assert far.docker("master", "volume", "ls", "--quiet") == ""
