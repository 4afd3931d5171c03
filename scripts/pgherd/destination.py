"""SSH destinations, as an operator writes them: taken apart, and nothing is asked for them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pgherd.errors import Refused, quoted

FORMS = "an alias of ssh_config, ada@box, ada@box:2222 or [2001:db8::1]:2222"
MOST = 65535  # the highest port
LONGEST = 320  # characters: a name of the DNS has 253 at most

# OpenSSH refuses most of these as well: a shell may come to read them (ProxyCommand, Match exec).
_NO_HOST = re.compile(r"^-|[\s\x00-\x1f\x7f\[\]/@,'\"`$\\;&<>|(){}]|^$")
_NO_USER = re.compile(r"^-|[\s\x00-\x1f\x7f\[\]/:'\"`$;&<>|(){}]")


@dataclass(frozen=True)
class Destination:
    """Where `ssh` is to go: a host or an alias of ssh_config, and what was said beside it."""

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read an alias, `ada@box`, `ada@box:2222` or `[2001:db8::1]:2222`.

        Without brackets an IPv6 address has no port, as with ssh. Jump hosts may have `ssh://`
        before all that in ssh_config.

        Raises:
            Refused: it is none of these.
        """
        user, at, rest = text.removeprefix("ssh://").rpartition("@")
        host, port = _host_and_port(rest)
        if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= MOST):
            raise Refused(f"{quoted(text)}: the port of an SSH destination is from 1 to {MOST}.")
        faulty = _NO_HOST.search(host) or _NO_USER.search(user) or (at and not user)
        faulty = faulty or len(text) > LONGEST or not text.isprintable()
        if faulty or (":" in host and not _is_address(host)):
            raise Refused(f"{quoted(text)} is no SSH destination: write {FORMS}.")
        return cls(host, user, int(port) if port is not None else None)

    def argv(self, *options: str) -> list[str]:
        """Return the arguments of `ssh` for it."""
        port = ["-p", str(self.port)] if self.port is not None else []
        return [*options, *port, f"{self.user}@{self.host}" if self.user else self.host]


def host_name(text: str) -> str:
    """Take what can name a host in a topology: "local", or a destination; ssh:// stays out."""
    try:
        Destination.parse(text)
    except Refused:
        text = "/"
    if "/" in text:
        raise ValueError(f'must be "local" or an SSH destination ({FORMS})')
    return text


def _host_and_port(text: str) -> tuple[str, str | None]:
    if found := re.fullmatch(r"\[([^\[\]]+)\](?::([^:]*))?", text):
        return found[1], found[2]
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None  # several colons and no brackets: an IPv6 address


def _is_address(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
