"""The same by openssl, for the script that `--dry` prints: it makes what is not there yet. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from pgherd.shell import assignments

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


def signed(
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
