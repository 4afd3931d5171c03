"""What the demo leaves, and what a group answers; and its end: purged, when told so twice."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest
from asking import until
from conftest import INVOKE, ROOT, Herd, MakeHerd
from test_pair import CHECKS, containers, files


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


def test_what_the_tutorial_opens_is_shown_with_its_path(demo: Herd) -> None:
    """Through a container: the files belong to the image's user."""
    master, standby = demo.container("master"), demo.container("standby")
    rules = demo.invoke("show", "hba").stdout
    assert re.search(rf"^{master}: .*master_data/pg_hba.conf$", rules, re.MULTILINE)
    assert re.search(r"^  host +replication +replicator +samenet +scram", rules, re.MULTILINE)
    found = json.loads(demo.invoke("show", "conninfo", "--node", standby, "--json").stdout)
    assert "user=replicator" in "".join(found["nodes"][0]["lines"])
    assert "it is there" in demo.invoke("show", "signal", "--node", standby).stdout
    assert "standby1" in demo.invoke("show", "sync", "--node", master).stdout
    assert "hba, conf, conninfo" in demo.invoke("show", "nothing", code=2).stderr


def test_psql_runs_on_the_node_that_is_named(demo: Herd) -> None:
    command = "SELECT 'in recovery: ' || pg_is_in_recovery()"
    answers = {
        role: demo.invoke("psql", "--node", demo.container(role), "--command", command).stdout
        for role in demo.nodes
    }
    assert "in recovery: false" in answers["master"]
    assert "in recovery: true" in answers["standby"]
    assert "in recovery: false" in demo.invoke("psql", "--command", command).stdout


def test_psql_is_another_role_elsewhere_and_prints_rows_alone(demo: Herd) -> None:
    demo.invoke("psql", "--command", 'CREATE ROLE "it\'s é" LOGIN')
    asked = "SELECT current_user || ' in ' || current_database()"
    words = ["psql", "--user", "it's é", "--database", "template1", "--tuples-only"]
    assert demo.invoke(*words, "--command", asked).stdout.strip() == "it's é in template1"
    assert "--user is empty" in demo.invoke("psql", "--user", "", code=2).stderr


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
