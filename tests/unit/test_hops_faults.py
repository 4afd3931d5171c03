"""What may be in the way to an SSH server: each is told in a sentence, in time, without a trace."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sshd import Client, Sshd, client, free_port, needs_sshd, sshd

from pgherd.errors import Unreachable
from pgherd.hosts import ssh_login

pytestmark = needs_sshd
SOON = 1.0  # seconds for what does not answer
LATE = 8.0  # seconds after which it hangs, on a busy machine too


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def user(tmp_path: Path, server: Sshd) -> Client:
    """Somebody whom the server lets in, and who knows it."""
    made = client(tmp_path / "user")
    server.admit(made.directory / "id")
    made.knows(server.known())
    return made


def refusal(user: Client, destination: str, timeout: float = 15.0) -> str:
    """Return with which sentence the host cannot be reached."""
    with pytest.raises(Unreachable) as caught:
        ssh_login.connect(destination, timeout=timeout, note=pytest.fail, config_file=user.config)
    return caught.value.sentence


def test_nobody_listens(user: Client) -> None:
    port = free_port()
    told = refusal(user, f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port} cannot be reached" in told.replace(
        f"127.0.0.1:{port} (", "", 1
    ).replace(")", "")
    assert "Connection refused: no SSH server listens there" in told
    assert f"ssh -v -F {user.config} -p {port} 127.0.0.1" in told


def test_an_unknown_name(user: Client) -> None:
    user.host("box", HostName="nosuch.invalid")
    assert "The name nosuch.invalid cannot be resolved" in refusal(user, "box")


def test_a_black_hole(user: Client) -> None:
    """The system accepts the connection, but no program takes it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        told = refusal(user, f"127.0.0.1:{silent.getsockname()[1]}", SOON)
    assert time.monotonic() - began < LATE
    assert "speaks no SSH within 1 s" in told


@pytest.fixture
def full() -> Iterator[int]:
    """Return a port that answers to nothing, as behind a firewall: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_firewall(user: Client, full: int) -> None:
    began = time.monotonic()
    told = refusal(user, f"127.0.0.1:{full}", SOON)
    assert time.monotonic() - began < LATE
    assert "does not answer within 1 s" in told


def test_a_firewall_behind_the_jump_host(user: Client, server: Sshd, full: int) -> None:
    user.server("jump", server)
    user.host("box", HostName="127.0.0.1", Port=full, ProxyJump="jump", ConnectTimeout=1)
    began = time.monotonic()
    told = refusal(user, "box", timeout=60.0)
    assert time.monotonic() - began < LATE
    assert f"127.0.0.1:{server.port} gets no answer from 127.0.0.1 port {full} within 1 s" in told


def test_the_jump_host_is_down(user: Client, server: Sshd) -> None:
    user.host("jump", HostName="127.0.0.1", Port=free_port())
    user.server("box", server, ProxyJump="jump")
    told = refusal(user, "box")
    assert told.startswith("box, at its jump host jump (")
    assert "Connection refused" in told


def test_the_host_behind_the_jump_host_is_down(user: Client, server: Sshd) -> None:
    port = free_port()
    user.server("jump", server)
    user.host("box", HostName="127.0.0.1", Port=port, ProxyJump="jump")
    told = refusal(user, "box")
    assert f"gets no connection to 127.0.0.1 port {port}: Connection refused" in told


def test_the_jump_host_does_not_forward(user: Client, server: Sshd, tmp_path: Path) -> None:
    with sshd(tmp_path / "jump", "AllowTcpForwarding no") as jump:
        jump.admit(user.directory / "id")
        user.knows(jump.known())
        user.server("jump", jump)
        user.server("box", server, ProxyJump="jump")
        told = refusal(user, "box")
    assert re.search(r"jump host .* does not forward .*open failed.*AllowTcpForwarding", told)


@pytest.mark.parametrize(
    ("greeting", "sentence"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\nServer: web\r\n\r\n",
            "no SSH server; it said: HTTP/1.1 400",
        ),
        (b"\xff\xfe\x00\x80\n", "What listens there is no SSH server"),
        (b"Exceeded MaxStartups\r\n", "too many logins under way"),
        (b"SSH-1.5-old\r\n", "Incompatible version"),
        (b"Welcome\r\nSSH-2.0-gone\r\n", "closed the connection without a word"),
        (b"", "closed the connection without a word"),
    ],
)
def test_another_server_listens(
    user: Client, greeting: bytes, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(4096)  # what is left unread would reset the connection
                line.sendall(greeting)

        serving = threading.Thread(target=serve)
        serving.start()
        assert sentence in refusal(user, f"127.0.0.1:{listening.getsockname()[1]}")
        serving.join(LATE)
    assert capfd.readouterr() == ("", "")


def test_too_many_logins_under_way(user: Client, tmp_path: Path) -> None:
    with (
        sshd(tmp_path / "busy", "MaxStartups 1") as busy,
        socket.create_connection(("127.0.0.1", busy.port)) as first,
    ):
        assert first.recv(8).startswith(b"SSH-")
        told = refusal(user, f"127.0.0.1:{busy.port}")
    assert "too many logins under way" in told
