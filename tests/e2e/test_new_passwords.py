"""`invoke rotate-passwords`: new passwords while everything streams, and where it is cut short."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from conftest import Herd, MakeHerd, docker
from killing import Act, killed

ROLES = ("postgres", "replicator")
CHANGE = Act("rotate")  # of the roles
CHOSEN = ' it\'s "new" \\back:col $HOME é€ Zq7newZq7 '
STREAMS = "SELECT string_agg(pid || ' ' || backend_start, ',') FROM pg_stat_replication"
RECEIVER = "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'"


@pytest.fixture(scope="module")
def pair(make_herd: MakeHerd) -> Herd:
    """A synchronous pair on one major version: what differs between them is not used here."""
    herd = make_herd()
    herd.invoke("setup-master", "seed-standby")
    return herd


def passwords(herd: Herd) -> dict[str, str]:
    """Return both passwords as their files have them."""
    return read({role: herd.secrets() / f"{role}.password" for role in ROLES})


def put_by(herd: Herd) -> dict[str, str]:
    """Return those that a change which was cut short has put by; none is left where it is done."""
    files = [path for path in herd.secrets().rglob("*.password") if path.parent != herd.secrets()]
    return read({path.stem: path for path in files})


def read(files: dict[str, Path]) -> dict[str, str]:
    """Return the passwords of files."""
    return {role: f.read_text(encoding="utf-8").removesuffix("\n") for role, f in files.items()}


def opens(herd: Herd, node: str, role: str, password: str) -> bool:
    """Tell whether a role gets into a node by a password."""
    port = herd.nodes[node]["port"]
    try:
        psycopg.connect(
            host="127.0.0.1", port=port, user=role, password=password, dbname="postgres"
        ).close()
    except psycopg.OperationalError as fault:
        assert "password authentication failed" in str(fault)  # noqa: PT017
        return False
    return True


def streams(herd: Herd) -> tuple[str, str]:
    """Return the processes on both ends of the stream, and since when they are there."""
    return str(herd.sql("master", STREAMS)), str(herd.sql("standby", RECEIVER))


def eventually_streams(herd: Herd) -> None:
    """Wait until the standby streams; it is asked on its socket, which wants no password."""
    name = herd.container("standby")
    end = time.monotonic() + 60
    while not docker("exec", "-u", "postgres", name, "psql", "-XAtc", RECEIVER, check=False):
        assert time.monotonic() < end, "it does not stream again"
        time.sleep(0.1)


def passfile(herd: Herd, role: str) -> str:
    """Return a node's passfile, and who may read it."""
    words = ["docker", "exec", herd.container(role), "sh", "-c"]
    text = "cat /etc/pgherd/passfile; stat -c '%a %U' /etc/pgherd/passfile"
    return subprocess.run([*words, text], text=True, capture_output=True, check=True).stdout


def test_both_are_new_and_no_stream_breaks(pair: Herd) -> None:
    before, former = streams(pair), passwords(pair)
    done = pair.invoke("--debug", "--echo", "rotate-passwords")
    new = passwords(pair)
    assert streams(pair) == before
    assert "no stream broke: standby1" in done.stdout
    assert set(former.values()) & set(new.values()) == set()
    for node in ("master", "standby"):
        assert [opens(pair, node, role, former[role]) for role in ROLES] == [False, False]
        assert [opens(pair, node, role, new[role]) for role in ROLES] == [True, True]
        assert passfile(pair, node) == f"*:*:*:replicator:{new['replicator']}\n600 postgres\n"
    shown = done.stdout + done.stderr
    assert [p for p in (*former.values(), *new.values()) if p in shown] == []
    verifiers = (
        "SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolcanlogin"
    )
    assert pair.sql("master", verifiers) is True
    pair.checks()


def test_killed_once_the_role_is_changed_a_standby_gets_in_and_the_next_run_completes(
    pair: Herd,
) -> None:
    """A stream that breaks right then comes back by itself: the helper goes on without the run."""
    former = passwords(pair)
    assert killed(pair, CHANGE, "after", "rotate-passwords").killed
    assert passwords(pair) == former
    new = put_by(pair)
    assert [opens(pair, "master", role, new[role]) for role in ROLES] == [True, True]
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication"
    docker("exec", "-u", "postgres", pair.container("master"), "psql", "-XAtc", cut)
    eventually_streams(pair)
    assert "`invoke rotate-passwords`" in pair.invoke("verify", code=1).stderr
    assert "completing what was cut short" in pair.invoke("rotate-passwords").stderr
    assert passwords(pair) == new
    assert put_by(pair) == {}
    pair.checks()


