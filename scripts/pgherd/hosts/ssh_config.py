"""What ssh_config says of a destination, as the OpenSSH client itself reads it (`ssh -G`).

So `Include`, `Match`, tokens and defaults are exactly those of `ssh DESTINATION`. Where there is no
OpenSSH client, paramiko reads the files, which knows no `Include`: that is told.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from paramiko import ConfigParseError, SSHConfig

from pgherd.config.values import Destination
from pgherd.errors import Refused, Unreachable, quoted
from pgherd.hosts.commands import Tool, Trace
from pgherd.hosts.local import LocalHost

ASK_TIMEOUT = 15.0  # seconds for `ssh -G`: a `Match exec` runs a command of the user
SSH_PORT = 22
FILES = ("~/.ssh/config", "/etc/ssh/ssh_config")  # where paramiko has to read by itself
LISTED = re.compile(r" +(?=[/~]|none(?: |$))")  # between paths on one line, which may hold spaces

# Of `ssh -G`, as far as it matters where there is no OpenSSH client to ask.
DEFAULTS = {
    "port": [str(SSH_PORT)],
    "identityfile": [f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ed25519")],
    "userknownhostsfile": ["~/.ssh/known_hosts ~/.ssh/known_hosts2"],
    "globalknownhostsfile": ["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"],
    "stricthostkeychecking": ["ask"],
}

Note = Callable[[str], None]


@dataclass(frozen=True)
class Hop:
    """One SSH server on the way, and what ssh_config says of it.

    Attributes:
        asked: the destination as it was written.
        values: keywords in lower case, each with its values as `ssh -G` prints them.
        command: the `ssh` command line that goes there, for people.
    """

    asked: str
    values: Mapping[str, list[str]]
    command: tuple[str, ...]

    def value(self, keyword: str) -> str:
        """Return what a keyword is set to, "" where it is not set or is none."""
        found = self.values.get(keyword, [""])[0]
        return "" if found.lower() == "none" else found

    @property
    def host(self) -> str:
        """The name or address to connect to."""
        return self.value("hostname")

    @property
    def port(self) -> int:
        """The port to connect to."""
        port = self.value("port")
        if not re.fullmatch(r"[0-9]{1,5}", port):
            raise Refused(f"ssh_config gives {quoted(self.asked)} no port, but {quoted(port)}.")
        return int(port)

    @property
    def user(self) -> str:
        """The user to log in as."""
        return self.value("user")

    def __str__(self) -> str:
        address = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{address}:{self.port}"

    def paths(self, keyword: str) -> list[str]:
        """Return the files that a keyword names, complete, without `none`."""
        values = self.values.get(keyword, [])
        return [self.expanded(value) for value in values if value.lower() != "none"]

    def listed(self, keyword: str) -> list[str]:
        """Return the files that a keyword names on one line."""
        named = LISTED.split(self.value(keyword))
        return [self.expanded(path) for path in named if path not in {"", "none"}]

    def expanded(self, text: str) -> str:
        """Replace ~, ${VARIABLE} and the tokens of ssh_config(5), which `ssh -G` leaves."""
        account = pwd.getpwuid(os.getuid())
        if text.startswith("~/"):
            text = account.pw_dir + text[1:]
        tokens = {
            "%": "%",
            "d": account.pw_dir,
            "h": self.host,
            "i": str(account.pw_uid),
            "j": self.value("proxyjump"),
            "k": self.value("hostkeyalias") or self.values["host"][0],
            "L": socket.gethostname().split(".")[0],
            "l": socket.gethostname(),
            "n": self.values["host"][0],
            "p": str(self.port),
            "r": self.user,
            "u": account.pw_name,
        }
        text = re.sub(r"\$\{\w+\}", lambda found: os.path.expandvars(found[0]), text)
        return re.sub(r"%(.)", lambda found: tokens.get(found[1], found[0]), text)


class Settings:
    """The user's and the system's ssh_config, or one file instead of both."""

    def __init__(self, file: str | None, note: Note) -> None:
        self.file = file
        self.note = note
        self._noted: set[str] = set()

    def route(self, asked: str, behind: tuple[str, ...] = ()) -> list[Hop]:
        """Return the SSH servers on the way to a destination, itself as the last.

        Of several jump hosts only the first one's own ProxyJump counts, as with OpenSSH.

        Raises:
            Refused: it is no destination, or ssh_config cannot be read or leads in a circle.
        """
        if asked in behind:
            way = " -> ".join([*behind, asked])
            raise Refused(
                f"ProxyJump in ssh_config leads in a circle: {way}.\n"
                f"Except the jump host from it: first of all Host {asked} with ProxyJump none."
            )
        last = self.hop(asked)
        first, *others = (jump.strip() for jump in last.value("proxyjump").split(","))
        if not first:
            return [last]
        route = self.route(first, (*behind, asked))
        for index, jump in enumerate(others, 1):
            before = ",".join([first, *others][:index])
            route.append(self.hop(jump, "-o", f"ProxyJump={before}"))
        return [*route, last]

    def hop(self, asked: str, *options: str) -> Hop:
        """Return what ssh_config says of one SSH server."""
        destination = Destination.parse(asked)
        file = ["-F", self.file] if self.file else []
        values = self._ask_ssh(destination, file) or self._read_by_paramiko(destination)
        return Hop(asked, values, ("ssh", *destination.argv(*file, *options)))

    def _ask_ssh(self, destination: Destination, file: list[str]) -> dict[str, list[str]]:
        """Return the settings as `ssh -G` prints them; nothing where there is no `ssh`."""
        host = LocalHost(Trace())
        *options, name = destination.argv("-G", "-T", *file)
        try:
            result = host.run(Tool("ssh")[*options, "--", name], timeout=ASK_TIMEOUT, reads=True)
        except Unreachable:
            return {}
        if not result.ok:
            raise Refused(f"ssh_config gives no way to {name}: {result.complaint()}")
        values: dict[str, list[str]] = {}
        for line in result.out.split("\n"):
            keyword, _, value = line.partition(" ")
            values.setdefault(keyword, []).append(value)
        values.setdefault("host", [destination.host])
        return values

    def _read_by_paramiko(self, destination: Destination) -> dict[str, list[str]]:
        """Return the settings as paramiko reads them."""
        config = SSHConfig()
        for path in [Path(self.file)] if self.file else [Path(file).expanduser() for file in FILES]:
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
                config.parse(text.splitlines())
            except FileNotFoundError:
                if self.file:
                    raise Refused(f"There is no file {path} to read as ssh_config.") from None
                continue
            except (OSError, ValueError, ConfigParseError) as fault:
                raise Refused(f"{path} cannot be read as ssh_config: {fault}") from None
            if re.search(r"^\s*Include\b", text, re.MULTILINE | re.IGNORECASE):
                self._note_once(
                    f"{path}: Include is not read, since there is no OpenSSH client (ssh) here; "
                    "install it (openssh-client)."
                )
        found = config.lookup(destination.host)
        values = DEFAULTS | {key: _as_list(value) for key, value in found.items()}
        values["host"] = [destination.host]
        values["user"] = [
            destination.user or found.get("user") or pwd.getpwuid(os.getuid()).pw_name
        ]
        if destination.port is not None:
            values["port"] = [str(destination.port)]
        return values

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
