"""Doctor's codes, brought about on real groups: many at a time, since one look takes them all.

Those that test_doctor has are not here again; nor are those of other machines than this one, which
no test can be: of macOS, SELinux, network file systems, engines that are remote or too old.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from asking import until
from conftest import Herd, MakeHerd, docker
from test_doctor import BAD, UNREACHABLE, codes, examined, inside

PGDATA = "/var/lib/postgresql/data"


def found(herd: Herd, code: int | None = BAD) -> set[tuple[str, str]]:
    """Run doctor; return the codes, each with the role of the node in the topology."""
    roles = {keys["name"]: role for role, keys in herd.nodes.items()}
    answer = json.loads(herd.invoke("doctor", "--json", code=code).stdout)
    return {(what, roles.get(node or "", "")) for what, node in codes(answer)}


# --- of what is only asked for ---


@pytest.fixture
def blank(make_herd: MakeHerd) -> Herd:
    """A group of which nothing was made."""
    return make_herd("17")


def test_where_data_cannot_lie_or_had_better_not(blank: Herd) -> None:
    blank.nodes["master"]["data"] = str(blank.directory / "with a blank")
    (blank.directory / "with a blank").mkdir()
    (blank.directory / "with a blank" / "letter.txt").touch()
    blank.nodes["standby"] |= {"data": str(blank.directory / ("long" * 60)), "listen": "192.0.2.77"}
    blank.write()
    assert found(blank) >= {
        ("path-blanks", "master"), ("data-foreign", "master"), ("path-long", "standby"),
        ("no-address", "standby"),
    }  # fmt: skip


def test_directories_that_are_files_or_lie_in_each_other(blank: Herd) -> None:
    (blank.directory / "file").touch()
    (blank.directory / "inner").symlink_to(blank.directory / "master_data")
    blank.nodes["standby"]["data"] = str(blank.directory / "inner" / "below")
    blank.write()
    assert ("data-nested", "") in found(blank)
    blank.nodes["standby"]["data"] = str(blank.directory / "file")
    blank.write()
    assert ("no-directory", "standby") in found(blank)


def test_a_directory_that_another_container_has_and_scripts_that_clone(blank: Herd) -> None:
    scripts = blank.directory / "initdb"
    scripts.mkdir()
    (scripts / "1-clone.sh").write_text("pg_basebackup --pgdata=$PGDATA --host=db\n")
    blank.group["initdb"] = str(scripts)
    blank.write()
    blank.data("master").mkdir()
    image = blank.invoke("image").stdout.strip()
    mount = f"type=bind,source={blank.data('master')},target=/x"
    other = f"{blank.name}-other"
    docker(
        "run", "--detach", "--name", other, "--mount", mount, "--entrypoint", "sleep", image, "99"
    )
    try:
        assert found(blank) >= {("data-shared", "master"), ("initdb-clones", "")}
    finally:
        docker("rm", "--force", other)


def test_an_image_that_cannot_be_had_or_is_none_of_postgresql(blank: Herd) -> None:
    blank.group["image"] = "nosuch.invalid/thing:1"
    blank.write()
    assert ("image-unavailable", "") in found(blank)
    plain = f"{blank.name}-plain"
    empty = subprocess.run(
        ["docker", "import", "-", plain], input=b"\0" * 10240, capture_output=True, check=True
    )
    try:
        blank.group["image"] = f"{plain}:latest"
        blank.write()
        assert ("image-major", "") in found(blank, code=0)
    finally:
        docker("rmi", empty.stdout.decode().strip())


def test_a_container_that_was_made_otherwise(make_herd: MakeHerd) -> None:
    """By somebody who took pgherd's labels for it."""
    herd = make_herd("18", standbys=0, sync="")  # of 17 the image itself declares that volume
    herd.invoke("setup-master", "stop")
    name = herd.container("master")
    form = "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}"
    labels = docker("inspect", "--format", form, name).split()
    image = docker("inspect", "--format", "{{.Image}}", name)
    docker("rm", name)
    words = [word for label in labels for word in ("--label", label)]
    docker("create", "--name", name, *words, "--network", "host", image, "postgres", "-c", "x=1")
    assert found(herd) >= {
        (code, "master")
        for code in ("mount-missing", "network-host", "stop-short", "command-options")
    }
    docker("rm", name)


def test_without_a_docker_command(blank: Herd) -> None:
    others = blank.directory / "bin"
    others.mkdir()
    for place in reversed(os.environ["PATH"].split(":")):
        for program in Path(place).glob("*"):
            if program.name != "docker":
                (others / program.name).unlink(missing_ok=True)
                (others / program.name).symlink_to(program)
    answer = examined(blank, code=UNREACHABLE, PATH=str(others))
    assert ("cli-missing", None) in codes(answer, "problem")


