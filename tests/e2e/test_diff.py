"""`invoke diff` on real servers: silent of a fresh pair, and telling each thing that is changed."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from asking import until
from conftest import Herd, MakeHerd, docker, free_port

Told = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    """A pair that was just made."""
    made = make_herd("17")
    made.invoke("setup-master", "seed-standby")
    return made


def answer(herd: Herd, code: int) -> dict[str, Any]:
    """Run diff, and return its JSON."""
    found: dict[str, Any] = json.loads(herd.invoke("diff", "--json", code=code).stdout)
    assert found["same"] is (code == 0)
    return found


def told(herd: Herd) -> Told:
    """Return the differences by what they are and the node, of which there are some."""
    rows = answer(herd, 1)["differences"]
    found = {(row["what"], row["node"].removeprefix(f"{herd.name}-")): row for row in rows}
    assert len(found) == len(rows)
    return found


@contextmanager
def asking(herd: Herd, role: str, **keys: Any) -> Iterator[None]:
    """Have the topology ask for something else of a node."""
    before = dict(herd.nodes[role])
    herd.nodes[role] |= keys
    herd.write()
    try:
        yield
    finally:
        herd.nodes[role] = before
        herd.write()


def test_a_fresh_pair_has_no_difference(herd: Herd) -> None:
    assert herd.invoke("diff").stdout == f"diff of {herd.name}: no difference\n"
    found = answer(herd, 0)
    assert (found["differences"], found["notes"], found["unreachable"]) == ([], [], {})


def test_what_the_topology_asks_otherwise(herd: Herd) -> None:
    """Port, settings, names, a node that it does not have any more: nothing is touched for it."""
    name = herd.container("standby")
    with asking(herd, "standby", port=free_port(), application_name="other"):
        herd.group["sync"] = "FIRST 1 (other)"
        herd.write()
        found = told(herd)
        herd.group["sync"] = "FIRST 1 (standby1)"
    assert set(found) == {
        ("port", "standby"), ("application-name", "standby"), ("slot", "standby"),
        ("slot", "master"), ("sync", "master"),
    }  # fmt: skip
    assert found["port", "standby"]["command"] == "invoke down start"
    assert f":{herd.nodes['standby']['port']}" in found["port", "standby"]["found"]
    assert found["slot", "standby"]["command"] == f"invoke rejoin {name}"
    assert found["sync", "master"]["command"] == "invoke step.require-sync"

    settings = {"work_mem": "5MB"}
    with asking(herd, "standby", settings=settings), asking(herd, "master", settings=settings):
        found = told(herd)
    told_so = {row["found"] for row in found.values()}
    assert told_so == {"work_mem is not set, and '5MB' is asked"}
    assert {key: row["command"] for key, row in found.items()} == {
        ("settings", "master"): "invoke apply",
        ("settings", "standby"): "invoke apply",
    }

    standby = herd.nodes.pop("standby")
    herd.group["sync"] = ""
    herd.write()
    found = told(herd)
    herd.nodes["standby"], herd.group["sync"] = standby, "FIRST 1 (standby1)"
    herd.write()
    remove = f"invoke remove-standby {name}"
    assert {key: row["command"] for key, row in found.items()} == {
        ("stranger", "standby"): remove,
        ("slot", "master"): remove,
        ("sync", "master"): "invoke step.require-sync",
    }
    answer(herd, 0)


def test_what_somebody_changed_by_hand(herd: Herd) -> None:
    for statement in (
        "SELECT pg_create_physical_replication_slot('nobodys', true)",
        "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (x, standby1)'",
        "ALTER SYSTEM SET max_connections = 90",
        "SELECT pg_reload_conf()",
    ):
        herd.sql("master", statement)
    name = herd.container("standby")
    docker("update", "--restart", "no", name)
    docker("stop", name)
    found = told(herd)
    drop = "\"SELECT pg_drop_replication_slot('nobodys')\""
    assert {key: row["command"] for key, row in found.items()} == {
        ("sync", "master"): "invoke step.require-sync",
        ("slot", "master"): f"invoke psql --node {herd.container('master')} --command {drop}",
        ("restart-due", "master"): "invoke stop start",
        ("state", "standby"): f"invoke rejoin {name}",  # as of one that was fenced
        ("restart", "standby"): f"invoke rejoin {name}",
    }
    said = herd.invoke("diff", code=1).stdout
    assert "cure   `invoke stop start`" in said
    assert said.endswith(f"diff of {herd.name}: 5 differences\n")

    herd.sql("master", "ALTER SYSTEM RESET max_connections")
    herd.sql("master", "SELECT pg_reload_conf()")
    herd.invoke(*shlex.split(found["slot", "master"]["command"])[1:])
    docker("update", "--restart", "unless-stopped", name)
    herd.invoke("start", "step.require-sync")
    answer(herd, 0)


def test_the_commands_close_what_they_are_named_for(herd: Herd) -> None:
    settings = {"work_mem": "5MB"}
    for keys in herd.nodes.values():
        keys["settings"] = settings
    herd.nodes["standby"]["port"] = free_port()
    herd.write()
    for row in told(herd).values():
        herd.invoke(*shlex.split(row["command"])[1:])
    answer(herd, 0)


def test_apply_brings_what_runs_to_what_is_asked_and_restarts_nobody(herd: Herd) -> None:
    """What needs a restart is laid and told; what apply does not do is named with its command."""
    started = {role: herd.sql(role, "SELECT pg_postmaster_start_time()") for role in herd.nodes}
    receiver = herd.sql("standby", "SELECT pid FROM pg_stat_wal_receiver")
    herd.nodes["master"]["settings"] = {"work_mem": "6MB", "shared_buffers": "20MB"}
    herd.nodes["standby"]["settings"] = {"work_mem": "7MB"}
    herd.sql("master", "ALTER ROLE replicator NOREPLICATION")
    herd.group["sync"] = "ANY 1 (standby1)"
    herd.write()
    did = herd.invoke("apply")
    assert "a restart is due for shared_buffers: `invoke stop start`" in did.stderr
    assert "invoke stop start" in did.stdout
    assert "invoke step.require-sync" in did.stdout
    for role, size in {"master": "6MB", "standby": "7MB"}.items():
        assert herd.sql(role, "SHOW work_mem") == size
        assert herd.sql(role, "SELECT pg_postmaster_start_time()") == started[role]
    assert herd.sql("standby", "SELECT pid FROM pg_stat_wal_receiver") == receiver
    role = "SELECT rolreplication FROM pg_roles WHERE rolname = 'replicator'"
    assert herd.sql("master", role) is True
    herd.group["sync"] = "FIRST 1 (standby1)"
    for keys in herd.nodes.values():
        keys.pop("settings", None)
    herd.write()
    assert "What apply does not do" not in herd.invoke("apply").stdout
    answer(herd, 0)


def test_apply_says_whom_it_did_not_reach(herd: Herd) -> None:
    herd.nodes["master"]["settings"] = {"work_mem": "9MB"}
    herd.write()
    docker("pause", herd.container("standby"))
    said = herd.invoke("apply", code=1).stderr
    docker("unpause", herd.container("standby"))
    assert f"{herd.container('standby')} does not answer" in said
    assert herd.sql("master", "SHOW work_mem") == "9MB"
    del herd.nodes["master"]["settings"]
    herd.write()
    herd.invoke("apply")
    answer(herd, 0)


# --- uri ---


def port_of(herd: Herd, *words: str, **env: str) -> int:
    """Return the published port of the server that a psql of this machine comes to."""
    names = {herd.container(role): keys["port"] for role, keys in herd.nodes.items()}
    done = subprocess.run(
        ["psql", "-XAt", *words, "-c", "SHOW cluster_name"],
        env=herd.environment(**env), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(names[done.stdout.strip()])


def test_strings_lead_to_the_role_that_is_wanted(herd: Herd) -> None:
    password = (herd.secrets() / "postgres.password").read_text(encoding="utf-8").strip()
    ports = {"primary": herd.nodes["master"]["port"], "standby": herd.nodes["standby"]["port"]}
    for role, port in ports.items():
        [uri] = herd.invoke("uri", "--role", role).stdout.splitlines()
        assert port_of(herd, uri, PGPASSWORD=password) == port
        [line] = herd.invoke("uri", "--role", role, "--format", "psycopg").stdout.splitlines()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGPASSWORD", password)
            with eval(line, {"psycopg": psycopg}) as connection:  # noqa: S307
                assert connection.info.port == port

        said = herd.invoke("uri", "--role", role, "--format", "env").stdout
        assert password not in said
        done = subprocess.run(
            ["sh", "-c", 'eval "$URI"; exec psql -XAt -c "SELECT pg_is_in_recovery()"'],
            env=herd.environment(URI=said), capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.stdout.strip() == ("t" if role == "standby" else "f"), done.stderr
    assert "--format is libpq" in herd.invoke("uri", "--format", "odbc", code=2).stderr


def test_reads_go_on_without_a_standby(herd: Herd) -> None:
    password = (herd.secrets() / "postgres.password").read_text(encoding="utf-8").strip()
    [uri] = herd.invoke("uri", "--role", "standby").stdout.splitlines()
    docker("pause", herd.container("standby"))
    try:
        assert told(herd)["state", "standby"]["command"].startswith("docker unpause")
    finally:
        docker("unpause", herd.container("standby"))
    docker("stop", herd.container("standby"))
    assert port_of(herd, uri, PGPASSWORD=password) == herd.nodes["master"]["port"]


@pytest.mark.long
def test_with_the_roles_swapped_it_is_a_note(herd: Herd) -> None:
    """The standby is promoted with the master away; what was asked of both holds as it is now."""
    master, standby = herd.container("master"), herd.container("standby")
    herd.invoke("start")
    herd.invoke("stop")
    docker("start", standby)
    until(lambda: answer(herd, 1)["differences"][0]["what"] == "primary")
    found = told(herd)
    assert found["primary", herd.name]["command"] == "invoke start"
    assert found["state", "master"]["command"] == "invoke start"
    herd.invoke("psql", "--node", standby, "--command", "SELECT pg_promote()")
    herd.invoke("seed-standby", "--node", master)
    assert answer(herd, 0)["notes"] == [
        {
            "sentence": f"{standby} is primary now, and {master} in the topology",
            "command": f"invoke switchover --to {master}",
        }
    ]
    assert f"`invoke switchover --to {master}` swaps them back" in herd.invoke("diff").stdout
    [uri] = herd.invoke("uri", "--role", "primary").stdout.splitlines()
    password = (herd.secrets() / "postgres.password").read_text(encoding="utf-8").strip()
    assert port_of(herd, uri, PGPASSWORD=password) == herd.nodes["standby"]["port"]


@pytest.mark.long
def test_without_containers(herd: Herd) -> None:
    """The data tells the way back: with it, start; without, they are made."""
    herd.invoke("down")
    commands = {key: row["command"] for key, row in told(herd).items()}
    assert commands == {
        ("container", "master"): "invoke start", ("container", "standby"): "invoke start"
    }  # fmt: skip
    herd.invoke("start")
    answer(herd, 0)
    herd.invoke("down", "--purge", "--confirm", herd.name, "--delete-data")
    commands = {key: row["command"] for key, row in told(herd).items()}
    assert commands == {
        ("container", "master"): "invoke setup-master",
        ("container", "standby"): f"invoke add-standby {herd.container('standby')}",
    }
