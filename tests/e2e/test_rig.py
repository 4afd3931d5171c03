"""The rig itself: its hosts are Docker hosts of their own, and what befalls them does."""

from __future__ import annotations

import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from host import Host
from machine import lacking, until
from rig import Rig

pytest_plugins = ["rigged"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

PASSWORD = "-".join(["not", "secret"])


def said(rigged: Rig, destination: str, *words: str) -> str:
    """What a command that a user gives by SSH prints, or why it failed."""
    done = rigged.ssh(destination, *words, check=False)
    return (done.stdout if done.returncode == 0 else done.stderr).strip()


@pytest.fixture
def server(rigged: Rig, rig_image: str) -> Iterator[Host]:
    """The host of a server that publishes its port to all."""
    host = rigged.hosts["hostb"]
    host.docker("run", "--detach", "--name", "server", "--publish", "5432:5432",
                "--env", f"POSTGRES_PASSWORD={PASSWORD}", rig_image)  # fmt: skip
    ready = ["exec", "server", "pg_isready", "--host", "127.0.0.1"]
    until(lambda: "accepting" in host.docker(*ready, check=False), "the server is ready")
    yield host
    host.docker("rm", "--force", "--volumes", "server")


def ask(rigged: Rig, rig_image: str, client: str, server: Host, statement: str) -> str:
    """The server's answer to a client in a container on another host."""
    url = f"postgresql://postgres:{PASSWORD}@{server.address}/?connect_timeout=2"
    words = ("run", "--rm", rig_image, "psql", "-XAtqd", url, "-c", statement)
    return rigged.hosts[client].docker(*words, check=False).strip()


def listens(address: str, port: int = 22, seconds: float = 2) -> bool:
    words = ["timeout", str(seconds), "bash", "-c", f"</dev/tcp/{address}/{port}"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


# --- hosts ---


def test_each_host_has_an_engine_and_a_name_of_its_own(rigged: Rig) -> None:
    words = ("docker", "info", "--format", "{{.Name}} {{.ID}}")
    answers = [said(rigged, name, *words).split() for name in rigged.hosts]
    assert [name for name, _ in answers] == ["hosta", "hostb", "hostc"]
    here = subprocess.run(["docker", *words[1:]], capture_output=True, text=True, check=True)
    assert len({identity for _, identity in answers} | {here.stdout.split()[1]}) == 4


@pytest.mark.parametrize("user", ["root", "member", "stranger"])
def test_each_host_has_homes_of_its_own(rigged: Rig, user: str) -> None:
    mark = secrets.token_hex(8)
    write = f"echo {mark} | tee ~/{mark} /tmp/{mark}; cat ~/{mark} /tmp/{mark}"
    assert said(rigged, f"{user}@hosta", "sh", "-c", write).split() == [mark] * 3
    assert (rigged.hosts["hosta"].home(user) / mark).exists()
    for elsewhere in ("/root", "/home", "/tmp"):  # noqa: S108
        assert not Path(elsewhere, mark).exists()
        assert not rigged.hosts["hostb"].place(f"{elsewhere}/{mark}").exists()


def test_who_may_use_docker(rigged: Rig) -> None:
    words = ("docker", "version", "--format", "{{.Server.Os}}")
    assert [said(rigged, f"{user}@hosta", *words) for user in ("root", "member")] == ["linux"] * 2
    assert "permission denied" in said(rigged, "stranger@hosta", *words)
    assert said(rigged, "member@hosta", "id", "--user") != "0"


def test_logins_and_sessions_are_counted(rigged: Rig) -> None:
    host = rigged.hosts["hostc"]
    before = len(host.logins()), len(host.sessions())
    said(rigged, "hostc", "true")
    said(rigged, "member@hostc", "true")
    assert host.logins()[before[0] :] == ["root", "member"]
    assert len(host.sessions()) == before[1] + 2


# --- the link ---


def test_a_published_port_is_reached_and_the_client_has_its_hosts_address(
    rigged: Rig, rig_image: str, server: Host
) -> None:
    who = "select host(inet_client_addr())"
    for client in ("hosta", "hostc"):
        assert ask(rigged, rig_image, client, server, who) == rigged.hosts[client].address
    assert listens(server.address, 5432)
    inner = server.docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "server").strip()
    assert server.run("bash", "-c", f"</dev/tcp/{inner}/5432") == ""
    with pytest.raises(RuntimeError, match="unreachable"):
        rigged.hosts["hosta"].run("bash", "-c", f"</dev/tcp/{inner}/5432")


@pytest.mark.long
def test_a_cable_that_is_pulled_out(rigged: Rig, rig_image: str, server: Host) -> None:
    assert ask(rigged, rig_image, "hosta", server, "select 1") == "1"
    server.cut()
    assert not listens(server.address)
    assert ask(rigged, rig_image, "hosta", server, "select 1") == ""
    assert listens(rigged.hosts["hosta"].address)
    server.mend()
    assert listens(server.address)
    assert ask(rigged, rig_image, "hosta", server, "select 1") == "1"


@pytest.mark.long
def test_a_partition_of_two_hosts(rigged: Rig, rig_image: str, server: Host) -> None:
    server.block(rigged.hosts["hosta"])
    assert ask(rigged, rig_image, "hosta", server, "select 1") == ""
    assert ask(rigged, rig_image, "hostc", server, "select 1") == "1"
    assert listens(server.address)
    server.mend()
    assert ask(rigged, rig_image, "hosta", server, "select 1") == "1"
    rigged.hosts["hosta"].block(server)  # now it is the answers that are lost
    assert ask(rigged, rig_image, "hosta", server, "select 1") == ""


def test_a_narrow_cable(rigged: Rig) -> None:
    words = ("head", "--bytes=2000000", "/dev/zero")

    def seconds() -> float:
        began = time.monotonic()
        assert len(said(rigged, "hosta", *words)) == 2_000_000
        return time.monotonic() - began

    rigged.hosts["hosta"].rate("4mbit")
    assert seconds() > 3.5
    rigged.hosts["hosta"].mend()
    assert seconds() < 3


# --- sshd ---


def test_an_sshd_that_is_stopped(rigged: Rig) -> None:
    host = rigged.hosts["hosta"]
    host.stop_sshd()
    assert "Connection refused" in said(rigged, "hosta", "true")
    host.repair()
    assert said(rigged, "hosta", "echo", "there") == "there"


def waiting(rigged: Rig, destination: str = "hosta") -> subprocess.Popen[bytes]:
    """A connection on which a command has begun that takes long."""
    started = subprocess.Popen(
        ["ssh", "-F", str(rigged.ssh_config), destination, "echo begun; sleep 3; echo over"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert started.stdout
    assert started.stdout.readline() == b"begun\n"
    return started


@pytest.mark.parametrize("destination", ["hosta", "member@hosta"])
def test_connections_that_are_dropped(rigged: Rig, destination: str) -> None:
    connection = waiting(rigged, destination)
    rigged.hosts["hosta"].kill_sessions()
    _out, err = connection.communicate(timeout=2)
    assert connection.returncode == 255, err
    assert said(rigged, destination, "echo", "there") == "there"


def test_connections_that_fall_silent(rigged: Rig) -> None:
    connection = waiting(rigged)
    rigged.hosts["hosta"].freeze_sessions()
    with pytest.raises(subprocess.TimeoutExpired):
        connection.communicate(timeout=4)
    rigged.hosts["hosta"].thaw_sessions()
    assert connection.communicate(timeout=5)[0].endswith(b"over\n")


def test_connections_that_stay_silent_end_with_the_repair(rigged: Rig) -> None:
    connection = waiting(rigged)
    rigged.hosts["hosta"].freeze_sessions()
    rigged.repair()
    connection.communicate(timeout=2)
    assert connection.returncode == 255


def test_an_sshd_with_other_lines(rigged: Rig) -> None:
    rigged.hosts["hosta"].sshd_with("AllowUsers member")
    assert "Permission denied" in said(rigged, "hosta", "true")
    assert said(rigged, "member@hosta", "echo", "there") == "there"
    rigged.repair()
    assert said(rigged, "hosta", "echo", "there") == "there"


def test_a_line_that_sshd_does_not_take_is_told(rigged: Rig) -> None:
    with pytest.raises(RuntimeError, match="Nonsense"):
        rigged.hosts["hosta"].sshd_with("Nonsense yes")


def test_other_host_keys(rigged: Rig) -> None:
    rigged.hosts["hosta"].new_host_key()
    assert "IDENTIFICATION HAS CHANGED" in said(rigged, "hosta", "true")
    rigged.repair()
    assert said(rigged, "hosta", "echo", "there") == "there"


def test_an_ssh_config_with_more_lines(rigged: Rig) -> None:
    path = rigged.config_with("Host other", f"    HostName {rigged.hosts['hostc'].address}")
    words = ["ssh", "-F", str(path), "other", "hostname"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "hostc\n"


# --- what else may befall a host ---


def test_a_small_disk(rigged: Rig, rig_image: str) -> None:
    host = rigged.hosts["hosta"]
    host.small_disk("/srv/small", 3, user="member")
    write = "head --bytes=5000000 /dev/zero >/srv/small/file"
    assert "No space left" in said(rigged, "member@hosta", "sh", "-c", write)
    words = ("run", "--rm", "--volume", "/srv/small:/mnt", rig_image, "stat", "-c", "%s")
    assert 0 < int(host.docker(*words, "/mnt/file")) < 5_000_000
    host.repair()
    assert said(rigged, "hosta", "ls", "/srv/small") == ""


def test_commands_that_are_hidden_or_replaced(rigged: Rig) -> None:
    host = rigged.hosts["hosta"]
    host.hide("docker")
    host.replace("uname", 'echo "other $("$original" -s)"')
    assert "not found" in said(rigged, "hosta", "docker", "version")
    assert said(rigged, "member@hosta", "uname") == "other Linux"
    assert "linux" in said(rigged, "hostb", "docker", "version")
    host.repair()
    assert "linux" in said(rigged, "hosta", "docker", "version")
    assert said(rigged, "hosta", "uname") == "Linux"


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_is_stopped(rigged: Rig, sign: signal.Signals) -> None:
    host = rigged.hosts["hosta"]
    host.stop_engine(sign)
    assert "Is the docker daemon running?" in said(rigged, "hosta", "docker", "ps")
    assert "CONTAINER" in said(rigged, "hostb", "docker", "ps")
    host.repair()
    assert "CONTAINER" in said(rigged, "hosta", "docker", "ps")


def test_a_host_that_is_emptied(rigged: Rig, rig_image: str) -> None:
    host = rigged.hosts["hosta"]
    host.docker("network", "create", "n")
    host.docker("run", "--detach", "--network", "n", "--volume", "v:/v", rig_image, "sleep", "99")
    said(rigged, "member@hosta", "sh", "-c", "mkdir -p ~/a/b && touch ~/a/b/c /tmp/d")
    host.empty()
    for words in (("ps", "--all"), ("volume", "ls"), ("network", "ls", "--filter", "name=^n$")):
        assert host.docker(*words, "--quiet") == ""
    assert said(rigged, "member@hosta", "ls", "-A") == ".ssh"
    assert said(rigged, "member@hosta", "ls", "-A", "/tmp") == ""  # noqa: S108
    assert host.docker("image", "ls", "--quiet") != ""
