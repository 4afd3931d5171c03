"""The passwords: where they are used, and all the places where they must not be seen."""

from __future__ import annotations

import re
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from conftest import MAJORS, Herd, MakeHerd, docker, majors
from faults import only_root

PGDATA = "/var/lib/postgresql/data"
REFUSED = "28000"  # invalid_authorization_specification: no rule lets it in
ROLES = ("postgres", "replicator")
CHOSEN = {
    "postgres": ' it\'s "q" \\back:col $HOME `id` é€ Zq7superZq7 ',
    "replicator": "r'\"\\:;$(id) %s ü \\n Zq7replicaZq7",
}


def passwords(herd: Herd) -> dict[str, str]:
    """Return both passwords as their files have them."""
    files = {role: herd.secrets() / f"{role}.password" for role in ROLES}
    return {role: file.read_text(encoding="utf-8").rstrip("\n") for role, file in files.items()}


@contextmanager
def processes_watched() -> Iterator[set[str]]:
    """Look at every process's arguments again and again; yield those that were seen."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            words = ["ps", "axww", "-o", "args="]
            seen.update(
                subprocess.run(
                    words, capture_output=True, text=True, check=True
                ).stdout.splitlines()
            )

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield seen
    finally:
        over.set()
        watch.join()


@dataclass
class Made:
    """A pair that was watched while it was made: what was printed, and what ps showed."""

    herd: Herd
    printed: str
    processes: set[str]

    def shown(self, text: str) -> list[str]:
        """Return the roles whose password stands in a text."""
        return [role for role, password in passwords(self.herd).items() if password in text]


@pytest.fixture(scope="module", params=majors("17"))
def made(request: pytest.FixtureRequest, make_herd: MakeHerd) -> Made:
    """A pair on each major version, made while all was shown, and ps was looked at."""
    herd = make_herd(request.param)
    with processes_watched() as processes:
        done = herd.invoke("--debug", "--echo", "setup-master", "seed-standby", "verify")
    return Made(herd, done.stdout + done.stderr, processes)


def test_echo_shows_commands_without_passwords(made: Made) -> None:
    assert "+ docker exec" in made.printed or "docker exec --interactive" in made.printed
    assert "\\password replicator" in made.printed
    assert made.shown(made.printed) == []


def test_no_process_had_a_password_among_its_arguments(made: Made) -> None:
    assert any("docker run" in line and made.herd.name in line for line in made.processes)
    assert any("pg_basebackup" in line for line in made.processes)
    assert made.shown("\n".join(made.processes)) == []


def test_an_audit_finds_nothing(made: Made) -> None:
    said = made.herd.invoke("audit").stdout
    assert said == f"audit of {made.herd.name}: nothing found, 2 nodes looked into\n"


@pytest.mark.parametrize("role", ["master", "standby"])
def test_the_container_carries_none(made: Made, role: str) -> None:
    container = made.herd.container(role)
    inspected = docker("inspect", container)
    assert made.shown(inspected) == []
    assert "POSTGRES_PASSWORD" not in inspected
    environment = docker("exec", "--user", "postgres", container, "cat", "/proc/1/environ")
    assert f"PGDATA={PGDATA}" in environment
    assert made.shown(environment) == []
    assert re.findall(r"PASSWORD\w*=[^\0]+", environment) == []


@pytest.mark.parametrize("role", ["master", "standby"])
def test_the_server_tells_none(made: Made, role: str) -> None:
    done = subprocess.run(
        ["docker", "logs", made.herd.container(role)], capture_output=True, text=True, check=True
    )
    log = done.stdout + done.stderr
    assert "database system is ready to accept" in log
    assert made.shown(log) == []
    settings = "SELECT string_agg(name || '=' || coalesce(setting, ''), ' ') FROM pg_settings"
    told = str(made.herd.sql(role, settings))
    assert ("passfile=/etc/pgherd/passfile" in told) is (role == "standby")
    assert made.shown(told) == []


@pytest.mark.parametrize("role", ["master", "standby"])
def test_no_file_of_the_database_holds_one(made: Made, role: str) -> None:
    def holding(place: str, password: str) -> list[str]:
        words = ["docker", "exec", "--interactive", "--user", "postgres", made.herd.container(role)]
        grep = [*words, "grep", "--recursive", "--files-with-matches", "--fixed-strings"]
        done = subprocess.run(
            [*grep, "--file=-", place], input=f"{password}\n", capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return done.stdout.split()

    both = passwords(made.herd)
    assert holding("/etc/pgherd", both["replicator"]) == ["/etc/pgherd/passfile"]
    assert holding("/etc/pgherd", both["postgres"]) == []
    assert [holding(PGDATA, password) for password in both.values()] == [[], []]


@pytest.mark.parametrize("role", ["master", "standby"])
def test_the_passfile_is_the_servers_own(made: Made, role: str) -> None:
    look = ["stat", "--format", "%a %U %n", "/etc/pgherd", "/etc/pgherd/passfile"]
    assert docker("exec", made.herd.container(role), *look).splitlines() == [
        "700 postgres /etc/pgherd",
        "600 postgres /etc/pgherd/passfile",
    ]
    write = ["exec", made.herd.container(role), "touch", "/etc/pgherd/new"]
    with pytest.raises(AssertionError, match="Read-only file system"):
        docker(*write)


def test_the_roles_have_scram_and_no_more_than_they_need(made: Made) -> None:
    with made.herd.connect("master") as master:
        rows = master.execute(
            "SELECT rolname, left(rolpassword, 14), rolsuper, rolreplication FROM pg_authid"
            " WHERE rolpassword IS NOT NULL ORDER BY 1"
        ).fetchall()
        can = master.execute(
            "SELECT rolcreaterole OR rolcreatedb OR rolbypassrls FROM pg_roles"
            " WHERE rolname = 'replicator'"
        ).fetchone()
    assert rows == [
        ("postgres", "SCRAM-SHA-256$", True, True),
        ("replicator", "SCRAM-SHA-256$", False, True),
    ]
    assert can == (False,)


def test_the_password_files_are_the_users_own_and_used_again(made: Made) -> None:
    files = [made.herd.secrets() / f"{role}.password" for role in ROLES]
    assert [stat.filemode(file.stat().st_mode) for file in files] == ["-rw-------", "-rw-------"]
    before = passwords(made.herd)
    assert len(set(before.values())) == 2
    made.herd.invoke("setup-master", "seed-standby", "verify")
    assert passwords(made.herd) == before


def test_nobody_streams_through_the_published_port(made: Made) -> None:
    port = made.herd.nodes["master"]["port"]
    right = passwords(made.herd)["replicator"]
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects replication"):
        psycopg.connect(
            host="127.0.0.1", port=port, user="replicator", password=right, replication="true",
            connect_timeout=5,
        )  # fmt: skip
    streaming = "SELECT state FROM pg_stat_replication WHERE application_name = 'standby1'"
    assert made.herd.sql("master", streaming) == "streaming"


@contextmanager
def outside() -> Iterator[str]:
    """Yield an address of this machine that is on none of Docker's networks."""
    address = "198.51.100.97"  # of those that are for examples
    words = [f"{address}/32", "dev", "lo"]
    subprocess.run(["ip", "address", "add", *words], check=True)
    try:
        yield address
    finally:
        subprocess.run(["ip", "address", "del", *words], check=True)


