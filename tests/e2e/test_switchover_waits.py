"""What a switchover would wait for: seen before, ended if told so, else waited for a while only.

Each case is a pair with one who holds it up: a logical consumer, an archiver, a query on the
standby, a base backup, pg_receivewal, a container that is paused.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from asking import until
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker, majors
from consumers import NAME, consuming
from trial import inside

SETTINGS = {
    "wal_level": "logical",
    "max_standby_streaming_delay": "-1",
    "archive_mode": "on",
    "archive_command": "true",
}
BOUND = 5  # seconds for --timeout
ARCHIVE = "/var/lib/postgresql/archive"  # in the container
DATA = "/var/lib/postgresql/data"


@pytest.fixture(scope="module", params=majors("17"))
def herd(request: pytest.FixtureRequest, make_herd: MakeHerd) -> Herd:
    herd = make_herd(request.param)
    for keys in herd.nodes.values():
        keys["settings"] = dict(SETTINGS)
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    herd.sql("master", "CREATE TABLE rows (id serial, at timestamptz DEFAULT now())")
    return herd


@pytest.fixture
def old(herd: Herd) -> Iterator[str]:
    """The role of the node that is primary; the group is well before and after."""
    primary = herd.primary()
    herd.sql(primary, "INSERT INTO rows DEFAULT VALUES")
    yield primary
    for role in herd.nodes:
        inside(herd, role, "ALTER SYSTEM RESET archive_command")
        inside(herd, role, "SELECT pg_reload_conf()")
    herd.invoke("status")


def other(herd: Herd, role: str) -> str:
    return next(name for name in herd.nodes if name != role)


def switch(herd: Herd, old: str, *words: str, code: int = 0) -> str:
    """Switch over; return all that was said."""
    done = herd.invoke("switchover", "--to", herd.container(other(herd, old)), *words, code=code)
    return done.stdout + done.stderr


def switch_and(herd: Herd, old: str, line: str, act: Callable[[], object]) -> tuple[int, str]:
    """Switch over, and do something once a line with these words came; return status and lines."""
    words = ["switchover", "--to", herd.container(other(herd, old)), "--timeout", str(BOUND)]
    said: list[str] = []
    with subprocess.Popen(
        [*INVOKE, *words], cwd=ROOT, env=herd.environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as run:  # fmt: skip
        for text in run.stdout or ():
            said.append(text)
            if line in text:
                act()
    return run.returncode, "".join(said)


def started(herd: Herd, role: str) -> str:
    return docker("inspect", "--format", "{{.State.StartedAt}}", herd.container(role))


def goes_on(herd: Herd, old: str, rows: int) -> None:
    """Nothing was changed, or all was undone: the old primary takes writes, with all it had."""
    assert herd.primary() == old
    herd.sql(old, "INSERT INTO rows DEFAULT VALUES")
    assert herd.sql(old, "SELECT count(*) FROM rows") == rows + 1
    marks = ("exec", herd.container(old), "ls", DATA)
    assert "standby.signal" not in docker(*marks)


def counted(herd: Herd, role: str) -> int:
    return int(herd.sql(role, "SELECT count(*) FROM rows"))


def codes(herd: Herd) -> list[str]:
    """Return the codes of what `status` warns of."""
    for code in (0, 1):
        try:
            answer = json.loads(herd.invoke("status", "--json", code=code).stdout)
        except AssertionError:
            if code:
                raise
            continue
        return [warning["code"] for warning in answer["warnings"]]
    return []


# --- who receives ---


def test_a_consumer_that_never_confirms(herd: Herd, old: str) -> None:
    """wal2json 176, patroni 3022: no node took writes for 615 s, as the primary waited for it."""
    with consuming(herd, old):
        rows = counted(herd, old)
        said = switch(herd, old, "--timeout", "2", code=2)
        assert f"({NAME} of postgres, slot consumer, pgoutput)" in said
        assert "has not confirmed what" in said
        assert "pg_terminate_backend(" in said
        goes_on(herd, old, rows)
        # It comes back at once, and again while the server ends: nobody can log in by then.
        assert "writes were refused for" in switch(herd, old, "--force", "--timeout", "60")
        assert herd.primary() == other(herd, old)
        assert counted(herd, other(herd, old)) == rows + 1


def test_past_the_bound_the_old_primary_serves_again(herd: Herd, old: str) -> None:
    """Patroni 3022: one that confirms no more once the switchover is under way."""
    with consuming(herd, old, confirms=True, plugin="test_decoding") as consumer:
        rows = counted(herd, old)

        def stall() -> None:
            consumer.confirms = False

        code, said = switch_and(herd, old, "a checkpoint", stall)
        assert code == 4, said
        assert f"did not end within {BOUND} s: it waits for process" in said
        assert f"({NAME} of postgres, slot consumer, test_decoding)" in said
        assert "serves again; writes were refused for" in said
        goes_on(herd, old, rows)
    assert "automatic recovery" not in docker("logs", herd.container(old))


@pytest.mark.long
def test_a_consumer_that_confirms_is_no_hindrance(herd: Herd, old: str) -> None:
    with consuming(herd, old, confirms=True):
        switch(herd, old)
    assert herd.primary() != old


@contextmanager
def beside(herd: Herd, role: str, program: str) -> Iterator[str]:
    """Run a program that receives from a node, in a container of its own; yield that one's name."""
    name = f"{herd.name}-beside"
    image = docker("inspect", "--format", "{{.Image}}", herd.container(role))
    password = (herd.secrets() / "replicator.password").read_text(encoding="utf-8").strip()
    docker("run", "--detach", "--name", name, "--network", f"pgherd-{herd.name}",
           "--env", f"PGPASSWORD={password}", "--entrypoint", "sh", image, "-c",
           f"exec {program} -h {herd.container(role)} -U replicator")  # fmt: skip
    try:
        yield name
    finally:
        docker("rm", "--force", name, check=False)


