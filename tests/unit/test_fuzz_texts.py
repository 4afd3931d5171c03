"""Every text that is taken apart: it gives a value, or a sentence, and never anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import (
    ANSWER,
    FakeHost,
    Said,
    facts,
    group,
    listed,
    observation,
    standby_facts,
    topology,
)
from fuzzing import NASTY, WORDS, changed, check_told, fuzz, nearly
from hypothesis import example, given
from hypothesis import strategies as st

from pgherd.checks import status
from pgherd.config.sync_names import Sync
from pgherd.config.values import Destination
from pgherd.docker.engine import Engine
from pgherd.errors import Error, Refused
from pgherd.group import platforms, preconditions
from pgherd.group.group import read_answers
from pgherd.group.observation import NodeObservation, Observation
from pgherd.group.sync_state import read_sync
from pgherd.hosts import ssh_config, ssh_keys, supervisor
from pgherd.hosts.commands import Secret, Trace
from pgherd.hosts.lock import hold_lock, is_gone
from pgherd.operations import remove, show
from pgherd.operations.data_loss import read_limit
from pgherd.operations.seed import SeedOptions
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Disk, Facts, NoAnswer
from pgherd.postgres.history import Beyond, History
from pgherd.report import status as report_status
from pgherd.security.passwords import Passwords


def told(act: Callable[[], Any]) -> Any:
    """Return what comes of it; None where it is told in a sentence that this cannot be."""
    try:
        return act()
    except Error as fault:
        check_told(fault)
        return None


# --- docker's JSON ---

CONTAINER: dict[str, Any] = {
    "Id": "abc", "Name": "/pa", "Image": "sha256:17",
    "State": {"Status": "running", "ExitCode": 0, "StartedAt": "2026-01-01T00:00:00Z"},
    "Config": {"Image": "postgres:17", "Labels": {"pgherd.group": "g"}},
    "HostConfig": {
        "PortBindings": {"5432/tcp": [{"HostIp": "", "HostPort": "5432-5433"}]},
        "RestartPolicy": {"Name": "no"},
    },
    "Mounts": [{"Type": "bind", "Source": "/d", "Destination": "/t", "RW": True},
               {"Type": "volume", "Name": "vv", "Destination": "/v", "RW": False}],
}  # fmt: skip
IMAGE: dict[str, Any] = {
    "Id": "sha256:17", "RepoTags": ["postgres:17"], "RepoDigests": [], "Size": 1, "Os": "linux",
    "Architecture": "amd64", "RootFS": {"Layers": ["a"]},
    "Config": {"Env": ["PG_MAJOR=17"], "Volumes": {"/v": {}}, "Cmd": ["postgres"]},
}  # fmt: skip
NETWORK = {"Name": "pgherd-g", "Labels": {"pgherd.group": "g"}, "Containers": {}}


@fuzz(60)
@given(
    changed([[CONTAINER], [CONTAINER, CONTAINER]]).map(json.dumps) | nearly([json.dumps([IMAGE])])
)
@example("[" * 100_000)
@example('["\\ud800"]')
def test_containers(text: str) -> None:
    engine = Engine(FakeHost({"sh": Said(text)}))
    found = told(engine.containers)
    for name, container in (found or {}).items():
        assert container.name == name
        assert all(isinstance(port, int) for _, port in container.ports)


@fuzz(60)
@given(
    changed([json.loads(listed("x", ports="0.0.0.0:1-2->3/tcp", mounts="/a,b"))]).map(json.dumps)
)
def test_listed_containers(text: str) -> None:
    engine = Engine(FakeHost({"sh": Said(f"[]\n== OTHERS\n{text}\n")}))
    for name, container in (told(engine.containers) or {}).items():
        assert container.name == name


@fuzz(60)
@given(changed([[IMAGE]]).map(json.dumps))
def test_images(text: str) -> None:
    engine = Engine(FakeHost({"docker image": Said(text), "docker network": Said(text)}))
    told(lambda: engine.image("postgres:17", "sha256:17"))


@fuzz(40)
@given(changed([[NETWORK], []]).map(json.dumps))
def test_networks(text: str) -> None:
    plan = {"docker network inspect": Said(text), "docker network rm": Said("", "no", 1)}
    engine = Engine(FakeHost(plan))
    told(lambda: engine.check_network("pgherd-g", "g"))
    told(lambda: engine.remove_network("pgherd-g"))


# --- what servers say of themselves ---

SENDER = {
    "application_name": "s1", "state": "streaming", "sync_state": "sync", "sent": "0/3000000",
    "flush": "0/3000000", "replay": "0/3000000", "backend_start": "2026", "replay_lag": 0.1,
    "silent": 1.5,
}  # fmt: skip
SLOT = {
    "name": "s1", "active": True, "restart": "0/2000000", "wal_status": "reserved",
    "retained": 5, "left": None,
}  # fmt: skip
TABLESPACE = {
    "name": "t", "path": "/t", "lies": "mount", "databases": [{"name": "d", "default": False}],
}  # fmt: skip
WAITER = {"pid": 1, "since": "2026", "seconds": 9.5, "query": "INSERT"}
PRIMARY = ANSWER | {
    "senders": [SENDER], "slots": [SLOT], "sync_waiters": [WAITER], "sync_names": "FIRST 1 (s1)",
    "restart_due": ["work_mem"], "tablespaces": [TABLESPACE],
    "written": {"work_mem": "4MB", "x": None},
    "clients": [{"pid": 2, "user": "u", "application_name": "a", "state": "idle"}],
    "replicator": {"replication": True, "login": True, "superuser": False},
}  # fmt: skip
STANDBY = ANSWER | {
    "in_recovery": True, "received": "0/3000000", "timeline": 2, "history": "1\t0/2000000\tx\n",
    "primary_conninfo": "host=pa port=5432 application_name='s1'", "primary_slot": "s1",
    "receiver": {"status": "streaming", "timeline": 2, "slot": "s1", "sender": "pa", "port": 5432},
}  # fmt: skip
GROUP = group(topology("s1", sync="s1"))


@fuzz(70)
@given(
    changed([PRIMARY, STANDBY]).map(json.dumps) | nearly([json.dumps(PRIMARY), json.dumps(STANDBY)])
)
@example("[" * 100_000)
def test_facts(text: str) -> None:
    found = told(lambda: Facts.parse(text))
    if found is None:
        return
    assert found.end
    assert found.position >= (0, 0) or found.timeline < 0
    told(lambda: found.came_through.fork(History.parse(1, "")))
    assert found.sender("nobody") is None
    read_sync(found.sync_names)
    conf.read_conninfo(found.primary_conninfo)
    seen = {
        "pa": NodeObservation(CONTAINERS["pa"], found),
        "s1": NodeObservation(CONTAINERS["s1"], standby_facts()),
    }
    for nodes in (
        seen,
        {
            "pa": NodeObservation(CONTAINERS["pa"], facts()),
            "s1": NodeObservation(CONTAINERS["s1"], found),
        },
    ):
        judged = status.judge(GROUP, Observation(nodes, {"local": CONTAINERS}))
        assert report_status.status_text(judged)
        assert json.loads(report_status.status_json(judged))["group"] == "g"


CONTAINERS = observation(pa=None, s1=None).engines["local"]


@fuzz(60)
@given(
    nearly(
        [f"== pa 0\n{json.dumps(PRIMARY)}\n== pa stderr\n\n== s1 2\nno\n== s1 stderr\npsql: x\n"]
    )
)
def test_answers(text: str) -> None:
    for found in read_answers(text).values():
        assert isinstance(found, NoAnswer | Facts)


CONTROL = """pg_version=17
ours=1
settings=abc
sync_names=FIRST 1 (s1)
history=1 0/2000000;
pg_control version number:            1700
Database system identifier:           7438000000000000001
Database cluster state:               shut down
Latest checkpoint location:           0/3000028
Latest checkpoint's TimeLineID:       2
Min recovery ending loc's timeline:   0
Data page checksum version:           1
"""


@fuzz(60)
@given(nearly([CONTROL]))
def test_control_data(text: str) -> None:
    disk = told(lambda: Disk.parse(text))
    if disk:
        told(lambda: disk.position)
        told(lambda: disk.came_through.fork(History.parse(1, "")))
        assert disk.unfinished in {True, False}


@fuzz(50)
@given(nearly(["1\t0/5000148\tpromoted\n2\t0/7000000\tx\n"]), nearly(["1 0/5000148;\n"]))
def test_histories(one: str, other: str) -> None:
    mine, theirs = History.parse(3, one), History.parse(2, other)
    assert mine.fork(theirs) == theirs.fork(mine)
    for timeline, lsn in mine.ended:
        assert timeline < 10**10
        assert conf.lsn_to_int(lsn) >= 0


@fuzz(60)
@given(nearly(["pg_version=17\nbeyond=0/5000180 54 3\n"]), nearly(["0/5000148"]))
def test_wal_beyond(text: str, start: str) -> None:
    found = told(lambda: Beyond.read(text, start))
    assert found is None or found.size >= 0


@fuzz(60)
@given(nearly(["16/B374D848"]) | WORDS)
def test_wal_positions(text: str) -> None:
    found = told(lambda: conf.lsn_to_int(text))
    if found is not None:
        assert conf.lsn_to_int(f"{found >> 32:X}/{found & 0xFFFFFFFF:X}") == found


@fuzz(50)
@given(nearly(["host=pa port=5432 application_name='s\\'1' passfile=/etc/x"]))
def test_connection_strings(text: str) -> None:
    found = conf.read_conninfo(text)
    assert isinstance(remove._application(text), str)
    for key, value in found.items():
        if "\0" not in value + key:
            assert conf.read_conninfo(conf.conninfo(**{key: value})) == {key: value}


@fuzz(60)
@given(
    text=nearly(
        ["host all all all scram-sha-256\n# x\nhost replication replicator $neighbours x\n"]
    )
)
def test_access_rules(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgherd.config.loader.conf_file", lambda _: text)
        from pgherd.group.node_config import hba_rules, settings  # noqa: PLC0415

        instance = GROUP.instance("pa")
        rules = "\n".join(hba_rules(instance))
        told(lambda: settings(instance))
    assert "$neighbours" not in rules
    script = scripts.compose("hba", rules=rules, elsewhere="").text()
    assert script.count("\n") >= rules.count("\n")


@fuzz(60)
@given(
    text=st.lists(st.sampled_from(["END-OF-FILE", "touch X", "|END-OF-SECRET|", "é", "E", *NASTY]))
)
def test_no_text_ends_its_here_document(text: list[str]) -> None:
    """What is laid into a file, or is a password, is never a line of the script itself."""
    body = "\n".join(text)
    for made in (
        scripts.lay("$f", body),
        scripts.block("$f", "b", body),
        scripts.auto_conf(("a",), body),
    ):
        start, _, rest = made.partition("\n")
        end = start.rpartition("<<")[2].strip("'")
        inner = rest.split("\n")
        assert inner.index(end) == len(inner) - 2
    for word in text:
        if "\n" not in word:
            lines = scripts.password("p", Secret(word, "/p")).text().split("\n")
            end = lines[0].rpartition("<<")[2].strip("'")
            assert lines.index(end) == len(lines) - 3


# --- hosts ---

SSH_G = """host box
user ada
hostname box.example.org
port 22
proxyjump none
identityfile ~/.ssh/id_%u
userknownhostsfile ~/.ssh/known_hosts ~/.ssh/known_hosts2
"""


@fuzz(60)
@given(text=nearly([SSH_G, SSH_G + "proxyjump ada@jump:22,b\n"]))
def test_ssh_configuration(text: str) -> None:
    def route() -> list[str]:
        hops = ssh_config.Settings(None, print).route("box")
        for hop in hops:
            hop.paths("identityfile")
            hop.listed("userknownhostsfile")
        return [str(hop) for hop in hops]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssh_config, "LocalHost", lambda _: FakeHost({"ssh": Said(text)}))
        told(route)


@fuzz(40)
@given(text=nearly(["Host box\n  User ada\n  Port 22\nMatch host b\n  Include x\n  ProxyJump a\n"]))
def test_ssh_configuration_without_ssh(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "ssh_config"
    file.write_bytes(text.encode("utf-8", "replace"))
    settings = ssh_config.Settings(str(file), lambda _: None)
    values = told(lambda: settings._read_by_paramiko(Destination("box")))
    if values:
        told(lambda: str(ssh_config.Hop("box", {**values, "hostname": ["box"]}, ("ssh", "box"))))


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


@fuzz(60)
@given(
    text=nearly([f"box,*.example.org {KEY}\n|1|c2FsdA==|aGFzaA== {KEY}\n@revoked box {KEY} x\n"])
)
def test_known_hosts(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "known_hosts"
    file.write_bytes(text.encode("utf-8", "replace"))
    for known in ssh_keys.about([str(file)], "box"):
        assert ssh_keys.describe_key(known.blob)
        assert ssh_keys.line_of(known.blob, str(file))


@fuzz(60)
@given(
    nearly(["engine 27.1 linux/amd64\nimage postgres:17\ncontainer pa running /home\nfree 5000\n"])
)
def test_what_a_host_has(text: str) -> None:
    made = group(topology("s1"), FakeHost({"sh -s": Said(text)}))
    (found,) = platforms.survey(made)
    assert found.name == "local"


@fuzz(40)
@given(nearly(["1790000000.123456789", "1790000000.%N"]), WORDS)
def test_the_rest_of_what_a_host_says(clock: str, words: str) -> None:
    assert len(supervisor._clock(clock)) == 2
    assert is_gone(f"ada@box, process {clock}, since {words}") is False
    preconditions.listener(f"LISTEN 0 4096 127.0.0.1:5432 {words}", "127.0.0.1", 5432)
    preconditions.listener(words, "127.0.0.1", 5432)


# --- what is typed ---


@fuzz(60)
@given(nearly(["ada@box:2222", "[2001:db8::1]:22", "box"]) | WORDS)
def test_destinations(text: str) -> None:
    found = told(lambda: Destination.parse(text))
    if found:
        assert text.isprintable()
        assert not any(word.startswith("-") for word in found.argv() if word != "-p")
        host = f"[{found.host}]" if ":" in found.host else found.host
        again = f"{found.user}@{host}" if found.user else host
        assert Destination.parse(f"{again}:{found.port}" if found.port else again) == found


@fuzz(60)
@given(nearly(["32M", "1024", "1.5", "any", "50", "FIRST 1 (a)"]) | WORDS)
def test_words_for_numbers(text: str) -> None:
    told(SeedOptions(max_rate=text).check)
    told(SeedOptions(method=text).check)
    limit = told(lambda: read_limit(text))
    assert limit is None or limit >= 0
    pause = told(lambda: status.pause(text))
    assert pause is None or 0 < pause <= status.LONGEST_PAUSE
    lines = told(lambda: show.lines(text))
    assert lines is None or str(lines) == text.lstrip("0") or not lines


@fuzz(60)
@given(nearly(['ANY 2 (a, "b c", *)', "FIRST 1 (a)"]) | WORDS)
def test_sync_names(text: str) -> None:
    found = told(lambda: Sync.parse(text))
    if found:
        assert Sync.parse(found.render()) == found


# --- files of ours that somebody else wrote ---


@fuzz(40)
@given(content=st.binary(max_size=40) | st.binary(min_size=1000, max_size=1200))
def test_password_files(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.getbasetemp() / "secrets"
    directory.mkdir(exist_ok=True)
    (directory / "postgres.password").write_bytes(content)
    found = told(lambda: Passwords(directory, Trace()).of("postgres"))
    if found:
        assert found.value.encode() in content
        assert "\n" not in found.value
    assert (directory / "postgres.password").read_bytes() == content


def test_what_is_no_file_is_no_password_and_no_lock(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious", encoding="utf-8")
    kinds: dict[str, Callable[[Path], None]] = {
        "pipe": os.mkfifo,
        "directory": Path.mkdir,
        "link": lambda path: path.symlink_to(target),
        "nowhere": lambda path: path.symlink_to(tmp_path / "gone"),
    }
    for name, make in kinds.items():
        lock = tmp_path / f"{name}.lock"
        make(lock)
        with pytest.raises(Refused, match="cannot be written"), hold_lock(lock, "g"):
            pass
        password = tmp_path / name / "postgres.password"
        password.parent.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            make(password)
        if name == "link":
            assert Passwords(password.parent, Trace()).of("postgres").value == "precious"
        else:
            with pytest.raises(Refused, match="cannot be read"):
                Passwords(password.parent, Trace()).of("postgres")
    assert target.read_text(encoding="utf-8") == "precious"


@fuzz(20)
@given(content=st.binary(max_size=300))
def test_lock_files(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "x.lock"
    path.write_bytes(content)
    with hold_lock(path, "g"):
        path.write_bytes(content)
        with pytest.raises(Refused) as caught, hold_lock(path, "g"):
            pass
    check_told(caught.value)
