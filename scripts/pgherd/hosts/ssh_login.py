"""Logging in to an SSH server by a key, over any number of jump hosts; nothing is asked for."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric
import paramiko

from pgherd.config.values import Destination
from pgherd.errors import Error, Unreachable
from pgherd.hosts import parallel
from pgherd.hosts.process import start_program, wait_for_end
from pgherd.hosts.ssh_config import Hop, Settings
from pgherd.hosts.ssh_errors import LoginFailure, Stage
from pgherd.hosts.ssh_keys import HostKeys, Key, Keys

# --- by which keys: those of the agent or of a file, as ssh_config says ---

MOMENT = 0.5  # seconds that an answer may take, however late it is


class Login:
    """Tries the keys for a hop: what paramiko's connect calls an authentication strategy."""

    def __init__(self, hop: Hop, words: LoginFailure, deadline: float) -> None:
        self.hop = hop
        self.words = words
        self.deadline = deadline
        self.keys = Keys(hop)
        self.tried: list[str] = []

    def authenticate(self, transport: Any) -> None:
        """Log in by the first key that the server accepts.

        Raises:
            Unreachable: it accepts none, or does not answer.
        """
        methods = self._methods(transport)
        if transport.is_authenticated():
            return  # by its address alone, as some networks have it
        if self.hop.value("pubkeyauthentication") in {"no", "false"}:
            raise Unreachable(
                f"ssh_config turns keys off for {self.hop} (PubkeyAuthentication no), and pgherd "
                "logs in by keys only: turn them on there."
            )
        if methods and "publickey" not in methods:
            raise Unreachable(
                f"The SSH server {self.hop} takes no keys, only {' or '.join(methods)}, and pgherd "
                "never asks for a password: let it take keys (PubkeyAuthentication yes)."
            )
        with self.keys.agent(self._left()):
            for key in self._usable(transport):
                if self._logs_in(transport, key):
                    return
        raise Unreachable(self._refused())

    def _left(self) -> float:
        """Return the seconds until the deadline."""
        return max(MOMENT, self.deadline - time.monotonic())

    def _methods(self, transport: Any) -> list[str]:
        """Return by which methods the server lets people log in."""
        try:
            self._ask_to_be_let_in(transport, transport.auth_none)
        except paramiko.BadAuthenticationType as told:
            return list(told.allowed_types)
        return []

    def _ask_to_be_let_in(
        self, transport: Any, question: Callable[..., list[str]], *key: Any
    ) -> list[str]:
        """Ask to be let in; return what the server wants besides, if it says so."""
        transport.auth_timeout = self._left()
        try:
            return question(self.hop.user, *key)
        except paramiko.BadAuthenticationType:
            raise
        except paramiko.AuthenticationException:
            if not transport.is_active():
                raise Unreachable(self._hung_up()) from None
            if time.monotonic() >= self.deadline:
                raise Unreachable(
                    f"The SSH server {self.hop} began to talk, but does not answer to the login "
                    "in time: look at its log (journalctl -u ssh)."
                ) from None
        return []

    def _usable(self, transport: Any) -> Iterator[Key]:
        """Yield the keys that the server may accept; over an RSA key paramiko would hang up."""
        listed = transport.server_extensions.get("server-sig-algs", b"").decode()
        for key in self.keys.all():
            if listed and "rsa" in key.kind and "rsa-sha2" not in listed:
                self.keys.unusable.append(f"{key}: the server takes no RSA keys")
            else:
                yield key

    def _logs_in(self, transport: Any, key: Key) -> bool:
        self.tried.append(str(key))
        try:
            more = self._ask_to_be_let_in(transport, transport.auth_publickey, key.ready())
        except paramiko.BadAuthenticationType:
            more = []
        if more and "publickey" not in more:
            raise Unreachable(
                f"The SSH server {self.hop} takes a key, but wants {' or '.join(more)} besides, "
                "and pgherd never asks for anything: let this user in by a key alone "
                "(AuthenticationMethods publickey)."
            )
        return bool(transport.is_authenticated())

    # --- sentences ---

    def _hung_up(self) -> str:
        said = self.words.after("Disconnect")
        text = f"The SSH server {self.hop} hung up at the login{f' ({said})' if said else ''}."
        if self.tried:
            text += (
                f" It had been shown:{_join_names(self.tried)}\nName the right key for "
                f"{self.hop.asked} in ssh_config: IdentityFile FILE, and IdentitiesOnly yes."
            )
        return text

    def _refused(self) -> str:
        files = [file for file in self.keys.files if Path(f"{file}.pub").exists()][:1]
        named = [word for file in files for word in ("-i", file)]
        copy = shlex.join(["ssh-copy-id", *named, *self.hop.command[1:]])
        text = f"The SSH server {self.hop} does not let the user {self.hop.user!r} in"
        if self.tried:
            text += f" by any of these keys:{_join_names(self.tried)}"
        else:
            text += ": there is no key to try. No agent has one (SSH_AUTH_SOCK), nor has any of:"
            text += _join_names(self.keys.files)
        if self.keys.unusable:
            text += f"\nNot usable:{_join_names(self.keys.unusable)}"
        if self.keys.locked:
            unlock = shlex.join(["ssh-add", *self.keys.locked])
            start = "" if self.keys.has_agent else 'eval "$(ssh-agent)" && '
            text += (
                f"\nLocked by a passphrase, which pgherd never asks for; unlock: {start}{unlock}"
            )
        return text + (
            f"\nCorrect User or IdentityFile of {self.hop.asked} in ssh_config, or let the host "
            f"know your key: {copy}"
        )


def _join_names(lines: list[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


# --- the way to the first SSH server: TCP, or what ProxyCommand of ssh_config starts ---

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
            wait_for_end(process, GRACE)
        said.close()

    def complaint() -> str:
        return os.pread(said.fileno(), KEPT, 0).decode("utf-8", "replace").strip()

    return Line(ours, close, complaint)


# --- connections as ssh_config describes them, over any number of jump hosts ---

# Every hop is held to the same rules: its key has to be in known_hosts, a key of the user opens it,
# nothing is asked for, and there is a deadline. What fails is told in a sentence with its cure.

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
            parallel.check()
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
            raise self.stage.error(fault) from fault

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
