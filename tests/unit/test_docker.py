"""The docker CLI: exact arguments out, inspect records and complaints in."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes import OURS, FakeHost, Said, container, image, listed
from hypothesis import given
from hypothesis import strategies as st

from pgherd.docker.engine import LIST, Engine
from pgherd.docker.models import Container, Mount, Network, _port_range, no_volumes
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable
from pgherd.hosts.commands import Script, Tool

PATHS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)


def engine(plan: dict[str, Any] | None = None, *, dry: bool = False) -> tuple[Engine, FakeHost]:
    host = FakeHost(plan, dry=dry)
    return Engine(host), host


def record(name: str, **changes: Any) -> dict[str, Any]:
    """What `docker container inspect` says of a container without anything special."""
    return {
        "Id": f"id-{name}",
        "Name": f"/{name}",
        "Image": "sha256:17",
        "State": {"Status": "running", "ExitCode": 0, "StartedAt": "2026-01-01T00:00:00Z"},
        "Config": {"Image": "postgres:17", "Labels": OURS, "Entrypoint": ["sh"], "Cmd": ["-c"]},
        "HostConfig": {"PortBindings": {}, "RestartPolicy": {"Name": "unless-stopped"}},
        "Mounts": [],
        **changes,
    }


def inspected(**changes: Any) -> Container:
    """The one container of an engine, as it comes out of its record."""
    plan = {
        "sh -c": Said(json.dumps([record("x", **changes)])),
    }
    return engine(plan)[0].containers()["x"]


# --- mounts ---


@pytest.mark.parametrize(
    ("mount", "option"),
    [
        (Mount("/d/a b", "/t"), "type=bind,source=/d/a b,target=/t"),
        (Mount("vol", "/t", volume=True), "type=volume,source=vol,target=/t"),
        (Mount("/ü", "/t", readonly=True), "type=bind,source=/ü,target=/t,readonly"),
        (Mount("/a,b", "/t"), 'type=bind,"source=/a,b",target=/t'),
        (Mount('/a"b', "/t"), 'type=bind,"source=/a""b",target=/t'),
    ],
)
def test_mount_option(mount: Mount, option: str) -> None:
    assert mount.option() == option


@given(PATHS)
def test_any_path_may_stand_in_a_mount(path: str) -> None:
    fields = next(csv.reader([Mount(path, "/t").option()], strict=True))
    assert fields == ["type=bind", f"source={path}", "target=/t"]


# --- inspect ---


def test_a_plain_container() -> None:
    assert inspected() == container("x", command=("sh", "-c"), mounts=())


def test_mounts_and_ports() -> None:
    found = inspected(
        HostConfig={
            "PortBindings": {
                "5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": "5433"}],
                "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
                "81/tcp": [{"HostPort": ""}],
                "82/tcp": None,
            }
        },
        Mounts=[
            {"Type": "bind", "Source": "/d/x", "Destination": "/data", "RW": True},
            {"Type": "volume", "Name": "v", "Source": "/v", "Destination": "/vol", "RW": False},
            {"Type": "tmpfs", "Source": "", "Destination": "/tmp", "RW": True},  # noqa: S108
        ],
    )
    assert found.mounts == (Mount("/d/x", "/data"), Mount("v", "/vol", volume=True, readonly=True))
    assert found.ports == (("127.0.0.1", 5433), ("0.0.0.0", 8080), ("0.0.0.0", 0))  # noqa: S104


def test_what_other_peoples_containers_lack() -> None:
    found = inspected(HostConfig=None, Config={"Image": "x", "Labels": None})
    assert (found.labels, found.ports, found.mounts) == ({}, (), ())


@pytest.mark.parametrize(
    ("status", "networks", "off"),
    [
        ("running", {"n": {"EndpointID": "1"}}, False),
        ("running", {"n": {"EndpointID": ""}}, True),
        ("running", {"other": {"EndpointID": "1"}}, True),
        ("running", {}, True),
        ("exited", {"n": {"EndpointID": ""}}, False),
        ("exited", {}, True),
        ("running", None, False),  # it is not told
    ],
)
def test_whether_a_container_is_on_a_network(status: str, networks: Any, off: bool) -> None:
    state = {"Status": status, "ExitCode": 0, "StartedAt": ""}
    found = inspected(State=state, NetworkSettings={"Networks": networks})
    assert found.is_off("n") is off


def test_a_container_forgets_a_network_that_is_gone() -> None:
    made, host = engine({"docker network": Said()})
    made.connect(container("a", networks=("n",)), "n")
    made.connect(container("b", networks=()), "n")
    assert host.ran == [
        "docker network disconnect --force n a",
        "docker network connect n a",
        "docker network connect n b",
    ]


def test_port_range_of_a_foreign_container() -> None:
    """`docker run --publish 8000-8002:80` has one of these ports; which one is not said here."""
    bindings = {"80/tcp": [{"HostIp": "::1", "HostPort": "8000-8002"}]}
    found = inspected(HostConfig={"PortBindings": bindings}).ports
    assert found == (("::1", 8000), ("::1", 8001), ("::1", 8002))


@pytest.mark.parametrize(
    ("text", "ports"), [("8000", [8000]), ("8000-8002", [8000, 8001, 8002]), ("", [0])]
)
def test_port_range(text: str, ports: list[int]) -> None:
    assert list(_port_range(text)) == ports


@pytest.mark.parametrize(
    ("status", "running", "alive"),
    [
        ("running", True, True),
        ("paused", True, True),
        ("restarting", False, True),
        ("exited", False, False),
        ("created", False, False),
    ],
)
def test_alive(status: str, running: bool, alive: bool) -> None:
    found = container("x", status=status)
    assert (found.running, found.alive) == (running, alive)


def test_a_container_that_vanishes_meanwhile_does_no_harm() -> None:
    made, host = engine(
        {
            "sh -c": Said(json.dumps([record("a")]), "Error: No such container: id-b", 1),
        }
    )
    assert list(made.containers()) == ["a"]
    assert all(call.reads for call in host.calls)


def test_without_containers_there_is_nothing_to_read() -> None:
    made, host = engine({"sh -c": Said()})
    assert made.containers() == {}
    assert len(host.calls) == 1  # one round trip, where there are containers too


def run_list(tmp_path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run the list of group `g` with a docker that lists these, and says what it inspects."""
    (tmp_path / "listed").write_text("".join(lines), encoding="utf-8")
    shim = tmp_path / "docker"
    listing = f'[ "$1" = ps ] && exec cat {tmp_path}/listed'
    shim.write_text(f'#!/bin/sh\n{listing}\necho "inspected $*" >&2\necho "[]"\n')
    shim.chmod(0o755)
    return subprocess.run(
        ["sh", "-c", f'group=g\n{LIST}containers\nexit "$code"'], capture_output=True, text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False,
    )  # fmt: skip


