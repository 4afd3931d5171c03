"""known_hosts and other files of public keys, read as OpenSSH reads them; nothing is written.

paramiko's own reader knows no patterns, no @revoked and no @cert-authority, and loses the line.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


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


def shown(blob: bytes) -> str:
    """Return type and fingerprint of a public key, for people."""
    return f"{label(kind_of(blob))} {fingerprint(blob)}"


def line_of(blob: bytes, file: str) -> str:
    """Tell where a text file has a public key, as FILE:LINE; "" if it has not."""
    text = Path(file).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n"), 1):
        if any(public_blob(*pair) == blob for pair in itertools.pairwise(line.split())):
            return f"{file}:{number}"
    return ""