# --- of servers that run ---


@pytest.fixture(scope="module")
def pair(make_herd: MakeHerd) -> Herd:
    """A pair whose primary archives, and takes few connections."""
    herd = make_herd("17")
    settings = {"archive_mode": "on", "archive_command": "true", "max_connections": "30"}
    for keys in herd.nodes.values():
        keys["settings"] = settings
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    return herd


SETTINGS = {
    "archive_command": "'false'",
    "full_page_writes": "off",
    "max_slot_wal_keep_size": "-1",
}
ON_MASTER = {
    (code, "master")
    for code in ("archive-fails", "not-durable", "slot-unlimited", "collation-changed",
                 "connections-full", "hba-no-replication")
}  # fmt: skip


@contextmanager
def broken_settings(herd: Herd) -> Iterator[None]:
    """Set what nobody should on the primary, and take it back."""
    for name, value in SETTINGS.items():
        inside(herd, "master", f"ALTER SYSTEM SET {name} = {value}")
    own = "UPDATE pg_database SET datcollversion = '0.1' WHERE datname = 'postgres'"
    inside(herd, "master", own)
    edit_rules(herd, "master", "s/^host .*replicator/#&/")
    try:
        yield
    finally:
        edit_rules(herd, "master", "s/^#host /host /")
        again = "UPDATE pg_database SET datcollversion = {} WHERE datname = 'postgres'"
        actual = "pg_database_collation_actual_version(oid)"
        inside(herd, "master", again.format(actual))
        for name in SETTINGS:
            inside(herd, "master", f"ALTER SYSTEM RESET {name}")
        inside(herd, "master", "SELECT pg_reload_conf()")


def edit_rules(herd: Herd, role: str, edit: str) -> None:
    """Edit pg_hba.conf by sed, and have it read."""
    user = ("exec", "--user", "postgres", herd.container(role))
    docker(*user, "sed", "-i", edit, f"{PGDATA}/pg_hba.conf")
    inside(herd, role, "SELECT pg_reload_conf()")


def test_settings_and_rules_that_harm(pair: Herd) -> None:
    failed = "SELECT failed_count > 0 FROM pg_stat_archiver"
    with broken_settings(pair), ExitStack() as clients:
        inside(pair, "master", "SELECT pg_logical_emit_message(true, '', 'x')")
        inside(pair, "master", "SELECT pg_switch_wal()")
        for _ in range(26):
            clients.enter_context(pair.connect("master"))
        assert until(lambda: inside(pair, "master", failed) == "t")
        assert found(pair) >= ON_MASTER
    assert not ON_MASTER & found(pair, code=0)


def test_files_that_are_not_as_they_should_be(pair: Herd) -> None:
    """While the server runs: it would not start again, or not be let in."""
    standby, image = pair.container("standby"), docker(
        "inspect", "--format", "{{.Image}}", pair.container("standby")
    )  # fmt: skip
    mounts = [f"type=bind,source={pair.data('standby')},target=/d"]
    mounts += [f"type=bind,source={pair.secrets() / standby},target=/p"]
    options = [word for mount in mounts for word in ("--mount", mount)]

    def as_root(script: str) -> None:
        docker("run", "--rm", *options, "--entrypoint", "sh", image, "-ec", script)

    as_root(
        "touch /d/recovery.conf; chmod 755 /d; echo 'nonsense = 1' >>/d/postgresql.conf; "
        "echo 'nonsense' >>/d/pg_hba.conf; mv /p/passfile /p/away; touch -d '+1 hour' /d/PG_VERSION"
    )
    try:
        told = found(pair)
    finally:
        as_root(
            "rm /d/recovery.conf; chmod 700 /d; sed -i '/^nonsense/d' /d/postgresql.conf "
            "/d/pg_hba.conf; chown postgres /d/postgresql.conf /d/pg_hba.conf; "
            "mv /p/away /p/passfile; touch /d/PG_VERSION"
        )
    assert told >= {
        (code, "standby")
        for code in ("recovery-conf", "data-owner", "settings-broken", "hba-broken",
                     "passfile-missing", "clock-back")
    }  # fmt: skip
    assert not {code for code, _ in found(pair, code=0)} & {code for code, _ in told}