@pytest.mark.long
def test_a_base_backup_is_told_of_before_it_is_broken_off(herd: Herd, old: str) -> None:
    with beside(herd, old, "pg_basebackup -D /tmp/b -c fast --max-rate 32k"):
        pattern = "SELECT count(*) FROM pg_stat_replication WHERE state = 'backup'"
        assert until(lambda: herd.sql(old, pattern) == 1)
        said = switch(herd, old, "--timeout", "2", code=2)
        assert "takes a base backup, which would be broken off" in said
        switch(herd, old, "--force", "--timeout", "60")
        assert herd.primary() != old


@pytest.mark.long
def test_pg_receivewal_that_stands_still(herd: Herd, old: str) -> None:
    with beside(herd, old, "pg_receivewal -D /tmp") as name:
        pattern = "SELECT count(*) FROM pg_stat_replication WHERE application_name='pg_receivewal'"
        assert until(lambda: herd.sql(old, pattern) == 1)
        docker("pause", name)
        herd.sql(old, "INSERT INTO rows DEFAULT VALUES")
        said = switch(herd, old, "--timeout", "2", code=2)
        assert "(pg_receivewal of replicator) on" in said
        switch(herd, old, "--force", "--timeout", "60")
        assert herd.primary() != old


# --- replay is held ---


@contextmanager
def holding(herd: Herd, role: str, *, runs: bool = False) -> Iterator[psycopg.Connection[object]]:
    """Have a session on a standby hold a lock: in an idle transaction, or by a query that runs."""
    with suppress(psycopg.errors.AdminShutdown), herd.connect(role) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM rows")
        if runs:
            connection.pgconn.send_query(b"SELECT pg_sleep(600)")
        yield connection


def lock(herd: Herd, role: str) -> None:
    herd.sql(role, "BEGIN; LOCK TABLE rows; INSERT INTO rows DEFAULT VALUES; COMMIT")


def is_held(herd: Herd, role: str) -> bool:
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    return bool(herd.sql(role, waits))


def test_replay_held_by_an_idle_transaction(herd: Herd, old: str) -> None:
    """Cloudquery 12656: 120 s without writes, undone, and a sentence that was false."""
    new = other(herd, old)
    with holding(herd, new):
        lock(herd, old)
        assert until(lambda: is_held(herd, new))
        rows = counted(herd, old)
        said = switch(herd, old, "--timeout", "2", code=2)
        assert f"replay on {herd.container(new)} is held for" in said
        assert "idle in transaction: SELECT count(*) FROM rows" in said
        assert "SELECT pg_terminate_backend(" in said
        goes_on(herd, old, rows)
        switch(herd, old, "--force", "--timeout", "60")
    assert herd.primary() == new
    assert counted(herd, new) == rows + 1


@pytest.mark.long
def test_a_query_that_holds_replay_is_cancelled(herd: Herd, old: str) -> None:
    """Cloudquery 12656: its session goes on."""
    new = other(herd, old)
    with holding(herd, new, runs=True) as connection:
        lock(herd, old)
        assert until(lambda: is_held(herd, new))
        assert "SELECT pg_cancel_backend(" in switch(herd, old, "--timeout", "2", code=2)
        switch(herd, old, "--force", "--timeout", "60")
        result = connection.pgconn.get_result()
        assert result
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        connection.pgconn.get_result()
        connection.execute("ROLLBACK")
    assert herd.primary() == new


@pytest.mark.long
def test_replay_that_is_held_meanwhile(herd: Herd, old: str) -> None:
    """Cloudquery 12656: it had all, and was said not to have got the last."""
    new = other(herd, old)
    before = started(herd, new)
    with holding(herd, new):
        code, said = switch_and(herd, old, "a checkpoint", lambda: lock(herd, old))
        rows = counted(herd, old)
        assert code == 4, said
        assert f"{herd.container(new)} has all that {herd.container(old)} wrote" in said
        assert "is held for" in said
        assert "idle in transaction" in said
        assert started(herd, new) == before
        # Who held it is ended by then: else it would not stream, and commits would wait for it.
        goes_on(herd, old, rows)
    assert until(lambda: herd.sql(new, "SELECT count(*) FROM rows") == rows + 1)


