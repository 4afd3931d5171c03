"""The three tasks on another machine, as root and as a user who may only use Docker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from far import LOOPBACK, REFUSED, THREE, Far, MakeFar
from machine import lacking
from test_secrets import processes_watched

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

SERVER = 999  # who postgres is in the image
of_root = pytest.mark.parametrize("made", ["hosta"], indirect=True)
of_the_member = pytest.mark.parametrize("made", ["member@hostb"], indirect=True)


@dataclass
class Made:
    """A pair that was watched while it was made."""

    far: Far
    printed: str
    processes: set[str]
    logins: int

    def shown(self, text: str) -> list[str]:
        """The passwords that stand in a text."""
        return [password for password in self.far.passwords() if password in text]


@pytest.fixture(scope="module", params=["hosta", "member@hostb"])
def made(request: pytest.FixtureRequest, make_far: MakeFar) -> Made:
    """A pair that `invoke on` made, with --echo, while ps was looked at."""
    far = make_far(on=request.param)
    host = far.host("master")
    for command in ("sudo", "su", "doas"):
        host.hide(command)
    before = len(host.logins())
    with processes_watched() as processes:
        done = far.invoke("--echo", *THREE)
    return Made(far, done.stdout + done.stderr, processes, len(host.logins()) - before)


def test_verify_passes(made: Made) -> None:
    checks = made.far.checks()
    assert len(checks) >= 9
    assert all(check["ok"] for check in checks.values())
    assert re.search(r"^verify of \w+: passed", made.printed, re.MULTILINE)


def test_a_run_logs_in_once(made: Made) -> None:
    assert made.logins == 1


def test_what_is_done_is_done_already(made: Made) -> None:
    before = made.far.things()
    said = made.far.invoke("setup-master", "seed-standby").stderr
    assert f"{made.far.container('master')}: already runs" in said
    assert f"{made.far.container('standby')}: already streams" in said
    assert made.far.things() == before


@of_the_member
@pytest.mark.parametrize("task", ["steps", "logs", "verify", "hosts"])
def test_looking_takes_few_round_trips(made: Made, task: str) -> None:
    host = made.far.host("master")
    before = len(host.logins()), len(host.sessions())
    made.far.invoke(task)
    assert len(host.logins()) == before[0] + 1
    assert len(host.sessions()) - before[1] <= 1 + 3  # the first one stays


def test_doctor_finds_no_problem_and_asks_little(made: Made) -> None:
    """Of the host: its paths, the script, the servers, the mounts, twice; of each node once."""
    host = made.far.host("master")
    before = len(host.logins()), len(host.sessions())
    found = json.loads(made.far.invoke("doctor", "--json").stdout)
    assert [f for f in found["findings"] if f["level"] == "problem"] == []
    assert found["checks"] > 90
    assert len(host.logins()) == before[0] + 1
    assert len(host.sessions()) - before[1] <= 1 + 7


def test_doctor_makes_directories_that_the_user_may_not(make_far: MakeFar) -> None:
    """Whoever may use Docker may make them; what they need is only that they are told of it."""
    far = make_far(on="member@hostb")
    far.nodes["master"]["data"] = "/srv/it's/deep/master_data"
    far.write()
    found = json.loads(far.invoke("doctor", "--json", code=1).stdout)
    assert [f["code"] for f in found["findings"] if f["level"] == "problem"] == [
        "parent-not-writable"
    ]
    assert json.loads(far.invoke("doctor", "--fix", "--json").stdout)["fixed"]
    place = far.data("master")
    owner = far.home("master").stat().st_uid
    assert [p.stat().st_uid for p in (place, place.parent, place.parent.parent)] == [owner] * 3
    assert place.parents[2].stat().st_uid == 0


def mode(path: Path) -> str:
    return f"{path.stat().st_uid} {path.stat().st_mode & 0o777:o}"


@pytest.mark.parametrize("role", ["master", "standby"])
def test_files_lie_in_the_home_and_are_the_servers(made: Made, role: str) -> None:
    far = made.far
    data, home = far.data(role), far.home(role)
    assert data == home / "pgherd" / far.name / f"{role}_data"
    owner = far.docker(role, "exec", far.container(role), "id", "-u", "postgres")
    assert int(owner) == SERVER
    assert {mode(data), mode(data / "base")} == {f"{SERVER} 700"}
    assert (data / "PG_VERSION").stat().st_uid == SERVER
    who = home.stat().st_uid
    assert (home / "pgherd").stat().st_uid == who
    private = home / "pgherd" / "secrets" / far.name / far.container(role)
    assert mode(private) == f"{SERVER} 700"
    assert mode(private / "passfile") == f"{SERVER} 600"


def test_ports_are_the_hosts_own(made: Made) -> None:
    far = made.far
    for role, keys in far.nodes.items():
        published = far.docker(role, "port", far.container(role)).split()
        assert published[-1] == f"{LOOPBACK}:{keys['port']}"
        port = f"/dev/tcp/{LOOPBACK}/{keys['port']}"
        assert far.host(role).run("bash", "-c", f"<{port} && echo open") == "open\n"
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(host=far.host(role).address, port=keys["port"], connect_timeout=3)


# --- passwords ---


def test_passwords_are_kept_here_for_that_host(made: Made) -> None:
    far = made.far
    assert [file.name for file in sorted(far.secrets().iterdir())] == [
        "postgres.password", "replicator.password",
    ]  # fmt: skip
    assert {mode(file) for file in far.secrets().iterdir()} == {"0 600"}
    assert not far.secrets().with_name(far.name).exists()
    assert [len(password) > 20 for password in far.passwords()] == [True, True]


def test_passwords_are_nowhere_to_be_seen(made: Made) -> None:
    far = made.far
    assert "+ ssh -F" in made.printed
    assert "docker exec --interactive" in made.printed
    assert made.shown(made.printed) == []
    assert any("docker run" in line and far.name in line for line in made.processes)
    assert any("pg_basebackup" in line for line in made.processes)
    assert made.shown("\n".join(made.processes)) == []
    assert made.shown(far.host("master").ssh_log()) == []
    for role in far.nodes:
        inspected = far.docker(role, "inspect", far.container(role))
        assert far.container(role) in inspected
        assert made.shown(inspected) == []


def test_no_file_over_there_has_the_superusers_password(made: Made) -> None:
    first, second = made.far.passwords()
    words = ["grep", "-rlF", "-e", first, str(made.far.home("master"))]
    assert subprocess.run(words, capture_output=True, check=False).stdout == b""
    words[3] = second
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert {Path(path).name for path in found} == {"passfile"}


# --- living with it ---


@of_root
def test_psql_and_logs(made: Made) -> None:
    far = made.far
    asked = "SELECT 'é ' || pg_is_in_recovery(), $$ it's \"q\" $$"
    assert re.search(r"é false +\| +it's \"q\"", far.invoke("psql", "--command", asked).stdout)
    standby = ["--node", far.container("standby")]
    assert "é true" in far.invoke("psql", *standby, "--command", asked).stdout
    wrong = far.invoke("psql", *standby, "--command", "CREATE TABLE t ()", code=1)
    assert "read-only transaction" in wrong.stderr
    said = far.invoke("logs").stdout
    for role in far.nodes:
        assert re.search(rf"{far.container(role)} \| .*database system is ready", said)


@contextmanager
def followed(far: Far, hint: str) -> Iterator[None]:
    """What `ssh -N -L …` does that was told, until the end of the block."""
    words = shlex.split(hint)
    assert words[:2] == ["ssh", "-N"]
    words[1:1] = ["-F", str(far.rig.ssh_config)] if "-F" not in words else []
    tunnel = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        tunnel.kill()
        tunnel.wait()


@of_the_member
def test_the_strings_of_uri_work_by_the_tunnel_that_is_told(made: Made) -> None:
    done = made.far.invoke("uri")
    hint = next(line for line in done.stderr.splitlines() if "ssh -N" in line)
    *single, both = done.stdout.splitlines()
    password, _ = made.far.passwords()
    with followed(made.far, hint[hint.index("ssh -N") :]):
        answers = []
        end = time.monotonic() + 10
        for uri in [*single, both]:
            while True:
                try:
                    with psycopg.connect(uri, password=password, connect_timeout=3) as connection:
                        row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
                        answers.append(row and row[0])
                        break
                except psycopg.OperationalError:
                    assert time.monotonic() < end
                    time.sleep(0.1)
    assert answers == [False, True, False]


@of_the_member
@pytest.mark.long
def test_stop_start_and_steps(made: Made) -> None:
    far = made.far
    states = ["ps", "--all", "--filter", f"name={far.name}-", "--format", "{{.State}}"]
    done = re.findall(r"\b(done|yes)\b", far.invoke("steps").stdout)
    assert far.docker("master", *states).split() == ["running", "running"]
    far.invoke("stop")
    assert far.docker("master", *states).split() == ["exited", "exited"]
    assert re.findall(r"\b(done|yes)\b", far.invoke("steps").stdout) != done
    far.invoke("start")
    assert re.findall(r"\b(done|yes)\b", far.invoke("steps").stdout) == done
    far.checks()


# --- the end ---


@of_root
def test_down_keeps_the_data(made: Made) -> None:
    far = made.far
    far.sql("master", "CREATE TABLE kept AS SELECT 42 AS id")
    far.invoke("down")
    assert (far.data("standby") / "PG_VERSION").exists()
    assert far.docker("master", *known(far)) == ""
    far.invoke("setup-master", "seed-standby")
    assert far.sql("standby", "SELECT id FROM kept") == "42"


def known(far: Far) -> list[str]:
    """Lists the containers that are the group's by their label."""
    return ["ps", "--all", "--quiet", "--filter", f"label=pgherd.group={far.name}"]


def test_a_purge_leaves_nothing(made: Made) -> None:
    far = made.far
    refused = far.invoke("down", "--purge", "--confirm", "other", "--delete-data", code=REFUSED)
    assert "Not confirmed" in refused.stderr
    assert len(far.docker("master", *known(far)).split()) == 2
    secrets = far.passwords()
    far.invoke("down", "--purge", "--confirm", far.name, "--delete-data")
    assert far.docker("master", *known(far)) == ""
    for kind in ("network", "volume"):
        assert far.name not in far.docker("master", kind, "ls")
    files = [path for path in (far.home("master") / "pgherd").rglob("*") if path.is_file()]
    assert not [path for path in files if path.stat().st_size > 300]  # who was at work, at most
    assert not [path for path in files if any(p in path.read_text() for p in secrets)]
    assert not far.secrets().exists()