def test_only_the_groups_own_are_inspected(tmp_path: Path) -> None:
    """An inspect of another may hang, and `docker ps` never does."""
    odd = listed("o", mounts=r"/a\b,$HOME,`id`", labels={"pgherd.group": "G"})
    done = run_list(
        tmp_path,
        f'1 "g" {listed("pa")}', f'2 "" {listed("x")}', f'3 "gg" {listed("y")}', f'4 "g" {odd}',
        f'5 "\\"g\\"" {odd}',
    )  # fmt: skip
    assert done.stderr == "inspected container inspect 1 4\n"
    assert done.stdout == f"[]\n== OTHERS\n{listed('x')}{listed('y')}{odd}"


def test_where_none_is_the_groups_nothing_is_inspected(tmp_path: Path) -> None:
    done = run_list(tmp_path, f'2 "" {listed("x")}')
    assert (done.stdout, done.stderr) == (f"== OTHERS\n{listed('x')}", "")
    done = run_list(tmp_path)
    assert (done.stdout, done.stderr) == ("== OTHERS\n", "")


def test_what_is_listed_of_other_peoples_containers() -> None:
    line = listed(
        "y/alias,x", state="exited", mounts="/d/x,v,,/a",
        ports="5432/tcp, 127.0.0.1:8000-8002->80-82/tcp, :::99->9/tcp, [::1]:98->8/udp",
        labels={"pgherd.group": "o", "pgherd.node": ""},
    )  # fmt: skip
    made, _ = engine({"sh -c": Said(f"[]\n== OTHERS\n{line}")})
    found = made.containers()["x"]
    assert (found.listed, found.alive, found.labels) == (True, False, {"pgherd.group": "o"})
    assert found.ports == (
        *(("127.0.0.1", port) for port in (8000, 8001, 8002)), ("::", 99), ("::1", 98),
    )  # fmt: skip
    sources = {(mount.source, mount.volume) for mount in found.mounts}
    # A path may have commas.
    assert sources == {
        ("/d/x", False), ("/d/x,v", False), ("/d/x,v,", False), ("/d/x,v,,/a", False), ("v", True),
        ("/a", False),
    }  # fmt: skip


