"""Seeding a standby: both methods, volumes and odd paths, kinds of sync, and what goes wrong."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import Any

import psycopg
import pytest
from asking import slots, until
from conftest import INVOKE, MAJORS, ROOT, Herd, MakeHerd, docker, free_port

PGDATA = "/var/lib/postgresql/data"
SLOWLY = ["--no-verify-backup", "--spread-checkpoint"]
HUNG = 124  # exit status of `timeout`
BACKING_UP = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 65536"


def passes(herd: Herd) -> bool:
    """Run verify, which has to pass."""
    return all(check["ok"] for check in herd.checks().values())


def psql(herd: Herd, role: str, statement: str) -> str:
    """Run SQL in a node's container for 10 seconds at most: a commit that hangs is a failure."""
    words = ["timeout", "10", "psql", "-XAtqU", "postgres", "-c", statement]
    done = subprocess.run(
        ["docker", "exec", herd.container(role), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != HUNG, f"on {role} this hangs: {statement}"
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def in_data(herd: Herd, role: str, script: str) -> str:
    """Run a shell script in the data directory of a server that is down."""
    image = docker("inspect", "--format", "{{.Image}}", herd.container("master"))
    mount = f"type=bind,source={herd.data(role)},target=/seen,readonly"
    words = ["--mount", mount, "--workdir", "/seen", "--entrypoint", "sh", image, "-c", script]
    return docker("run", "--rm", *words)


def started(herd: Herd, role: str) -> str:
    """Return when a container was started."""
    return docker("inspect", "--format", "{{.State.StartedAt}}", herd.container(role))


def anonymous_volumes() -> set[str]:
    """Return the engine's volumes that have no name of their own."""
    return {
        name
        for name in docker("volume", "ls", "--quiet").split()
        if re.fullmatch("[0-9a-f]{64}", name)
    }


# --- the method copy, the tutorial's ---


@pytest.mark.long
def test_a_copy_leaves_out_what_must_not_be_copied(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    herd.sql("master", "SELECT pg_create_physical_replication_slot('of_the_master', true)")
    herd.invoke("step.stop", "step.copy-data")
    assert in_data(herd, "master", "ls pg_replslot") == "of_the_master"
    assert in_data(herd, "standby", "ls pg_replslot pg_dynshmem pg_notify pg_stat_tmp").split() == [
        "pg_dynshmem:", "pg_notify:", "pg_replslot:", "pg_stat_tmp:",
    ]  # fmt: skip
    assert in_data(herd, "standby", "find . -name postmaster.* -o -name pg_internal.init") == ""
    assert in_data(herd, "standby", "stat -c %a:%U . global/pg_control") == (
        "700:postgres\n600:postgres"
    )


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.long
def test_a_copy_asks_before_it_stops_the_master(make_herd: MakeHerd, major: str) -> None:
    herd = make_herd(major)
    herd.invoke("setup-master", "step.run-standby")
    herd.sql("master", "SELECT pg_create_physical_replication_slot('of_the_master', true)")
    before = started(herd, "master"), started(herd, "standby")
    with herd.connect("master", application_name="shop") as shop:
        said = herd.invoke("seed-standby", "--method", "copy", code=2).stderr
        assert "1 clients are connected" in said
        assert "--yes" in said
        assert (started(herd, "master"), started(herd, "standby")) == before
        assert shop.execute("SELECT 'still served'").fetchone() == ("still served",)
        said = herd.invoke("seed-standby", "--method", "copy", "--yes").stderr
        with pytest.raises(psycopg.OperationalError):
            shop.execute("SELECT 'cut off'")
    master = herd.container("master")
    assert f"{master}: will be stopped while its files are copied" in said
    assert f"{master}: shut down\n" in said
    (aside,) = herd.directory.glob("standby_data_bk_*")
    assert f"setting its data aside as {aside}" in said
    assert passes(herd)
    assert slots(herd, "standby") == []
    assert slots(herd) == ["of_the_master", "standby1"]


@pytest.mark.long
def test_a_killed_copy_is_done_by_a_second_try(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    words = [*INVOKE, "seed-standby", "--method", "copy"]
    with subprocess.Popen(
        words, cwd=ROOT, env=herd.environment(), stderr=subprocess.PIPE, text=True
    ) as copying:
        assert copying.stderr
        assert any("copying the files of" in line for line in copying.stderr)
        copying.kill()
    with pytest.raises(psycopg.OperationalError):
        herd.sql("master", "SELECT 1")
    herd.invoke("seed-standby", "--method", "copy")
    assert passes(herd)


@pytest.mark.long
def test_a_copy_is_not_made_over_who_was_promoted(make_herd: MakeHerd) -> None:
    """The first master is down, and the node that would get its files leads, or led last."""
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    docker("kill", "--signal", "KILL", herd.container("master"))
    herd.invoke("failover")
    herd.sql("standby", "CREATE TABLE since AS SELECT 1 AS n")
    before = started(herd, "standby")
    for more in ([], ["--rebuild", "--set-aside"]):
        said = herd.invoke("seed-standby", "--method", "copy", *more, code=2).stderr
        assert f"{herd.container('standby')} is the primary now" in said
    assert started(herd, "standby") == before
    assert herd.sql("standby", "SELECT n FROM since") == 1
    herd.invoke("rejoin", herd.container("master"))
    herd.invoke("stop")
    said = herd.invoke("seed-standby", "--method", "copy", code=2).stderr
    assert f"The data of {herd.container('standby')} is the primary's: `invoke start`" in said
    assert list(herd.directory.glob("*_bk_*")) == []
    herd.invoke("start")
    assert passes(herd)
    assert herd.primary() == "standby"


@pytest.mark.long
def test_who_starts_the_master_while_it_is_copied_waits(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    herd.sql(
        "master", "CREATE TABLE large AS SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
    )
    master, data = herd.container("master"), herd.data("master")
    helper = f"pgherd-{herd.name}-{herd.container('standby')}"
    restarts = ["inspect", "--format", "{{.RestartCount}}", master]

    def held() -> bool:
        return subprocess.run(["flock", "-n", data, "true"], check=False).returncode != 0

    with subprocess.Popen(
        [*INVOKE, "seed-standby", "--method", "copy"], cwd=ROOT, env=herd.environment(),
        stderr=subprocess.PIPE, text=True,
    ) as copying:  # fmt: skip
        assert copying.stderr
        assert any("copying the files of" in line for line in copying.stderr)
        assert until(held)
        docker("pause", helper)
        try:
            assert held()
            docker("start", master)
            assert until(lambda: int(docker(*restarts)) > 1)  # it does not get its data
        finally:
            docker("unpause", helper)
        said = copying.communicate(timeout=120)[1]
    assert copying.returncode == 0, said
    assert passes(herd)
    assert herd.sql("standby", "SELECT count(*) FROM large") == 200000


# --- base backup ---


@pytest.fixture(scope="module")
def filled(make_herd: MakeHerd) -> Herd:
    """A pair whose master had tables before its standby was seeded."""
    herd = make_herd("17")
    herd.invoke("setup-master")
    herd.sql("master", "CREATE TABLE numbers AS SELECT n FROM generate_series(1, 12345) n")
    herd.sql("master", "CREATE TABLE words AS SELECT 'ä' || n AS w FROM generate_series(1, 77) n")
    herd.invoke("seed-standby")
    return herd


def test_a_base_backup_brings_every_row(filled: Herd) -> None:
    assert filled.sql("standby", "SELECT count(*) FROM numbers") == 12345
    assert filled.sql("standby", "SELECT count(*) FROM words") == 77
    total = "SELECT md5(string_agg(w, ',' ORDER BY w)) FROM words"
    assert filled.sql("standby", total) == filled.sql("master", total)
    assert passes(filled)


def test_the_only_synchronous_standby_is_not_reseeded_unasked(filled: Herd) -> None:
    before = started(filled, "standby")
    said = filled.invoke("seed-standby", "--rebuild", code=2).stderr
    assert "is the synchronous standby" in said
    assert "--allow-async" in said
    assert started(filled, "standby") == before
    assert passes(filled)


def test_it_is_reseeded_while_commits_go_on(filled: Herd) -> None:
    filled.invoke("seed-standby", "--rebuild", "--allow-async")
    assert len(list(filled.directory.glob("standby_data_bk_*"))) == 1
    assert passes(filled)
    assert filled.sql("master", "SHOW synchronous_standby_names") == "FIRST 1 (standby1)"
    assert filled.sql("standby", "SELECT count(*) FROM numbers") == 12345


@pytest.mark.parametrize("method", ["basebackup", pytest.param("copy", marks=pytest.mark.long)])
def test_a_copy_of_a_synchronous_primary_can_lead_alone(filled: Herd, method: str) -> None:
    """It was made while commits waited for another standby. Promoted, its own wait for nobody."""
    name = f"{filled.name}-{method}"
    filled.nodes[method] = {
        "name": name, "upstream": filled.container("master"), "port": free_port(),
        "data": str(filled.directory / f"{method}_data"),
    }  # fmt: skip
    filled.write()
    filled.invoke("seed-standby", "--node", name, "--method", method, "--yes")
    assert filled.sql("master", "SHOW synchronous_standby_names") == "FIRST 1 (standby1)"
    assert psql(filled, method, "SELECT pg_promote(true, 30)") == "t"
    psql(filled, method, "CREATE TABLE commits AS SELECT 'at once' AS how")
    assert psql(filled, method, "SELECT how FROM commits") == "at once"
    docker("rm", "--force", "--volumes", name)
    filled.sql("master", f"SELECT pg_drop_replication_slot('{name.replace('-', '_')}')")
    filled.nodes.pop(method)
    filled.write()
    assert passes(filled)


@pytest.mark.long
def test_a_base_backup_is_checked_and_hurries_unless_told_otherwise(filled: Herd) -> None:
    """What is run, --echo shows; what hurries, the primary's log of its checkpoints."""
    again = ["seed-standby", "--rebuild", "--allow-async"]
    filled.sql("master", "CHECKPOINT")
    for options, checked, hurries in ([], True, True), (SLOWLY, False, False):
        before = len(checkpoints(filled))
        shown = filled.invoke("--echo", *again, *options).stderr
        assert ("pg_verifybackup" in shown) is checked
        begun = checkpoints(filled)[before:]
        assert any(re.search("immediate|fast", line) for line in begun) is hurries, begun
        assert passes(filled)


def checkpoints(herd: Herd) -> list[str]:
    """Return what the primary's log says of each checkpoint that somebody waited for."""
    done = subprocess.run(
        ["docker", "logs", herd.container("master")], capture_output=True, text=True, check=True
    )
    found: list[str] = re.findall(r"checkpoint starting: (.*force.*)", done.stderr)
    return found


def test_what_was_set_aside_outlives_a_purge_that_deletes(filled: Herd) -> None:
    """The last one with this pair: `--delete-data` takes what is in use, and nothing else."""
    if not (asides := sorted(filled.directory.glob("standby_data_bk_*"))):
        filled.invoke("seed-standby", "--rebuild", "--allow-async")
        asides = sorted(filled.directory.glob("standby_data_bk_*"))
    assert asides
    filled.invoke("down", "--purge", "--delete-data", "--confirm", filled.name)
    assert not filled.data("standby").exists()
    assert sorted(filled.directory.glob("standby_data_bk_*")) == asides
    assert all((aside / "PG_VERSION").exists() for aside in asides)


def test_an_interrupted_base_backup_is_done_by_a_second_try(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    helper = f"pgherd-{herd.name}-{herd.container('standby')}"
    words = [*INVOKE, "seed-standby", "--max-rate", "32k"]
    with subprocess.Popen(
        words, cwd=ROOT, env=herd.environment(), stderr=subprocess.DEVNULL
    ) as seeding:
        try:
            assert until(lambda: herd.sql("master", BACKING_UP) == 1)
            psql(herd, "master", "CREATE TABLE commits_go_on ()")  # nobody is waited for yet
        finally:
            seeding.kill()
    assert docker("ps", "--quiet", "--filter", f"name={helper}") != ""
    assert slots(herd) == ["standby1"]
    said = herd.invoke("seed-standby").stderr
    assert f"{helper}: left behind by a run that was killed" in said
    assert passes(herd)
    assert docker("ps", "--all", "--quiet", "--filter", f"name={helper}") == ""
    assert slots(herd) == ["standby1"]
    assert list(herd.directory.glob("*_bk_*")) == []  # an unfinished copy is nobody's data


@pytest.mark.parametrize("end", ["helper", "ctrl-c"])
@pytest.mark.long
def test_a_base_backup_that_ended_early_is_no_obstacle(make_herd: MakeHerd, end: str) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    helper = f"pgherd-{herd.name}-{herd.container('standby')}"
    with subprocess.Popen(
        [*INVOKE, "seed-standby", "--max-rate", "32k"], cwd=ROOT, env=herd.environment(),
        stderr=subprocess.PIPE, text=True,
    ) as seeding:  # fmt: skip
        assert until(lambda: herd.sql("master", BACKING_UP) == 1)
        if end == "helper":
            docker("kill", helper)
        else:
            seeding.send_signal(signal.SIGINT)
        _, said = seeding.communicate(timeout=60)
    assert seeding.returncode == {"helper": 1, "ctrl-c": 130}[end]
    assert "Traceback" not in said
    assert until(lambda: docker("ps", "-aq", "--filter", f"name={helper}") == "", 15)
    herd.invoke("seed-standby")
    assert passes(herd)
    assert slots(herd) == ["standby1"]


@pytest.mark.long
def test_an_unfinished_copy_is_not_started(make_herd: MakeHerd) -> None:
    """Its container was killed at its work, as where the machine goes down."""
    herd = make_herd("17")
    herd.invoke("step.run-master")
    large = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
    herd.sql("master", f"CREATE TABLE large AS {large}")
    herd.invoke("step.stop")
    helper = f"pgherd-{herd.name}-{herd.container('standby')}"
    with subprocess.Popen(
        [*INVOKE, "step.copy-data"], cwd=ROOT, env=herd.environment(), stderr=subprocess.DEVNULL
    ) as copying:
        assert until((herd.data("standby") / "base").is_dir)
        docker("kill", helper)
        assert copying.wait(60) == 1
    said = herd.invoke("start", code=2).stderr
    assert f"invoke seed-standby --node {herd.container('standby')}" in said
    assert docker("ps", "--all", "--quiet", "--filter", f"name={herd.container('standby')}") == ""
    herd.invoke("setup-master", "seed-standby")
    assert passes(herd)


@pytest.mark.long
def test_a_standby_that_cannot_start_is_seeded_anew(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    standby = herd.container("standby")
    docker("exec", "--user", "postgres", standby, "rm", f"{PGDATA}/global/pg_control")
    docker("restart", "--time", "0", standby)
    restarts = ["inspect", "--format", "{{.RestartCount}}", standby]
    assert until(lambda: int(docker(*restarts)) > 0)
    herd.invoke("seed-standby")
    assert passes(herd)
    assert len(list(herd.directory.glob("standby_data_bk_*"))) == 1


# --- where the data lies ---


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.long
def test_named_volumes_on_every_major(make_herd: MakeHerd, major: str) -> None:
    herd = make_herd(major)
    before = anonymous_volumes()
    for role, node in herd.nodes.items():
        node["data"] = f"volume:{herd.name}-{role}-data"
    herd.write()
    herd.invoke("setup-master", "step.run-standby")
    own = herd.sql("standby", "SELECT system_identifier::text FROM pg_control_system()")
    herd.invoke("seed-standby")
    assert passes(herd)
    herd.invoke("down")
    mine = docker("volume", "ls", "--quiet", "--filter", f"name={herd.name}").split()
    _, _, aside = sorted(mine)
    assert re.fullmatch(rf"{herd.name}-standby-data_bk_\d{{8}}T\d{{6}}Z", aside)
    herd.invoke("start")
    assert passes(herd)
    assert anonymous_volumes() == before
    image = docker("inspect", "--format", "{{.Image}}", herd.container("master"))
    mount = f"type=volume,source={aside},target=/seen,readonly"
    words = ["run", "--rm", "--mount", mount, "--entrypoint", "pg_controldata", image, "/seen"]
    assert own in docker(*words)


@pytest.mark.parametrize("method", ["basebackup", "copy"])
@pytest.mark.long
def test_any_path_will_do(make_herd: MakeHerd, method: str) -> None:
    herd = make_herd("17")
    odd = herd.directory / 'a space, a "quote", it\'s ü'
    for role, node in herd.nodes.items():
        node["data"] = str(odd / role)
    herd.write()
    herd.invoke("setup-master", "step.run-standby", "seed-standby", "--method", method)
    assert passes(herd)
    kept = sorted(path.name.partition("_bk_")[0] for path in odd.iterdir())
    assert kept == ["master", "standby", "standby"]


# --- who waits for whom ---


@pytest.fixture(scope="module")
def dashed(make_herd: MakeHerd) -> Herd:
    """A pair whose standby has a name that needs quotes."""
    herd = make_herd("17")
    herd.nodes["standby"]["application_name"] = "Standby-1"
    herd.group["sync"] = 'FIRST 1 ("Standby-1")'
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    return herd


def ask_for(herd: Herd, sync: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Change the topology's sync, let seed-standby see to it, and verify."""
    herd.group["sync"] = sync
    herd.write()
    herd.invoke("seed-standby")
    return herd.checks()


@pytest.mark.long
def test_a_name_that_needs_quotes(dashed: Herd) -> None:
    checks = ask_for(dashed, 'FIRST 1 ("Standby-1")')
    wanted = 'sync_state is sync, with FIRST 1 ("Standby-1")'
    assert checks["sync", "standby"]["evidence"] == wanted
    with dashed.connect("master") as master:
        rows = master.execute("SELECT application_name, sync_state FROM pg_stat_replication")
        assert rows.fetchall() == [("Standby-1", "sync")]
    assert slots(dashed) == ["standby_1"]


def test_any_one_is_a_quorum(dashed: Herd) -> None:
    checks = ask_for(dashed, 'ANY 1 ("Standby-1")')
    wanted = 'sync_state is quorum, with ANY 1 ("Standby-1")'
    assert checks["sync", "standby"]["evidence"] == wanted


def test_asynchronous_by_topology(dashed: Herd) -> None:
    checks = ask_for(dashed, "")
    assert checks["sync", "standby"]["evidence"] == "asynchronous, as the topology asks"
    assert dashed.sql("master", "SELECT sync_state FROM pg_stat_replication") == "async"


@pytest.mark.long
def test_two_standbys_are_waited_for_when_both_stream(make_herd: MakeHerd) -> None:
    herd = make_herd("17", standbys=2, sync="FIRST 2 (standby1, standby2)")
    said = herd.invoke("setup-master", "seed-standby").stderr
    assert "needs 2 standbys that stream, and 1 do" in said
    assert herd.sql("master", "SHOW synchronous_standby_names") == ""
    psql(herd, "master", "CREATE TABLE commits_at_once ()")
    herd.invoke("seed-standby", "--node", herd.container("standby2"))
    checks = herd.checks()
    evidence = {role: checks["sync", role]["evidence"] for role in ("standby", "standby2")}
    assert set(evidence.values()) == {"sync_state is sync, with FIRST 2 (standby1, standby2)"}
    assert slots(herd) == ["standby1", "standby2"]
    checks = ask_for(herd, "ANY 1 (standby1, standby2)")
    assert "quorum" in checks["sync", "standby2"]["evidence"]


# --- after a promotion ---


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.long
def test_nothing_inherited_hangs_after_a_promotion(make_herd: MakeHerd, major: str) -> None:
    herd = make_herd(major)
    herd.invoke("setup-master", "seed-standby")
    herd.invoke("seed-standby", "--rebuild", "--allow-async")  # from a synchronous master
    docker("stop", "--time", "60", herd.container("master"))
    assert psql(herd, "standby", "SELECT pg_promote(true, 30)") == "t"
    psql(herd, "standby", "CREATE TABLE commits AS SELECT 'at once' AS how")
    assert psql(herd, "standby", "SELECT how FROM commits") == "at once"
    assert psql(herd, "standby", "SHOW synchronous_standby_names") == ""
    assert slots(herd, "standby") == []
