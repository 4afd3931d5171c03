"""The scripts of the image: what they refuse without an engine, and what is plain bash."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

IMAGE = Path(__file__).parents[2] / "scripts" / "image"
ENTRYPOINT = IMAGE / "docker-entrypoint.sh"
ENSURE = IMAGE / "docker-ensure-initdb.sh"
BUILD = IMAGE / "build"

Ran = subprocess.CompletedProcess[str]


def run(*argv: str | Path, **variables: str) -> Ran:
    env = {"PATH": os.environ["PATH"], "PG_MAJOR": "17", **variables}
    return subprocess.run(
        [str(arg) for arg in argv],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def run_function(text: str, **variables: str) -> Ran:
    return run("bash", "-c", f'. "$1"; {text}', "test", ENTRYPOINT, **variables)


@pytest.mark.parametrize(
    ("shell", "script"), [("sh", BUILD), ("bash", ENTRYPOINT), ("bash", ENSURE)]
)
def test_script_parses_and_is_executable(shell: str, script: Path) -> None:
    assert run(shell, "-n", script).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("major", ["14", "16", "99", "trixie", "17;id"])
def test_build_refuses_a_major_of_no_suite(major: str) -> None:
    ran = run(BUILD, major)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert f"PostgreSQL {major} is in no Debian suite" in ran.stderr


@pytest.mark.parametrize("argv", [[], ["15", "17"], ["--what", "17"]])
def test_build_refuses_a_wrong_use(argv: list[str]) -> None:
    assert run(BUILD, *argv).returncode == 2


def test_build_says_when_no_engine_answers(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
    docker.chmod(0o755)
    ran = run(BUILD, "17", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert ran.returncode == 3
    assert "cannot be reached: Cannot connect" in ran.stderr


def test_build_leaves_a_present_image_alone(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$*" >>"$0.calls"\n')
    docker.chmod(0o755)
    ran = run(BUILD, "17", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (ran.returncode, ran.stderr) == (0, "image: pgherd/postgres:17 is there already.\n")
    calls = (tmp_path / "docker.calls").read_text().splitlines()
    assert [call.split()[:2] for call in calls] == [["version", "--format"], ["image", "inspect"]]


@pytest.mark.parametrize("script", [ENTRYPOINT, ENSURE])
@pytest.mark.parametrize(
    "name", ["POSTGRES_PASSWORD", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_INITDB_ARGS"]
)
def test_a_value_and_a_file_exclude_each_other(script: Path, name: str, tmp_path: Path) -> None:
    ran = run(script, "postgres", PGDATA=str(tmp_path), **{name: "x", f"{name}_FILE": "/y"})
    assert ran.returncode == 1
    assert ran.stderr == f"error: both {name} and {name}_FILE are set (but are exclusive)\n"


def test_a_file_that_cannot_be_read_ends_it(tmp_path: Path) -> None:
    ran = run(ENTRYPOINT, "postgres", PGDATA=str(tmp_path), POSTGRES_DB_FILE="/no/such")
    assert ran.returncode == 1
    assert "error: POSTGRES_DB_FILE: cannot read /no/such" in ran.stderr


def test_a_file_gives_its_text_and_its_name_is_dropped(tmp_path: Path) -> None:
    text = "a'b\"c $d \\e `f`"
    secret = tmp_path / "secret"
    secret.write_text(text + "\n\n")
    ran = run_function(
        "read_setting POSTGRES_PASSWORD ''; printenv POSTGRES_PASSWORD;"
        ' echo "${POSTGRES_PASSWORD_FILE-gone}"',
        POSTGRES_PASSWORD_FILE=str(secret),
    )
    assert ran.stdout == f"{text}\ngone\n"


def test_the_database_is_named_after_the_user() -> None:
    ran = run_function("read_environment; echo $POSTGRES_DB", PGDATA="/x", POSTGRES_USER="someone")
    assert ran.stdout == "someone\n"


def test_another_command_is_run_as_it_is() -> None:
    ran = run(ENTRYPOINT, "printf", "%s|", "a b", "")
    assert (ran.returncode, ran.stdout) == (0, "a b||")


def test_options_go_to_the_server_and_text_needs_no_database(tmp_path: Path) -> None:
    postgres = tmp_path / "postgres"
    postgres.write_text('#!/bin/sh\necho "postgres $*"\n')
    postgres.chmod(0o755)
    ran = run(ENTRYPOINT, "--version", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert ran.stdout == "postgres --version\n"


def test_a_password_is_required() -> None:
    ran = run_function("read_environment; require_password", PGDATA="/x")
    assert ran.returncode == 1
    assert "superuser password is not specified" in ran.stderr


def test_trust_needs_no_password() -> None:
    ran = run_function(
        "read_environment; require_password", PGDATA="/x", POSTGRES_HOST_AUTH_METHOD="trust"
    )
    assert ran.returncode == 0
    assert "warning" in ran.stderr


@pytest.mark.parametrize(
    ("major", "pgdata", "status"),
    [
        ("18", "/var/lib/postgresql/18/docker", 1),
        ("19", "/var/lib/postgresql/19/docker", 1),
        ("18", "/elsewhere", 0),
        ("17", "/var/lib/postgresql/data", 0),
    ],
)
def test_an_old_mount_is_refused_from_18_on(major: str, pgdata: str, status: int) -> None:
    ran = run_function(
        "find_old_layout() { printf '/one\\n/two (unused mount/volume)\\n'; }; refuse_old_layout",
        PG_MAJOR=major,
        PGDATA=pgdata,
    )
    assert ran.returncode == status
    assert ran.stderr.startswith("Error: in 18+, these Docker images are configured") == bool(
        status
    )
    assert ("         /one\n         /two (unused mount/volume)\n" in ran.stderr) == bool(status)


def test_server_options_survive_sh() -> None:
    ran = run_function("""sh -c "printf '%s\\n' $(quote_for_sh "a'b" '$x `y`' "")" """)
    assert ran.stdout == "a'b\n$x `y`\n\n"