def answered(server: str, source: str, **said: str) -> str:
    """Begin to log in from an address of this machine; return what the server asks, or its error.

    That is `password`, or a SQLSTATE. libpq lets nobody choose where a connection comes from.
    """
    words = "".join(f"{key}\0{value}\0" for key, value in said.items()).encode() + b"\0"
    with socket.create_connection((server, 5432), timeout=10, source_address=(source, 0)) as line:
        line.sendall(struct.pack("!ii", len(words) + 8, 3 << 16) + words)
        answer = line.recv(4096)
    if answer.startswith(b"R"):
        return "password"
    fields = {field[:1]: field[1:].decode() for field in answer[5:].split(b"\0") if field}
    return fields[b"C"]


@only_root
def test_nobody_streams_from_outside_of_the_groups_network(made: Made) -> None:
    """Applications come in from anywhere with a password; for replication none is even asked."""
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    with outside() as source:
        for role in ("master", "standby"):
            server = docker("inspect", "--format", address, made.herd.container(role))
            assert answered(server, source, user="postgres", database="postgres") == "password"
            for user in ("replicator", "postgres"):
                assert answered(server, source, user=user, replication="true") == REFUSED


def test_a_wrong_password_opens_neither_port(made: Made) -> None:
    for role in ("master", "standby"):
        port = made.herd.nodes[role]["port"]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(host="127.0.0.1", port=port, user="postgres", password="x")  # noqa: S106


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.long
def test_passwords_of_the_users_choice(make_herd: MakeHerd, major: str) -> None:
    herd = make_herd(major)
    herd.secrets().mkdir(parents=True)
    for role, password in CHOSEN.items():
        (herd.secrets() / f"{role}.password").write_text(f"{password}\n", encoding="utf-8")
    dry = herd.invoke("--dry", "setup-master", "seed-standby", "verify").stdout
    assert str(herd.secrets() / "replicator.password") in dry
    done = herd.invoke("--debug", "--echo", "setup-master", "seed-standby", "verify")
    again = ["seed-standby", "--rebuild", "--allow-async", "apply", "verify"]
    taught = herd.invoke("--echo", *again)
    assert "pg_basebackup" in taught.stderr
    inspected = docker("inspect", herd.container("standby"))
    for text in (dry, done.stdout, done.stderr, taught.stdout, taught.stderr, inspected):
        assert "Zq7" not in text
    assert passwords(herd) == CHOSEN
    assert herd.sql("standby", "SELECT status FROM pg_stat_wal_receiver") == "streaming"
