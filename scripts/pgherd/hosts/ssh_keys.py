"""The keys of SSH: a host's, against known_hosts, and the user's own. Nothing is written."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import os
import re
import shlex
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.agent import AgentSSH

from pgherd.errors import Refused
from pgherd.hosts.ssh_config import SSH_PORT, Hop

# --- files of public keys, read as OpenSSH reads them ---

# paramiko's own reader knows no patterns, no @revoked and no @cert-authority, and loses the line.


@dataclass(frozen=True)
class Known:
    """A line of known_hosts that is about a host."""

    file: str
    number: int
    marker: str
    kind: str
    blob: bytes

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


def own_keys(lines: Iterable[Known]) -> list[Known]:
    """Return the lines that have a key of the host itself."""
    return [line for line in lines if not line.marker]


def about(files: list[str], name: str) -> Iterator[Known]:
    """Yield what the files have for a name; what cannot be read or understood is passed over."""
    for file in files:
        try:
            lines = Path(file).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) < 3 or words[0].startswith("#"):  # noqa: PLR2004 (names, type, key)
                continue
            if matches(words[0], name) and (blob := public_blob(words[1], words[2])):
                yield Known(file, number, marker, words[1], blob)


def matches(names: str, name: str) -> bool:
    """Tell whether the first field of a line of known_hosts means a host.

    It is a hash of one name, or patterns with `*` and `?`, of which none with `!` may match.
    """
    name = name.lower()
    if names.startswith("|"):
        return _hashes_to(names, name)
    found = False
    for pattern in names.lower().split(","):
        wild = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(wild, name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hashes_to(hashed: str, name: str) -> bool:
    """Tell whether `|1|salt|hash` is the hash of a name."""
    try:
        _, kind, salt, digest = hashed.split("|")
        expected = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
        return kind == "1" and hmac.compare_digest(expected, base64.b64decode(digest))
    except ValueError:
        return False


def fingerprint(blob: bytes) -> str:
    """Return the fingerprint of a public key, as OpenSSH prints it."""
    digest = hashlib.sha256(blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def public_blob(kind: str, encoded: str) -> bytes:
    """Return the public key or certificate of a line `ssh-ed25519 AAAA…`, empty if it is none."""
    try:
        blob = base64.b64decode(encoded, validate=True)
        return blob if kind_of(blob) == kind else b""
    except (ValueError, struct.error):
        return b""


def label(kind: str) -> str:
    """Return the type of a key as OpenSSH prints it: ED25519, ECDSA, RSA."""
    return kind.removeprefix("ssh-").removeprefix("sk-").partition("-")[0].partition("@")[0].upper()


def kind_of(blob: bytes) -> str:
    """Return the type of a public key, which stands at its beginning."""
    length = struct.unpack(">I", blob[:4])[0]
    return blob[4 : 4 + length].decode("ascii", "replace")


def describe_key(blob: bytes) -> str:
    """Return type and fingerprint of a public key, for people."""
    return f"{label(kind_of(blob))} {fingerprint(blob)}"


def line_of(blob: bytes, file: str) -> str:
    """Tell where a text file has a public key, as FILE:LINE; "" if it has not."""
    text = Path(file).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n"), 1):
        if any(public_blob(*pair) == blob for pair in itertools.pairwise(line.split())):
            return f"{file}:{number}"
    return ""


# --- is it really that host? Its key against known_hosts, as OpenSSH decides it ---

REVOKED, AUTHORITY = "@revoked", "@cert-authority"
KRL = b"SSHKRL\n"  # how OpenSSH's binary lists of revoked keys begin
NO_FILE = "/dev/null"
RSA = "ssh-rsa"  # how a key of it is named; its signatures have names of their own:
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


class HostKeys(paramiko.RejectPolicy):  # type: ignore[misc]
    """Refuses every host key but those that known_hosts has for this hop.

    paramiko asks it about every key, since its own tables of known keys stay empty.
    """

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.name = known_hosts_name(hop)
        self.files = [*hop.listed("userknownhostsfile"), *hop.listed("globalknownhostsfile")]
        self.known = list(about(self.files, self.name))
        self.portless: list[Known] = []  # what is known of the host's keys counts for each port
        if not hop.value("hostkeyalias") and not own_keys(self.known):
            self.portless = list(about(self.files, hop.host))

    def preferred(self, offered: tuple[str, ...]) -> tuple[str, ...]:
        """Put the algorithms first whose keys are known: servers have keys of several types."""
        kinds = {line.kind for line in own_keys([*self.known, *self.portless])}
        asked = self.hop.value("hostkeyalgorithms").split(",")
        usable = [name for name in asked if name in offered] or offered
        return tuple(sorted(usable, key=lambda name: _kind(name) not in kinds))

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:  # noqa: ARG002
        """Accept a known key by returning.

        Raises:
            Refused: it is revoked, unknown, or another one than is known.
        """
        blob = key.asbytes()
        lines = [*self.known, *self.portless]
        revoked = [str(line) for line in lines if (line.marker, line.blob) == (REVOKED, blob)]
        if revoked := revoked or _in_revoked_list(self.hop, blob):
            raise Refused(
                f"The key of the SSH server {self.hop} is revoked ({revoked[0]}): "
                f"{describe_key(blob)}.\n"
                "Somebody may use a stolen key: ask the host's administrator."
            )
        if any(line.blob == blob for line in own_keys(lines)):
            return
        keys = own_keys(self.known)
        if changed := [line for line in keys if line.kind == key.get_name()]:
            raise Refused(self._changed(changed[0], blob))
        raise Refused(self._unknown(blob, keys))

    def _changed(self, line: Known, blob: bytes) -> str:
        forget = shlex.join(["ssh-keygen", "-R", self.name, "-f", line.file])
        return (
            "THE KEY OF AN SSH SERVER HAS CHANGED: somebody may be listening in.\n"
            f"{self.hop} shows {describe_key(blob)},\n"
            f"but {line} has    {describe_key(line.blob)}.\n"
            "Nothing was sent to it. Only if you know that the host was installed anew, and its "
            f"administrator confirms the new key: {forget}\nThen accept it: {self._accept()}"
        )

    def _unknown(self, blob: bytes, others: list[Known]) -> str:
        text = (
            f"The key of the SSH server {self.hop} is not known under the name {self.name}: "
            f"{describe_key(blob)}.\n"
        )
        if others:
            text += (
                f"Beware: {others[0]} has a key of another type, which the server does not show: "
                f"{describe_key(others[0].blob)}. Somebody may be listening in.\n"
            )
        signed = [line for line in self.known if line.marker == AUTHORITY]
        if signed and not others:
            return text + (
                f"{signed[0]} trusts the certificates of an authority; pgherd verifies none, so it "
                "needs the key itself. Compare it with the one that the host's administrator "
                f"gives, then accept it: {self._accept(plain=blob)}"
            )
        if self.hop.value("knownhostscommand"):
            text += "(KnownHostsCommand of ssh_config is not asked: pgherd reads the files.)\n"
        if not set(self.hop.listed("userknownhostsfile")) - {NO_FILE}:
            return text + (
                "ssh_config gives no file to keep it in (UserKnownHostsFile), and pgherd verifies "
                "every key: name a file there, then accept the key by ssh."
            )
        return text + (
            "Compare it with the one that the host's administrator gives, then accept it: "
            f"{self._accept()}"
        )

    def _accept(self, plain: bytes = b"") -> str:
        """Return the command that asks the user about the key."""
        ssh, *rest = self.hop.command
        if self.hop.value("stricthostkeychecking").lower() != "ask":
            rest[:0] = ["-o", "StrictHostKeyChecking=ask"]
        if plain:
            kind = kind_of(plain)
            algorithm = RSA_SIGNATURES[0] if kind == RSA else kind
            rest[:0] = ["-o", f"HostKeyAlgorithms={algorithm}"]
        return f"{shlex.join([ssh, *rest])} (answer yes)"


def known_hosts_name(hop: Hop) -> str:
    """Return the name that a host has in known_hosts."""
    if alias := hop.value("hostkeyalias"):
        return alias
    return hop.host if hop.port == SSH_PORT else f"[{hop.host}]:{hop.port}"


def _kind(algorithm: str) -> str:
    """Return which type of key signs by an algorithm."""
    return RSA if algorithm in RSA_SIGNATURES else algorithm


def _in_revoked_list(hop: Hop, blob: bytes) -> list[str]:
    """Return where RevokedHostKeys has a key, if it has.

    Raises:
        Refused: the list cannot be read, so that nobody knows; OpenSSH refuses then, too.
    """
    found = []
    for file in hop.paths("revokedhostkeys"):
        try:
            if Path(file).read_bytes().startswith(KRL):
                raise Refused(
                    f"{hop}: pgherd reads RevokedHostKeys as text, but {file} is binary (a KRL)."
                )
            found.append(line_of(blob, file))
        except OSError as fault:
            raise Refused(
                f"{hop}: RevokedHostKeys {file} cannot be read ({fault.strerror}), so that its key "
                "cannot be checked: correct the file, or ssh_config."
            ) from None
    return [place for place in found if place]


# --- the user's own keys: those of the agent, those in files, and the certificates for them ---

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