def test_one_of_the_groups_own_that_does_not_answer_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    late = DeadlinePassed("too late")
    lines = "".join(listed(name, labels={"pgherd.group": "g"}) for name in ("a", "b", "c"))
    host = FakeHost(
        {
            "sh -c": late,
            "docker ps": Said(lines + listed("x")),
            "docker container inspect id-a": Said(json.dumps([record("a")])),
            "docker container inspect id-b": late,
            "docker container inspect id-c": Said("[]\n", "Error: No such container: id-c", 1),
        }
    )
    found = Engine(host, "g").containers()
    assert {name: (c.listed, c.silent) for name, c in found.items()} == {
        "a": (False, False), "b": (True, True), "x": (True, False),
    }  # fmt: skip
    assert "b: `docker inspect b` (host local) does not answer" in capsys.readouterr().err


def test_an_engine_that_does_not_answer_is_out_of_reach() -> None:
    """Whatever is asked; in place of the command, which may be a long script."""
    made, host = engine({"": DeadlinePassed("no")})
    for act in (made.containers, made.records, made.platform, lambda: made.network("n")):
        host.calls.clear()
        with pytest.raises(Unreachable, match=r"The Docker Engine does not answer \(host local\)"):
            act()
        assert len(host.calls) <= 2


def test_a_list_that_fails_is_an_error() -> None:
    made, _ = engine({"sh -c": Said(err="Error response from daemon: it is broken", code=1)})
    with pytest.raises(Error, match="it is broken"):
        made.containers()


# --- images ---


def image_record(tag: str, **changes: Any) -> dict[str, Any]:
    config = {"Env": ["PG_MAJOR=17", "EMPTY=", "A=b=c"], "Volumes": {"/var/lib/postgresql": {}}}
    return {"Id": f"sha256:{tag}", "RepoTags": [tag], "Config": config, **changes}


def test_the_first_image_that_is_here() -> None:
    found = json.dumps([image_record("pgherd/postgres:17")])
    made, host = engine({"docker image inspect": Said(found, "No such image", 1)})
    seen = made.image("postgres:17", "pgherd/postgres:17")
    assert seen
    assert (seen.ref, seen.id) == ("pgherd/postgres:17", "sha256:pgherd/postgres:17")
    assert seen.volumes == ("/var/lib/postgresql",)
    assert seen.env == {"PG_MAJOR": "17", "EMPTY": "", "A": "b=c"}
    assert host.ran == ["docker image inspect postgres:17 pgherd/postgres:17"]


def test_no_image() -> None:
    made, _ = engine({"docker image inspect": Said("[]\n", "No such image", 1)})
    assert made.image("postgres:17") is None


def test_an_image_without_tags_or_configuration() -> None:
    bare = image_record("x", RepoTags=None, Config={"Env": None, "Volumes": None})
    made, _ = engine({"docker image inspect": Said(json.dumps([bare]))})
    seen = made.image("sha256:x")
    assert seen
    assert (seen.volumes, seen.env) == ((), {})


@pytest.mark.parametrize("ref", ["docker.io/library/postgres:17", "library/postgres:17"])
def test_full_name_of_an_official_image(ref: str) -> None:
    """Docker writes the short name into RepoTags, however the image was asked for."""
    found = json.dumps([image_record("postgres:17")])
    made, _ = engine({"docker image inspect": Said(found, "No such image", 1)})
    seen = made.image(ref, "pgherd/postgres:17")
    assert seen
    assert seen.id == "sha256:postgres:17"


