"""From an empty folder to a proven synchronous standby: the main job, on every major version."""

from __future__ import annotations

import re
import subprocess
import time

import psycopg
import pytest
from asking import until
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker

CHECKS = [
    "standby-up", "in-recovery", "same-system", "streaming", "sync", "replay",
    "row-seen", "write-refused", "clean",
]  # fmt: skip
TASKS = [
    "run-master", "run-standby", "stop", "set-aside", "copy-data", "allow-replication",
    "connect-standby", "mark-standby", "start", "require-sync", "logs", "check",
]  # fmt: skip
PGDATA = "/var/lib/postgresql/data"


def verifies(herd: Herd) -> bool:
    """Tell whether verify passes now."""
    done = subprocess.run(
        [*INVOKE, "verify"], cwd=ROOT, env=herd.environment(), capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    return done.returncode == 0


def containers(herd: Herd) -> dict[str, str]:
    """Return each container's id and when it was started."""
    form = "{{.Id}} {{.State.Status}} {{.State.StartedAt}}"
    return {role: docker("inspect", "--format", form, herd.container(role)) for role in herd.nodes}


def files(herd: Herd) -> dict[str, str]:
    """Return what pgherd wrote into each running server's data directory."""
    names = [f"{PGDATA}/{n}" for n in ("pg_hba.conf", "postgresql.conf", "pgherd.conf")]
    return {
        role: docker("exec", herd.container(role), "cat", *names, f"{PGDATA}/postgresql.auto.conf")
        for role in herd.nodes
    }


def control(herd: Herd, role: str, line: str) -> str:
    """Return a line of the control data of a server that is down."""
    image = docker("inspect", "--format", "{{.Image}}", herd.container(role))
    mount = f"type=bind,source={herd.data(role)},target=/seen,readonly"
    said = docker(
        "run", "--rm", "--env", "LC_ALL=C", "--mount", mount, "--entrypoint", "pg_controldata",
        image, "/seen",
    )  # fmt: skip
    found = re.search(rf"^{line}: +(.+)$", said, re.MULTILINE)
    return found[1] if found else said


def done(herd: Herd) -> dict[str, str]:
    """Return the twelve steps by name, with what `invoke steps` says of each in its last column."""
    lines = herd.invoke("steps").stdout.splitlines()
    rows = [re.split(r" {2,}", line.strip()) for line in lines if re.match(r" *\d+ ", line)]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 13)]
    return {row[1]: row[3] for row in rows}


@pytest.fixture(scope="module")
def archiving(make_herd: MakeHerd) -> Herd:
    """One server whose archiver takes longer than Docker gives a container to stop."""
    herd = make_herd("17", standbys=0, sync="")
    herd.nodes["master"]["settings"] = {"archive_mode": "on", "archive_command": "sleep 11"}
    herd.write()
    herd.invoke("setup-master")
    return herd


# --- what three tasks come to ---


def test_three_tasks_end_in_a_passed_verify(pair: Herd) -> None:
    checks = pair.checks()
    assert [name for name, _ in checks] == CHECKS
    assert all(check["ok"] for check in checks.values())


def test_evidence_names_what_was_seen(pair: Herd) -> None:
    evidence = {name: check["evidence"] for (name, _), check in pair.checks().items()}
    assert f"{pair.container('master')} has standby1, streaming" in evidence["streaming"]
    assert evidence["sync"] == "sync_state is sync, with FIRST 1 (standby1)"
    assert "3 rows written" in evidence["row-seen"]
    refused = "INSERT, CREATE TABLE, ALTER TABLE, DROP TABLE refused with SQLSTATE 25006"
    assert evidence["write-refused"] == refused


def test_an_application_sees_the_same_without_pgherd(pair: Herd) -> None:
    with pair.connect("master") as master:
        query = "SELECT application_name, state, sync_state FROM pg_stat_replication"
        assert master.execute(query).fetchall() == [("standby1", "streaming", "sync")]
        master.execute("CREATE TABLE by_hand AS SELECT 42 AS answer")
    table = "SELECT to_regclass('by_hand') IS NOT NULL"
    assert until(lambda: pair.sql("standby", table) is True)
    assert pair.sql("standby", "SELECT answer FROM by_hand") == 42
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        pair.sql("standby", "INSERT INTO by_hand VALUES (43)")
    pair.sql("master", "DROP TABLE by_hand")


def test_verify_shows_the_log_lines_of_the_tutorial(pair: Herd) -> None:
    said = pair.invoke("verify").stdout
    of_master, of_standby = re.split(r"^log of .*-standby:$", said, flags=re.MULTILINE)
    assert f"log of {pair.container('master')}:" in of_master
    assert 'standby "standby1" is now a synchronous standby with priority 1' in of_master
    for line in ("entering standby mode", "ready to accept read-only connections"):
        assert line in of_standby
    assert "started streaming WAL from primary at " in of_standby
    assert f"verify of {pair.name}: passed" in of_standby


