"""A port of this machine that leads to a port of a remote host, through its SSH connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import paramiko

from pgherd.errors import Error
from pgherd.host.running import CHUNK

WAITING = 128  # connects at once that are not refused


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
