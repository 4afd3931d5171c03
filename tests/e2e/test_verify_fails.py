"""Verify fails, says why and how to mend it; the mending that it names works."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker

PGDATA = "/var/lib/postgresql/data"
MAKE_TABLE = """
DROP TABLE IF EXISTS written;
CREATE TABLE written AS SELECT 'both'::text AS who;
"""
SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
PROBES = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgherd_probe%'"


def until(so: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Ask again and again until it is so; fail at the deadline."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, f"not so after {seconds} s: {what}"
        time.sleep(0.02)


def verdict(herd: Herd) -> dict[str, Any]:
    """Run verify, whatever it comes to, and return what it says."""
    done = subprocess.run(
        [*INVOKE, "verify", "--json"], cwd=ROOT, env=herd.environment(), capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["ok"] is (done.returncode == 0)
    return answer


def mended(herd: Herd) -> Herd:
    """Return the group as it should be, whatever an earlier test left of it."""
    if not verdict(herd)["ok"] or herd.sql("master", "SELECT pg_is_in_recovery()"):
        herd.invoke("down", "--purge", "--delete-data", "--confirm", herd.name)
        herd.invoke("setup-master", "seed-standby")
    return herd


@pytest.fixture
def sound(pair: Herd) -> Herd:
    """A pair that passes, on each major version in turn."""
    return mended(pair)


@pytest.fixture(scope="module")
def shared(make_herd: MakeHerd) -> Herd:
    herd = make_herd("17")
    herd.invoke("setup-master", "seed-standby")
    return herd


@pytest.fixture
def herd(shared: Herd) -> Herd:
    """A pair that passes, for what is the same on every major version."""
    return mended(shared)


def failed(herd: Herd, check: str, *, role: str = "standby") -> dict[str, Any]:
    """Run verify, which has to fail by this check first, and to leave nothing behind."""
    checks = herd.checks(code=1)
    first = next(name for (name, _), found in checks.items() if not found["ok"])
    found = checks[check, role]
    assert first == check, checks
    assert not found["ok"]
    assert found["evidence"]
    return found


def cured(herd: Herd, found: dict[str, Any], *, primary: str = "master") -> None:
    """Do what the check says; verify passes then, and no probe is left."""
    words = shlex.split(found["cure"].split("`")[1])
    assert words[0] == "invoke"
    herd.invoke(*words[1:])
    herd.checks()
    assert herd.sql(primary, PROBES) == 0


def test_the_standby_is_down(herd: Herd) -> None:
    docker("stop", herd.container("standby"))
    found = failed(herd, "standby-up")
    assert f"127.0.0.1:{herd.nodes['standby']['port']} does not answer" in found["evidence"]
    assert herd.sql("master", PROBES) == 0
    cured(herd, found)


def promote(herd: Herd) -> None:
    """Make the standby a second primary, and write to it."""
    assert herd.sql("standby", "SELECT pg_promote()")
    # What the base backup brought along must not make its commits wait for a standby.
    with herd.connect("standby") as promoted:
        watch = threading.Timer(10, promoted.cancel_safe)
        watch.start()
        promoted.execute("CREATE TABLE written_on_the_second (id int)")
        assert watch.is_alive()
        watch.cancel()
        watch.join()


@pytest.mark.core("17")
def test_the_standby_is_a_second_primary(sound: Herd) -> None:
    promote(sound)
    # Of two the one that was promoted last counts as the primary, the other as the second.
    found = failed(sound, "in-recovery", role="master")
    assert "second primary" in found["evidence"]
    assert [sound.sql(role, PROBES) for role in ("master", "standby")] == [0, 0]
    assert "2 nodes are primary at once" in sound.invoke("seed-standby", code=2).stderr
    sound.invoke("rejoin", sound.container("standby"), "--max-loss", "any")
    sound.checks()
    assert sound.sql("standby", "SELECT to_regclass('written_on_the_second')") is None


def test_it_streams_asynchronously_where_sync_was_asked(herd: Herd) -> None:
    herd.sql("master", "ALTER SYSTEM SET synchronous_standby_names = ''")
    herd.sql("master", "SELECT pg_reload_conf()")
    until(lambda: herd.sql("master", "SHOW synchronous_standby_names") == "", "reloaded")
    found = failed(herd, "sync")
    assert "FIRST 1 (standby1)" in found["evidence"]
    assert herd.sql("master", PROBES) == 0
    cured(herd, found)


@pytest.mark.long
def test_it_belongs_to_another_system(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master", "step.run-standby")
    checks = herd.checks(code=1)
    assert "another system" in "".join(check["evidence"] for check in checks.values())
    docker("stop", herd.container("standby"))
    (herd.data("standby") / "standby.signal").touch()
    docker("start", herd.container("standby"))
    until(lambda: docker("exec", herd.container("standby"), "pg_isready", check=False), "serves")
    found = failed(herd, "same-system")
    assert "another system" in found["evidence"]
    assert herd.sql("master", PROBES) == 0
    cured(herd, found)


def test_replay_is_paused(herd: Herd) -> None:
    herd.sql("standby", "SELECT pg_wal_replay_pause()")
    found = failed(herd, "replay")
    assert "paused" in found["evidence"]
    assert herd.sql("master", PROBES) == 0
    cured(herd, found)


# A column for each new table, whose default cannot be had on a standby: there the planner of an
# INSERT fails before the server says that it takes no writes.
ADD_COLUMNS = """
CREATE FUNCTION public.here() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN IF pg_is_in_recovery() THEN RAISE 'not here'; END IF; RETURN 1; END $$;
CREATE FUNCTION public.add_column() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
  FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' LOOP
    EXECUTE format('ALTER TABLE %s ADD here int DEFAULT public.here()', made.object_identity);
  END LOOP;
