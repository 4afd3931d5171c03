"""What the doctor finds of files and servers that are there: each decision, by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cases import BYTES, CONNINFO, absent, asked, group, health, node, path, server, sheet, told
from fakes import container, facts, observation, standby_facts, topology
from fakes import group as some_group

from pgherd.checks import collect, logs, servers, storage
from pgherd.checks.base import NOTE, PROBLEM, WARNING, Checkup
from pgherd.checks.collect import Made
from pgherd.checks.doctor import GROUP_CHECKS, NODE_CHECKS
from pgherd.postgres.facts import Disk

OLD = 1_600_000_000


def levels(case: Any) -> dict[str, str]:
    """Return the level of each finding of a node, by its code."""
    found = Checkup("g")
    found.check(case, NODE_CHECKS)
    return {f.code: f.level for f in found.findings}


# --- files ---


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"owner": "root"}, {"data-owner": PROBLEM}),
        ({"mode": "755"}, {"data-owner": PROBLEM}),
        ({"mode": "750"}, {}),
        ({"recovery_conf": True}, {"recovery-conf": PROBLEM}),
        ({"passfile": "postgres 644"}, {"passfile-open": PROBLEM}),
        ({"passfile": "root 600"}, {"passfile-open": PROBLEM}),
        ({"passfile": "postgres 400"}, {}),
        ({"passfile": "none"}, {"passfile-missing": PROBLEM}),
        ({"keys": ("./server.pem postgres 600", "./client.pem postgres 400")}, {}),
        ({"keys": ("./server.pem postgres 644",)}, {"key-open": PROBLEM}),
        ({"keys": ("./server.pem root 600",)}, {"key-open": PROBLEM}),
        ({"ahead": 3}, {}),
        ({"ahead": 3600}, {"clock-back": WARNING}),
        ({"files": 256}, {"files-few": WARNING}),
    ],
)
def test_the_files_of_a_node(changes: dict[str, Any], found: dict[str, str]) -> None:
    assert levels(node(health=health(**changes))) == found


@pytest.mark.parametrize(
    ("disk", "found"),
    [
        (Disk(pg_version="17", empty=False), {}),
        (Disk(pg_version="15", empty=False), {"wrong-major": PROBLEM}),
        (Disk(empty=False), {"data-foreign": PROBLEM}),
        (Disk(empty=False, half_copied=True), {"data-unfinished": NOTE}),
        (Disk(), {}),
    ],
)
def test_what_lies_in_the_data_directory(disk: Disk, found: dict[str, str]) -> None:
    down = replace(health(), server=None)
    case = absent(path=path(), disk=disk, health=down)
    assert levels(case) == found


def test_a_container_without_a_mount_for_its_data() -> None:
    assert set(told(storage.mounts(node(container=container("pa", mounts=()))))) == {
        "mount-missing"
    }


# --- a server ---


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"bad_lines": ("x: unrecognized",)}, {"settings-broken": PROBLEM}),
        ({"bad_rules": ("line 3: bad",)}, {"hba-broken": PROBLEM}),
        ({"unread": ("pg_hba.conf",)}, {"reload-due": WARNING}),
        (
            {"unread": ("pg_hba.conf",), "bad_rules": ("line 3: bad",)},
            {"hba-broken": PROBLEM},  # a reload would not read it
        ),
        ({"settings": {"fsync": "off"}}, {"not-durable": PROBLEM}),
        ({"settings": {"full_page_writes": "off"}}, {"not-durable": PROBLEM}),
        ({"settings": {"wal_level": "minimal"}}, {"wal-minimal": PROBLEM}),
        ({"settings": {"wal_retrieve_retry_interval": "5000"}}, {"retry-slow": WARNING}),
        ({"bytes": BYTES | {"work_mem": 64 * 2**20}}, {"shm-small": WARNING}),
        ({"bytes": BYTES | {"maintenance_work_mem": 2**30}}, {"shm-small": WARNING}),
        (
            {
                "bytes": BYTES | {"work_mem": 64 * 2**20},
                "settings": {"max_parallel_workers_per_gather": "0"},
            },
            {},
        ),
        ({"clients": 95}, {"connections-full": WARNING}),
        ({"senders": 38}, {"senders-full": WARNING}),
        ({"broken_pages": 2}, {"checksum-failures": PROBLEM}),
        ({"oldest": OLD}, {"wraparound": PROBLEM}),
        ({"collations": ("postgres",)}, {"collation-changed": WARNING}),
    ],
)
def test_a_server(changes: dict[str, Any], found: dict[str, str]) -> None:
    assert levels(node(health=health(server(**changes)))) == found


@pytest.mark.parametrize("alone", [True, False])
def test_rules_for_standbys_are_missed_only_where_there_are_others(alone: bool) -> None:
    """`setup-master` lays none where no standby is asked for."""
    case = node(facts=facts(hba_lets_replicator_in=False), alone=alone)
    assert levels(case) == ({} if alone else {"hba-no-replication": PROBLEM})


def test_the_shm_that_docker_gives() -> None:
    case = node(health=health(shm=(64 * 2**20, 0)))
    assert "has 67.1 MB" in told(servers.shm(case))["shm-small"].text
    assert levels(node(health=health(shm=(2**28, 2**28 - 10)))) == {"shm-small": WARNING}


def test_what_alter_system_set_can_be_taken_back() -> None:
    slow = {"wal_retrieve_retry_interval": "5000"}
    file = "/var/lib/postgresql/data/postgresql.auto.conf"
    mends = [
        f.fixable
        for by in (file, None)
        for f in servers.retry(node(health=health(server(slow, retry_by=by))))
    ]
    assert mends == [True, False]


def test_a_reload_that_changes_grave_things_is_left_to_people() -> None:
    calm, grave = (server(unread=("postgresql.conf",), grave=g) for g in ((), ("fsync",)))
    mends = [f.fixable for s in (calm, grave) for f in servers.reloads(node(health=health(s)))]
    assert mends == [True, False]


def test_a_server_that_lets_no_standby_in() -> None:
    assert levels(node(facts=facts())) == {"hba-no-replication": PROBLEM}


def test_a_restart_that_is_due() -> None:
    due = facts(restart_due=("max_connections",), hba_lets_replicator_in=True)
    assert levels(node(facts=due)) == {"restart-due": WARNING}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"restarts": 2}, {"restarted": NOTE}),
        ({"oom_killed": True}, {"oom-killed": PROBLEM}),
        ({"stop_timeout": None}, {"stop-short": WARNING}),
        ({"stop_timeout": 10}, {"stop-short": WARNING}),
        ({"network": "host"}, {"network-host": WARNING}),
        ({"words": ("postgres", "-c", "max_connections=200")}, {"command-options": WARNING}),
        ({}, {}),
    ],
)
def test_the_container_of_a_server(changes: dict[str, Any], found: dict[str, str]) -> None:
    well = Made(0, False, 268435456, "pgherd-g", 600, ("postgres",))
    case = node(sheet=sheet(containers={"pa": replace(well, **changes)}))
    assert levels(case) == found


def test_a_server_that_ends_as_soon_as_it_is_started() -> None:
    made = Made(9, False, 268435456, "pgherd-g", 600, ("postgres",))
    again = replace(node().container or container("pa"), status="restarting")
    case = node(container=again, sheet=sheet(containers={"pa": made}))
    assert levels(case) == {"restarting": PROBLEM}


# --- its log ---

# PostgreSQL's own sentences, without the prefix that tells time and process.
LINES = dict(
    line.split(": ", 1)
    for line in """\
