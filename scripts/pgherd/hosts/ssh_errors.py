"""What goes wrong on the way to an SSH server, in a sentence: where, what, and what to do."""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from paramiko import ChannelException

from pgherd.errors import Unreachable
from pgherd.hosts.ssh_config import Hop

SHOWN = 200  # characters of what a server says
PROHIBITED = 1  # why a channel is not opened: RFC 4254, 5.1

# What paramiko says where only its words tell what happened.
NO_ANSWER = "Timeout opening channel."
NOTHING_AGREED = "No existing session"  # the deadline came before the server's key

# paramiko's threads log what is told here, and tracebacks; without a handler Python prints them.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class LoginFailure(logging.Handler):
    """What a server said besides the protocol, which paramiko tells to its log only."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=100)
        self.logger = logging.Logger("paramiko.hop", logging.DEBUG)  # of this connection only
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(record.getMessage())

    def after(self, beginning: str) -> str:
        """Return what was first said after these words and a colon."""
        lines = [line for line in list(self._lines) if line.startswith(beginning)]
        said = next(filter(None, (line.partition(": ")[2].strip() for line in lines)), "")
        return re.sub(r"[^\x20-\x7e]", "?", said)[:SHOWN]

    def enough(self) -> None:
        """Keep no more: the connection is made."""
        self.logger.setLevel(logging.CRITICAL)


class Stage:
    """The step to one hop, to tell of when it fails."""

    def __init__(self, destination: str, hop: Hop, before: Stage | None) -> None:
        self.destination = destination
        self.hop = hop
        self.before = before
        self.words = LoginFailure()
        self.seconds = 0.0
        self.complaint: Callable[[], str] = str  # what a ProxyCommand said

    def where(self) -> str:
        """Name the destination, and the jump host if that is where it fails."""
        at = "" if self.hop.asked == self.destination else f", at its jump host {self.hop.asked}"
        return f"{self.destination}{at}"

    def error(self, fault: BaseException) -> Unreachable:
        """Return the error to raise: which destination, at which hop, what, and the cure."""
        ssh, *rest = self.hop.command
        return Unreachable(
            f"{self.where()} ({self.hop}) cannot be reached by SSH.\n{self._what(fault)}"
            f"\nTo see what OpenSSH makes of it: {shlex.join([ssh, '-v', *rest])}"
        )

    def _what(self, fault: BaseException) -> str:
        if said := self.complaint():
            text = f"Its ProxyCommand failed: {said[-SHOWN:]}"
        elif isinstance(fault, socket.gaierror):
            text = (
                f"The name {self.hop.host} cannot be resolved ({fault.strerror}): correct it, or "
                "HostName in ssh_config."
            )
        elif isinstance(fault, TimeoutError):
            text = (
                f"It does not answer within {self.seconds:g} s: is the host up, is a firewall "
                "between, are HostName and Port right?"
            )
        elif isinstance(fault, OSError):
            text = self._not_connected(fault)
        elif self.before and (isinstance(fault, ChannelException) or str(fault) == NO_ANSWER):
            text = self._not_forwarded(fault, self.before)
        else:
            text = self._no_protocol(fault)
        return text

    def _not_connected(self, fault: OSError) -> str:
        text = os.strerror(fault.errno) if fault.errno else str(fault)
        if fault.errno == errno.ECONNREFUSED:
            return f"{text}: no SSH server listens there. Start it, or correct HostName or Port."
        if fault.errno in {errno.ECONNRESET, errno.EPIPE}:
            return self._closed()
        return f"{text}: is the network, or the VPN to it, up?"

    def _not_forwarded(self, fault: Any, before: Stage) -> str:
        target = f"{self.hop.host} port {self.hop.port}"
        if str(fault) == NO_ANSWER:
            return (
                f"The jump host {before.hop} gets no answer from {target} within "
                f"{self.seconds:g} s: is the host up, is a firewall between?"
            )
        said = before.words.after("Secsh channel").removesuffix(f": {fault.text}")
        if fault.code == PROHIBITED:
            return (
                f"The jump host {before.hop} does not forward to {target} ({said}): its "
                "sshd_config has to allow that (AllowTcpForwarding, PermitOpen)."
            )
        return f"The jump host {before.hop} gets no connection to {target}: {said}."

    def _no_protocol(self, fault: BaseException) -> str:
        text, cause = str(fault), fault.__context__
        banner = self.words.after("Banner")
        if "MaxStartups" in banner:
            return f"It has too many logins under way ({banner}): try again, or raise MaxStartups."
        if self.words.after("Remote version"):
            banner = ""  # only a greeting, which may come first
        if banner or "protocol version" in text or isinstance(cause, UnicodeDecodeError):
            shown = f"; it said: {banner}" if banner else ""
            return f"What listens there is no SSH server{shown}. Correct HostName or Port."
        if isinstance(cause, TimeoutError) or text == NOTHING_AGREED:
            return (
                f"It accepts connections, but speaks no SSH within {self.seconds:g} s: it hangs, "
                "or what listens there is no SSH server."
            )
        if isinstance(fault, EOFError) or isinstance(cause, EOFError | OSError):
            return self._closed()
        return f"It and paramiko cannot agree: {type(fault).__name__}: {text}."

    def _closed(self) -> str:
        said = self.words.after("Disconnect")
        return (
            f"It closed the connection{f' ({said})' if said else ' without a word'}: it is no SSH "
            "server, has too many logins under way (MaxStartups), or keeps this address out."
        )
