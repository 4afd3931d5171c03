"""Ports of this machine that lead to ports of a remote host, through its SSH connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import paramiko

from pgherd.config.values import only_here, reachable
from pgherd.errors import Error, Unreachable
from pgherd.hosts.process import CHUNK
from pgherd.hosts.ssh_errors import PROHIBITED
from pgherd.hosts.ssh_session import Link

DIRECT_SECONDS = 2.0  # for an address to answer from this machine
WAITING = 128  # connects at once that are not refused


class Tunnels:
    """The tunnels to one host, each kept for the run."""

    def __init__(
        self, destination: str, link: Callable[[], Link], count: Callable[[], None]
    ) -> None:
        """Take what returns the open connection, and what counts a round trip."""
        self.destination = destination
        self._link = link
        self._count = count
        self._making = threading.Lock()
        self._made: dict[tuple[str, int], Tunnel] = {}

    def reach(self, address: str, port: int) -> tuple[str, int]:
        """Return where a client on this machine reaches it: there, or by a tunnel.

        An address that does not answer from here may be that of a network between the hosts, or a
        firewall refuses us. Where nobody listens over there either, the address itself is
        returned: a client is told then that it is refused.

        Raises:
            Unreachable: the SSH server forwards no connections, or is lost.
        """
        there = reachable(address)
        hidden = only_here(there)
        with self._making:
            made = self._made.get((there, port))
        if not made and not hidden and _answers(there, port):
            return there, port
        with self._making:
            if (there, port) not in self._made:
                if not self._listens(there, port) and not hidden:
                    return there, port
                self._made[there, port] = Tunnel(lambda: self._link().tunnelled(there, port))
            return "127.0.0.1", self._made[there, port].port

    def _listens(self, address: str, port: int) -> bool:
        """Tell whether somebody listens there, as that host sees it."""
        self._count()
        try:
            self._link().tunnelled(address, port).close()
        except paramiko.ChannelException as fault:
            if fault.code == PROHIBITED:
                raise Unreachable(
                    f"The SSH server of {self.destination} forwards no connection to {address}:"
                    f"{port}: allow it in its sshd_config (AllowTcpForwarding yes or local, and no "
                    "PermitOpen that leaves it out), or let the node listen on an address that is "
                    "reached from here."
                ) from None
            return False
        return True

    def close(self) -> None:
        """Close them all."""
        with self._making:
            for tunnel in self._made.values():
                tunnel.close()
            self._made.clear()


class Tunnel:
    """Listens on a free port of 127.0.0.1; it can be connected to as soon as it is made.

    Where nobody answers over there the client's connection is closed at once, as a server's would
    be that restarts, and the tunnel stays.

    Attributes:
        port: where it listens.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        """Take what opens a channel to the other end."""
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=WAITING)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more; connections that are open stay."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                channel = self._connect()
            except (Error, OSError, EOFError, paramiko.SSHException):
                return
            with contextlib.closing(channel):
                back = threading.Thread(target=_pump, args=(channel, client), daemon=True)
                back.start()
                _pump(client, channel)
                back.join()


def _answers(address: str, port: int) -> bool:
    """Tell whether somebody answers this machine there; a refusal may be that of a firewall."""
    try:
        socket.create_connection((address, port), DIRECT_SECONDS).close()
    except OSError:
        return False
    return True


def _pump(source: Any, sink: Any) -> None:
    """Carry bytes to their end, and the end as well; the other direction goes on."""
    with contextlib.suppress(OSError, EOFError):
        while piece := source.recv(CHUNK):
            sink.sendall(piece)
    with contextlib.suppress(OSError, EOFError):
        if hasattr(sink, "shutdown_write"):
            sink.shutdown_write()
        else:
            sink.shutdown(socket.SHUT_WR)
