"""SSH connections as ssh_config describes them, made by Fabric, over any number of jump hosts.

Every hop is held to the same rules: its key has to be in known_hosts, a key of the user opens it,
nothing is asked for, and there is a deadline. What fails is told in a sentence with its cure.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fabric
import paramiko

from pgherd.destination import Destination
from pgherd.errors import Error
from pgherd.host import scope
from pgherd.host.dial import Line, dial
from pgherd.host.hostkeys import HostKeys
from pgherd.host.sshconfig import Hop, Settings
from pgherd.host.sshlogin import MOMENT, Login
from pgherd.host.sshwords import Stage

TIMEOUT = 15.0  # seconds for each hop, unless ssh_config says it (ConnectTimeout)


@dataclass(frozen=True)
class Connected:
    """A connection that is logged in; it has to be kept, for paramiko ends what is dropped.

    Attributes:
        transport: paramiko's, of the last hop.
        close: ends the connection to every hop.
    """

    transport: Any
    close: Callable[[], None]


def connect(
    destination: str,
    *,
    timeout: float = TIMEOUT,
    note: Callable[[str], None],
    config_file: str | None = None,
) -> Connected:
    """Log in to a destination: an alias of ssh_config, user@box, user@box:2222, [::1]:2222.

    Args:
        destination: where to.
        timeout: seconds for each hop, from the first packet to the login.
        note: prints a line for the operator.
        config_file: read instead of the user's and the system's ssh_config.

    Raises:
        Refused: ssh_config or the destination is faulty, or a host's key is not the known one.
        Unreachable: a hop cannot be reached, or lets nobody in.
        Cancelled: what wants it was given up.
    """
    opened: list[_Open] = []

    def close() -> None:
        while opened:
            opened.pop().close()

    try:
        for settings in Settings(config_file, note).route(destination):
            scope.check()
            opened.append(_Open(destination, settings, opened[-1] if opened else None))
            opened[-1].open(timeout)
    except BaseException:
        close()
        raise
    for hop in opened:
        hop.stage.words.enough()
    return Connected(opened[-1].transport(), close)


def ssh_argv(destination: str, *options: str, config_file: str | None = None) -> list[str]:
    """Return the `ssh` command line of a destination: for display, and for the terminal.

    Raises:
        Refused: it is no destination.
    """
    file = ["-F", config_file] if config_file else []
    return ["ssh", *Destination.parse(destination).argv(*file, *options)]


class _Open:
    """The connection to one hop, through the hop before it."""

    def __init__(self, destination: str, hop: Hop, before: _Open | None) -> None:
        self.before = before
        self.hop = hop
        self.stage: Stage = Stage(destination, hop, before.stage if before else None)
        self.connection: Any = None
        self.line: Line | None = None

    def open(self, timeout: float) -> None:
        """Connect and log in."""
        own = self.hop.value("connecttimeout")
        self.stage.seconds = float(own) if re.fullmatch("[0-9]{1,6}", own) and int(own) else timeout
        try:
            self._open(time.monotonic() + self.stage.seconds)
        except Error as told:
            raise type(told)(f"{self.stage.where()}: {told.sentence}") from told.__cause__
        except Exception as fault:  # paramiko hands on whatever its thread met
            raise self.stage.told(fault) from fault

    def _open(self, deadline: float) -> None:
        """Let Fabric connect, with this hop's own keys, known hosts and deadline."""
        keys = HostKeys(self.hop)
        login = Login(self.hop, self.stage.words, deadline)
        options: dict[str, Any] = {"auth_strategy": login}
        if not self.before:
            self.line = dial(self.hop, self.stage.seconds)
            self.stage.complaint = self.line.complaint
            options["sock"] = self.line.socket
        else:
            self.before.transport().channel_timeout = self.stage.seconds

        def transport(sock: Any, **others: Any) -> Any:
            made = paramiko.Transport(sock, **others)
            left = max(MOMENT, deadline - time.monotonic())
            made.banner_timeout = made.handshake_timeout = left
            made.channel_timeout = self.stage.seconds
            made.logger = self.stage.words.logger
            made.packetizer.set_log(made.logger)
            security = made.get_security_options()
            security.key_types = keys.preferred(security.key_types)
            return made

        options |= {"timeout": self.stage.seconds, "transport_factory": transport}
        self.connection = fabric.Connection(
            self.hop.host,
            user=self.hop.user,
            port=self.hop.port,
            # Its own reading of ssh_config, fabric.yaml and FABRIC_* stays out of it.
            config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
            gateway=self.before.connection if self.before else False,
            connect_kwargs=options,
        )
        self.connection.client.set_missing_host_key_policy(keys)
        self.connection.open()

    def transport(self) -> Any:
        """Return paramiko's transport, None where it did not come to that."""
        return self.connection.client.get_transport() if self.connection else None

    def close(self) -> None:
        """End the connection, also half a one."""
        if transport := self.transport():
            transport.packetizer.complete_handshake()  # its timer would delay the end of Python
            self.connection.client.close()
        if self.line:
            with contextlib.suppress(OSError):
                self.line.close()
