"""Databases that people have: settings of roles, databases and files, no `postgres`, no login.

A session of pgherd's begins from known settings whatever these are; what cannot be known without a
login is told by name, and a failover goes on all the same.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from conftest import Herd, MakeHerd, docker
from faults import until
from test_status import codes, comes_to, seen

# Each makes sessions fail, see other things or answer in another form.
HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "row_security": "off",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "quote_all_identifiers": "on",
    "extra_float_digits": "0",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "exit_on_error": "on",
    "client_min_messages": "debug2",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "session_preload_libraries": "auto_explain",
    "default_tablespace": "nowhere",
    "temp_tablespaces": "nowhere",
    "lc_messages": "C.utf8",
}
# Where files say them they hold for a login too, before it has any options: so not too short there.
DEADLINES = {
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "10ms",
}
FROM_17 = {"transaction_timeout": "200ms"}  # the login, before any option counts, takes some
OURS = (
    r"-c role=none -c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 "
    r"-c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0 -c search_path=public "
    r"-c default_transaction_isolation=read\ committed -c session_replication_role=replica "
    r"-c client_min_messages=warning -c standard_conforming_strings=on -c exit_on_error=off"
)
# What looks like the system's to a session that finds it first.
PUBLIC = """
CREATE FUNCTION public.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT NULL::bool';
CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'no'$$;
CREATE FUNCTION public.pg_current_wal_flush_lsn() RETURNS pg_lsn LANGUAGE sql
  AS $$SELECT 'F/0'::pg_lsn$$;
CREATE FUNCTION public.never(pg_lsn, pg_lsn) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR public.>= (LEFTARG = pg_lsn, RIGHTARG = pg_lsn, FUNCTION = public.never);
CREATE TABLE public.pg_stat_replication (pid int);
CREATE TABLE public.pg_settings (name text);
CREATE TABLE public.pg_roles (rolname text);
CREATE TYPE public.text AS ENUM ('no');
CREATE FUNCTION public.forbid() RETURNS event_trigger LANGUAGE plpgsql
  AS $$BEGIN RAISE 'no DDL here'; END$$;
CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION public.forbid();
"""


def major(herd: Herd) -> int:
    """Return the major version of a group."""
    return int(str(herd.group["image"]).rpartition(":")[2])


def run_sql(herd: Herd, role: str, statements: str, database: str = "postgres") -> str:
    """Run SQL inside a node's container, untouched by what its sessions are given."""
    options = OURS + (" -c transaction_timeout=0" if major(herd) >= 17 else "")
    words = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]
    done = subprocess.run(
        ["docker", "exec", "--interactive", "--user", "postgres", "--env", f"PGOPTIONS={options}",
         herd.container(role), *words],
        input=statements, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{statements}: {done.stderr}"
    return done.stdout.strip()


def leads(herd: Herd, role: str) -> bool:
    """Tell by its control data whether a node is primary."""
    name = herd.container(role)
    return "in production" in docker("exec", name, "pg_controldata", "/var/lib/postgresql/data")


def lose(herd: Herd, role: str) -> None:
    """Kill a node's container; the engine does not start one again that was killed by it."""
    docker("kill", herd.container(role))


def typed(sentence: str) -> Iterator[list[str]]:
    """Yield the words of each invoke command in a sentence."""
    for command in re.findall(r"`invoke ([^`]+)`", sentence):
        yield shlex.split(command)


def give(herd: Herd, settings: dict[str, str]) -> None:
    """Give settings to both roles and to the databases that sessions are in."""
    for what in ("ROLE postgres", "ROLE replicator", "DATABASE postgres", "DATABASE template1"):
        lines = [f"ALTER {what} SET {name} = '{value}';" for name, value in settings.items()]
        run_sql(herd, "master", "\n".join(lines))


def deadlines(herd: Herd) -> dict[str, str]:
    """Return the settings that end what takes long."""
    return DEADLINES | (FROM_17 if major(herd) >= 17 else {})


@pytest.mark.long
@pytest.mark.parametrize("major_version", ["15", "17", "18"])
def test_the_whole_life_whatever_sessions_are_given(
    make_herd: MakeHerd, major_version: str
) -> None:
    """Ubicloud 5433: `default_transaction_isolation = serializable`, and no failover any more.

    The only thing that is told is that applications cannot write, each time with a command that
    leads out of it.
    """
    herd = make_herd(major_version)
    files = HOSTILE | (FROM_17 if major(herd) >= 17 else {})
    for node in herd.nodes.values():
        node["settings"] = files
    herd.write()
    herd.invoke("setup-master")
    run_sql(herd, "master", f"{PUBLIC}; CREATE ROLE somebody")
    give(herd, HOSTILE | {"search_path": "public"})
    run_sql(herd, "master", "ALTER ROLE postgres SET role = 'somebody'")
    run_sql(herd, "master", "ALTER ROLE replicator SET role = 'somebody'")
    herd.invoke("seed-standby")
    _see_that_writes_are_refused(herd)
    for node in herd.nodes.values():
        node["settings"] = {**files, "default_transaction_read_only": "off"}
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    give(herd, deadlines(herd))
    comes_to(herd, {})
    assert all(check["ok"] for check in herd.checks().values())
    herd.invoke("diff", "audit")
    assert "default_tablespace" in herd.invoke("doctor", code=1).stdout  # there is no such one
    herd.invoke("switchover", "--to", herd.container("standby"))
    run_sql(
        herd,
        "standby",
        "DROP SCHEMA public CASCADE; ALTER ROLE postgres SET search_path = '';"
        "ALTER ROLE replicator SET search_path = ''; ALTER DATABASE postgres SET search_path = ''",
    )
    herd.invoke("switchover", "--to", herd.container("master"))
    lose(herd, "master")
    herd.invoke("failover")
    assert leads(herd, "standby")
    herd.invoke("rejoin", herd.container("master"))
    assert all(check["ok"] for check in herd.checks().values())
    comes_to(herd, {})


def _see_that_writes_are_refused(herd: Herd) -> None:
    """`status` and `verify` tell it, and what each names takes it away, until the files do it."""
    for place in ("ROLE postgres", "DATABASE postgres", "pgherd.conf"):
        answer = comes_to(herd, {"takes-no-writes": "master"})
        (told,) = (warning["text"] for warning in answer["warnings"])
        assert place in told
        if place == "ROLE postgres":
            found = herd.checks(code=1)["row-seen", "standby"]
            assert not found["ok"]
            assert "takes no writes from applications" in found["evidence"]
            assert found["cure"] in told
        for words in typed(told):
            if place != "pgherd.conf":
                herd.invoke(*words)


def connected(herd: Herd, role: str) -> psycopg.Connection[Any] | None:
    """Connect to a node; None where all connections are taken."""
    try:
        return psycopg.connect(
            host="127.0.0.1", port=herd.nodes[role]["port"], user="postgres", dbname="postgres",
            password=herd.password(),
        )  # fmt: skip
    except psycopg.OperationalError as fault:
        if "too many clients" not in str(fault):
            raise
        return None


@contextmanager
def all_taken(herd: Herd, role: str) -> Iterator[None]:
    """Take all connections of a node, those for superusers too."""
    with ExitStack() as held:
        while (one_more := connected(herd, role)) is not None:
            held.enter_context(one_more)
        yield


@pytest.fixture(scope="module")
def small(make_herd: MakeHerd) -> Herd:
    """A pair that takes few connections."""
    herd = make_herd("17")
    for node in herd.nodes.values():
        node["settings"] = {"max_connections": 9}
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    return herd


def test_failover_where_all_connections_are_taken(small: Herd) -> None:
    """A primary is not fenced for that, as it serves others; a standby is promoted all the same."""
    herd, master, standby = small, small.container("master"), small.container("standby")
    with all_taken(herd, "master"):
        answer = comes_to(herd, {"no-answer": "master"})
        (told,) = (warning["text"] for warning in answer["warnings"])
        assert f"All 9 connections of {master} (max_connections) are taken" in told
        assert "may serve others" in herd.invoke("failover", code=2).stderr
        assert herd.status("master") == "running"
    with all_taken(herd, "standby"):
        lose(herd, "master")
        said = herd.invoke("failover").stderr
        assert f"{standby}: nobody can log in, so its files are gone by. All 9 connections" in said
        assert leads(herd, "standby")
        answer = seen(herd)
        assert answer["nodes"]["standby"]["timeline"] == 2
        assert "no-primary" not in codes(answer)
        assert f"{standby} is primary, as its files say" in herd.invoke("failover", code=2).stderr
    herd.invoke("failover")
    herd.invoke("rejoin", master)
    herd.checks()
    herd.invoke("switchover", "--to", master)


@pytest.mark.long
def test_failover_where_a_local_rule_refuses(small: Herd) -> None:
    """It is told with its line; nothing that the standby lacks is lost without a word."""
    herd, standby = small, small.container("standby")
    rules = "/var/lib/postgresql/data/pg_hba.conf"
    docker("exec", standby, "sed", "-i", "1i # ours\\\nlocal all postgres reject", rules)
    docker("kill", "--signal", "HUP", standby)
    answer = comes_to(herd, {"no-answer": "standby"})
    (told,) = (warning["text"] for warning in answer["warnings"])
    assert "by line 2 (local all postgres reject)" in told
    assert "does not let pgherd in" in herd.invoke("seed-standby", code=2).stderr
    # what it has not is counted from its WAL: it is away, and the primary goes on
    docker("pause", standby)
    herd.sql("master", "SET synchronous_commit = local; CREATE TABLE lacked AS SELECT 1 AS id")
    lose(herd, "master")
    docker("unpause", standby)
    did = herd.invoke("failover").stderr
    assert re.search(r"[1-9][0-9]* bytes of its WAL, 1 commit, stays behind", did)
    assert "nothing that was acknowledged is lost" in did
    docker("exec", standby, "sed", "-i", "1,2d", rules)
    docker("kill", "--signal", "HUP", standby)
    herd.invoke("failover")
    assert leads(herd, "standby")
    herd.invoke("rejoin", herd.container("master"))
    herd.checks()
    herd.invoke("switchover", "--to", herd.container("master"))


@pytest.mark.long
def test_failover_to_a_standby_that_takes_no_connections(small: Herd) -> None:
    """`hot_standby = off`: nobody can log in before the promotion, and everybody after it."""
    herd, standby = small, small.container("standby")
    herd.sql("standby", "ALTER SYSTEM SET hot_standby = off")
    docker("restart", standby)
    until(lambda: herd.sql("master", "SELECT count(*) FROM pg_stat_replication") == 1, "streams")
    comes_to(herd, {"no-answer": "standby"})
    lose(herd, "master")
    herd.invoke("failover", "--to", standby)
    assert herd.primary() == "standby"
    herd.sql("standby", "ALTER SYSTEM RESET hot_standby")
    herd.invoke("rejoin", herd.container("master"))
    herd.checks()
    herd.invoke("switchover", "--to", herd.container("master"))


@pytest.mark.long
@pytest.mark.parametrize("major_version", ["15", "18"])
def test_strict_failover_without_a_login(make_herd: MakeHerd, major_version: str) -> None:
    """Commits wait from the first one on, as the topology asks, though SQL could not say so."""
    herd = make_herd(major_version, strict=True)
    herd.invoke("setup-master", "seed-standby")
    rules = "/var/lib/postgresql/data/pg_hba.conf"
    docker("exec", herd.container("standby"), "sed", "-i", "1i local all all reject", rules)
    docker("kill", "--signal", "HUP", herd.container("standby"))
    comes_to(herd, {"no-answer": "standby"})
    lose(herd, "master")
    herd.invoke("failover")
    name = herd.container("master")
    assert herd.sql("standby", "SHOW synchronous_standby_names") == f'FIRST 1 ("{name}")'
    docker("exec", herd.container("standby"), "sed", "-i", "1d", rules)
    docker("kill", "--signal", "HUP", herd.container("standby"))
    herd.invoke("failover")
    herd.invoke("rejoin", name)
    herd.checks()


# --- the database ---


@pytest.mark.long
@pytest.mark.parametrize("major_version", ["15", "17", "18"])
def test_there_is_no_database_postgres(make_herd: MakeHerd, major_version: str) -> None:
    """All goes on in another one; nobody stays in template1, where it would be in the way."""
    herd = make_herd(major_version)
    herd.invoke("setup-master")
    run_sql(herd, "master", 'CREATE DATABASE "a = b"')
    run_sql(herd, "master", "DROP DATABASE postgres", "template1")
    herd.invoke("seed-standby")
    herd.checks()
    master, standby = herd.container("master"), herd.container("standby")
    said = herd.invoke("psql", "--node", standby, "--command", "SELECT current_database()")
    assert "a = b" in said.stdout
    herd.invoke("status", "diff", "doctor", "audit", "sync", "steps")
    herd.invoke("switchover", "--to", standby)
    herd.invoke("switchover", "--to", master)
    herd.invoke("stop", "start")
    herd.invoke("rotate-passwords")
    lose(herd, "master")
    herd.invoke("failover")
    herd.invoke("rejoin", master)
    connect = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'template1'"
    assert run_sql(herd, "standby", connect, "dbname='a = b'") == "0"
    herd.checks()


@pytest.mark.long
def test_the_database_is_said(make_herd: MakeHerd) -> None:
    """A new group gets it from the image; connection strings lead there."""
    herd = make_herd("17", database="shop")
    herd.invoke("setup-master", "seed-standby", "verify", "status")
    asked = herd.invoke("psql", "--command", "SELECT current_database()")
    assert "shop" in asked.stdout
    assert "/shop" in herd.invoke("uri").stdout
    assert "/other" in herd.invoke("uri", "--database", "other").stdout
    herd.sql("master", "DROP DATABASE shop")
    (told, *_) = (w["text"] for w in seen(herd)["warnings"])
    assert "There is no database shop" in told
    assert "group.database" in told


# --- the server's words ---


@pytest.mark.long
def test_a_server_that_speaks_german(make_herd: MakeHerd) -> None:
    """What it says before it knows of our settings, and what it logs, is not gone by."""
    herd = make_herd("17")
    herd.invoke("setup-master")
    image, container = f"{herd.name}-german:17", herd.container("master")
    docker("exec", container, "localedef", "-i", "de_DE", "-f", "UTF-8", "de_DE.UTF-8")
    docker("commit", container, image)
    try:
        herd.group["image"] = image
        for node in herd.nodes.values():
            node["settings"] = {"lc_messages": "de_DE.UTF-8"}
        herd.write()
        herd.invoke("down", "start", "seed-standby", "verify", "status")
        assert "Standby-Modus" in docker("logs", herd.container("standby"))
        herd.invoke("switchover", "--to", herd.container("standby"))
        herd.invoke("rotate-passwords", "verify")
        lose(herd, "standby")
        herd.invoke("failover")
        herd.invoke("rejoin", herd.container("standby"))
        herd.checks()
    finally:
        herd.clear()
        docker("rmi", "--force", image)
