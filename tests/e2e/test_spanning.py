"""A group that spans hosts: the master on one, each standby on another."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import psycopg
import pytest
from far import REFUSED, UNREACHABLE, Far, MakeFar, ended
from host import Host
from machine import lacking, run
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

MEGABYTE = 1_000_000
TABLE = (
    "CREATE TABLE many AS SELECT id, repeat(md5(id::text), 30) FROM generate_series(1, 60000) id"
)
STANDBYS = ("standby", "standby2")


@dataclass
class Made:
    """A group of three, and how many bytes went where while its standbys were seeded."""

    far: Far
    said: str
    master_sent: int
    passed_here: int
    logins: list[int]


def counted(what: str, link: str, *inside: str) -> int:
    """Return how many bytes a link has received, "rx", or sent, "tx"."""
    (told,) = json.loads(run(*inside, "ip", "-json", "-statistics", "link", "show", link))
    return int(told["stats64"][what]["bytes"])


@pytest.fixture(scope="module")
def made(emptied_rig: Rig, make_far: MakeFar) -> Made:
    """A group of three with a table of some 60 MB, made by root and by another user."""
    far = make_far("hosta", "member@hostb", "hostc", sync="ANY 1 (standby1, standby2)")
    hosts = list(emptied_rig.hosts.values())
    far.invoke("setup-master")
    far.sql("master", TABLE)
    size = int(far.sql("master", "SELECT pg_relation_size('many')"))
    assert size > 60 * MEGABYTE
    link, inside = emptied_rig.lan.link, far.host("master").inside()
    before = [counted("rx", link), counted("tx", link), counted("tx", "eth0", *inside)]
    logins = [len(host.logins()) for host in hosts]
    words = [word for role in STANDBYS for word in seed(far, role)]
    done = far.invoke(*words, "verify")
    logins = [len(host.logins()) - many for host, many in zip(hosts, logins, strict=True)]
    here = counted("rx", link) - before[0] + counted("tx", link) - before[1]
    sent = counted("tx", "eth0", *inside) - before[2]
    return Made(far, done.stdout + done.stderr, sent, here, logins)


def seed(far: Far, role: str) -> list[str]:
    return ["seed-standby", "--node", far.container(role)]


def test_both_standbys_are_verified(made: Made) -> None:
    checks = made.far.checks()
    names = {role: {name for name, of in checks if of == role} for role in STANDBYS}
    assert names["standby"] == names["standby2"]
    assert {"streaming", "row-seen", "write-refused"} <= names["standby"]
    for role in STANDBYS:
        assert made.far.sql(role, "SELECT count(*) FROM many") == "60000"
    assert made.logins == [1, 1, 1]


def test_each_host_has_its_own_and_nothing_of_the_others(made: Made) -> None:
    far = made.far
    for role in far.nodes:
        there = far.docker(role, "ps", "--all", "--format", "{{.Names}}").split()
        assert there == [far.container(role)]
        assert (far.home(role) / "pgherd" / far.name / f"{role}_data" / "base").is_dir()
    assert not (far.host("standby").home() / "pgherd").exists()  # root's: it was done as member


def test_base_backups_go_from_server_to_server(made: Made) -> None:
    assert made.master_sent > 2 * 60 * MEGABYTE
    assert made.passed_here < 3 * MEGABYTE


# --- who gets in ---


def test_the_rules_let_in_the_standbys_addresses_and_nobody_else(made: Made) -> None:
    far = made.far
    rules = "SELECT address || ' ' || auth_method FROM pg_hba_file_rules WHERE error IS NULL AND"
    rules += " 'replicator' = ANY (user_name) ORDER BY rule_number"
    gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}}"
    found = far.docker("master", "network", "inspect", "-f", gateway, f"pgherd-{far.name}")
    standbys = [far.host(role).address for role in STANDBYS]
    lines = far.sql("master", rules).splitlines()
    assert lines == [f"{found} reject", *(f"{address} scram-sha-256" for address in standbys)]


def streams(far: Far, host: Host | None, address: str) -> str:
    """What comes of a replication connection with the right password from that host, or here."""
    password = far.passwords()[1]
    port = far.nodes["master"]["port"]
    text = f"host={address} port={port} user=replicator replication=true connect_timeout=5"
    if host is None:
        with pytest.raises(psycopg.OperationalError) as refused:
            psycopg.connect(text, password=password)
        return str(refused.value)
    words = ("run", "--rm", "--env", f"PGPASSWORD={password}", "pgherd/postgres:17", "sh", "-c")
    asked = f"psql -XAt -d '{text}' -c IDENTIFY_SYSTEM 2>&1"
    return host.docker(*words, asked, check=False)


def test_a_connection_for_replication_comes_from_a_standbys_host_only(made: Made) -> None:
    far = made.far
    address = far.nodes["master"]["listen"]
    system = far.sql("master", "SELECT system_identifier FROM pg_control_system()")
    for role in STANDBYS:
        assert streams(far, far.host(role), address).startswith(system)
    here = streams(far, None, address)
    assert f'no pg_hba.conf entry for replication connection from host "{far.rig.machine}"' in here
    beside = streams(far, far.host("master"), address)
    assert "pg_hba.conf rejects replication connection" in beside


@pytest.mark.parametrize("role", STANDBYS)
def test_a_standby_follows_the_masters_address(made: Made, role: str) -> None:
    far = made.far
    info = far.sql(role, "SHOW primary_conninfo")
    assert f"host={far.host('master').address} " in info
    assert f"port={far.nodes['master']['port']} " in info
    assert "password" not in info
    sender = "SELECT sender_host || ' ' || status FROM pg_stat_wal_receiver"
    assert far.sql(role, sender) == f"{far.host('master').address} streaming"


# --- looking, and what is refused ---


def test_hosts_shows_each(made: Made) -> None:
    far = made.far
    answer = json.loads(far.invoke("hosts", "--json").stdout)
    assert (answer["ok"], answer["group"]) == (True, far.name)
    for role, report in zip(far.nodes, answer["hosts"], strict=True):
        name = far.container(role)
        assert (report["name"], report["nodes"]) == (far.destination(role), [name])
        assert report["ok"]
        assert report["containers"] == {name: "running"}
        assert report["image"] == "pgherd/postgres:17"
        platform = far.docker(role, "version", "-f", "{{.Server.Os}}/{{.Server.Arch}}")
        assert report["platform"] == platform
        assert report["free_bytes"] > 100 * MEGABYTE
        assert report["engine"] == far.docker(role, "version", "-f", "{{.Server.Version}}")
        assert abs(report["skew"]) <= report["doubt"] + 0.1
    text = far.invoke("hosts").stdout.splitlines()
    assert text[0].split()[:3] == ["host", "nodes", "Docker"]
    assert [line.split()[:2] for line in text[1:]] == [
        [far.destination(role), far.container(role)] for role in far.nodes
    ]


@pytest.mark.long
def test_new_passwords_on_all_hosts(made: Made) -> None:
    far = made.far
    streams = (
        "SELECT string_agg(pid || ' ' || backend_start, ',' ORDER BY pid) FROM pg_stat_replication"
    )
    before, former = far.sql("master", streams), far.passwords()
    assert "no stream broke: standby" in far.invoke("rotate-passwords").stdout
    new = far.passwords()
    assert (far.sql("master", streams), set(former) & set(new)) == (before, set())
    passfile = f"*:*:*:replicator:{new[1]}"
    for role in far.nodes:
        look = ("exec", far.container(role), "cat", "/etc/pgherd/passfile")
        assert far.docker(role, *look) == passfile
    far.checks()


def test_an_audit_looks_at_each_host(made: Made) -> None:
    """And finds what is planted on one, by a user who sees the arguments of all processes."""
    far = made.far
    said = far.invoke("audit").stdout
    assert said.endswith(f"audit of {far.name}: nothing found, 3 nodes looked into\n")
    assert "member sees the environments of their own processes only" in said
    shell = 'setsid sh -c "sleep 60; :" "$1" >/dev/null 2>&1 & echo $!'
    session = far.host("standby").run("sh", "-c", shell, "sh", far.passwords()[0]).strip()
    try:
        found = json.loads(far.invoke("audit", "--json", code=1).stdout)["findings"]
    finally:
        far.host("standby").run("pkill", "--session", session, check=False)
    assert {finding["code"] for finding in found} == {"secret-argv"}
    # hosts of the rig may see each other's processes
    assert "(sh) of member@hostb" in {f["host"]: f["where"] for f in found}["member@hostb"]


def test_the_method_copy_is_refused(made: Made) -> None:
    far = made.far
    before = far.things()
    copy = ["--method", "copy", "--rebuild", "--allow-async", "--yes"]
    said = far.invoke(*seed(far, "standby2"), *copy, code=REFUSED).stderr
    assert f"{far.container('standby2')} is on hostc and {far.container('master')} on hosta" in said
    assert "basebackup goes from server to server" in said
    assert far.things() == before
    far.checks()


@pytest.mark.long
def test_one_host_that_is_down_is_named_and_nothing_is_changed(rigged: Rig, made: Made) -> None:
    far = made.far
    before = far.things()
    rigged.hosts["hostc"].stop_sshd()
    again = [*seed(far, "standby2"), "--rebuild", "--allow-async"]
    for words in (again, ["setup-master"], ["start"], ["rotate-passwords"], ["down"]):
        said = ended(far.begin(*words), 15, UNREACHABLE)
        address = rigged.hosts["hostc"].address
        assert f"hostc (root@{address}:22) cannot be reached by SSH" in said
        assert "Connection refused" in said
    answer = json.loads(far.invoke("hosts", "--json", code=UNREACHABLE).stdout)
    assert [(host["name"], host["ok"]) for host in answer["hosts"]] == [
        ("hosta", True), ("member@hostb", True), ("hostc", False),
    ]  # fmt: skip
    assert "Connection refused" in answer["hosts"][2]["fault"]
    found = json.loads(far.invoke("audit", "--json", code=UNREACHABLE).stdout)
    assert (found["findings"], found["nodes"], list(found["unreachable"])) == ([], 2, ["hostc"])
    other = far.invoke(*seed(far, "standby")).stderr  # what needs that host not
    assert f"{far.container('standby2')}: left out, since hostc cannot be reached" in other
    assert f"{far.container('standby')}: already streams" in other
    assert far.things() == before
    rigged.hosts["hostc"].repair()
    far.checks()


def test_a_firewall_that_lets_only_ssh_through_from_here(rigged: Rig, made: Made) -> None:
    far = made.far
    for role, node in far.nodes.items():
        rule = ("--source", rigged.machine, "--protocol", "tcp", "--dport", str(node["port"]))
        words = ("--table", "raw", "--append", "PREROUTING", *rule, "--jump", "DROP")
        far.host(role).run("iptables", "--wait", *words)
    with pytest.raises(psycopg.OperationalError), far.connect("master"):
        pass
    began = time.monotonic()
    far.checks()
    assert time.monotonic() - began < 20


@pytest.mark.long
def test_stop_and_start_and_a_purge_on_all_hosts(made: Made) -> None:
    far = made.far
    far.invoke("stop")
    far.invoke("start")
    far.checks()
    far.invoke("down", "--purge", "--confirm", far.name, "--delete-data")
    for role in far.nodes:
        assert far.docker(role, "ps", "--all", "--quiet") == ""
        assert f"pgherd-{far.name}" not in far.docker(role, "network", "ls")
        assert list((far.home(role) / "pgherd" / "secrets").iterdir()) == []
        assert not far.data(role).exists()


# --- here and there ---


@pytest.mark.usefixtures("rigged")
@pytest.mark.long
def test_a_master_here_and_a_standby_there(make_far: MakeFar) -> None:
    far = make_far("local", "member@hosta")
    far.invoke("setup-master", "seed-standby", "verify")
    assert "already" in far.invoke("seed-standby").stderr
    sender = "SELECT sender_host FROM pg_stat_wal_receiver"
    assert far.sql("standby", sender) == far.rig.machine
    senders = "SELECT host(client_addr) || ' ' || sync_state FROM pg_stat_replication"
    assert far.sql("master", senders) == f"{far.host('standby').address} sync"
