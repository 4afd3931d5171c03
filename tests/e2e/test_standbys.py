"""More standbys: added side by side and in a cascade, delayed, removed; whom commits wait for."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import asking
import psycopg
import pytest
from asking import slots
from conftest import Herd, MakeHerd, docker, free_port

until = partial(asking.until, seconds=30.0)


def sync_names(herd: Herd, role: str = "master") -> str:
    """Return whom a server's commits wait for."""
    return str(herd.sql(role, "SHOW synchronous_standby_names"))


def add_node(herd: Herd, role: str, upstream: str = "master", **keys: Any) -> str:
    """Put a further node into the topology file; return its name."""
    name = f"{herd.name}-{role}"
    herd.nodes[role] = {
        "name": name,
        "upstream": herd.container(upstream),
        "port": free_port(),
        "data": str(herd.directory / f"{role}_data"),
        **keys,
    }
    herd.write()
    return name


def reached(herd: Herd, role: str) -> bool:
    """Tell whether a server takes connections."""
    try:
        return herd.sql(role, "SELECT true") is True
    except psycopg.OperationalError:
        return False


def asides(herd: Herd, role: str) -> int:
    """Count what was set aside of a node's data."""
    return len(list(herd.directory.glob(f"{role}_data_bk_*")))


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    """A pair that grows and shrinks from test to test, in their order."""
    made = make_herd("18")
    made.invoke("setup-master", "seed-standby")
    return made


# --- a pair grows ---


@pytest.mark.long
def test_a_node_that_the_topology_lacks_is_refused_with_its_lines(herd: Herd) -> None:
    said = herd.invoke("add-standby", f"{herd.name}-a,{herd.name}-b", code=2).stderr
    before = herd.topology.read_text(encoding="utf-8")
    head, _, tables = said.partition("\n\n")
    assert f"at the end of {herd.topology}" in head
    herd.topology.write_text(before + "\n" + tables, encoding="utf-8")
    herd.invoke("--dry", "add-standby", f"{herd.name}-a,{herd.name}-b")  # they can be pasted
    herd.write()
    assert herd.invoke("add-standby", herd.container("master"), code=2)
    assert "Which standbys?" in herd.invoke("add-standby", "x", "--all", code=2).stderr


def test_two_at_once_and_one_of_them_in_a_cascade(herd: Herd) -> None:
    near = add_node(herd, "near")
    far = add_node(herd, "far", "near")
    said = herd.invoke("add-standby", far, code=2).stderr
    assert f"{near}, which {far} is to follow, does not serve" in said
    assert f"`invoke add-standby {near},{far}` seeds both" in said
    said = herd.invoke("add-standby", f"{far},{near}").stderr
    assert said.index(f"{near}: streams") < said.index(f"{far}: base backup from {near}")
    checks = herd.checks()
    assert f"{near} has {far}, streaming" in checks["streaming", "far"]["evidence"]
    assert slots(herd, "near") == [far.replace("-", "_")]
    again = herd.invoke("add-standby", f"{near},{far}").stderr
    assert f"{near}: already streams" in again
    assert f"{far}: already streams from {near}" in again
    assert "role" not in again


def test_a_base_backup_from_a_standby_and_a_delayed_one(herd: Herd) -> None:
    """Commits go on all the while, so that there is WAL between what is copied and what streams."""
    late = add_node(herd, "late", settings={"recovery_min_apply_delay": "1h"})
    copy = add_node(herd, "copy")
    stop = threading.Event()
    herd.sql("master", "CREATE TABLE busy (n int)")

    def work() -> None:
        with herd.connect("master") as master:
            while not stop.is_set():
                master.execute("INSERT INTO busy SELECT generate_series(1, 50)")

    busy = threading.Thread(target=work)
    busy.start()
    try:
        said = herd.invoke("add-standby", "--all", "--from", herd.container("near")).stderr
    finally:
        stop.set()
        busy.join()
    assert f"{copy}: base backup from {herd.container('near')}" in said
    assert f"{late}: base backup from {herd.container('near')}" in said
    assert f"{copy}: streams from {herd.container('master')}" in said
    checks = herd.checks()
    assert "and replayed 1 h later" in checks["replay", "late"]["evidence"]
    assert "visible after its delay of 1 h" in checks["row-seen", "late"]["evidence"]
    assert checks["write-refused", "late"]["evidence"].startswith("CREATE TABLE, CREATE SCHEMA ref")
    assert herd.sql("late", "SHOW recovery_min_apply_delay") == "1h"
    total = herd.sql("master", "SELECT count(*) FROM busy")
    assert herd.sql("copy", "SELECT count(*) FROM busy") == total
    dashed = [herd.container(role).replace("-", "_") for role in ("copy", "late", "near")]
    assert set(slots(herd)) == {*dashed, "standby1"}


