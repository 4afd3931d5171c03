"""Logging in by a key: of the agent or of a file, as ssh_config says; nothing is ever asked for."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko

from pgherd.errors import Unreachable
from pgherd.host.sshconfig import Hop
from pgherd.host.sshkeys import Key, Keys
from pgherd.host.sshwords import Words

MOMENT = 0.5  # seconds that an answer may take, however late it is


class Login:
    """Tries the keys for a hop: what paramiko's connect calls an authentication strategy."""

    def __init__(self, hop: Hop, words: Words, deadline: float) -> None:
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
            self._asked(transport, transport.auth_none)
        except paramiko.BadAuthenticationType as told:
            return list(told.allowed_types)
        return []

    def _asked(self, transport: Any, question: Callable[..., list[str]], *key: Any) -> list[str]:
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
            more = self._asked(transport, transport.auth_publickey, key.ready())
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
                f" It had been shown:{_listed(self.tried)}\nName the right key for "
                f"{self.hop.asked} in ssh_config: IdentityFile FILE, and IdentitiesOnly yes."
            )
        return text

    def _refused(self) -> str:
        files = [file for file in self.keys.files if Path(f"{file}.pub").exists()][:1]
        named = [word for file in files for word in ("-i", file)]
        copy = shlex.join(["ssh-copy-id", *named, *self.hop.command[1:]])
        text = f"The SSH server {self.hop} does not let the user {self.hop.user!r} in"
        if self.tried:
            text += f" by any of these keys:{_listed(self.tried)}"
        else:
            text += ": there is no key to try. No agent has one (SSH_AUTH_SOCK), nor has any of:"
            text += _listed(self.keys.files)
        if self.keys.unusable:
            text += f"\nNot usable:{_listed(self.keys.unusable)}"
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


def _listed(lines: list[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