END $$;
CREATE EVENT TRIGGER add_column ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE SCHEMA')
EXECUTE FUNCTION public.add_column();
ALTER EVENT TRIGGER add_column ENABLE ALWAYS;
"""


def test_a_write_that_fails_is_not_for_that_a_refused_one(herd: Herd) -> None:
    """That a standby takes no writes shows in the SQLSTATE alone: it is 25006."""
    herd.sql("master", ADD_COLUMNS)
    try:
        found = failed(herd, "write-refused")
        assert "P0001" in found["evidence"]
        assert "25006" in found["evidence"]
    finally:
        herd.sql("master", "DROP EVENT TRIGGER add_column")
    herd.checks()


# --- silent divergence: started once without its mark, then turned into a standby again ---


@contextmanager
def unmarked(herd: Herd) -> Iterator[Callable[[str], str]]:
    """Run the standby's data as a primary for a while, behind the group's back."""
    standby = herd.container("standby")
    image = docker("inspect", "--format", "{{.Config.Image}}", standby)
    docker("stop", standby)
    (herd.data("standby") / "standby.signal").unlink()
    places = ["--mount", f"type=bind,source={herd.data('standby')},target={PGDATA}"]
    places += ["--mount", f"type=bind,source={herd.secrets() / standby},target=/etc/pgherd"]
    phantom = f"{herd.name}-phantom"
    docker("run", "--detach", "--name", phantom, "--env", f"PGDATA={PGDATA}", *places, image)

    def psql(statement: str) -> str:
        return docker("exec", phantom, "psql", "-XAtU", "postgres", "-c", statement, check=False)

    try:
        until(lambda: psql("SELECT pg_is_in_recovery()") == "f", "the phantom takes writes")
        yield psql
        docker("stop", phantom)
    finally:
        docker("rm", "--force", "--volumes", phantom)
    (herd.data("standby") / "standby.signal").touch()
    docker("start", standby)
    until(lambda: docker("exec", standby, "pg_isready", check=False), "the standby serves")


def on_master(herd: Herd, *statements: str) -> None:
    """Write on the master while nobody stands by."""
    with herd.connect("master", options="-c synchronous_commit=local") as connection:
        for statement in statements:
            connection.execute(statement.encode())


def phantom_rows(herd: Herd) -> int:
    """Count the rows that only the standby has."""
    return int(herd.sql("standby", "SELECT count(*) FROM written WHERE who = 'phantom'"))


@pytest.mark.core("17")
def test_it_diverged_and_is_ahead(sound: Herd) -> None:
    sound.sql("master", MAKE_TABLE)
    with unmarked(sound) as phantom:
        phantom("INSERT INTO written SELECT 'phantom' FROM generate_series(1, 1000)")
    found = failed(sound, "replay")
    assert "diverged" in found["evidence"]
    assert phantom_rows(sound) == 1000
    cured(sound, found)
    assert phantom_rows(sound) == 0


@pytest.mark.long
def test_it_diverged_and_the_master_has_written_more(herd: Herd) -> None:
    herd.sql("master", MAKE_TABLE)
    with unmarked(herd) as phantom:
        phantom("INSERT INTO written SELECT 'phantom' FROM generate_series(1, 10)")
        on_master(herd, "INSERT INTO written SELECT 'master' FROM generate_series(1, 5000)")
    checks = herd.checks(code=1)
    bad = next(check for check in checks.values() if not check["ok"])
    # The WAL it asked for anew covers its own: then it is seen only by its not streaming.
    assert bad["name"] == "streaming" or "diverged" in bad["evidence"]
    cured(herd, bad)
    assert phantom_rows(herd) == 0


RECYCLED = pytest.param(
    "0",
    id="recycled",
    marks=[
        pytest.mark.long,
        pytest.mark.xfail(
            strict=True,
            reason="the file that differs is gone from the standby: nothing tells any more",
        ),
    ],
)


@pytest.mark.parametrize("keep", [pytest.param("64MB", id="kept"), RECYCLED])
def test_it_diverged_in_an_earlier_file_of_the_wal(herd: Herd, keep: str) -> None:
    # Both end a WAL file and are stopped: their next files begin with records of equal length, so
    # the standby goes on with its master's without a word.
    herd.sql("master", MAKE_TABLE)
    with unmarked(herd) as phantom:
        phantom(f"ALTER SYSTEM SET wal_keep_size = '{keep}'")
        phantom("SELECT pg_reload_conf()")
        phantom("INSERT INTO written SELECT 'phantom' FROM generate_series(1, 10)")
        phantom("SELECT pg_switch_wal()")
        on_master(
            herd,
            "INSERT INTO written SELECT 'master' FROM generate_series(1, 10)",
            "SELECT pg_switch_wal()",
        )
        docker("restart", herd.container("master"))
    until(lambda: herd.sql("master", SYNCHRONOUS) == 1, "the standby is synchronous again")
    assert phantom_rows(herd) == 10
    answer = verdict(herd)
    herd.invoke("seed-standby", "--rebuild", "--allow-async")
    herd.checks()
    assert phantom_rows(herd) == 0
    evidence = [check["evidence"] for check in answer["checks"] if not check["ok"]]
    assert evidence
    assert "diverged" in evidence[0]


# --- the master ---


def test_the_master_is_down(herd: Herd) -> None:
    docker("stop", herd.container("master"))
    found = failed(herd, "same-system")
    assert f"127.0.0.1:{herd.nodes['master']['port']} does not answer" in found["evidence"]
    cured(herd, found)


def test_the_password_file_is_wrong(herd: Herd) -> None:
    file = herd.secrets() / "postgres.password"
    right = file.read_text()
    file.write_text("wrong\n")
    try:
        found = failed(herd, "standby-up")
        shown = herd.invoke("verify", code=1)
    finally:
        file.write_text(right)
    assert "password authentication failed" in found["evidence"]
    assert "postgres.password" in found["cure"]
    assert right.strip() not in shown.stdout + shown.stderr
    herd.checks()


def test_a_commit_that_hangs_is_told_and_left_as_it_was(herd: Herd) -> None:
    docker("stop", herd.container("standby"))
    psql = [*INVOKE, "psql", "--command", "CREATE TABLE hung (id int)"]
    writer = subprocess.Popen(psql, cwd=ROOT, env=herd.environment())
    hanging = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    until(lambda: herd.sql("master", hanging) == 1, "a commit waits for the standby")
    long = f"{hanging} AND clock_timestamp() - state_change > '3.5 s'"
    until(lambda: herd.sql("master", long) == 1, "it has waited long enough to be told")
    started = time.monotonic()
    said = herd.invoke("verify", code=1).stdout
    assert time.monotonic() - started < 30
    assert "1 commit hang" in said
    assert "`invoke sync --off`" in said  # the cure, beside `invoke start`
    assert herd.sql("master", hanging) == 1
    assert writer.poll() is None
    herd.invoke("start")
    assert writer.wait(30) == 0
    herd.sql("master", "DROP TABLE hung")
    herd.checks()


FORBID = """
CREATE OR REPLACE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql
  AS $$ BEGIN {only} RAISE 'no % here', tg_tag USING ERRCODE = '42501'; {end} END $$;
