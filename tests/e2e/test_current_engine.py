"""The whole life of a group on the engine that Debian has now, by that engine's own docker.

What the machine itself runs may be years older, and people have both. So the words of Docker that
pgherd goes by are asked of both.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Herd, MakeHerd, free_port
from engine import Engine
from load import missing, running_load, two_at_once
from machine import lacking, until
from plumbum import local
from rig import rig
from stories import asked_of
from system import current_system

from pgherd.docker.engine import Engine as DockerEngine
from pgherd.docker.engine import docker, raise_if_unreachable
from pgherd.docker.models import Mount
from pgherd.errors import Error, Refused, Unreachable
from pgherd.hosts.commands import Tool, Trace
from pgherd.hosts.local import LocalHost
from pgherd.postgres.instance import NAME_TAKEN

pytestmark = pytest.mark.timeout(1200)
CLIENTS = 3
LOOKS = ("verify", "status", "doctor", "diff", "audit")


@pytest.fixture(scope="module")
def image(make_herd: MakeHerd) -> str:
    """The image for postgres:17, as this machine's engine has it."""
    return make_herd("17").invoke("image").stdout.strip()


@pytest.fixture(scope="module")
def current(image: str) -> Iterator[Engine]:
    """The engine that Debian has now, in a machine of its own; it has the image."""
    if why := lacking(ssh=False, system=True):
        pytest.skip(f"no second engine: {why}")
    with rig(hosts=1, engines=True, system=current_system()) as made:
        made.hosts["hosta"].load(image)
        yield made.hosts["hosta"]


@pytest.fixture(params=["17", "18"])
def herd(request: pytest.FixtureRequest, current: Engine, image: str, make_herd: MakeHerd) -> Herd:
    """A group on that engine, encrypted, with a place for tablespaces; its third is on volumes."""
    made = make_herd(request.param, standbys=2, tls=True, **asked_of(2))
    if (its := made.invoke("image").stdout.strip()) != image:
        current.load(its)
    for role, keys in made.nodes.items():
        keys |= {"listen": current.address, "port": free_port()}
        keys["tablespaces"] = {"/srv/fast": str(made.directory / f"{role}_fast")}
    made.nodes["standby2"]["data"] = f"volume:{made.name}-data"
    made.nodes["standby2"]["tablespaces"] = {"/srv/fast": f"volume:{made.name}-fast"}
    made.write()
    made.env |= current.environment()
    made.inside = ["nsenter", f"--net=/proc/{current.pid}/ns/net"]  # its addresses are local there
    return made


@pytest.mark.long
def test_the_whole_life(herd: Herd, current: Engine) -> None:
    """From nothing to nothing: every row that was acknowledged on the way is there."""
    master, standby, third = map(herd.container, herd.nodes)
    version = current.docker("version", "--format", "{{.Server.Version}}")
    assert int(version.split(".")[0]) >= 28
    herd.invoke("setup-master")
    herd.invoke("add-standby", "--all")
    assert "ANY 1" in herd.invoke("sync").stdout
    herd.sql("master", "CREATE TABLESPACE fast LOCATION '/srv/fast'")
    herd.sql("master", "CREATE TABLE fast TABLESPACE fast AS SELECT generate_series(1, 1000) AS n")
    for look in LOOKS:
        herd.invoke(look)
    with running_load(herd.places, herd.password(), herd.directory, clients=CLIENTS) as load:
        for mode in ("ANY 2", "ANY 1"):
            herd.invoke("sync", "--mode", f"{mode} (standby1, standby2)")
        for name in (standby, master):
            herd.invoke("switchover", "--to", name)
            herd.invoke("verify")
        fail_over(herd, current, to="standby")
        herd.invoke("verify", code=1)
        herd.invoke("rejoin", master)
        copied = ("seed-standby", "--node", third, "--method", "copy", "--rebuild", "--yes")
        herd.invoke(*copied)
        herd.invoke("verify")
    fail_over(herd, current, to="master")
    write_alone(herd, current, "standby")
    assert "pg_rewind" in herd.invoke("rejoin", standby).stderr
    herd.invoke("verify", "rotate-passwords", "remove-standby", third)
    del herd.nodes["standby2"]
    herd.group["sync"] = "FIRST 1 (standby1)"
    herd.write()
    herd.invoke("step.require-sync", "down", "start")
    for look in LOOKS:
        herd.invoke(look)
    assert missing(load.acknowledged(), partial(herd.sql, "master")) == set()
    assert two_at_once(load.acknowledged()) == []
    assert herd.sql("standby", "SELECT count(*) FROM fast") == 1000
    herd.invoke("down", "--purge", "--confirm", herd.name)
    assert current.docker("ps", "--all", "--quiet") == ""
    assert current.docker("network", "ls", "--quiet", "--filter", "type=custom") == ""


def fail_over(herd: Herd, engine: Engine, to: str) -> None:
    """Kill the primary, and have another one."""
    engine.docker("kill", "--signal", "KILL", herd.container(herd.primary()))
    herd.invoke("failover", "--to", herd.container(to))
    assert herd.primary() == to


def write_alone(herd: Herd, engine: Engine, role: str) -> None:
    """Let an old primary run as a second one: it writes WAL that no other has, and no commit."""
    (herd.data(role) / "standby.signal").unlink()
    engine.docker("start", herd.container(role))
    inside = ("exec", "--user", "postgres", herd.container(role), "psql", "-XAtqc")
    written = "SELECT pg_switch_wal()"
    until(lambda: engine.docker(*inside, written, check=False), "the old primary writes")


