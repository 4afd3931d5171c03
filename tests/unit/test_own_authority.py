"""An authority of one's own: what it may be, and what it signs."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as library
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from test_certificates import PA, S1, leaf, opened, with_tls

from pgherd.config.topology import Topology
from pgherd.errors import Refused
from pgherd.security import x509


def own(directory: Path, **files: str) -> Topology:
    """A group with an authority of its own, of these texts."""
    for name, text in files.items():
        (directory / name).write_text(text)
    places = {f"tls_{name}": str(directory / name) for name in ("ca", "ca_key")}
    return with_tls("s1", **places)


def test_ones_own_authority_signs(tmp_path: Path) -> None:
    certificate, key = x509.new_authority("mine")
    kept = opened(tmp_path, own(tmp_path, ca=certificate, ca_key=key))
    made = leaf(kept.of_server(PA).value)
    assert made.issuer.rfc4514_string() == "CN=pgherd mine CA"
    assert kept.for_clients == str(tmp_path / "ca")
    assert [file.name for file in (tmp_path / "it's").iterdir()] == ["pa.pem"]


def authority_below(
    by: x509.Authority | None, key: ec.EllipticCurvePrivateKey, name: bytes = b""
) -> str:
    """Make an authority that another one has signed, or a root; `name` is that of its key."""
    named = library.Name([library.NameAttribute(library.NameOID.COMMON_NAME, "below")])
    now = datetime.now(UTC)
    made = (
        library.CertificateBuilder()
        .subject_name(named)
        .issuer_name(by.certificate.subject if by else named)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(library.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if name:
        made = made.add_extension(library.SubjectKeyIdentifier(name), critical=False)
    signed = made.sign(by.key if by else key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def test_an_intermediate_is_shown_by_the_server(tmp_path: Path) -> None:
    root, key = x509.new_authority("root")
    by = x509.authority(root, key)
    mine = ec.generate_private_key(ec.SECP256R1())
    below = authority_below(by, mine)
    asked = own(tmp_path, ca=root + below, ca_key=pem(mine))
    text = opened(tmp_path, asked).of_server(PA).value
    shown = [c.subject.rfc4514_string() for c in x509.read(text)]
    assert shown == ["OU=pgherd g,CN=pa", "CN=below"]
    assert opened(tmp_path, asked).of_server(PA).value == text
    alone = own(tmp_path, ca=below, ca_key=pem(mine))
    with pytest.raises(Refused, match="the root is missing"):
        opened(tmp_path, alone).of_server(S1)


def test_what_an_intermediate_signed_is_good_while_its_root_is_trusted(tmp_path: Path) -> None:
    mine = ec.generate_private_key(ec.SECP256R1())
    root, key = x509.new_authority("root")
    asked = own(tmp_path, ca=root + authority_below(x509.authority(root, key), mine))
    (tmp_path / "ca_key").write_text(pem(mine))
    opened(tmp_path, asked).of_server(PA)
    assert opened(tmp_path, asked).good(PA)
    (tmp_path / "ca").write_text(root)  # the server shows what lies between
    assert opened(tmp_path, asked).good(PA)
    for other in ("root", "other"):
        (tmp_path / "ca").write_text(x509.new_authority(other)[0])
        assert not opened(tmp_path, asked).good(PA)


def test_openssl_knows_an_authority_by_the_name_that_its_key_has(tmp_path: Path) -> None:
    mine = ec.generate_private_key(ec.SECP256R1())
    asked = own(tmp_path, ca=authority_below(None, mine, b"any octets"), ca_key=pem(mine))
    served = tmp_path / "served.pem"
    served.write_text(opened(tmp_path, asked).of_server(PA).value)
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", str(tmp_path / "ca"), str(served)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


GOOD, KEY = x509.new_authority("a")
OTHER = x509.new_authority("b")[1]
ED25519 = pem(ed25519.Ed25519PrivateKey.generate())
NODE = x509.issue(x509.authority(GOOD, KEY), common="n", unit="", names=["n"])


@pytest.mark.parametrize(
    ("certificate", "key", "fault"),
    [
        ("nothing", KEY, "there is no certificate in it"),
        ("", KEY, "there is no certificate in it"),
        (GOOD, "nothing", "the key cannot be read: it must be PEM, without a passphrase"),
        (GOOD, OTHER, "the key is that of none of the certificates"),
        (GOOD, ED25519, "the key must be ECDSA or RSA: others break SCRAM's channel binding"),
        (GOOD + NODE, NODE, "the certificate is no authority's"),
    ],
)
def test_an_authority_that_cannot_sign_is_refused(
    tmp_path: Path, certificate: str, key: str, fault: str
) -> None:
    kept = opened(tmp_path, own(tmp_path, ca=certificate, ca_key=key))
    with pytest.raises(Refused, match=fault):
        kept.of_server(PA)
    assert not (tmp_path / "it's" / "pa.pem").exists()


def test_an_authority_that_is_not_there_is_refused(tmp_path: Path) -> None:
    asked = own(tmp_path)
    with pytest.raises(Refused, match=r"cannot be read: .*No such file"):
        opened(tmp_path, asked).of_server(PA)


@given(st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    for certificate, key in ((text, KEY), (GOOD, text)):
        with pytest.raises(Refused):
            x509.authority(certificate, key)
