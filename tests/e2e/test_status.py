"""`invoke status` on real servers: what it tells when all is well, and of each thing that hurts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker
from trial import inside

KEYS = {
    "name", "host", "role", "timeline", "upstream", "state", "sync_state", "lag_bytes",
    "lag_seconds", "slot", "retained_bytes", "conflicts",
}  # fmt: skip


@pytest.fixture(scope="module")
def trio(make_herd: MakeHerd) -> Herd:
    """A master, a synchronous standby, and one that follows that."""
    herd = make_herd("17", 2)
    herd.nodes["standby2"]["upstream"] = herd.container("standby")
    herd.write()
    last = herd.container("standby2")
    herd.invoke("setup-master", "seed-standby", "seed-standby", "--node", last)
    return herd


def seen(herd: Herd) -> dict[str, Any]:
    """Return the object of `status --json`; the exit status has to fit."""
    words = [*INVOKE, "status", "--json"]
    done = subprocess.run(
        words, cwd=ROOT, env=herd.environment(), capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if answer["ok"] else 1), done.stderr
    assert answer["ok"] is not bool(answer["warnings"])
    answer["nodes"] = {node["name"].rpartition("-")[2]: node for node in answer["nodes"]}
    return answer


def codes(answer: dict[str, Any]) -> dict[str, str]:
    """Return of each warning the code and the node's role in the topology."""
    return {w["code"]: (w["node"] or "").rpartition("-")[2] for w in answer["warnings"]}


def comes_to(
    herd: Herd,
    wanted: dict[str, str],
    also: Callable[[Any], bool] = bool,
    *,
    seconds: float = 20,
) -> Any:
    """Look until these are the warnings, for some seconds."""
    end = time.monotonic() + seconds
    while codes(answer := seen(herd)) != wanted or not also(answer):
        assert time.monotonic() < end, answer
        time.sleep(0.2)
    return answer


@contextmanager
def psql(herd: Herd, role: str, before: str, after: str) -> Iterator[None]:
    """Run SQL on a node, and what takes it back."""
    herd.sql(role, before)
    yield
    herd.sql(role, after)


def test_all_is_well(trio: Herd) -> None:
    answer = comes_to(trio, {})
    assert set(answer) == {"group", "ok", "nodes", "warnings"}
    assert all(set(node) == KEYS for node in answer["nodes"].values())
    master, standby, last = answer["nodes"].values()
    assert (master["role"], master["upstream"], master["lag_bytes"]) == ("primary", None, None)
    assert (standby["upstream"], last["upstream"]) == (master["name"], standby["name"])
    assert (standby["role"], standby["state"], standby["sync_state"]) == (
        "standby", "streaming", "sync",
    )  # fmt: skip
    assert (last["state"], last["sync_state"], last["slot"]) == ("streaming", "async", "standby2")
    text = trio.invoke("status").stdout
    assert text.endswith(f"status of {trio.name}: all is well\n")


def test_lag_is_nothing_when_idle(trio: Herd) -> None:
    trio.sql("master", "CREATE TABLE IF NOT EXISTS idle (a int)")
    time.sleep(2.5)
    answer = comes_to(trio, {}, lambda a: a["nodes"]["standby2"]["lag_bytes"] == 0)
    for role in ("standby", "standby2"):
        assert (answer["nodes"][role]["lag_bytes"], answer["nodes"][role]["lag_seconds"]) == (0, 0)


def test_one_look_is_one_round_trip(trio: Herd) -> None:
    lines = trio.invoke("--debug", "--echo", "status").stderr.splitlines()
    assert [line for line in lines if line.startswith("+")] == ["+ sh -s <<'EOF'"]


def test_paused_replay(trio: Herd) -> None:
    with psql(trio, "standby2", "SELECT pg_wal_replay_pause()", "SELECT pg_wal_replay_resume()"):
        trio.sql("master", "INSERT INTO idle VALUES (1)")
        answer = comes_to(
            trio, {"replay-paused": "standby2"}, lambda a: a["nodes"]["standby2"]["lag_bytes"]
        )
        assert answer["nodes"]["standby2"]["lag_seconds"] > 0
        assert answer["nodes"]["standby"]["lag_bytes"] == 0
    comes_to(trio, {})


