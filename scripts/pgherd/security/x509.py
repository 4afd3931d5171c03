"""Private keys and certificates as text: made, read, compared. No file is touched."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pgherd.errors import Refused
from pgherd.hosts.commands import Secret

# --- the private keys of a group, to be looked for where they should not be ---

_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", re.DOTALL)
_TELLING = 40  # characters: a shorter line of base64 may stand anywhere


def private_keys(directory: Path) -> dict[str, Secret]:
    """Return the lines of the keys in a directory's files, by the file's name; make nothing.

    What cannot be read is left out: whoever uses it says so.
    """
    found: dict[str, Secret] = {}
    for path in sorted([*directory.glob("*.pem"), *directory.glob("*.key")]):
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        lines = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
        if telling := [line for line in lines if len(line) >= _TELLING]:
            found[path.name] = Secret("\n".join(telling), str(path))
    return found


# --- what certificates say. No file is read: their text comes in ---


@dataclass(frozen=True)
class Details:
    """What a certificate says of itself."""

    subject: str
    issuer: str
    names: tuple[str, ...]  # names and addresses that it is for
    serial: str  # hexadecimal
    begins: datetime
    ends: datetime

    @property
    def days(self) -> float:
        """How many days it is still good for; negative once it is over."""
        return (self.ends - datetime.now(UTC)) / timedelta(days=1)


def read(text: str) -> list[x509.Certificate]:
    """Read the certificates of a PEM text, whatever else is in it. Raises Refused for none."""
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise Refused("there is no certificate in it (PEM)") from None


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def signer(
    certificate: x509.Certificate, authorities: Iterable[x509.Certificate]
) -> x509.Certificate | None:
    """Return which of these authorities has signed it, if one has. Times are not looked at."""
    for one in authorities:
        try:
            certificate.verify_directly_issued_by(one)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return one
    return None


def trusted_signer(
    certificate: x509.Certificate,
    trusted: list[x509.Certificate],
    between: list[x509.Certificate],
) -> x509.Certificate | None:
    """Return who has signed it, if that leads to one that is trusted by way of those between.

    What lies between comes with the certificate itself, and proves nothing alone.
    """
    known = [*trusted, *between]
    first = above = signer(certificate, known)
    for _ in between:
        if above is None or above in trusted:
            break
        above = signer(above, known)
    return first if above in trusted else None


def details(certificate: x509.Certificate) -> Details:
    """Return what is shown of a certificate."""
    return Details(
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        names_of(certificate),
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def details_of(der: bytes) -> Details:
    """Return the same of a certificate as a server shows it."""
    return details(x509.load_der_x509_certificate(der))


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names and addresses that a certificate is for, each once."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(dict.fromkeys(str(name.value) for name in found))


# --- keys and certificates as text ---

# ECDSA P-256 throughout. With an Ed25519 signature channel binding fails: RFC 5929 takes the hash
# of the certificate's signature algorithm, and that one has none (PostgreSQL: "could not find
# digest").

AUTHORITY_DAYS = 3650
DAYS = 730  # of a node's certificate: nobody renews it but the operator
EARLY = timedelta(days=1)  # it is valid from so long before: clocks differ
_TEXT = serialization.Encoding.PEM

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Authority:
    """Who signs: its certificate, the further ones up to the root, and its key."""

    certificate: x509.Certificate
    others: tuple[x509.Certificate, ...]
    key: Key

    @property
    def chain(self) -> list[x509.Certificate]:
        """What a server has to show beside its own: all that is no root."""
        return [c for c in (self.certificate, *self.others) if c.issuer != c.subject]


def new_authority(group: str, known: str = "") -> tuple[str, str]:
    """Make an authority that signs certificates of servers and clients, and nothing below it.

    Args:
        group: its name.
        known: the key that it is to have, in PEM; else it is a new one.

    Returns:
        Its certificate and its key, in PEM.

    Raises:
        Refused: the key is none that such an authority has.
    """
    key = _key(known) if known else ec.generate_private_key(ec.SECP256R1())
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused("the authority's key is not of the kind that is made for one: ECDSA")
    name = _name(common=f"pgherd {group} CA")
    made = _begun(name, name, key.public_key(), AUTHORITY_DAYS)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_usage(signs_certificates=True), critical=True)
    return pem(made.sign(key, hashes.SHA256())), _key_pem(key)


def issue(
    authority: Authority, *, common: str, unit: str, names: Sequence[str], client: bool = False
) -> str:
    """Return a new key and its certificate, with the chain up to the root, as one PEM text.

    One text, so that one rename puts both in place: a server that started between two would find a
    key that is not its certificate's, and not start.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(common=common, unit=unit)
    made = _begun(subject, authority.certificate.subject, key.public_key(), DAYS, authority)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(signs_certificates=False), critical=True)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
    made = made.add_extension(_signed_by(authority), critical=False)
    certificate = made.sign(authority.key, hashes.SHA256())
    return _key_pem(key) + pem(certificate) + "".join(map(pem, authority.chain))


def _signed_by(authority: Authority) -> x509.AuthorityKeyIdentifier:
    """Name the authority's key as its own certificate does: OpenSSL takes no other name for it.

    It need be no hash of the key (RFC 5280, 4.2.1.2).
    """
    extensions = authority.certificate.extensions
    try:
        known = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def authority(certificates: str, key: str) -> Authority:
    """Read an authority: its certificate, those up to the root, and its key.

    Raises:
        Refused: it could not sign what would be trusted, and why.
    """
    signer = _key(key)
    found = read(certificates)
    public = _public(signer.public_key())
    mine = next((c for c in found if _public(c.public_key()) == public), None)
    if mine is None:
        raise Refused("the key is that of none of the certificates")
    try:
        may = mine.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        may = False
    if not may:
        raise Refused("the certificate is no authority's (basicConstraints CA:TRUE)")
    if not any(c.issuer == c.subject for c in found):
        raise Refused("the root is missing: the file must hold the certificates up to it")
    return Authority(mine, tuple(c for c in found if c is not mine), signer)


def _key(text: str) -> Key:
    try:
        found = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Refused("the key cannot be read: it must be PEM, without a passphrase") from None
    if not isinstance(found, Key):
        raise Refused("the key must be ECDSA or RSA: others break SCRAM's channel binding")
    return found


def key_of(text: str) -> str:
    """Return the key of a text that has a key and certificates."""
    key = _key(text)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused("the key must be ECDSA")
    return _key_pem(key)


def _general(names: Sequence[str]) -> list[x509.GeneralName]:
    """Return names as a certificate has them.

    An IP address stands as a name as well: libpq before 15 looks for it nowhere else.
    """
    found: list[x509.GeneralName] = []
    for name in names:
        found.append(x509.DNSName(name))
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            continue
    return found


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    by: Authority | None = None,
) -> x509.CertificateBuilder:
    """Begin a certificate; it ends when what signs it does, if that is earlier."""
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    ends = min(ends, by.certificate.not_valid_after_utc) if by else ends
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(*, common: str, unit: str = "") -> x509.Name:
    """Return a name; X.509 takes 64 characters of each part (RFC 5280, ub-common-name)."""
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common[:64])]
    parts += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit[:64])] if unit else []
    return x509.Name(parts)


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    plain = serialization.NoEncryption()
    return key.private_bytes(_TEXT, serialization.PrivateFormat.PKCS8, plain).decode()