def test_18_declares_the_parent_of_the_data_directory() -> None:
    mount = Mount("/d/pa", "/var/lib/postgresql/data").option()
    cover = "type=tmpfs,target=/var/lib/postgresql,tmpfs-mode=1777"
    assert no_volumes(image("x", "/var/lib/postgresql"), [mount]) == ["--mount", cover]
    assert no_volumes(image("x", "/var/lib/postgresql/data"), ["--mount", mount]) == []
    assert no_volumes(image("x"), [mount]) == []


# --- pull ---


@pytest.mark.parametrize(
    "err",
    [
        (
            'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: '
            "no such host"
        ),
        'Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout',
        "dial tcp 10.0.0.1:443: connect: connection refused",
        "net/http: request canceled while waiting for connection (Client.Timeout exceeded)",
        "proxyconnect tcp: EOF",
        "Temporary failure in name resolution",
    ],
)
def test_pull_without_a_registry(err: str) -> None:
    made, _ = engine({"docker pull": Said(err=f"Error response from daemon: {err}", code=1)})
    assert made.pull("postgres:17", lambda _: None) is False


@pytest.mark.parametrize(
    "err",
    [
        "manifest for postgres:99 not found: manifest unknown: manifest unknown",
        "pull access denied for postgre, repository does not exist or may require 'docker login'",
    ],
)
def test_pull_of_what_the_registry_has_not(err: str) -> None:
    made, _ = engine({"docker pull": Said(err=f"Error response from daemon: {err}", code=1)})
    with pytest.raises(Refused, match="The image postgres:99 cannot be had: docker pull"):
        made.pull("postgres:99", lambda _: None)


def test_pull_shows_its_progress_and_may_take_long() -> None:
    made, host = engine({"docker pull postgres:17": Said("17: Pulling\nDone\n")})
    lines = list[str]()
    assert made.pull("postgres:17", lines.append) is True
    assert lines == ["17: Pulling", "Done"]
    assert [(call.timeout, call.reads) for call in host.calls] == [(1800.0, False)]


# --- acts ---


def test_start_stop_and_remove() -> None:
    made, host = engine({"docker": Said()})
    made.start(container("x"))
    made.stop(container("x"), 600)
    made.remove(container("x"))
    assert host.ran == ["docker start x", "docker stop -t 600 x", "docker rm --volumes x"]
    assert [call.timeout for call in host.calls] == [60.0, 630.0, 60.0]
    assert not any(call.reads for call in host.calls)


@pytest.mark.parametrize(
    ("host_config", "policy"),
    [
        ({"RestartPolicy": {"Name": "unless-stopped"}}, "unless-stopped"),
        ({"RestartPolicy": {"Name": "no"}}, "no"),
        ({"RestartPolicy": {"Name": ""}}, "no"),  # what Docker says of one made without
        ({}, "no"),
    ],
)
def test_restart_policy(host_config: dict[str, object], policy: str) -> None:
    assert inspected(HostConfig=host_config).restart == policy


def test_the_restart_policy_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    host = FakeHost({"docker update": Said()})
    Engine(host).set_restart(container("a"), "no")
    assert host.ran == ["docker update --restart no a"]
    dry = Engine(FakeHost(dry=True))
    stopped = container("a")
    dry.stop(stopped, 30)
    dry.set_restart(stopped, "no")
    planned = dry.counted("")["a"]
    assert (planned.status, planned.restart) == ("exited", "no")  # both are remembered
    assert "docker update --restart no a\n" in capsys.readouterr().out


def test_an_act_that_fails_is_an_error_with_its_words() -> None:
    made, _ = engine({"docker start": Said(err="driver failed: port is in use", code=1)})
    with pytest.raises(Error, match="A docker command failed: docker start x") as caught:
        made.start(container("x"))
    assert caught.value.code == 1
    assert caught.value.sentence.endswith("  | driver failed: port is in use")