@pytest.mark.long
def test_a_delayed_standby_may_fail_too(herd: Herd) -> None:
    """One that has lost its connection makes it again only when it has replayed what it has."""
    herd.sql("late", "SELECT pg_wal_replay_pause()")
    checks = herd.checks(code=1)
    assert checks["replay", "late"]["evidence"] == "replay is paused"
    herd.sql("late", "SELECT pg_wal_replay_resume()")
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = '{}'"
    herd.sql("master", cut.format(herd.container("late")))
    assert until(lambda: herd.sql("late", "SELECT count(*) FROM pg_stat_wal_receiver") == 0)
    checks = herd.checks(code=1)
    assert "it is delayed by 1 h" in checks["streaming", "late"]["evidence"]
    assert "diverged" not in checks["streaming", "late"]["evidence"]
    docker("restart", herd.container("late"))  # it has received nothing since
    assert until(lambda: reached(herd, "late"))
    checks = herd.checks(code=1)
    assert "it is delayed by 1 h" in checks["streaming", "late"]["evidence"]
    for setting in ("SET recovery_min_apply_delay = 0", "RESET recovery_min_apply_delay"):
        herd.sql("late", f"ALTER SYSTEM {setting}")
        herd.sql("late", "SELECT pg_reload_conf()")
        assert until(lambda: herd.sql("late", "SELECT count(*) FROM pg_stat_wal_receiver") == 1)
    herd.checks()


def test_what_cannot_be_a_source_is_refused(herd: Herd) -> None:
    more = add_node(herd, "more")
    for source, why in ((more, "is the one to be seeded"), ("nobody", "no node 'nobody'")):
        assert why in herd.invoke("add-standby", more, "--from", source, code=2).stderr
    assert "goes with a base backup" in herd.invoke(
        "seed-standby", "--node", more, "--from", herd.container("near"), "--method", "copy", code=2
    ).stderr  # fmt: skip
    assert not (herd.directory / "more_data").exists()
    herd.nodes.pop("more")
    herd.write()


# --- whom commits wait for ---


def test_sync_is_changed_and_told(herd: Herd) -> None:
    near = herd.container("near")
    mode = f'ANY 1 (standby1, "{near}")'
    for wrong, why in (
        ("ANY (", "is no list of standbys"),
        ("nobody", "is no node's application_name"),
        (f'"{herd.container("master")}"', "cannot wait for itself"),
        (f'"{herd.container("far")}"', f"which follows {near}"),
    ):
        assert why in herd.invoke("sync", "--mode", wrong, code=2).stderr
    said = herd.invoke("sync", "--mode", mode).stderr
    assert "the topology asks for FIRST 1 (standby1): `invoke step.require-sync`" in said
    assert "already synchronous" in herd.invoke("sync", "--mode", mode.lower()).stderr
    shown = herd.invoke("sync").stdout
    assert f"{herd.container('master')}, the primary, is synchronous, {mode}" in shown
    assert "the topology asks for FIRST 1 (standby1)" in shown
    assert shown.count("quorum") == 2
    herd.invoke("step.require-sync")
    assert "this is what the topology asks for" in herd.invoke("sync").stdout


@pytest.mark.long
def test_a_hanging_commit_is_let_go(herd: Herd) -> None:
    standby = herd.container("standby")
    docker("stop", standby)
    done: list[str] = []

    def commit() -> None:
        herd.sql("master", "CREATE TABLE waits ()")
        done.append("done")

    hanging = threading.Thread(target=commit)
    hanging.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    assert until(lambda: herd.sql("master", waiting) == 1)
    assert "1 commit waits for a standby" in herd.invoke("sync").stdout
    refused = herd.invoke("sync", "--mode", "standby1", code=2).stderr
    assert "needs 1 standby that streams, and 0 do" in refused
    assert "1 commit that waited was let go" in herd.invoke("sync", "--off").stderr
    hanging.join(5)
    assert done == ["done"]
    assert "already asynchronous" in herd.invoke("sync", "--off").stderr
    docker("start", standby)
    assert until(lambda: "standby1" in herd.invoke("sync").stdout)
    herd.invoke("step.require-sync")
    herd.checks()