log-no-rule: FATAL:  no pg_hba.conf entry for replication connection from host "172.18.0.3"
log-password: FATAL:  password authentication failed for user "replicator"
log-wal-removed: ERROR:  requested WAL segment 000000010000000000000003 has already been removed
log-other-system: FATAL:  database system identifier differs between the primary and standby
log-timeline: FATAL:  requested timeline 2 is not a child of this server's history
log-slot: ERROR:  replication slot "s1" does not exist
log-senders: FATAL:  number of requested standby connections exceeds max_wal_senders (currently 1)
log-settings: FATAL:  recovery aborted because of insufficient parameter settings
log-major: FATAL:  database files are incompatible with server
log-owner: FATAL:  data directory "/var/lib/postgresql/data" has wrong ownership
log-tablespace: HINT:  Create this directory for the tablespace before restarting the server.
log-recovery-conf: FATAL:  using recovery command file "recovery.conf" is not supported
log-unreached: could not translate host name "pa" to address: Name or service not known
log-no-space: ERROR:  could not write to file "base/5/16384": No space left on device
log-shm: ERROR:  could not resize shared memory segment "/PostgreSQL.1" to 67108864 bytes
log-panic: PANIC:  could not fsync file "pg_tblspc/16400": No such file or directory
log-io: ERROR:  could not read block 7 in file "base/5/16384": Input/output error
""".splitlines()
)


def test_every_saying_has_its_line() -> None:
    assert set(LINES) == {saying.code for saying in logs.LOG_PATTERNS}


@pytest.mark.parametrize("code", LINES)
def test_what_a_log_says(code: str) -> None:
    stamp = "2026-11-28 12:00:01.000 UTC [9] "
    log = f"{stamp}LOG:  first\n{stamp}{LINES[code]}\n{stamp}LOG:  last\n"
    down = node(streams=False, sheet=sheet(logs={"pa": log}))
    (found,) = logs.log_findings(down)
    assert (found.code, found.level) == (code, PROBLEM)
    assert found.text.endswith(LINES[code])
    serious = [saying.code for saying in logs.LOG_PATTERNS if saying.always and saying.code == code]
    well = [*logs.log_findings(replace(down, streams=True))]
    assert [(f.code, f.level) for f in well] == [(code, WARNING) for code in serious]


@pytest.mark.parametrize(("code", "told_of"), [("log-unreached", False), ("log-panic", True)])
def test_what_is_over_is_not_told(code: str, told_of: bool) -> None:
    """Once it streamed, it reached its primary; a disk that failed has failed."""
    log = f"{LINES[code]}\nLOG:  started streaming WAL from primary at 0/3000000 on timeline 1\n"
    down = node(streams=False, sheet=sheet(logs={"pa": log}))
    assert bool([*logs.log_findings(down)]) is told_of
    after = node(streams=False, sheet=sheet(logs={"pa": f"{log}{LINES[code]}\n"}))
    assert [f.code for f in logs.log_findings(after)] == [code]


@pytest.mark.parametrize(("exit_code", "codes"), [(0, set()), (1, {"log-settings"})])
def test_one_that_was_stopped_in_order_has_nothing_to_explain(
    exit_code: int, codes: set[str]
) -> None:
    box = container("pa", status="exited", exit_code=exit_code)
    log = sheet(logs={"pa": LINES["log-settings"]})
    assert set(told(logs.log_findings(node(container=box, streams=False, sheet=log)))) == codes


def test_a_line_is_told_once() -> None:
    """By the first that knows it: a password that fails is also a connection that does."""
    why = f"could not connect to the primary server: {LINES['log-password']}"
    down = node(streams=False, sheet=sheet(logs={"pa": f"{why}\n"}))
    assert set(told(logs.log_findings(down))) == {"log-password"}


def test_what_somebody_elses_container_says_is_nothing() -> None:
    other = node(owned=False, streams=False, sheet=sheet(logs={"pa": LINES["log-panic"]}))
    assert not [*logs.log_findings(other)]


# --- between nodes ---


def standby(**changes: Any) -> Any:
    """A standby that streams by its name and slot."""
    known = standby_facts(primary_conninfo=CONNINFO, primary_slot="s1", hba_lets_replicator_in=True)
    return node("s1", **{"facts": known, "node": asked("s1", upstream="pa"), **changes})


def between_nodes(*nodes: Any) -> dict[str, str]:
    """Return the level of each finding of a group, by its code."""
    found = Checkup("g")
    found.check(group(*nodes), GROUP_CHECKS)
    return {f.code: f.level for f in found.findings}


def test_a_pair_that_fits() -> None:
    assert between_nodes(node(), standby()) == {}


@pytest.mark.parametrize("name", servers.NOT_LESS)
def test_a_standby_with_less_than_its_primary(name: str) -> None:
    more = {name: "9999"}
    assert between_nodes(node(health=health(server(more))), standby()) == {"settings-less": PROBLEM}
    assert between_nodes(node(), standby(health=health(server(more)))) == {}


def test_another_c_library() -> None:
    other = health(server(libc="2.41"))
    assert between_nodes(node(), standby(health=other)) == {"libc-differs": PROBLEM}
    assert between_nodes(node(), standby(health=health(server(libc=None)))) == {}


@pytest.mark.parametrize(
    ("conninfo", "code"),
    [
        ("host=pa user=replicator", "application-name"),
        ("host=pa application_name=walreceiver", "application-name"),
        ("host=pa application_name=S1", None),  # names compare without regard to case
    ],
)
def test_the_name_by_which_a_standby_streams(conninfo: str, code: str | None) -> None:
    known = standby_facts(primary_conninfo=conninfo, primary_slot="s1", hba_lets_replicator_in=True)
    assert between_nodes(node(), standby(facts=known)) == ({code: PROBLEM} if code else {})


def test_a_standby_without_a_slot() -> None:
    known = standby_facts(primary_conninfo=CONNINFO, hba_lets_replicator_in=True)
    assert between_nodes(node(), standby(facts=known)) == {"no-slot": WARNING}


def test_secrets_that_others_may_read() -> None:
    case = group(node(), secrets=(("/s/a.password", 0o600), ("/s/b.password", 0o644)))
    (found,) = servers.secrets(case)
    assert (found.target, found.fixable, found.level) == ("/s/b.password", True, PROBLEM)


# --- what status tells ---


def test_what_status_warns_of_is_found() -> None:
    made = some_group(topology("s1"))
    paused = standby_facts(primary_conninfo=CONNINFO, replay_paused=True)
    seen = observation(pa=facts(), s1=paused)
    found = told(collect.warnings((made, seen, group(node(), standby()))))
    assert found["replay-paused"].level == WARNING
    assert found["not-streaming"].level == PROBLEM
    assert collect.has_trouble(made, seen) == {"s1"}


def test_of_a_group_that_is_not_there_yet_nothing_is_missing() -> None:
    made = some_group(topology("s1"))
    seen = replace(observation(), nodes=dict(nobody(made).items()))
    assert not [*collect.warnings((made, seen, group(absent(), absent("s1"))))]
    left = group(absent(path=path()), absent("s1"))
    found = told(collect.warnings((made, seen, left)))
    assert {f.level for f in found.values()} == {NOTE}


def nobody(made: Any) -> dict[str, Any]:
    """Return nodes without containers."""
    from pgherd.group.observation import NodeObservation  # noqa: PLC0415

    return {name: NodeObservation(None, None) for name in made.instances}


def test_a_fence_is_taken_away_only_from_a_node_that_does_what_it_should() -> None:
    made = some_group(topology())
    seen = observation(pa=facts())
    fenced = container("pa", restart="no")
    seen = replace(seen, nodes={"pa": replace(seen.nodes["pa"], container=fenced)})
    mends = [
        told(collect.warnings((made, seen, group(node(streams=well)))))["fenced"].fixable
        for well in (True, False)
    ]
    assert mends == [True, False]