def test_a_directory_that_was_taken_away_under_its_server(pair: Herd) -> None:
    data = pair.data("standby")
    away = data.with_name("away")
    data.rename(away)
    data.mkdir()
    try:
        assert ("data-moved", "standby") in found(pair)
    finally:
        data.rmdir()
        away.rename(data)
    (data / "PG_VERSION").rename(data / "PG_VERSION_away")
    try:
        assert ("data-gone", "standby") in found(pair)
    finally:
        (data / "PG_VERSION_away").rename(data / "PG_VERSION")
    assert ("data-gone", "standby") not in found(pair, code=0)


def test_a_standby_by_another_name_and_without_a_slot(pair: Herd) -> None:
    info = inside(pair, "standby", "SHOW primary_conninfo")
    other = info.replace("application_name=standby1", "application_name=other")
    quoted = other.replace("'", "''")
    slot = "ALTER SYSTEM SET primary_slot_name = ''"
    inside(pair, "standby", f"ALTER SYSTEM SET primary_conninfo = '{quoted}'", slot)
    inside(pair, "standby", "SELECT pg_reload_conf()")
    assert found(pair) >= {("application-name", "standby"), ("no-slot", "standby")}
    pair.invoke("rejoin", pair.container("standby"))
    assert not {("application-name", "standby"), ("no-slot", "standby")} & found(pair, code=0)


def test_a_server_that_ended_by_itself_and_was_started_again(pair: Herd) -> None:
    name = pair.container("standby")
    count = ["inspect", "--format", "{{.RestartCount}} {{.State.Status}}", name]
    docker("exec", "--user", "postgres", name, "sh", "-c", "kill -s QUIT 1", check=False)
    assert until(lambda: docker(*count) == "1 running")
    pair.invoke("start")
    assert until(lambda: ("restarted", "standby") in found(pair, code=0))


# --- what a log tells of a standby that does not stream ---


def says(herd: Herd, code: str) -> None:
    """Wait until doctor has read that in the standby's log."""
    assert until(lambda: (code, "standby") in found(herd, code=None)), found(herd, code=None)


@pytest.mark.long
def test_why_a_standby_does_not_stream_is_read_in_its_log(pair: Herd) -> None:
    """One after the other; what mends each is done before the next."""
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
    inside(pair, "master", "ALTER SYSTEM SET synchronous_standby_names = ''")
    edit_rules(pair, "master", "s/^host .*replicator/#&/")
    inside(pair, "master", cut)
    says(pair, "log-no-rule")
    edit_rules(pair, "master", "s/^#host /host /")

    verifier = inside(
        pair, "master", "SELECT rolpassword FROM pg_authid WHERE rolname = 'replicator'"
    )
    inside(pair, "master", "ALTER ROLE replicator PASSWORD 'another'", cut)
    says(pair, "log-password")
    inside(pair, "master", f"ALTER ROLE replicator PASSWORD '{verifier}'")

    drop = "SELECT pg_drop_replication_slot('standby1')"
    assert until(lambda: inside(pair, "master", "SELECT count(*) FROM pg_stat_replication") == "1")
    inside(
        pair, "standby", "ALTER SYSTEM SET primary_slot_name = 'nosuch'", "SELECT pg_reload_conf()"
    )
    says(pair, "log-slot")
    inside(pair, "standby", "ALTER SYSTEM SET primary_slot_name = 'standby1'")
    inside(pair, "standby", "SELECT pg_reload_conf()")
    assert until(lambda: inside(pair, "master", "SELECT count(*) FROM pg_stat_replication") == "1")

    docker("stop", "--time", "60", pair.container("standby"))
    inside(pair, "master", drop)
    for _ in range(3):
        inside(pair, "master", "SELECT pg_logical_emit_message(true, '', 'x')")
        inside(pair, "master", "SELECT pg_switch_wal()")
        inside(pair, "master", "CHECKPOINT")
    inside(pair, "master", "SELECT pg_create_physical_replication_slot('standby1', true)")
    docker("start", pair.container("standby"))
    says(pair, "log-wal-removed")
    pair.invoke("rejoin", pair.container("standby"))

    docker("stop", "--time", "60", pair.container("master"))
    says(pair, "log-unreached")
    pair.invoke("start")
    pair.invoke("seed-standby")
    pair.checks()


@pytest.mark.long
def test_a_standby_with_less_than_its_primary(pair: Herd) -> None:
    inside(pair, "master", "ALTER SYSTEM SET max_connections = 60")
    docker("restart", "--time", "60", pair.container("master"))
    assert until(lambda: ("settings-less", "standby") in found(pair, code=None))
    inside(pair, "master", "ALTER SYSTEM RESET max_connections")
    docker("restart", "--time", "60", pair.container("master"))
    pair.invoke("seed-standby", "--rebuild", "--allow-async")
    assert ("settings-less", "standby") not in found(pair, code=0)