def test_strict_wants_consent(herd: Herd) -> None:
    herd.group["strict"] = True
    herd.write()
    assert "strict = true" in herd.invoke("sync", "--off", code=2).stderr
    said = herd.invoke("remove-standby", herd.container("standby"), code=2).stderr
    assert "no standby would be left" in said
    assert sync_names(herd) == "FIRST 1 (standby1)"
    herd.invoke("sync", "--off", "--yes")
    assert sync_names(herd) == ""
    herd.group["strict"] = False
    herd.write()
    herd.invoke("step.require-sync")


# --- and shrinks ---


def test_who_cannot_be_removed(herd: Herd) -> None:
    master, near, far = (herd.container(role) for role in ("master", "near", "far"))
    assert "is primary now" in herd.invoke("remove-standby", master, code=2).stderr
    said = herd.invoke("remove-standby", near, code=2).stderr
    assert f"{near} is followed by {far}" in said
    assert f"`invoke remove-standby {near},{far}`" in said
    assert "no container 'nobody'" in herd.invoke("remove-standby", "nobody", code=2).stderr
    herd.checks()


def test_a_node_that_the_topology_has_no_more_is_removed(herd: Herd) -> None:
    keys = herd.nodes.pop("copy")
    herd.write()
    docker("stop", keys["name"])
    said = herd.invoke("remove-standby", keys["name"]).stderr
    slot = keys["name"].replace("-", "_")
    assert f"dropping the slot {slot}" in said
    assert slot not in slots(herd)
    assert asides(herd, "copy") == 1
    assert docker("ps", "-aq", "--filter", f"name=^{keys['name']}$") == ""
    assert not (herd.directory / "copy_data").exists()
    assert "already removed" in herd.invoke("remove-standby", keys["name"]).stderr
    herd.checks()


def test_a_synchronous_one_is_removed_and_commits_go_on(herd: Herd) -> None:
    near, standby = herd.container("near"), herd.container("standby")
    herd.invoke("sync", "--mode", f'FIRST 1 (standby1, "{near}")')
    said = herd.invoke("remove-standby", standby).stderr
    listed = f'FIRST 1 ("{near}")'
    master = herd.container("master")
    assert f"{master}: synchronous: {listed}" in said
    assert said.index("synchronous: FIRST") < said.index("stopping it")
    assert f"take [nodes.{standby}] out of {herd.topology}, and 'standby1' out of group" in said
    assert sync_names(herd) == listed
    assert "standby1" not in slots(herd)
    assert asides(herd, "standby") == 1
    assert "already removed" in herd.invoke("remove-standby", standby).stderr
    herd.nodes.pop("standby")
    herd.group["sync"] = listed
    herd.write()
    herd.checks()


def test_the_rest_with_its_cascade(herd: Herd) -> None:
    near, far, late = (herd.container(role) for role in ("near", "far", "late"))
    said = herd.invoke("remove-standby", f"{near},{far},{late}").stderr
    assert "asynchronous: no other standby is waited for" in said
    assert slots(herd) == []
    assert sync_names(herd) == ""
    for role in ("near", "far", "late"):
        assert asides(herd, role) == 1
        herd.nodes.pop(role)
    herd.group["sync"] = ""
    herd.write()
    herd.sql("master", "CREATE TABLE commits_at_once ()")


# --- where roles are swapped against the topology ---


@pytest.mark.long
def test_all_of_it_where_the_standby_leads(make_herd: MakeHerd) -> None:
    herd = make_herd("15", sync="")
    herd.invoke("setup-master", "seed-standby")
    docker("stop", herd.container("master"))
    herd.sql("standby", "SELECT pg_promote(true, 30)")
    near = add_node(herd, "near")
    far = add_node(herd, "far", "near")
    master, standby = herd.container("master"), herd.container("standby")
    said = herd.invoke("add-standby", f"{master},{far},{near}").stderr
    assert f"{near}: base backup from {standby}" in said
    assert f"{far}: base backup from {near}" in said
    late = add_node(herd, "late", "far", settings={"recovery_min_apply_delay": "1h"})
    herd.invoke("add-standby", late, "--from", master)
    checks = herd.checks()
    assert f"{far} has {late}, streaming" in checks["streaming", "late"]["evidence"]
    assert slots(herd, "far") == [late.replace("-", "_")]
    assert "is primary now" in herd.invoke("remove-standby", standby, code=2).stderr
    herd.invoke("remove-standby", f"{late},{far}")
    for role in ("late", "far"):
        assert asides(herd, role) == 1
        herd.nodes.pop(role)
    herd.write()
    assert slots(herd, "near") == []
    herd.checks()
    said = herd.invoke("remove-standby", master).stderr
    assert f"{standby} has no upstream then" in said
    assert slots(herd, "standby") == [near.replace("-", "_")]
