"""With --dry the acts are printed as a shell script that does the job; --echo shows them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, Herd, MakeHerd, docker

READS = ("set -eu", "#!/bin/sh")


def printed(herd: Herd, *words: str) -> str:
    """Return the script that invoke prints; it is sound shell, and nothing was done."""
    before = things(herd)
    script = herd.invoke("--dry", *words).stdout
    assert things(herd) == before
    checked = subprocess.run(
        ["sh", "-n"], input=script, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    return script


def things(herd: Herd) -> list[object]:
    """Return the group's containers, networks, files and passwords."""
    known = ["--no-trunc", "--filter", f"name={herd.name}", "--format"]
    return [
        docker("ps", "--all", *known, "{{.ID}} {{.Names}} {{.State}}"),
        docker("network", "ls", *known, "{{.ID}}"),
        sorted(path.name for path in herd.directory.iterdir()),
        sorted(herd.secrets().rglob("*")),
    ]


def run(script: str, directory: Path, name: str = "script.sh") -> str:
    """Run a printed script as a user would, from anywhere."""
    file = directory / name
    file.write_text(script, encoding="utf-8")
    done = subprocess.run(
        ["sh", str(file)], cwd="/", capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def passwords(herd: Herd) -> list[str]:
    return [file.read_text().strip() for file in herd.secrets().glob("*.password")]


def acts(script: str) -> list[str]:
    """Return the docker commands of a script."""
    return [line for line in script.splitlines() if line.startswith("docker ")]


@pytest.mark.parametrize(
    ("major", "words"),
    [
        ("17", ["setup-master", "seed-standby", "verify"]),
        pytest.param("18", ["demo"], marks=pytest.mark.long),
    ],
)
def test_from_an_empty_folder_the_script_does_the_job(
    make_herd: MakeHerd, tmp_path: Path, major: str, words: list[str]
) -> None:
    herd = make_herd(major)
    script = printed(herd, *words)
    assert script.startswith("#!/bin/sh\n")
    said = run(script, tmp_path)
    assert not [secret for secret in passwords(herd) if secret in said + script]
    assert len(passwords(herd)) == 2
    herd.checks()
    for task in ("setup-master", "seed-standby"):
        assert "already" in herd.invoke(task).stderr


@pytest.fixture(scope="module")
def live(make_herd: MakeHerd) -> Herd:
    """A pair that streams."""
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    return herd


@pytest.mark.long
def test_where_all_is_done_the_script_does_nothing(live: Herd, tmp_path: Path) -> None:
    before = things(live)
    script = printed(live, "setup-master", "seed-standby", "verify")
    assert not [act for act in acts(script) if " run " in act or " start " in act or " rm " in act]
    assert not [secret for secret in passwords(live) if secret in script]
    run(script, tmp_path)
    assert things(live) == before
    live.checks()


@pytest.mark.long
def test_the_script_of_a_stop_and_of_a_start(live: Herd, tmp_path: Path) -> None:
    master, standby = live.container("master"), live.container("standby")
    stops = printed(live, "stop")
    assert [act.split()[-1] for act in acts(stops)] == [master, standby]
    run(stops, tmp_path)
    run(printed(live, "start"), tmp_path)
    live.checks()


@pytest.mark.long
def test_the_script_of_a_new_seed(live: Herd, tmp_path: Path) -> None:
    script = printed(live, "seed-standby", "--rebuild", "--allow-async", "--method", "copy")
    assert not [secret for secret in passwords(live) if secret in script]
    run(script, tmp_path)
    assert len(list(live.directory.glob("standby_data_bk_*"))) == 1
    live.checks()


def test_the_script_of_a_down(live: Herd) -> None:
    script = printed(live, "down")
    removed = [act.split()[-1] for act in acts(script) if act.startswith("docker rm")]
    assert sorted(removed) == sorted([live.container("master"), live.container("standby")])
    assert f"docker network rm pgherd-{live.name}" in script


def test_echo_shows_the_commands_beside_the_answer(live: Herd) -> None:
    done = live.invoke("--debug", "--echo", "setup-master", "verify", "--json")
    assert json.loads(done.stdout)["ok"]
    assert "docker exec --interactive" in done.stderr
    assert "psql -XAtq" in done.stderr
    assert not [secret for secret in passwords(live) if secret in done.stderr]
    assert str(ROOT) in done.stderr  # a secret stands there as a read of its file


TAUGHT = (
    r"^\+ docker run --detach --name {master} .* postgres",
    r"^\+ docker run --detach --name {standby} .* postgres",
    r"^    psql: CREATE ROLE replicator LOGIN REPLICATION PASSWORD '…'$",
    r"^      host  replication  replicator  samenet  scram-sha-256$",
    r"^    pg_basebackup --pgdata=",
    r"^      primary_conninfo = 'host={master} port=5432 user=replicator",
    r"^    \$PGDATA/standby.signal: an empty file$",
    r"^    psql: ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 \(standby1\)'$",
    r"^\+ psql on {master}: INSERT INTO .* -- INSERT 0 3$",
    r"^\+ psql on {standby}: SELECT count\(\*\) FROM .* -- SELECT 1$",
    r"^\+ psql on {standby}: DROP TABLE .* -- 25006: cannot execute DROP TABLE in a read-only",
)


def test_echo_shows_to_who_learns_what_a_person_would_type(make_herd: MakeHerd) -> None:
    """All that the three tasks say, in fewer lines than the tutorial has."""
    herd = make_herd()
    done = herd.invoke("--echo", "setup-master", "seed-standby", "verify")
    names = {role: re.escape(herd.container(role)) for role in herd.nodes}
    for line in TAUGHT:
        assert re.search(line.format(**names), done.stderr, re.MULTILINE), line
    assert len((done.stdout + done.stderr).splitlines()) <= 80
    assert not [secret for secret in passwords(herd) if secret in done.stderr]


# --- another primary ---


@pytest.fixture(scope="module", params=[pytest.param("15", marks=pytest.mark.long), "17"])
def changing(request: pytest.FixtureRequest, make_herd: MakeHerd) -> Herd:
    """A pair of which first the one is primary and then the other."""
    herd = make_herd(request.param)
    herd.invoke("setup-master", "seed-standby")
    herd.sql("master", "CREATE TABLE kept (id int)")
    return herd


@pytest.mark.long
def test_the_script_of_a_switchover(changing: Herd, tmp_path: Path) -> None:
    herd, old, new = changing, changing.container("master"), changing.container("standby")
    script = printed(herd, "switchover", "--to", new)
    assert not [secret for secret in passwords(herd) if secret in script]
    assert herd.primary() == "master"
    herd.sql("master", "INSERT INTO kept VALUES (1)")  # after it was printed
    said = run(script, tmp_path)
    assert not [secret for secret in passwords(herd) if secret in said]
    assert herd.primary() == "standby"
    assert herd.sql("standby", "SELECT count(*) FROM kept") == 1
    assert herd.sql("standby", "SHOW synchronous_standby_names") == f'FIRST 1 ("{old}")'
    herd.checks()


def test_the_script_of_a_failover_and_of_a_rejoin(changing: Herd, tmp_path: Path) -> None:
    """From whoever is primary by now to the other, with a row that the other has."""
    herd = changing
    old = herd.primary()
    new = next(role for role in herd.nodes if role != old)
    herd.sql(old, "INSERT INTO kept VALUES (2)")
    rows = herd.sql(old, "SELECT count(*) FROM kept")
    docker("kill", herd.container(old))
    script = printed(herd, "failover")
    assert not [secret for secret in passwords(herd) if secret in script]
    run(script, tmp_path)
    assert herd.primary() == new
    assert herd.sql(new, "SELECT count(*) FROM kept") == rows
    policy = docker(
        "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", herd.container(old)
    )
    assert policy == "no"

    herd.sql(new, "INSERT INTO kept VALUES (3)")
    script = printed(herd, "rejoin", herd.container(old))
    assert not [secret for secret in passwords(herd) if secret in script]
    run(script, tmp_path, "rejoin.sh")
    herd.checks()
    assert herd.sql(old, "SELECT count(*) FROM kept") == rows + 1


@pytest.mark.long
def test_the_script_of_a_rejoin_that_rewinds(changing: Herd, tmp_path: Path) -> None:
    """The old primary wrote what the other has not: its data is kept, and then rewound."""
    herd = changing
    old = herd.primary()
    new = next(role for role in herd.nodes if role != old)
    herd.invoke("psql", "--command", "ALTER SYSTEM SET synchronous_standby_names = ''")
    herd.invoke("psql", "--command", "SELECT pg_reload_conf()")
    docker("stop", herd.container(new))
    herd.sql(old, "INSERT INTO kept VALUES (4)")
    docker("kill", herd.container(old))
    docker("start", herd.container(new))
    herd.invoke("failover", "--max-loss", "1000")
    script = printed(herd, "rejoin", herd.container(old))
    assert "pg_rewind --target-pgdata" in script
    run(script, tmp_path)
    herd.checks()
    assert herd.sql(old, "SELECT count(*) FROM kept WHERE id = 4") == 0


@pytest.mark.long
def test_printed_in_one_with_what_makes_the_pair(make_herd: MakeHerd, tmp_path: Path) -> None:
    """Nothing runs yet when it is printed, so no WAL position is known."""
    herd = make_herd("18")
    words = ["setup-master", "seed-standby", "switchover", "--to", herd.container("standby")]
    run(printed(herd, *words), tmp_path)
    assert herd.primary() == "standby"
    herd.checks()
