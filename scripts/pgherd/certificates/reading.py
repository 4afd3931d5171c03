"""What certificates say. No file is read: their text comes in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from pgherd.errors import Refused


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