# --- its words, and those of this machine's engine, as far as pgherd goes by them ---


@pytest.fixture(params=["machine", pytest.param("current", marks=pytest.mark.long)])
def words_of(request: pytest.FixtureRequest) -> Iterator[DockerEngine]:
    """An engine as pgherd has it: this machine's, or the current one."""
    of_current = request.param == "current"
    env = request.getfixturevalue("current").environment() if of_current else {}
    with local.env(**env):
        yield DockerEngine(LocalHost(Trace()), "nobodys")


@pytest.fixture
def container(words_of: DockerEngine, image: str) -> Iterator[str]:
    """One that sleeps."""
    name = f"t{secrets.token_hex(3)}"
    words_of.must(docker["run", "--detach", "--name", name, image, "sleep", "300"])
    yield name
    words_of.run(docker["rm", "--force", name])


def test_words_for_a_name_that_is_taken(words_of: DockerEngine, container: str, image: str) -> None:
    said = words_of.run(docker["run", "--name", container, image, "true"])
    assert NAME_TAKEN in said.err


def test_a_container_is_stopped_without_a_complaint(
    words_of: DockerEngine, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(words_of, "must", lambda command, **_: ran.append(command))
    words_of.stop(words_of.containers()[container], 1)
    assert words_of.run(ran[0]).err == ""


def test_words_for_what_is_not_there(words_of: DockerEngine) -> None:
    assert words_of.image("pgherd/nothing:1") is None
    assert words_of.image("pgherd/nothing:1", "pgherd/nothing:2") is None
    assert words_of.network("pgherd-nothing") is None
    assert not words_of.volume_exists("pgherd-nothing")
    assert not words_of.pull("pgherd.invalid/nothing:1", lambda _line: None)  # no such registry


def test_words_for_a_network_that_is_in_use(words_of: DockerEngine, container: str) -> None:
    words_of.make_network(f"{container}-net", container)
    try:
        words_of.must(docker["network", "connect", f"{container}-net", container])
        with pytest.raises(Refused, match=f"stays, {container} is on it"):
            words_of.remove_network(f"{container}-net")
    finally:
        words_of.run(docker["network", "disconnect", "--force", f"{container}-net", container])
        words_of.remove_network(f"{container}-net")


@pytest.mark.parametrize(
    "address", ["unix:///nowhere/docker.sock", "unix:///none", "tcp://127.0.0.1:1", "ssh://[::1]:1"]
)
def test_words_of_an_engine_that_is_not_there(words_of: DockerEngine, address: str) -> None:
    with local.env(DOCKER_HOST=address), pytest.raises(Unreachable, match="does not answer"):
        words_of.containers()


@pytest.mark.parametrize("env", [{"DOCKER_CONTEXT": "nowhere"}, {"DOCKER_HOST": "nowhere://x"}])
def test_words_for_an_engine_that_nobody_knows(words_of: DockerEngine, env: dict[str, str]) -> None:
    with (
        local.env(**{"DOCKER_HOST": "", **env}),
        pytest.raises(Unreachable, match="cannot tell which engine is meant"),
    ):
        words_of.containers()


def test_what_is_listed_of_other_peoples_containers(
    words_of: DockerEngine, image: str, tmp_path: Path
) -> None:
    """By `docker ps`, as far as it goes: nothing less than `docker inspect` tells."""
    name = f"t{secrets.token_hex(3)}"
    place = tmp_path / "a, b"
    place.mkdir()
    options = ["--publish", f"127.0.0.1:{free_port()}:5432", "--publish", f"[::1]:{free_port()}:1"]
    options += ["--publish", f"{free_port()}:2"]
    for mount in (Mount(str(place), "/a"), Mount(f"{name}-volume", "/v", volume=True)):
        options += ["--mount", mount.option()]
    words_of.must(docker["run", "--detach", "--name", name, options, image, "sleep", "300"])
    try:
        listed = words_of.containers()[name]
        (seen,) = words_of.inspect([listed]).values()
        assert listed.listed
        assert listed.status == seen.status
        assert len(seen.ports) == 3
        assert set(seen.ports) <= set(listed.ports)
        told = {mount.source for mount in listed.mounts}
        assert {mount.source for mount in seen.mounts} <= told
    finally:
        words_of.run(docker["rm", "--force", "--volumes", name])
        words_of.run(docker["volume", "rm", f"{name}-volume"])


def test_words_for_who_may_not_use_it(words_of: DockerEngine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    said = words_of.host.run(
        Tool("setpriv")["--reuid=65534", "--regid=65534", "--clear-groups", "docker", "ps"]
    )
    assert not said.ok
    with pytest.raises(Unreachable, match="no permission on Docker's socket"):
        raise_if_unreachable(said)


@pytest.mark.long
def test_words_for_address_ranges_that_are_used_up(current: Engine) -> None:
    """On an engine of our own only: this machine's networks are other people's too."""
    with local.env(**current.environment()):
        engine = DockerEngine(LocalHost(Trace()))
        names = [f"many-{number}" for number in range(20)]  # its pool has 16
        create = ("network", "create")
        taken = [name for name in names if engine.run(docker[[*create, name]]).ok]
        with pytest.raises(Error, match="has no address range left"):
            engine.make_network("one-more", "many")
        for name in taken:
            engine.remove_network(name)
