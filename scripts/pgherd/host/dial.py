"""The way to the first SSH server: TCP, or what ProxyCommand of ssh_config starts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgherd.host.program import ended_within, start_program
from pgherd.host.sshconfig import Hop

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
KEPT = 4096  # bytes of what a ProxyCommand says
GRACE = 2.0  # seconds for a ProxyCommand to end after its connection


@dataclass(frozen=True)
class Line:
    """An open line to an SSH server, before a word was said on it.

    Attributes:
        complaint: returns what the ProxyCommand had to say, if there is one.
    """

    socket: socket.socket
    close: Callable[[], None]
    complaint: Callable[[], str]


def dial(hop: Hop, seconds: float) -> Line:
    """Reach the server, or fail as the system does: OSError, TimeoutError among them."""
    if command := hop.value("proxycommand"):
        return _by_command(hop.expanded(command))
    deadline = time.monotonic() + seconds
    found = _resolved(hop, seconds)
    fault: OSError | None = None
    for left, (family, address) in zip(range(len(found), 0, -1), found, strict=True):
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(max(0.1, (deadline - time.monotonic()) / left))
            if source := hop.value("bindaddress"):
                line.bind((source, 0))
            line.connect(address)
        except OSError as refused:
            line.close()
            fault = fault or refused
            continue
        # Without it each small message waits for the acknowledgement of the last one: 40 ms.
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return Line(line, line.close, str)
    raise fault or OSError("it has no address")


def _resolved(hop: Hop, seconds: float) -> list[tuple[int, Any]]:
    """Return the addresses of a name; the system's resolver has no deadline of its own.

    Raises:
        OSError: there are none; TimeoutError: the name servers do not answer.
    """
    answers: list[list[tuple[int, Any]] | OSError] = []
    family = FAMILIES.get(hop.value("addressfamily"), socket.AF_UNSPEC)

    def ask() -> None:
        try:
            found = socket.getaddrinfo(hop.host, hop.port, family, socket.SOCK_STREAM)
            answers.append([(entry[0], entry[4]) for entry in found])
        except OSError as fault:
            answers.append(fault)
        except UnicodeError:
            answers.append(socket.gaierror(socket.EAI_NONAME, "it is no name of a host"))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if not answers:
        raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {seconds:g} s")
    if isinstance(answers[0], OSError):
        raise answers[0]
    return answers[0]


def _by_command(command: str) -> Line:
    """Start a ProxyCommand as OpenSSH does, by the shell, but on a socket.

    paramiko's own ProxyCommand does not notice the command's end.
    """
    ours, theirs = socket.socketpair()
    said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the command)
    with theirs:
        # In a session of its own it cannot ask for a password on the terminal.
        argv = ["sh", "-c", f"exec {command}"]
        process = start_program(argv, stdin=theirs, stdout=theirs, stderr=said, new_session=True)

    def close() -> None:
        ours.close()
        for sign in (signal.SIGTERM, signal.SIGKILL):  # a child of it may be deaf to TERM
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            ended_within(process, GRACE)
        said.close()

    def complaint() -> str:
        return os.pread(said.fileno(), KEPT, 0).decode("utf-8", "replace").strip()

    return Line(ours, close, complaint)