CREATE EVENT TRIGGER forbidden ON {when} EXECUTE FUNCTION forbid();
ALTER EVENT TRIGGER forbidden ENABLE ALWAYS;
"""


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("ddl_command_start", "no CREATE SCHEMA here"),
        pytest.param(
            "ddl_command_end WHEN TAG IN ('GRANT')", "no GRANT here", marks=pytest.mark.long
        ),
        pytest.param("sql_drop", "no DROP SCHEMA here", marks=pytest.mark.long),
    ],
)
def test_ddl_that_is_forbidden_is_told_in_the_servers_words(
    herd: Herd, when: str, words: str
) -> None:
    """And nothing is left behind: what may not be dropped is not made either."""
    herd.sql("master", FORBID.format(when=when, only="", end=""))
    try:
        found = failed(herd, "row-seen")
        assert f"(SQLSTATE 42501): {words}" in found["evidence"]
        assert herd.sql("master", PROBES) == 0
    finally:
        herd.sql("master", "DROP EVENT TRIGGER forbidden")
    herd.checks()


@pytest.mark.long
def test_a_probe_that_cannot_be_dropped_is_told_and_goes_with_the_next_verify(herd: Herd) -> None:
    """As where that is forbidden while verify is at work: at the second time here."""
    only = "IF nextval('public.drops') > 1 THEN"
    herd.sql("master", "CREATE SEQUENCE drops")
    herd.sql("master", FORBID.format(when="sql_drop", only=only, end="END IF;"))
    try:
        found = failed(herd, "clean")
        assert "could not be dropped (SQLSTATE 42501): no DROP SCHEMA here" in found["evidence"]
        assert herd.sql("master", PROBES) == 1
    finally:
        herd.sql("master", "DROP EVENT TRIGGER forbidden")
        herd.sql("master", "DROP SEQUENCE drops")
    herd.checks()
    assert herd.sql("master", PROBES) == 0


# --- what a verify leaves to the next ---


def killed_while_it_probes(herd: Herd) -> bool:
    """Kill a verify as soon as its probe is there; tell whether the probe is left behind."""
    with herd.connect("master") as watching:
        run = subprocess.Popen([*INVOKE, "verify"], cwd=ROOT, env=herd.environment())
        while run.poll() is None:  # as fast as it goes: it is there for a moment only
            if (row := watching.execute(PROBES).fetchone()) and row[0]:
                run.kill()
        run.wait(10)
    return run.returncode == -signal.SIGKILL and bool(herd.sql("master", PROBES))


def test_the_probe_of_a_killed_verify_is_cleared_by_the_next(herd: Herd) -> None:
    assert any(killed_while_it_probes(herd) for _ in range(10))
    herd.checks()
    assert [herd.sql(role, PROBES) for role in ("master", "standby")] == [0, 0]


def test_two_verifies_at_once_both_pass(herd: Herd) -> None:
    command = [*INVOKE, "verify", "--json"]
    runs = [
        subprocess.Popen(command, cwd=ROOT, env=herd.environment(), stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    answers = [json.loads(run.communicate(timeout=60)[0]) for run in runs]
    assert [answer["ok"] for answer in answers] == [True, True, True]
    assert herd.sql("master", PROBES) == 0


def test_verify_changes_no_file_of_the_group(herd: Herd) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in herd.secrets().rglob("*")}

    before = files()
    herd.checks()
    assert files() == before


# --- and last, since the roles are swapped after it ---


@pytest.mark.long
def test_of_two_primaries_the_cure_keeps_the_newer_data(herd: Herd) -> None:
    promote(herd)
    cured(herd, failed(herd, "in-recovery", role="master"), primary="standby")
    assert herd.sql("master", "SELECT pg_is_in_recovery()")
    assert herd.sql("master", "SELECT to_regclass('written_on_the_second')")
