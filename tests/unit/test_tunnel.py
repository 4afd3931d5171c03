"""Ports of another machine, reached through its SSH connection: a real sshd on loopback."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from boxes import LIMIT, Box, box, eventually
from sshd import free_port, needs_sshd

from pgherd.errors import Unreachable
from pgherd.hosts import tunnel
from pgherd.hosts.commands import Trace
from pgherd.hosts.local import LocalHost

pytestmark = needs_sshd

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("box")) as made:
        yield made


@contextmanager
def server(
    serve: Callable[[socket.socket], None], port: int = 0, address: str = "127.0.0.1"
) -> Iterator[int]:
    """Serve each client in a thread; yield the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), backlog=64, family=family)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def echo(client: socket.socket) -> None:
    with client:
        while piece := client.recv(65536):
            client.sendall(piece)


def count(client: socket.socket) -> None:
    """Answer after the end of what was said, with how much that was."""
    with client:
        total = 0
        while piece := client.recv(65536):
            total += len(piece)
        client.sendall(str(total).encode())


def talk(place: tuple[str, int], said: bytes = b"hello") -> bytes:
    """Say something, end that, and return the answer."""
    with socket.create_connection(place, timeout=LIMIT) as line:
        line.sendall(said)
        line.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: line.recv(65536), b""))


@pytest.mark.parametrize("address", ["127.0.0.1", EVERYWHERE, "127.0.1.1"])
def test_a_loopback_port_is_reached(there: Box, address: str) -> None:
    listening = "127.0.0.1" if address == EVERYWHERE else address
    with server(echo, address=listening) as port:
        place = there.host().reach(address, port)
        assert place[0] == "127.0.0.1"
        assert place[1] != port
        assert talk(place) == b"hello"


def test_an_ipv6_port_is_reached(there: Box) -> None:
    try:
        with server(echo, address="::1") as port:
            assert talk(there.host().reach("::", port)) == b"hello"
    except OSError:
        pytest.skip("this machine has no ::1")


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.1 be an address of a network between the hosts, not of each by itself."""
    monkeypatch.setattr(tunnel, "only_here", lambda _: False)


@pytest.mark.usefixtures("between")
def test_an_address_that_answers_is_reached_directly(there: Box) -> None:
    with server(echo) as port:
        assert there.host().reach("127.0.0.1", port) == ("127.0.0.1", port)


@pytest.mark.usefixtures("between")
@pytest.mark.parametrize("fault", [ConnectionRefusedError, TimeoutError])
def test_an_address_that_answers_there_but_not_here_is_reached_by_a_tunnel(
    there: Box, fault: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal may be that of a firewall (REJECT), which speaks for the host, but is not it."""
    host = there.host()
    host.link()

    def closed(*_: object) -> socket.socket:
        raise fault

    with server(echo) as port:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "create_connection", closed)
            place = host.reach("127.0.0.1", port)
            assert host.reach("127.0.0.1", port) == place
        assert place != ("127.0.0.1", port)
        assert talk(place) == b"hello"


@pytest.mark.usefixtures("between")
def test_where_nobody_listens_the_refusal_is_the_servers_own(there: Box) -> None:
    host, port = there.host(), free_port()
    assert host.reach("127.0.0.1", port) == ("127.0.0.1", port)
    with server(echo, port):
        assert talk(host.reach("127.0.0.1", port)) == b"hello"


def test_of_this_machine_all_are_reached_directly() -> None:
    host = LocalHost(Trace())
    assert host.reach(EVERYWHERE, 1) == ("127.0.0.1", 1)
    assert host.reach("::", 2) == ("::1", 2)
    assert host.reach("192.0.2.1", 3) == ("192.0.2.1", 3)


def test_a_tunnel_is_kept_for_the_run(there: Box) -> None:
    host = there.host()
    with server(echo) as port, server(echo) as other:
        with ThreadPoolExecutor(6) as pool:
            places = set(pool.map(lambda _: host.reach("127.0.0.1", port), range(12)))
        assert len(places) == 1
        assert host.reach("127.0.0.1", other) not in places
        assert host.logins == 1


def test_twenty_connect_at_once(there: Box) -> None:
    with server(echo) as port:
        place = there.host().reach("127.0.0.1", port)
        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(lambda _: talk(place), range(60))) == [b"hello"] * 60


def test_the_end_of_one_direction_leaves_the_other(there: Box) -> None:
    with server(count) as port:
        said = b"x" * 20_000_000
        assert talk(there.host().reach("127.0.0.1", port), said) == b"20000000"


def test_a_closed_port_ends_the_clients_connection_and_not_the_tunnel(there: Box) -> None:
    port = free_port()
    place = there.host().reach("127.0.0.1", port)
    started = time.monotonic()
    with socket.create_connection(place, timeout=LIMIT) as line:
        assert line.recv(1) == b""
    assert time.monotonic() - started < 2
    with server(echo, port):
        assert talk(place) == b"hello"
    with socket.create_connection(place, timeout=LIMIT) as line:
        assert line.recv(1) == b""


def test_small_messages_do_not_wait_for_each_other(there: Box) -> None:
    times = []
    with server(echo) as port:
        place = there.host().reach("127.0.0.1", port)
        with socket.create_connection(place, timeout=LIMIT) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(50):
                started = time.perf_counter()
                line.sendall(b"select 1")
                assert line.recv(100) == b"select 1"
                times.append((time.perf_counter() - started) * 1000)
    print(f"an answer through the tunnel: median {statistics.median(times):.2f} ms")
    assert statistics.median(times) < 20


def test_the_tunnel_outlives_a_lost_connection(there: Box) -> None:
    host = there.host()
    with server(echo) as port:
        place = host.reach("127.0.0.1", port)
        link = host.link()
        link.lose("the test wants it so")
        assert talk(place) == b"hello"
    assert host.logins == 2


def test_a_closed_tunnel_listens_no_more(there: Box) -> None:
    host = there.host()
    with server(echo) as port:
        place = host.reach("127.0.0.1", port)
        host.close()
        assert eventually(lambda: refused(place), seconds=2)


def refused(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("line", ["AllowTcpForwarding no", "PermitOpen 127.0.0.1:1"])
def test_a_server_that_forwards_nothing(tmp_path: Path, line: str) -> None:
    said = r"forwards no connection to .*AllowTcpForwarding"
    with box(tmp_path, line) as closed, pytest.raises(Unreachable, match=said):
        closed.host().reach("127.0.0.1", free_port())
