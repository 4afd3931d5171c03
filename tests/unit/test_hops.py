"""The way to SSH servers, with real ones: ssh_config, jump hosts, ProxyCommand."""

from __future__ import annotations

import re
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from plumbum import local
from sshd import (
    ME,
    Client,
    Sshd,
    client,
    fingerprint,
    make_key,
    needs_sshd,
    run,
    sshd,
    wait_until,
)

from pgherd.errors import Refused, Unreachable
from pgherd.hosts import ssh_login

pytestmark = needs_sshd
LATE = 8.0  # seconds after which it hangs, on a busy machine too


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sshd]]:
    """Three servers with host keys of their own."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("servers")
        yield [stack.enter_context(sshd(directory / name)) for name in ("a", "b", "c")]


@pytest.fixture
def user(tmp_path: Path, servers: list[Sshd]) -> Client:
    """Somebody whom all servers let in, and who knows them."""
    made = client(tmp_path / "user")
    for server in servers:
        server.admit(made.directory / "id")
        made.knows(server.known())
    return made


def connect(user: Client, destination: str, timeout: float = 15.0) -> ssh_login.Connected:
    return ssh_login.connect(
        destination, timeout=timeout, note=pytest.fail, config_file=user.config
    )


def refusal(user: Client, destination: str, timeout: float = 15.0) -> str:
    """Return with which sentence the host cannot be reached."""
    with pytest.raises(Unreachable) as caught:
        connect(user, destination, timeout)
    return caught.value.sentence


def logins(server: Sshd, key: Path) -> int:
    """Return how often somebody logged in by a key."""
    accepted = f"Accepted publickey for {ME} .*{re.escape(fingerprint(key))}"
    return len(re.findall(accepted, server.log()))


def says(connected: ssh_login.Connected, command: str) -> str:
    """Run a command on a connection."""
    with connected.transport.open_session(timeout=LATE) as channel:
        channel.settimeout(LATE)
        channel.exec_command(command)
        return b"".join(iter(lambda: channel.recv(4096), b"")).decode()


# --- destinations ---


def test_options_stand_before_the_destination() -> None:
    argv = ssh_login.ssh_argv("user@box:2222", "-t", config_file="/x/config")
    assert argv == ["ssh", "-F", "/x/config", "-t", "-p", "2222", "user@box"]
    assert ssh_login.ssh_argv("box") == ["ssh", "box"]


def test_an_address_in_brackets_is_connected_to_without_them(user: Client) -> None:
    told = refusal(user, "[::1]:1")
    assert "[::1] " not in told.replace("[::1]:1", "")
    assert "cannot be resolved" not in told


# --- ssh_config ---


def test_ssh_config_is_read_with_include_match_and_tokens(
    user: Client, servers: list[Sshd], tmp_path: Path
) -> None:
    place = tmp_path / "with spaces"
    place.mkdir()
    servers[0].admit(make_key(place / f"key-127.0.0.1-{servers[0].port}"))
    included = tmp_path / "included"
    included.write_text(
        f"Match originalhost box\n  HostName 127.0.0.1\n  User {ME}\n"
        f'  Port {servers[0].port}\n  IdentityFile "{place}/key-%h-%p"\n  IdentitiesOnly yes\n',
        encoding="utf-8",
    )
    user.host("*", Include=included)
    Path(user.config).write_text(  # only the included key is left
        Path(user.config).read_text(encoding="utf-8").replace(f"{user.directory}/id\n", "none\n"),
        encoding="utf-8",
    )
    connected = connect(user, "box")
    assert connected.transport.get_username() == ME
    connected.close()
    assert logins(servers[0], place / f"key-127.0.0.1-{servers[0].port}") == 1


def test_a_fault_in_ssh_config_is_told_with_its_line(user: Client) -> None:
    user.host("box", Prot=22)
    with pytest.raises(Refused, match=r"(?s)config.*: line 2: Bad configuration option: prot"):
        connect(user, "box")


def test_without_an_openssh_client_include_is_told(
    user: Client, servers: list[Sshd], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    user.server("box", servers[0], Include="other")
    notes: list[str] = []
    with local.env(PATH=str(tmp_path / "empty")):
        ssh_login.connect("box", note=notes.append, config_file=user.config).close()
    assert len(notes) == 1
    assert f"{user.config}: Include is not read" in notes[0]


def test_the_timeout_of_ssh_config_counts(user: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        user.host("box", HostName="127.0.0.1", Port=silent.getsockname()[1], ConnectTimeout=1)
        assert "within 1 s" in refusal(user, "box", timeout=60.0)


def test_a_slow_host_may_have_longer_than_paramiko_gives_it(
    user: Client, servers: list[Sshd]
) -> None:
    user.server("box", servers[0])
    connected = connect(user, "box", timeout=60.0)
    connected.close()
    assert connected.transport.banner_timeout > 50  # else 15, for the handshake too


# --- jump hosts ---


def test_one_connection_is_one_login_without_delay(user: Client, servers: list[Sshd]) -> None:
    user.server("box", servers[0])
    connected = connect(user, "box")
    assert connected.transport.is_authenticated()
    assert connected.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert says(connected, "echo $SSH_CONNECTION").split()[3] == str(servers[0].port)
    assert connected.transport.channel_timeout == 15.0  # paramiko's own is an hour
    connected.close()
    assert not connected.transport.is_active()
    assert logins(servers[0], user.directory / "id") == 1


def test_a_jump_host_has_its_own_key_and_user(
    user: Client, servers: list[Sshd], tmp_path: Path
) -> None:
    jump, target, _ = servers
    jump.admit(for_jump := make_key(tmp_path / "for_jump"))
    target.admit(for_target := make_key(tmp_path / "for_target"))
    only = {"IdentitiesOnly": "yes"}
    user.server("jump", jump, IdentityFile=for_jump, **only)
    user.server("box", target, IdentityFile=for_target, ProxyJump="jump", **only)
    connected = connect(user, "box")
    assert says(connected, "echo $SSH_CONNECTION").split()[3] == str(target.port)
    first = connected.transport.sock.get_transport()
    assert first.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    connected.close()
    assert not first.is_active()
    assert (logins(jump, for_jump), logins(target, for_target)) == (1, 1)
    assert (logins(jump, for_target), logins(target, for_jump)) == (0, 0)


def test_several_jump_hosts_lie_one_behind_another(user: Client, servers: list[Sshd]) -> None:
    first, second, target = servers
    user.server("first", first)
    user.server("box", target, ProxyJump=f"first,{ME}@127.0.0.1:{second.port}")
    connected = connect(user, "box")
    assert says(connected, "echo $SSH_CONNECTION").split()[3] == str(target.port)
    connected.close()
    assert [logins(server, user.directory / "id") for server in servers] == [1, 1, 1]


def test_jump_hosts_in_a_circle_are_refused(user: Client) -> None:
    user.host("one", ProxyJump="two")
    user.host("two", ProxyJump="one")
    with pytest.raises(Refused, match="circle: one -> two -> one"):
        connect(user, "one")


def test_several_connections_at_once(user: Client, servers: list[Sshd]) -> None:
    user.server("jump", servers[0])
    for index, server in enumerate(servers[1:] * 2):
        user.server(f"box{index}", server, ProxyJump="jump")
    made: list[str] = []

    def work(name: str) -> None:
        connected = connect(user, name)
        made.append(says(connected, "echo x"))
        connected.close()

    threads = [threading.Thread(target=work, args=(f"box{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made == ["x\n"] * 4


# --- ProxyCommand ---

RELAY = """
import os, socket, sys, threading
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        line.sendall(data)
    os._exit(0)
