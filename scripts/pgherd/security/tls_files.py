"""The files of keys and certificates: each of mode 0600, whole or not there."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgherd.errors import Refused
from pgherd.hosts.commands import Secret, Trace, assignments
from pgherd.security import passwords

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


class Files:
    """One directory of this machine; with `--dry` what would be removed is printed."""

    def __init__(self, directory: Path, trace: Trace) -> None:
        self.directory = directory
        self.trace = trace

    def path(self, name: str) -> Path:
        """Return the path of a file, whether it is there or not."""
        return self.directory / name

    def read(self, path: Path) -> str:
        """Return a file's text. Raises Refused where it cannot be read."""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise Refused(f"{path} cannot be read: {fault}") from None

    def certificates(self, path: Path) -> list[Certificate]:
        """Return the certificates of a file. Raises Refused where it has none."""
        from pgherd.security import x509  # noqa: PLC0415

        try:
            return x509.read(self.read(path))
        except Refused as fault:
            named = str(path) in fault.sentence
            raise Refused(fault.sentence if named else f"{path}: {fault.sentence}.") from None

    def secret(self, path: Path) -> Secret:
        """Return a file's text, to be laid on a host."""
        return Secret(self.read(path).rstrip("\n"), str(path))

    def write(self, path: Path, text: str) -> None:
        """Write a file. Raises Refused where it cannot be written."""
        passwords.write(path, text)
        self.trace.note(f"made {path}")

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        if path.exists() and self.trace.dry:
            self.trace.shell(f"rm {shlex.quote(str(path))}")
        elif path.exists():
            path.unlink()


# --- the same by openssl, for the script that `--dry` prints ---

_AUTHORITY_DAYS, _DAYS = 3650, 730  # as in x509.py, which takes long to import

# (umask …) so that no key can be read by others even for a moment.
_AUTHORITY = """\
(umask 077
mkdir -p "$(dirname "$key")"
[ -s "$ca" ] || {
  extensions=$(mktemp)
  printf '%s\\n' 'basicConstraints=critical,CA:TRUE,pathlen:0' \\
    'keyUsage=critical,keyCertSign,cRLSign' 'subjectKeyIdentifier=hash' >"$extensions"
  openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt >"$key"
  openssl req -new -key "$key" -subj "/CN=$common" |
    openssl x509 -req -signkey "$key" -sha256 -days $days -extfile "$extensions" >"$ca"
  rm "$extensions"
})
"""
_SIGNED = """\
(umask 077
extensions=$(mktemp)
printf '%s\\n' 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \\
  "extendedKeyUsage=$purpose" 'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid' \\
  ${names:+"subjectAltName=$names"} >"$extensions"
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt >"$file.new"
openssl req -new -key "$file.new" -subj "/CN=$common/OU=$unit" |
  openssl x509 -req -CA "$ca" -CAkey "$key" -set_serial "0x$(openssl rand -hex 16)" -sha256 \\
    -days $days -extfile "$extensions" >>"$file.new"
rm "$extensions"
mv "$file.new" "$file")
"""


def authority(group: str, certificate: Path, key: Path) -> str:
    """Return shell text that makes an authority, where there is none."""
    values = {"ca": str(certificate), "key": str(key), "common": f"pgherd {group} CA"}
    return (assignments(**values, days=_AUTHORITY_DAYS) + _AUTHORITY).rstrip("\n")


def signed_certificate(
    file: Path,
    certificate: Path,
    key: Path,
    common: str,
    unit: str,
    names: Sequence[str],
    purpose: str,
) -> str:
    """Return shell text that makes a key and its certificate, in one file."""
    values = {"file": str(file), "ca": str(certificate), "key": str(key), "common": common}
    values |= {"unit": unit, "names": ",".join(map(_general, names)), "purpose": purpose}
    return (assignments(**values, days=_DAYS) + _SIGNED).rstrip("\n")


def _general(name: str) -> str:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return f"DNS:{name}"
    return f"DNS:{name},IP:{name}"