def test_a_script_runs_once_in_a_container_of_its_own() -> None:
    made, host = engine({"docker run": Said("out")})
    script = Script(("echo out\n",))
    assert made.once("h", image(), ["--network", "none"], script, timeout=None).out == "out"
    assert [(call.argv, call.stdin, call.timeout) for call in host.calls] == [
        (
            (
                "docker", "run", "--rm", "--interactive", "--name", "h",
                "--label", "pgherd.helper=1", "--network", "none",
                "--entrypoint", "sh", "postgres:17", "-s",
            ),
            "echo out\n",
            None,
        )
    ]  # fmt: skip


def test_a_helper_is_removed_when_the_wait_for_it_ends() -> None:
    plan = {"docker run": DeadlinePassed("late"), "docker rm": Said(), "docker ps": Said()}
    made, host = engine(plan)
    with pytest.raises(DeadlinePassed, match="late"):
        made.once("h", image(), [], Script())
    assert host.ran[1:] == ["docker ps --quiet", "docker rm --force --volumes h"]


@pytest.mark.parametrize(("code", "removed"), [(-15, True), (137, False), (0, False)])
def test_a_helper_is_removed_when_its_cli_was_killed(code: int, removed: bool) -> None:
    """Ctrl-C in another thread ends the CLI by a signal; an exit code is the script's own."""
    made, host = engine({"docker run": Said(code=code), "docker rm": Said()})
    assert made.once("h", image(), [], Script()).code == code
    assert host.ran[1:] == ["docker rm --force --volumes h"] * removed


def test_a_network_is_made_once() -> None:
    made, host = engine(
        {"docker network inspect": Said("[]", "no such network", 1), "docker network": Said()}
    )
    made.make_network("n", "g")
    made.make_network("n", "g")
    made.remove_network("n")
    made.make_network("n", "g")
    create = "docker network create --label pgherd.group=g n"
    inspect = "docker network inspect n"
    assert host.ran == [inspect, create, "docker network rm n", inspect, create]


USED_UP = """\
Error response from daemon: could not find an available, non-overlapping IPv4 address pool among \
the defaults to assign to the network
"""


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (USED_UP, r"The network n cannot be made: Docker \(host local\) has no address range left"),
        (
            "Error response from daemon: all predefined address pools have been fully subnetted\n",
            "docker network prune",
        ),
        ("Error response from daemon: plugin broken\n", "A docker command failed.*\n.*\n.*broken"),
    ],
)
def test_a_network_that_cannot_be_made(said: str, sentence: str) -> None:
    inspected = Said("[]", "Error: No such network: n\n", 1)
    made, _ = engine(
        {"docker network inspect": inspected, "docker network create": Said("", said, 1)}
    )
    with pytest.raises(Error, match=sentence):
        made.make_network("n", "g")


def test_a_network_that_is_there_is_taken() -> None:
    record = {"Name": "n", "Labels": {"pgherd.group": "g"}}
    made, host = engine({"docker network inspect": Said(json.dumps([record]))})
    made.make_network("n", "g")
    assert host.ran == ["docker network inspect n"]
    assert made.network("n") == Network({"pgherd.group": "g"}, ())


@pytest.mark.parametrize("labels", [None, {}, {"pgherd.group": "other"}])
def test_a_network_of_somebody_else_is_refused(labels: dict[str, str] | None) -> None:
    found = Said(json.dumps([{"Name": "n", "Labels": labels}]))
    made, host = engine({"docker network inspect": found})
    with pytest.raises(Refused, match=r"a network n that is not of group g: remove it \(docker ne"):
        made.make_network("n", "g")
    assert len(host.calls) == 1


def test_a_network_with_other_peoples_containers_stays() -> None:
    record = {"Name": "n", "Containers": {"2": {"Name": "y"}, "1": {"Name": "x"}}}
    made, _ = engine(
        {
            "docker network rm": Said(err="has active endpoints", code=1),
            "docker network inspect": Said(json.dumps([record])),
        }
    )
    with pytest.raises(Refused, match="The network n stays, x, y is on it"):
        made.remove_network("n")


