"""Keys and certificates as text: an authority of the group's own, and what it signs. No file.

ECDSA P-256 throughout. With an Ed25519 signature channel binding fails: RFC 5929 takes the hash of
the certificate's signature algorithm, and that one has none (PostgreSQL: "could not find digest").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pgherd.certificates.reading import pem, read
from pgherd.errors import Refused

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