def test_verify_leaves_nothing_behind(pair: Herd) -> None:
    relations = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE oid >= 16384"
    before = pair.sql("master", relations)
    pair.invoke("verify")
    assert pair.sql("master", relations) == before
    assert pair.sql("standby", relations) == before
    assert "pgherd" not in str(before)


def test_data_checksums_are_on(pair: Herd) -> None:
    assert pair.sql("master", "SHOW data_checksums") == "on"
    assert pair.sql("standby", "SHOW data_checksums") == "on"


# --- run again ---


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("setup-master", ["already runs", "already allows replication"]),
        ("seed-standby", ["already streams from", "already synchronous: FIRST 1 (standby1)"]),
        ("start", ["already"]),
    ],
)
@pytest.mark.core("17")
def test_a_task_run_again_changes_nothing(pair: Herd, task: str, says: list[str]) -> None:
    before = containers(pair), files(pair)
    said = pair.invoke(task).stderr
    assert all(words in said for words in says), said
    assert (containers(pair), files(pair)) == before


@pytest.mark.core("17")
def test_steps_tell_what_is_done(pair: Herd, make_herd: MakeHerd) -> None:
    new = done(make_herd("17"))
    assert list(new) == TASKS
    assert {new[task] for task in TASKS[:10]} == {"no"}
    seeded = done(pair)
    assert {task for task in TASKS if seeded[task] == "yes"} == set(TASKS) - {
        "stop", "set-aside", "logs", "check",
    }  # fmt: skip


# --- living with it ---


@pytest.mark.core("17")
def test_stop_is_clean_and_start_brings_all_back(pair: Herd) -> None:
    """The primary stops first: its standby has its last words then, and no commit waited for it."""
    pair.invoke("stop")
    state, last = "Database cluster state", "Latest checkpoint location"
    assert control(pair, "master", state) == "shut down"
    assert control(pair, "standby", state) == "shut down in recovery"
    assert control(pair, "standby", last) == control(pair, "master", last)
    assert "already stopped" in pair.invoke("stop").stderr
    assert done(pair)["stop"] == "yes"
    pair.invoke("start")
    assert all(check["ok"] for check in pair.checks().values())


@pytest.mark.parametrize("stop", [["invoke", "stop"], ["docker", "stop"]], ids=" ".join)
def test_a_server_gets_the_time_that_its_stop_takes(archiving: Herd, stop: list[str]) -> None:
    """Docker's own ten seconds are too few for an archiver that has still to do, for one."""
    archiving.invoke("start")
    begun = time.monotonic()
    if stop[0] == "invoke":
        archiving.invoke("stop")
    else:
        docker("stop", archiving.container("master"))
    assert time.monotonic() - begun > 10
    assert control(archiving, "master", "Database cluster state") == "shut down"
    ended = "{{.State.ExitCode}} {{.HostConfig.RestartPolicy.Name}}"
    assert docker("inspect", "--format", ended, archiving.container("master")) == "0 unless-stopped"


@pytest.mark.parametrize("role", ["master", "standby"])
@pytest.mark.core("17")
def test_a_restarted_container_leaves_the_pair_working(pair: Herd, role: str) -> None:
    before = containers(pair)
    docker("restart", pair.container(role))
    assert containers(pair)[role] != before[role]
    assert until(lambda: verifies(pair))


@pytest.mark.core("17")
def test_a_killed_server_comes_back_by_itself(pair: Herd) -> None:
    before = containers(pair)["master"]
    master = pair.container("master")
    docker("exec", "--user", "postgres", master, "sh", "-c", "kill -s QUIT 1", check=False)
    assert until(lambda: containers(pair)["master"] != before)
    assert until(lambda: verifies(pair))


@pytest.mark.core("17")
def test_down_keeps_the_data_and_start_makes_all_anew(pair: Herd) -> None:
    pair.sql("master", "CREATE TABLE kept AS SELECT 'before down' AS words")
    before = containers(pair)
    pair.invoke("down")
    named = ["--filter", f"label=pgherd.group={pair.name}", "--quiet"]
    assert docker("ps", "--all", *named) == ""
    assert docker("network", "ls", *named) == ""
    assert "already down" in pair.invoke("down").stderr
    pair.invoke("start")
    assert all(containers(pair)[role] != before[role] for role in pair.nodes)
    assert all(check["ok"] for check in pair.checks().values())
    assert pair.sql("standby", "SELECT words FROM kept") == "before down"
    pair.sql("master", "DROP TABLE kept")