@pytest.mark.long
def test_killed_before_the_role_is_changed(pair: Herd) -> None:
    """Then the helper ends by itself, or the next run ends it."""
    before, former = streams(pair), passwords(pair)
    assert killed(pair, CHANGE, "before", "rotate-passwords").killed
    assert opens(pair, "master", "postgres", former["postgres"])
    new = put_by(pair)
    pair.invoke("rotate-passwords")
    assert (passwords(pair), streams(pair)) == (new, before)


@pytest.mark.long
def test_one_of_the_users_choice_for_a_standby_that_is_down(pair: Herd) -> None:
    former = passwords(pair)
    pair.invoke("sync", "--off")
    docker("stop", pair.container("standby"))
    pair.env["INVOKE_REPLICATOR_PASSWORD"] = CHOSEN
    pair.invoke("rotate-passwords", "--role", "replicator")
    assert passwords(pair) == former | {"replicator": CHOSEN}
    assert "already" in pair.invoke("rotate-passwords", code=2).stderr
    pair.env["INVOKE_REPLICATOR_PASSWORD"] = CHOSEN * 2
    assert "another password" in pair.invoke("setup-master", code=2).stderr
    del pair.env["INVOKE_REPLICATOR_PASSWORD"]
    docker("start", pair.container("standby"))
    eventually_streams(pair)
    pair.invoke("step.require-sync")
    pair.checks()


@pytest.mark.long
def test_what_dry_prints_does_it(pair: Herd, tmp_path: Path) -> None:
    before, former = streams(pair), passwords(pair)
    script = tmp_path / "rotate.sh"
    script.write_text(pair.invoke("--dry", "rotate-passwords").stdout)
    assert (passwords(pair), [p for p in former.values() if p in script.read_text()]) == (
        former,
        [],
    )
    subprocess.run(["sh", str(script)], check=True, capture_output=True, timeout=120)
    assert streams(pair) == before
    assert set(former.values()) & set(passwords(pair).values()) == set()
    pair.checks()


@pytest.mark.long
def test_killed_once_the_role_is_changed_other_tasks_go_by_the_new_one(pair: Herd) -> None:
    """They lay it where the former one is left, and turn nothing back; even with other roles."""
    former = passwords(pair)
    assert killed(pair, CHANGE, "after", "rotate-passwords").killed
    new = put_by(pair)
    eventually_lays(pair, "standby", new["replicator"])
    for tasks in (["stop", "start"], ["setup-master"], ["seed-standby"]):
        said = pair.invoke(*tasks).stderr
        assert "`invoke rotate-passwords` completes it" in said
        assert "password of replicator" not in said
        eventually_lays(pair, "standby", new["replicator"])
        eventually_streams(pair)
    assert opens(pair, "master", "replicator", new["replicator"])
    eventually_lays(pair, "master", new["replicator"])
    for node in ("standby", "master"):
        pair.invoke("switchover", "--to", pair.container(node))
    eventually_streams(pair)
    docker("kill", pair.container("master"))
    pair.invoke("failover", "--max-loss", "any")
    pair.invoke("rejoin", pair.container("master"))
    pair.invoke("switchover", "--to", pair.container("master"))
    assert passwords(pair) == former
    assert "completing what was cut short" in pair.invoke("rotate-passwords").stderr
    assert passwords(pair) == new
    pair.checks()


def eventually_lays(herd: Herd, node: str, password: str) -> None:
    """Wait until a node's passfile has a password."""
    end = time.monotonic() + 30
    while f":{password}\n" not in passfile(herd, node):
        assert time.monotonic() < end, "it has another"
        time.sleep(0.1)


@pytest.mark.long
def test_more_standbys_than_are_worked_on_at_once(make_herd: MakeHerd) -> None:
    """Each has a helper that waits for the change: all of them, and it, go on side by side."""
    herd = make_herd("17", standbys=7)
    herd.invoke("setup-master")
    herd.invoke("add-standby", "--all")
    former = passwords(herd)
    told = herd.invoke("rotate-passwords").stdout
    (unbroken,) = [line for line in told.splitlines() if line.startswith("no stream broke: ")]
    assert unbroken.count("standby") == 7
    assert set(former.values()) & set(passwords(herd).values()) == set()
    assert put_by(herd) == {}
    herd.checks()
