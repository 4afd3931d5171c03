"""The user's own keys: those of the agent, those in files, and the certificates for them."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.agent import AgentSSH

from pgherd.host.keyfiles import fingerprint, label, public_blob
from pgherd.host.sshconfig import Hop

VARIABLE = "SSH_AUTH_SOCK"
HEAD, MAGIC = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"openssh-key-v1\0"
AGENT_FAULTS = (OSError, paramiko.SSHException, ValueError)
FILE_FAULTS = (paramiko.SSHException, paramiko.UnknownKeyType, UnsupportedAlgorithm, ValueError)


@dataclass(frozen=True)
class Key:
    """A key to try.

    Attributes:
        key: paramiko's.
        origin: where it comes from.
        certificate: the words `TYPE BASE64` of one for it, to be shown instead of the bare key.
    """

    key: Any
    origin: str
    certificate: str = ""

    @property
    def kind(self) -> str:
        """The type of the key, as ssh-rsa."""
        return str(self.key.get_name())

    def ready(self) -> Any:
        """Return paramiko's key, with the certificate."""
        if self.certificate:
            self.key.load_certificate(self.certificate)
        else:  # also of an RSA certificate in the agent, which paramiko forgets to send
            inner = getattr(self.key, "inner_key", None)
            self.key.public_blob = getattr(inner, "public_blob", None)
        return self.key

    def __str__(self) -> str:
        return f"{label(self.kind)} {fingerprint(self.key.asbytes())} ({self.origin})"


class Keys:
    """The keys for a hop, in the order in which OpenSSH tries them.

    Attributes:
        files: those of IdentityFile.
        locked: of these, those that a passphrase locks.
        unusable: what else could not be used, and why.
        has_agent: an agent answered.
    """

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.files = hop.paths("identityfile")
        self.locked: list[str] = []
        self.unusable: list[str] = []
        self.has_agent = False
        self._held: list[Key] = []

    @contextmanager
    def agent(self, seconds: float) -> Iterator[None]:
        """Have the agent at hand, if there is one; each of its answers may take so long."""
        where = self.hop.values.get("identityagent", [VARIABLE])[0]
        where = os.path.expandvars(f"${VARIABLE}" if where == VARIABLE else where)
        if not where or where.lower() == "none" or where.startswith("$"):
            yield  # none, or its variable is not set
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(seconds)
            try:
                line.connect(self.hop.expanded(where))
                self._held = list(_Agent(line).keys())
                self.has_agent = True
            except AGENT_FAULTS as fault:
                self.unusable.append(f"the agent at {where}: {fault}")
            yield

    def all(self) -> Iterator[Key]:
        """Yield the keys: first those that both the agent and IdentityFile have."""
        public = {path: _public_part(path) for path in self.files}
        held = {key.key.asbytes() for key in self._held}
        named = [key for key in self._held if key.key.asbytes() in public.values()]
        for key in named:
            yield from self._with_certificates(key)
        if self.hop.value("identitiesonly") != "yes":
            yield from (key for key in self._held if key not in named)
        for path in self.files:
            if public[path] not in held:
                yield from self._of_file(path)

    def _of_file(self, path: str) -> Iterator[Key]:
        """Yield the key of a file; that one of the usual files is not there is no fault."""
        try:
            key = paramiko.PKey.from_path(path)
        except FileNotFoundError:
            return
        except OSError as fault:
            self.unusable.append(f"{path}: {fault.strerror}")
        except (paramiko.PasswordRequiredException, TypeError):  # the latter is cryptography's
            self.locked.append(path)
        except FILE_FAULTS as fault:
            self.unusable.append(f"{path}: it is no private key that pgherd can use ({fault})")
        else:
            yield from self._with_certificates(Key(key, path))

    def _with_certificates(self, key: Key) -> Iterator[Key]:
        """Yield a key with each certificate that there is for it, then as it is."""
        usual = [f"{path}-cert.pub" for path in self.files]
        for path in [*self.hop.paths("certificatefile"), *usual]:
            words = _public_words(path)
            if words and _certifies(public_blob(*words), key.key.asbytes()):
                yield Key(key.key, f"{key.origin}, with {path}", " ".join(words))
        yield key


class _AgentKey(paramiko.AgentKey):  # type: ignore[misc]
    """A key of the agent that the agent may refuse to use.

    paramiko signs in the thread of the connection, which an error would end; an empty signature is
    just refused by the server, and the next key is tried.
    """

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> bytes:
        """Return the signature, empty if there is none."""
        try:
            return bytes(super().sign_ssh_data(data, algorithm))
        except AGENT_FAULTS:
            return b""


class _Agent(AgentSSH):  # type: ignore[misc]
    """The agent behind a socket: paramiko's own is that of the environment, without a deadline."""

    def __init__(self, line: socket.socket) -> None:
        super().__init__()
        self._connect(line)

    def keys(self) -> Iterator[Key]:
        """Yield its keys."""
        for key in self.get_keys():
            yield Key(_AgentKey(self, key.blob, key.comment), f"agent: {key.comment}")


def _public_words(path: str) -> list[str]:
    """Return type and key of a file `ssh-ed25519 AAAA… comment`, nothing if it is no such file."""
    try:
        words = Path(path).read_text(encoding="utf-8", errors="replace").split(maxsplit=2)[:2]
    except OSError:
        return []
    return words if len(words) == 2 and public_blob(*words) else []  # noqa: PLR2004


def _public_part(path: str) -> bytes:
    """Return the public key of an identity file, also if that is locked; empty if not known."""
    for file in (f"{path}.pub", path):
        if words := _public_words(file):
            return public_blob(*words)
    try:
        _, head, body = Path(path).read_bytes().partition(HEAD)
        data = base64.b64decode(body.partition(b"-----")[0])
    except (OSError, ValueError):
        return b""
    if not head or not data.startswith(MAGIC):
        return b""
    message = paramiko.Message(data[len(MAGIC) :])
    for _ in ("cipher", "derivation", "its options"):
        message.get_string()
    message.get_int()  # how many keys: one
    return bytes(message.get_string())


def _certifies(certificate: bytes, key: bytes) -> bool:
    """Tell whether a certificate is for a key: after its nonce it has the key's own fields."""
    signed, plain = paramiko.Message(certificate), paramiko.Message(key)
    kind = signed.get_text()
    signed.get_string()
    own = f"{plain.get_text()}-cert-v01@openssh.com"
    fields: bytes = plain.get_remainder()
    return bool(kind == own and signed.get_remainder().startswith(fields))
