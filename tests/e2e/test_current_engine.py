"""The whole life of a group on the engine that Debian has now, by that engine's own docker.

What the machine itself runs may be years older, and people have both.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from conftest import Herd, MakeHerd, free_port
from engine import Engine
from load import missing, running_load, two_at_once
from machine import lacking, until
from rig import rig
from stories import asked_of
from system import current_system

LACKING = lacking(ssh=False, system=True)
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"no second engine: {LACKING}"),
    pytest.mark.timeout(1200),
    pytest.mark.long,
]
CLIENTS = 3
LOOKS = ("verify", "status", "doctor", "diff", "audit")


@pytest.fixture(scope="module")
def current() -> Iterator[Engine]:
    with rig(hosts=1, engines=True, system=current_system()) as made:
        yield made.hosts["hosta"]


@pytest.fixture(params=["17", "18"])
def herd(request: pytest.FixtureRequest, current: Engine, make_herd: MakeHerd) -> Herd:
    """A group on that engine, encrypted; its third node is on a volume."""
    made = make_herd(request.param, standbys=2, tls=True, **asked_of(2))
    current.load(made.invoke("image").stdout.strip())
    for keys in made.nodes.values():
        keys |= {"listen": current.address, "port": free_port()}
    made.nodes["standby2"]["data"] = f"volume:{made.name}-data"
    made.write()
    made.env |= current.environment()
    made.inside = ["nsenter", f"--net=/proc/{current.pid}/ns/net"]  # its addresses are local there
    return made


def test_the_whole_life(herd: Herd, current: Engine) -> None:
    """From nothing to nothing: every row that was acknowledged on the way is there."""
    master, standby, third = map(herd.container, herd.nodes)
    version = current.docker("version", "--format", "{{.Server.Version}}")
    assert int(version.split(".")[0]) >= 28
    herd.invoke("setup-master")
    herd.invoke("add-standby", "--all")
    assert "ANY 1" in herd.invoke("sync").stdout
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
        copied = ("seed-standby", "--node", third, "--method", "copy", "--reseed", "--yes")
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