threading.Thread(target=up).start()
while data := line.recv(65536):
    os.write(1, data)
os._exit(0)
"""


def test_a_proxy_command_makes_the_connection(
    user: Client, servers: list[Sshd], tmp_path: Path
) -> None:
    (tmp_path / "relay").write_text(RELAY, encoding="utf-8")
    command = shlex.join([sys.executable, str(tmp_path / "relay")])
    user.server("box", servers[0], ProxyCommand=f"{command} %h %p")
    connected = connect(user, "box")
    assert says(connected, "echo $SSH_CONNECTION").split()[3] == str(servers[0].port)
    connected.close()
    wait_until(lambda: str(tmp_path / "relay") not in run("ps", "-eo", "args"), "the relay ends")


def test_what_a_proxy_command_complains_of_is_told(user: Client) -> None:
    user.host("box", ProxyCommand="echo No way today >&2; exit 3")
    assert "ProxyCommand failed: No way today" in refusal(user, "box")


def test_a_proxy_command_that_hangs_is_ended(user: Client, tmp_path: Path) -> None:
    (tmp_path / "hang").write_text("while :; do sleep 0.2; done", encoding="utf-8")
    user.host("box", ProxyCommand=f"sh {tmp_path}/hang")
    assert "within 1 s" in refusal(user, "box", timeout=1.0)
    assert f"{tmp_path}/hang" not in run("ps", "-eo", "args")


def test_a_proxy_command_that_is_deaf_to_its_end_is_killed(user: Client, tmp_path: Path) -> None:
    (tmp_path / "deaf").write_text("trap '' TERM; while :; do sleep 0.2; done", encoding="utf-8")
    user.host("box", ProxyCommand=f"sh -c 'sh {tmp_path}/deaf; exit'")
    assert "within 1 s" in refusal(user, "box", timeout=1.0)
    wait_until(lambda: f"{tmp_path}/deaf" not in run("ps", "-eo", "args"), "it ends")