# --- archiving ---


def archive(herd: Herd, role: str, command: str) -> None:
    inside(herd, role, f"ALTER SYSTEM SET archive_command = '{command}'")
    inside(herd, role, "SELECT pg_reload_conf()")


def segments(herd: Herd, role: str, count: int) -> list[str]:
    """Write so many WAL files; return their names."""
    names: list[str] = []
    for _ in range(count):
        herd.sql(role, "INSERT INTO rows DEFAULT VALUES")
        names.append(herd.sql(role, "SELECT pg_walfile_name(pg_current_wal_lsn())"))
        herd.sql(role, "SELECT pg_switch_wal()")
    return names


def kept(herd: Herd, role: str) -> set[str]:
    """Return the names of the WAL files that were kept beside a node's data."""
    found = herd.data(role).parent.glob(f"{herd.data(role).name}_unarchived_*/*")
    return {path.name for path in found}


@pytest.mark.long
def test_an_archiver_that_fails(herd: Herd, old: str) -> None:
    """Repmgr 249: the archive has a hole, of which nothing tells."""
    archive(herd, old, "false")
    files = segments(herd, old, 2)
    assert until(lambda: "archive-fails" in codes(herd))
    assert "archive-fails" in herd.invoke("doctor", code=1).stdout
    said = switch(herd, old, code=2)
    assert f"archiving on {herd.container(old)} fails" in said
    said = switch(herd, old, "--force")
    assert set(files) <= kept(herd, old)
    assert all(name in said for name in files)
    assert "take a new base backup" in said


def test_an_archiver_that_hangs_meanwhile(herd: Herd, old: str) -> None:
    """Repmgr 249: the standby is promoted, and the old primary was waited for, for 600 s.

    What is in the archive by then and what is kept beside the data is all that was written.
    """
    docker("exec", "--user", "postgres", herd.container(old), "mkdir", "-p", ARCHIVE)
    # It hangs from the moment that the server ends: postmaster.pid tells that in its last line.
    hang = "if grep -q stopping postmaster.pid; then sleep 1000; fi"
    archive(herd, old, f"{hang}; cp %p {ARCHIVE}/%f")
    files = segments(herd, old, 2)
    archived = ("exec", herd.container(old), "ls", ARCHIVE)
    assert until(lambda: set(files) <= set(docker(*archived).split()))
    files += [herd.sql(old, "SELECT pg_walfile_name(pg_current_wal_lsn())")]
    begun = time.monotonic()
    code, said = switch_and(herd, old, "a checkpoint", lambda: None)
    assert code == 0, said
    assert "it waits for its archiver (archiving 0" in said
    assert "take a new base backup" in said
    assert set(files) <= set(docker(*archived).split()) | kept(herd, old)
    assert herd.primary() != old
    assert time.monotonic() - begun < 100


# --- a standby that is paused ---


@pytest.mark.long
@pytest.mark.parametrize("line", ["image: ", "a checkpoint", "stopping it"])
def test_a_standby_that_is_paused_meanwhile(herd: Herd, old: str, line: str) -> None:
    """More than 150 s passed without a line."""
    new = other(herd, old)
    rows, begun = counted(herd, old), time.monotonic()
    times: list[float] = []

    def pause() -> None:
        times.append(time.monotonic())
        docker("pause", herd.container(new))

    try:
        code, said = switch_and(herd, old, line, pause)
    finally:
        docker("unpause", herd.container(new), check=False)
    assert code in {1, 4}, said
    assert time.monotonic() - begun < 120
    goes_on(herd, old, rows)
    assert until(lambda: herd.sql(old, "SELECT count(*) FROM pg_stat_replication") == 1)


# --- while all is well ---


@pytest.mark.long
def test_what_would_hold_up_is_warned_of(herd: Herd, old: str) -> None:
    new = other(herd, old)
    with consuming(herd, old):
        herd.sql(old, "INSERT INTO rows DEFAULT VALUES")
        herd.sql(old, "CHECKPOINT")
        archive(herd, old, "sleep 1000")
        segments(herd, old, 1)
        herd.sql(old, "CHECKPOINT")
        assert until(lambda: {"consumer-late", "archive-late"} <= set(codes(herd)), 150)
        told = herd.invoke("doctor", code=0).stdout
        assert "consumer-late" in told
        assert "archive-late" in told
    with holding(herd, new):
        lock(herd, old)
        assert until(lambda: "replay-held" in codes(herd), 30)
        assert "replay-held" in herd.invoke("doctor").stdout
    archive(herd, old, "true")  # what the archiver has begun goes on until it is ended
    ended = "for p in /proc/[0-9]*; do grep -qx sleep $p/comm && kill ${p#/proc/}; done"
    docker("exec", herd.container(old), "sh", "-c", ended, check=False)
    assert until(lambda: codes(herd) == [], 60)
