"""A cascade changes its primary, and several of its nodes are lost at once: who was primary."""

from __future__ import annotations

import pytest
from conftest import Herd, MakeHerd, docker
from trial import inside

pytestmark = pytest.mark.long
POLICY = "{{.HostConfig.RestartPolicy.Name}}"


@pytest.fixture(scope="module")
def chain(make_herd: MakeHerd) -> Herd:
    """A primary, a standby, and one that follows that one."""
    herd = make_herd("17", standbys=2)
    herd.nodes["standby2"]["upstream"] = herd.container("standby")
    herd.write()
    herd.invoke("setup-master")
    herd.invoke("add-standby", "--all")
    return herd


def test_an_old_primary_is_followed_by_its_standby_again(chain: Herd) -> None:
    """There and back: on the way back the one that steps down is the upstream of another."""
    for role in ("standby", "master", "standby2", "standby", "master"):
        said = chain.invoke("switchover", "--to", chain.container(role)).stdout
        assert "no acknowledged commit was lost" in said
        assert all(check["ok"] for check in chain.checks().values())


def test_the_primary_is_fenced_though_only_a_standbys_standby_answers(chain: Herd) -> None:
    """What follows a standby that is down as well names that one: it never was primary."""
    herd = chain
    names = [herd.container(role) for role in ("master", "standby")]
    herd.sql("master", "CREATE TABLE kept AS SELECT 1 AS n")
    inside(herd, "standby2", "SELECT pg_sleep(0.5)")  # it cascades: nobody waits for it
    docker("kill", "--signal", "KILL", *names)
    said = herd.invoke("failover").stderr
    assert f"{names[0]}: fencing it" in said
    assert herd.primary() == "standby2"
    assert herd.sql("standby2", "SELECT n FROM kept") == 1
    assert docker("inspect", "--format", POLICY, names[0]) == "no"
    assert (herd.data("master") / "standby.signal").exists()
    herd.invoke("rejoin", names[0])
    herd.invoke("rejoin", names[1])
    assert all(check["ok"] for check in herd.checks().values())


def test_none_is_promoted_while_the_last_primarys_data_is_not_there(chain: Herd) -> None:
    """A switchover was cut short as its primary had stopped, and then its disk is not mounted."""
    herd, old = chain, chain.primary()
    new = next(role for role in herd.nodes if role != old)
    (herd.data(old) / "standby.signal").touch()
    docker("stop", "--time", "60", herd.container(old))
    away = herd.data(old).with_name("away")
    herd.data(old).rename(away)
    herd.data(old).mkdir()
    words = "switchover", "--to", herd.container(new)
    said = herd.invoke(*words, code=2).stderr
    assert f"the data of {herd.container(old)}, which is down, cannot be read" in said
    herd.data(old).rmdir()
    away.rename(herd.data(old))
    herd.invoke(*words)
    assert herd.primary() == new
    assert all(check["ok"] for check in herd.checks().values())


def test_an_older_primary_is_not_taken_for_the_one_to_keep(chain: Herd) -> None:
    """Somebody started the former one by hand, and then the one that was promoted went down."""
    herd, old = chain, chain.primary()
    docker("kill", "--signal", "KILL", herd.container(old))
    herd.invoke("failover")
    new = herd.primary()
    docker("kill", "--signal", "KILL", herd.container(new))
    (herd.data(old) / "standby.signal").unlink()
    docker("start", herd.container(old))
    inside(herd, old, "CREATE TABLE own AS SELECT 1 AS n")
    said = herd.invoke("failover", code=2).stderr
    assert f"{herd.container(old)} serves as primary, and is not the one to keep" in said
    assert f"{herd.container(new)} leads: " in said
    docker("stop", herd.container(old))
    herd.invoke("step.run-standby", "--node", herd.container(new))
    herd.invoke("rejoin", herd.container(old))
    assert herd.primary() == new
    assert herd.sql(new, "SELECT to_regclass('own') IS NULL")