@pytest.mark.parametrize(("code", "there"), [(0, True), (1, False)])
def test_volume_exists(code: int, there: bool) -> None:
    made, _ = engine({"docker volume inspect v": Said(code=code)})
    assert made.volume_exists("v") is there


# --- an engine that does not answer ---

NO_PERMISSION = "has no permission on Docker's socket (host local)"
NO_ANSWER = "The Docker Engine does not answer (host local): "
WHICH = "The docker command cannot tell which engine is meant: "


@pytest.mark.parametrize(
    ("err", "sentence"),
    [
        (
            (
                "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
                "Is the docker daemon running?"
            ),
            NO_ANSWER,
        ),
        ("error during connect: Get http://x/v1.47: dial tcp: no route to host", NO_ANSWER),
        # since CLI 28.4
        (
            (
                "failed to connect to the docker API at unix:///run/user/1000/x.sock; check if the "
                "path is correct and if the daemon is running: connect: no such file or directory"
            ),
            NO_ANSWER,
        ),
        ("failed to connect to the docker API at tcp://10.0.0.1:2375", NO_ANSWER),
        (
            (
                "permission denied while trying to connect to the Docker daemon socket at "
                "unix:///var/run/docker.sock: dial unix: connect: permission denied"
            ),
            NO_PERMISSION,
        ),
        (
            (
                "permission denied while trying to connect to the docker API at "
                "unix:///var/run/docker.sock"
            ),
            NO_PERMISSION,
        ),
        # DOCKER_CONTEXT=no, DOCKER_HOST=a://, and a context that was removed while it was in use
        (
            (
                'Failed to initialize: unable to resolve docker endpoint: context "no": context '
                "not found: open /root/.docker/contexts/meta/x/meta.json: no such file"
            ),
            WHICH,
        ),
        ('Failed to initialize: unable to parse docker host "a://"', WHICH),
        ('error: current context "no" is not found on the file system', WHICH),
    ],
)
def test_unreachable(err: str, sentence: str) -> None:
    made, _ = engine({"sh -c": Said(err=err, code=1)})
    with pytest.raises(Unreachable) as caught:
        made.containers()
    assert caught.value.code == 3
    assert sentence in caught.value.sentence


def test_other_failures_are_the_callers() -> None:
    complaint = Said(err="psql: error: permission denied for table x", code=1)
    made, _ = engine({"docker exec": complaint})
    assert made.run(Tool("docker")["exec", "x", "psql"]).code == 1


# --- dry ---


def test_dry_counts_on_what_the_script_will_have_done(capsys: pytest.CaptureFixture[str]) -> None:
    made, host = engine(
        {
            "sh -c": Said(json.dumps([record("a"), record("b")])),
        },
        dry=True,
    )
    made.stop(container("a"), 600)
    made.remove(container("b"))
    made.plan("c", container("c", planned=True))
    found = made.containers()
    assert {name: (c.status, c.planned) for name, c in found.items()} == {
        "a": ("exited", True),
        "c": ("running", True),
    }
    made.start(found["a"])
    assert made.containers()["a"].status == "running"
    assert capsys.readouterr().out.splitlines()[3:] == [
        "docker stop -t 600 a",
        "docker rm --volumes b",
        "docker start a",
    ]
    assert all(call.reads for call in host.calls)


def test_nothing_is_planned_without_dry() -> None:
    made, _ = engine({"sh -c": Said()})
    made.plan("c", container("c"))
    assert made.containers() == {}


@pytest.mark.parametrize("said", ["WARNING: noise\n[]", "oops"])
def test_what_is_no_record_is_told(said: str) -> None:
    made, _ = engine({"sh -c": Said(said), "docker": Said(said)})
    for act in (made.containers, lambda: made.network("n"), lambda: made.image("x")):
        with pytest.raises(Error, match="The docker command of local answers what is no record"):
            act()


def test_an_image_that_cannot_be_looked_at_is_not_missing() -> None:
    made, _ = engine({"docker image inspect": Said("[]\n", "permission refused by a plugin", 1)})
    with pytest.raises(Error, match="permission refused by a plugin"):
        made.image("postgres:17")
