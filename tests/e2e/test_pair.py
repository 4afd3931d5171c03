"""From an empty folder to a proven synchronous standby: the main job, on every major version."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import INVOKE, MAJORS, ROOT, Herd, MakeHerd, docker

CHECKS = [
    "standby-up", "in-recovery", "same-system", "streaming", "sync", "replay",
    "row-seen", "write-refused", "clean",
]  # fmt: skip
TASKS = [
    "run-master", "run-standby", "stop", "set-aside", "copy-data", "allow-replication",
    "connect-standby", "mark-standby", "start", "require-sync", "logs", "check",
]  # fmt: skip
PGDATA = "/var/lib/postgresql/data"


def until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Ask until the answer is yes, or the time is over."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


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


def control_state(herd: Herd, role: str) -> str:
    """Return the state in the control data of a server that is down."""
    image = docker("inspect", "--format", "{{.Image}}", herd.container(role))
    mount = f"type=bind,source={herd.data(role)},target=/seen,readonly"
    said = docker(
        "run", "--rm", "--env", "LC_ALL=C", "--mount", mount, "--entrypoint", "pg_controldata",
        image, "/seen",
    )  # fmt: skip
    found = re.search(r"^Database cluster state: +(.+)$", said, re.MULTILINE)
    return found[1] if found else said


def done(herd: Herd) -> dict[str, str]:
    """Return the twelve steps by name, with what `invoke steps` says of each in its last column."""
    lines = herd.invoke("steps").stdout.splitlines()
    rows = [re.split(r" {2,}", line.strip()) for line in lines if re.match(r" *\d+ ", line)]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 13)]
    return {row[1]: row[3] for row in rows}


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
def test_a_task_run_again_changes_nothing(pair: Herd, task: str, says: list[str]) -> None:
    before = containers(pair), files(pair)
    said = pair.invoke(task).stderr
    assert all(words in said for words in says), said
    assert (containers(pair), files(pair)) == before


def test_steps_tell_what_is_done(pair: Herd, make_herd: MakeHerd) -> None:
    new = done(make_herd("17"))
    assert list(new) == TASKS
    assert {new[task] for task in TASKS[:10]} == {"no"}
    seeded = done(pair)
    assert {task for task in TASKS if seeded[task] == "yes"} == set(TASKS) - {
        "stop", "set-aside", "logs", "check",
    }  # fmt: skip


# --- living with it ---


def test_stop_is_clean_and_start_brings_all_back(pair: Herd) -> None:
    pair.invoke("stop")
    assert control_state(pair, "master") == "shut down"
    assert control_state(pair, "standby") == "shut down in recovery"
    assert "already stopped" in pair.invoke("stop").stderr
    assert done(pair)["stop"] == "yes"
    pair.invoke("start")
    assert all(check["ok"] for check in pair.checks().values())


@pytest.mark.parametrize("role", ["master", "standby"])
def test_a_restarted_container_leaves_the_pair_working(pair: Herd, role: str) -> None:
    before = containers(pair)
    docker("restart", pair.container(role))
    assert containers(pair)[role] != before[role]
    assert until(lambda: verifies(pair))


def test_a_killed_server_comes_back_by_itself(pair: Herd) -> None:
    before = containers(pair)["master"]
    master = pair.container("master")
    docker("exec", "--user", "postgres", master, "sh", "-c", "kill -s QUIT 1", check=False)
    assert until(lambda: containers(pair)["master"] != before)
    assert until(lambda: verifies(pair))


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


# --- the demo, and its end ---


@pytest.fixture(scope="module")
def shown(make_herd: MakeHerd) -> tuple[Herd, str]:
    """A group made by the demo, and what that printed."""
    herd = make_herd("17")
    return herd, herd.invoke("demo").stdout


@pytest.fixture
def demo(shown: tuple[Herd, str]) -> Herd:
    """The group made by the demo: for what does not differ by major version."""
    return shown[0]


def test_the_demo_ends_in_strings_that_connect(
    shown: tuple[Herd, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    herd, text = shown
    assert f"verify of {herd.name}: passed" in text
    found = re.search(r"(postgresql://\S+target_session_attrs=read-write)", text)
    assert found
    file = herd.secrets() / "postgres.password"
    assert f'export PGPASSWORD="$(cat {file})"' in text
    monkeypatch.setenv("PGPASSWORD", file.read_text(encoding="utf-8").rstrip("\n"))
    with psycopg.connect(found[1], connect_timeout=5) as connection:
        row = connection.execute("SHOW cluster_name").fetchone()
    assert row == (herd.container("master"),)


def test_the_demo_run_again_passes_again(demo: Herd) -> None:
    before = containers(demo), files(demo)
    assert f"verify of {demo.name}: passed" in demo.invoke("demo").stdout
    assert (containers(demo), files(demo)) == before


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("run-master", "already runs"),
        ("run-standby", "already runs"),
        ("allow-replication", "already allows replication"),
        ("connect-standby", "already"),
        ("mark-standby", "already"),
        ("start", "already"),
        ("require-sync", "already synchronous: FIRST 1 (standby1)"),
    ],
)
def test_a_step_run_again_changes_nothing(demo: Herd, step: str, says: str) -> None:
    before = containers(demo), files(demo)
    assert says in demo.invoke(f"step.{step}").stderr
    assert (containers(demo), files(demo)) == before


def test_verify_speaks_tap(demo: Herd) -> None:
    version, plan, *lines = demo.invoke("verify", "--tap").stdout.splitlines()
    assert (version, plan) == ("TAP version 13", "1..9")
    results = [line for line in lines if not line.startswith("#")]
    standby = demo.container("standby")
    assert results == [f"ok {n} - {check} {standby}" for n, check in enumerate(CHECKS, 1)]


def test_json_is_alone_on_stdout(demo: Herd) -> None:
    answer = json.loads(demo.invoke("--echo", "verify", "--json").stdout)
    assert set(answer) == {"group", "ok", "seconds", "checks"}
    assert set(answer["checks"][0]) == {"name", "node", "ok", "evidence", "cure"}


def test_uris_one_a_line(demo: Herd) -> None:
    first, second = (f"127.0.0.1:{demo.nodes[role]['port']}" for role in ("master", "standby"))
    assert demo.invoke("uri").stdout.splitlines() == [
        f"postgresql://postgres@{first}/postgres",
        f"postgresql://postgres@{second}/postgres",
        f"postgresql://postgres@{first},{second}/postgres?target_session_attrs=read-write",
    ]


def test_psql_runs_on_the_node_that_is_named(demo: Herd) -> None:
    command = "SELECT 'in recovery: ' || pg_is_in_recovery()"
    answers = {
        role: demo.invoke("psql", "--node", demo.container(role), "--command", command).stdout
        for role in demo.nodes
    }
    assert "in recovery: false" in answers["master"]
    assert "in recovery: true" in answers["standby"]
    assert "in recovery: false" in demo.invoke("psql", "--command", command).stdout


def test_psql_hands_on_the_refusal(demo: Herd) -> None:
    words = ["psql", "--node", demo.container("standby"), "--command", "CREATE TABLE no ()"]
    assert "read-only transaction" in demo.invoke(*words, code=1).stderr


def test_logs_of_one_node_and_of_all(demo: Herd) -> None:
    standby = demo.container("standby")
    one = demo.invoke("logs", "--node", standby, "--tail", "3").stdout.splitlines()
    assert len(one) == 3
    assert not any(line.startswith(standby) for line in one)
    both = demo.invoke("logs", "--tail", "2").stdout.splitlines()
    heads = [line.partition(" | ")[0] for line in both]
    assert heads == [demo.container("master")] * 2 + [standby] * 2


def test_logs_are_followed_until_ctrl_c(demo: Herd, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    words = [*INVOKE, "logs", "--follow", "--tail", "0"]
    with shown.open("w") as out:
        following = subprocess.Popen(
            words, cwd=ROOT, env=demo.environment(), stdout=out, stderr=subprocess.STDOUT
        )

    def told() -> bool:
        with pytest.raises(psycopg.errors.UndefinedTable):
            demo.sql("standby", "TABLE asked_while_following")
        return "asked_while_following" in shown.read_text(encoding="utf-8")

    try:
        assert until(told, 30)
        following.send_signal(signal.SIGINT)
        following.wait(15)
    finally:
        following.kill()
        following.wait()
    assert "Traceback" not in shown.read_text(encoding="utf-8")


def test_a_purge_wants_the_name(demo: Herd) -> None:
    herd = demo
    before = containers(herd)
    for words in ([], ["--confirm", "pair"], ["--delete-data"]):
        said = herd.invoke("down", "--purge", *words, code=2).stderr
        assert f"invoke down --purge --confirm {herd.name}" in said
    assert "goes with --purge" in herd.invoke("down", "--delete-data", code=2).stderr
    assert containers(herd) == before
    assert all(check["ok"] for check in herd.checks().values())


def test_a_purge_sets_the_data_aside_or_deletes_it(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby", "down", "--purge", "--confirm", herd.name)
    assert not herd.data("master").exists()
    aside = [path.name.partition("_bk_")[0] for path in herd.directory.glob("*_bk_*")]
    assert sorted(aside) == ["master_data", "standby_data"]
    assert not herd.secrets().exists()
    assert len(list(herd.secrets().parent.glob(f"{herd.name}_bk_*"))) == 1
    herd.invoke("setup-master", "seed-standby")
    herd.invoke("down", "--purge", "--confirm", herd.name, "--delete-data")
    assert not any(herd.data(role).exists() for role in herd.nodes)
    assert len(list(herd.directory.glob("*_bk_*"))) == 2
    assert not herd.secrets().exists()


# --- the tutorial, step by step ---


@pytest.mark.parametrize("major", MAJORS)
def test_the_twelve_steps_by_hand(make_herd: MakeHerd, major: str) -> None:
    herd = make_herd(major)
    said: dict[str, Any] = {}
    for task in TASKS:
        said[task] = herd.invoke(f"step.{task}")
    assert [task for task, state in done(herd).items() if state == "no"] == ["stop"]
    aside = [path.name for path in herd.directory.iterdir() if "_bk_" in path.name]
    assert [name.partition("_bk_")[0] for name in aside] == ["standby_data"]
    assert "started streaming WAL from primary" in said["logs"].stdout
    assert f"verify of {herd.name}: passed" in said["check"].stdout
    assert all(check["ok"] for check in herd.checks().values())


def test_a_copy_that_is_not_marked_does_not_start(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("step.run-master", "step.stop", "step.copy-data")
    said = herd.invoke("step.start", code=2).stderr
    assert "not marked as a standby" in said
    assert "step.mark-standby" in said
    assert docker("ps", "--all", "--quiet", "--filter", f"name={herd.container('standby')}") == ""
    herd.invoke("step.allow-replication", "step.connect-standby", "step.mark-standby", "step.start")
    assert until(lambda: herd.sql("master", "SELECT state FROM pg_stat_replication") == "streaming")
    herd.invoke("step.require-sync", "step.check")


def test_sync_is_not_required_while_nobody_streams(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    said = herd.invoke("step.require-sync", code=2).stderr
    assert "needs 1 standbys that stream, and 0 do" in said
    assert herd.sql("master", "SHOW synchronous_standby_names") == ""
    herd.sql("master", "CREATE TABLE commits_at_once ()")
