"""Hosts that let nobody in, are down, or have no Docker: what is said, and nothing is changed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from far import REFUSED, UNREACHABLE, Far, MakeFar, ended
from host import Host
from login import make_key
from machine import lacking
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

USERS = ("root", "member", "stranger")


@pytest.fixture(scope="module")
def far(make_far: MakeFar) -> Far:
    """A pair that is on no host yet; tests say where it is to be."""
    return make_far()


@pytest.fixture
def host(rigged: Rig) -> Host:
    return rigged.hosts["hosta"]


def told(far: Far, code: int, destination: str = "hosta", **env: str) -> str:
    """What setup-master says there, on one line, while it changes nothing there or here."""
    host = far.rig.hosts[destination.rpartition("@")[2]]
    before = files(host)
    env = {"INVOKE_SSH_CONFIG": str(far.rig.ssh_config), "INVOKE_HOST": destination, **env}
    said = far.invoke("setup-master", code=code, **env).stderr
    assert files(host) == before
    assert not list(far.secrets().parent.glob(f"{far.name}*"))
    return " ".join(said.split())


def files(host: Host) -> list[Path]:
    """What lies in the homes of a host; not what tells who is at work, which is nothing of it."""
    found = [path for user in USERS for path in host.home(user).rglob("*")]
    hidden = [path for path in found if path.name.startswith(".") and path.parent.name == "pgherd"]
    return sorted(path for path in found if path.name != "pgherd" and path not in hidden)


# --- keys of hosts ---


def test_an_unknown_host_key(far: Far, host: Host, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    config = far.rig.config_with("Host *", f"    UserKnownHostsFile {known}")
    before = len(host.logins())
    said = told(far, REFUSED, INVOKE_SSH_CONFIG=str(config))
    assert f"is not known under the name {host.address}" in said
    assert re.search(r"SHA256:\S{40,}", said)
    accept = f"ssh -o StrictHostKeyChecking=ask -F {config} hosta (answer yes)"
    assert said.endswith(f"then accept it: {accept}")
    assert len(host.logins()) == before
    assert not known.exists()


def test_a_changed_host_key(far: Far, host: Host) -> None:
    known = far.rig.directory / "known_hosts"
    lines = known.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.startswith(f"{host.address} "))
    host.new_host_key()
    before = len(host.logins())
    said = told(far, REFUSED)
    assert "THE KEY OF AN SSH SERVER HAS CHANGED: somebody may be listening in" in said
    place = re.search(rf"{re.escape(str(known))}:(\d+)", said)
    assert place
    assert lines[int(place[1]) - 1].startswith(f"{host.address} ")
    assert int(place[1]) in range(number, number + 3)
    assert f"ssh-keygen -R {host.address} -f {known}" in said
    assert len(host.logins()) == before


# --- who ---


def test_a_wrong_user(far: Far, host: Host) -> None:
    said = told(far, UNREACHABLE, "nosuch@hosta")
    assert "nosuch@hosta: The SSH server" in said
    assert "does not let the user 'nosuch' in by any of these keys" in said
    assert str(far.rig.key) in said
    assert host.address in said


def test_a_wrong_key(far: Far, tmp_path: Path) -> None:
    other = tmp_path / "other key"
    make_key(other)
    config = tmp_path / "ssh_config"
    config.write_text(far.rig.ssh_config.read_text().replace(str(far.rig.key), f'"{other}"'))
    said = told(far, UNREACHABLE, INVOKE_SSH_CONFIG=str(config))
    assert "does not let the user 'root' in by any of these keys" in said
    assert str(other) in said
    assert "ssh-copy-id" in said


# --- Docker ---


@pytest.mark.usefixtures("rigged")
def test_a_user_who_may_not_use_docker(far: Far) -> None:
    said = told(far, UNREACHABLE, "stranger@hosta")
    assert "The user has no permission on Docker's socket (host stranger@hosta)" in said
    assert "Join the group docker" in said


def test_a_host_without_docker(far: Far, host: Host) -> None:
    host.hide("docker")
    said = told(far, UNREACHABLE)
    assert "hosta has no docker command: install Docker there" in said


def test_an_engine_that_is_stopped(far: Far, host: Host) -> None:
    host.stop_engine()
    said = told(far, UNREACHABLE)
    assert "The Docker Engine does not answer (host hosta)" in said
    assert "Start it there" in said


# --- the way there ---


def test_a_host_whose_sshd_is_down(far: Far, host: Host) -> None:
    host.stop_sshd()
    said = told(far, UNREACHABLE)
    assert f"hosta (root@{host.address}:22) cannot be reached by SSH" in said
    assert "Connection refused: no SSH server listens there" in said
    assert f"ssh -v -F {far.rig.ssh_config} hosta" in said


def test_a_host_that_swallows_everything(far: Far, host: Host) -> None:
    host.block(far.rig.machine)
    config = far.rig.config_with("Host *", "    ConnectTimeout 2")
    began = time.monotonic()
    said = told(far, UNREACHABLE, INVOKE_SSH_CONFIG=str(config))
    assert 2 <= time.monotonic() - began < 12
    assert "It does not answer within 2 s" in said


def test_one_of_several_without_a_cable(rigged: Rig, make_far: MakeFar) -> None:
    far = make_far("hosta", "hostb", "hostc")
    config = rigged.config_with("Host *", "    ConnectTimeout 4")
    far.env["INVOKE_SSH_CONFIG"] = str(config)
    before = far.things()
    rigged.hosts["hostc"].cut()
    said = ended(far.begin("setup-master"), 12, UNREACHABLE)
    assert f"hostc (root@{rigged.hosts['hostc'].address}:22) cannot be reached by SSH" in said
    assert "No route to host" in said or "does not answer within 4 s" in said
    assert far.things() == before


# --- which host ---


def test_on_and_the_variable_may_not_contradict_each_other(far: Far) -> None:
    contradiction = "`invoke on hosta` and INVOKE_HOST=hostb contradict each other"
    for words in (["on", "hosta", "hosts"], ["on", "hosta", "setup-master"]):
        assert contradiction in far.invoke(*words, code=REFUSED, INVOKE_HOST="hostb").stderr
    same = far.invoke("on", "hosta", "hosts", INVOKE_HOST="hosta").stdout
    assert same.splitlines()[1].startswith("hosta ")
    late = far.invoke("hosts", "on", "hosta", code=REFUSED, INVOKE_HOST="hostb").stderr
    assert "contradict each other" in late or "comes before all other tasks" in late


def test_on_and_the_topology_may_not_contradict_each_other(make_far: MakeFar) -> None:
    far = make_far("hosta", "hostb")
    for words, env in (["on", "hostc", "hosts"], {}), (["hosts"], {"INVOKE_HOST": "hostc"}):
        said = far.invoke(*words, code=REFUSED, **env).stderr
        assert f'nodes.{far.container("master")}.host: is "hosta" here' in said
        assert f'nodes.{far.container("standby")}.host: is "hostb" here' in said
        assert 'says "hostc"' in said