def test_a_slot_of_nobody(trio: Herd) -> None:
    make = "SELECT pg_create_physical_replication_slot('nobody', true)"
    with psql(trio, "master", make, "SELECT pg_drop_replication_slot('nobody')"):
        assert codes(seen(trio)) == {"slot-unused": "master"}


def test_a_slot_keeps_much_wal_and_then_has_lost_it(trio: Herd) -> None:
    """The one of a node that does not use it: more than max_wal_size, and then the bound is met."""
    inside(trio, "master", "SELECT pg_create_physical_replication_slot('standby2', true)")
    for setting in ("max_wal_size = '32MB'", "min_wal_size = '32MB'"):
        inside(trio, "master", f"ALTER SYSTEM SET {setting}")
    inside(trio, "master", "SELECT pg_reload_conf()")
    for _ in range(5):
        inside(trio, "master", "SELECT pg_logical_emit_message(true, '', 'x')")
        inside(trio, "master", "SELECT pg_switch_wal()")
    comes_to(trio, {"slot-retains": "standby2"})
    inside(trio, "master", "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    inside(trio, "master", "SELECT pg_reload_conf()")
    inside(trio, "master", "CHECKPOINT")
    comes_to(trio, {"slot-lost": "standby2"})
    inside(trio, "master", "SELECT pg_drop_replication_slot('standby2')")
    for setting in ("max_wal_size", "min_wal_size", "max_slot_wal_keep_size"):
        inside(trio, "master", f"ALTER SYSTEM RESET {setting}")
    inside(trio, "master", "SELECT pg_reload_conf()")
    comes_to(trio, {})


def test_commits_wait_for_others_than_is_asked(trio: Herd) -> None:
    """Where the topology asks for it, what is printed goes back to that."""
    trio.invoke("sync", "--mode", "ANY 1 (standby1)")
    text = comes_to(trio, {"sync-differs": "master"})["warnings"][0]["text"]
    assert "`invoke step.require-sync`" in text
    trio.invoke("step.require-sync")
    comes_to(trio, {})


def test_a_server_that_does_not_answer(trio: Herd) -> None:
    docker("pause", trio.container("standby2"))
    try:
        told = comes_to(trio, {"no-answer": "standby2"})["warnings"][0]["text"]
    finally:
        docker("unpause", trio.container("standby2"))
    assert f"docker unpause {trio.container('standby2')}" in told
    comes_to(trio, {})


def test_a_foreign_container_has_a_nodes_name(trio: Herd) -> None:
    """The node itself is renamed for that, and goes on under another name."""
    name = trio.container("standby2")
    image = docker("inspect", "--format", "{{.Config.Image}}", name)
    docker("rename", name, f"{name}-away")
    docker("create", "--name", name, "--entrypoint", "true", image)
    try:
        comes_to(trio, {"foreign": "standby2"})
    finally:
        docker("rm", name)
        docker("rename", f"{name}-away", name)
    comes_to(trio, {})


@pytest.mark.long
def test_a_standby_that_tells_nothing_any_more(trio: Herd) -> None:
    """Its receiver stands still: the connection is there, and nothing comes of it."""
    name = trio.container("standby2")
    pid = inside(trio, "standby2", "SELECT pid FROM pg_stat_wal_receiver")
    signalled = ["exec", "--user", "postgres", name, "sh", "-c"]
    docker(*signalled, f"kill -s STOP {pid}")
    try:
        comes_to(trio, {"silent": "standby2"}, seconds=60)
    finally:
        docker(*signalled, f"kill -s CONT {pid}")
    comes_to(trio, {})


def test_a_delayed_standby_is_well(trio: Herd) -> None:
    delay = "ALTER SYSTEM SET recovery_min_apply_delay = '1h'"
    with psql(trio, "standby2", delay, "ALTER SYSTEM RESET recovery_min_apply_delay"):
        trio.sql("standby2", "SELECT pg_reload_conf()")
        trio.sql("master", "INSERT INTO idle VALUES (2)")
        answer = comes_to(trio, {}, lambda a: a["nodes"]["standby2"]["lag_bytes"])
        assert answer["nodes"]["standby2"]["lag_seconds"] > 0
        assert "streaming, 1 h late on purpose" in trio.invoke("status").stdout
    trio.sql("standby2", "SELECT pg_reload_conf()")
    comes_to(trio, {}, lambda a: a["nodes"]["standby2"]["lag_bytes"] == 0)


def test_a_watch_prints_one_object_a_line_and_ends_quietly(trio: Herd) -> None:
    words = [*INVOKE, "status", "--watch", "--json", "--interval", "0.2"]
    with subprocess.Popen(
        words, cwd=ROOT, env=trio.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as watch:  # fmt: skip
        assert watch.stdout
        lines = [json.loads(watch.stdout.readline()) for _ in range(3)]
        watch.send_signal(signal.SIGINT)
        _rest, said = watch.communicate(timeout=20)
    assert all(line["ok"] for line in lines)
    assert (watch.returncode, said) == (0, "")


def test_a_standby_that_is_stopped_and_commits_that_hang(trio: Herd) -> None:
    docker("stop", "--time", "60", trio.container("standby2"))
    assert comes_to(trio, {"down": "standby2"})["nodes"]["standby2"]["state"] == "exited"
    docker("start", trio.container("standby2"))
    docker("stop", "--time", "60", trio.container("standby"))
    gone = {"sync-short": "master", "down": "standby", "not-streaming": "standby2"}
    answer = comes_to(trio, gone)
    assert answer["nodes"]["standby"]["slot"] == "standby1"

    def commit() -> None:
        with pytest.raises(psycopg.OperationalError):
            trio.sql("master", "INSERT INTO idle VALUES (3)")

    hanging = threading.Thread(target=commit)
    hanging.start()
    text = comes_to(trio, {"commits-hang": "master"} | gone)["warnings"][0]["text"]
    assert re.search(r"1 commit hangs on \S+-master, for \d+ s, .*INSERT INTO idle", text)
    trio.sql(
        "master",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
    )
    hanging.join(20)
    docker("start", trio.container("standby"))
    comes_to(trio, {})


def test_two_primaries(trio: Herd) -> None:
    """The last of the trio's tests: it is no group any more afterwards."""
    trio.sql("standby", "SELECT pg_promote()")
    two = {"two-primaries": "standby", "old-primary": "master", "sync-off": "standby"}
    last = comes_to(trio, two)["nodes"]["standby2"]
    assert (last["timeline"], last["upstream"]) == (2, trio.container("standby"))
    said = trio.invoke("status", code=1).stdout
    assert f"`invoke rejoin {trio.container('master')}`" in said
    assert said.endswith(f"status of {trio.name}: 3 warnings\n")
    # It knows its timeline when there is nobody to tell it any more, and no checkpoint has.
    docker("stop", "--time", "60", trio.container("standby"))
    answer = comes_to(trio, {"sync-short": "master", "down": "standby", "diverged": "standby2"})
    assert answer["nodes"]["standby2"]["timeline"] == 2


@pytest.mark.long
def test_who_follows_an_old_primary_is_told(make_herd: MakeHerd) -> None:
    """It streams, but from a primary in whose place another one was promoted."""
    herd = make_herd("17", standbys=2, sync="")
    herd.invoke("setup-master", "add-standby", "--all")
    comes_to(herd, {})
    herd.sql("standby", "SELECT pg_promote()")
    two = {"two-primaries": "standby", "old-primary": "master"}
    comes_to(herd, {**two, "wrong-upstream": "standby2"})


@pytest.mark.long
def test_a_pair_that_is_well_stopped_and_gone(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    text = herd.invoke("status", code=1).stdout
    assert "`invoke setup-master`" in text
    assert text.endswith(f"status of {herd.name}: 3 warnings\n")
    herd.invoke("setup-master", "seed-standby")
    assert comes_to(herd, {})["nodes"]["standby"]["sync_state"] == "sync"
    script = herd.invoke("--dry", "status").stdout.splitlines()
    assert f"# status of {herd.name}: all is well" in script
    herd.invoke("stop")
    assert set(codes(seen(herd))) == {"no-primary", "down"}
    herd.invoke("down")
    assert set(codes(seen(herd))) == {"no-primary", "absent"}


def test_exit_statuses(trio: Herd) -> None:
    away = {"DOCKER_HOST": "tcp://127.0.0.1:9"}
    done = trio.invoke("status", "--json", code=3, **away)
    assert done.stdout == ""
    assert done.stderr.count("The Docker Engine does not answer") == 1
    assert "--interval" in trio.invoke("status", "--interval", "soon", code=2).stderr
