"""Certificates: what they are for, what signs them, when they are made and made anew."""

from __future__ import annotations

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as library
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from fakes import topology

from pgherd.config.nodes import Node
from pgherd.config.topology import Topology
from pgherd.errors import Refused
from pgherd.hosts.commands import Trace
from pgherd.security import x509
from pgherd.security.authority import SOON, Certificates, digest, names


def with_tls(*standbys: str, **group: Any) -> Topology:
    """The group `g` of tests with TLS."""
    tables = topology(*standbys).model_dump()
    tables["group"] |= {"sync": "", "tls": True, **group}
    return Topology.model_validate(tables)


ASKED = with_tls("s1")
EVERYWHERE = "0.0.0.0"  # noqa: S104
PA, S1 = ASKED.nodes["pa"], ASKED.nodes["s1"]


def opened(directory: Path, asked: Topology = ASKED, *, dry: bool = False) -> Certificates:
    """What one run of invoke has; another one knows only the files."""
    return Certificates(directory / "it's", asked, Trace(dry=dry), Path)


@pytest.fixture
def kept(tmp_path: Path) -> Certificates:
    return opened(tmp_path)


def leaf(text: str) -> library.Certificate:
    return x509.read(text)[0]


# --- what they are ---


def test_a_server_certificate(kept: Certificates) -> None:
    made = leaf(kept.of_server(PA).value)
    extensions = made.extensions
    usage = extensions.get_extension_for_class(library.KeyUsage)
    purposes = extensions.get_extension_for_class(library.ExtendedKeyUsage).value
    constraints = extensions.get_extension_for_class(library.BasicConstraints)
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert made.signature_hash_algorithm
    assert made.signature_hash_algorithm.name == "sha256"  # what channel binding hashes with
    assert (usage.critical, usage.value.digital_signature) == (True, True)
    assert not usage.value.key_cert_sign
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert made.subject.rfc4514_string() == "OU=pgherd g,CN=pa"
    span = made.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=729) < span <= timedelta(days=730)
    assert made.not_valid_before_utc < datetime.now(UTC) - timedelta(hours=23)


def test_an_authority(kept: Certificates) -> None:
    made = leaf(kept.trusted().value)
    constraints = made.extensions.get_extension_for_class(library.BasicConstraints)
    usage = made.extensions.get_extension_for_class(library.KeyUsage).value
    assert (constraints.critical, constraints.value.ca) == (True, True)
    assert constraints.value.path_length == 0
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)


def test_a_client_certificate_names_the_role(kept: Certificates) -> None:
    made = leaf(kept.of_client(S1).value)
    purposes = made.extensions.get_extension_for_class(library.ExtendedKeyUsage).value
    assert made.subject.rfc4514_string() == "OU=pgherd g,CN=replicator"
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert x509.names_of(made) == ()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"pa", "localhost", "127.0.0.1", "::1"}),
        ({"listen": "192.0.2.1", "host": "ada@box:22"}, {"192.0.2.1", "box"}),
        ({"listen": EVERYWHERE, "address": "db.example", "host": "box"}, {"db.example", "box"}),
        ({"listen": "2001:db8::1", "host": "[2001:db8::9]:22"}, {"2001:db8::1", "2001:db8::9"}),
    ],
)
def test_by_which_names_a_node_is_reached(keys: dict[str, Any], expected: set[str]) -> None:
    found = names(Node(name="pa", port=1, data="d", **keys))
    assert expected <= set(found)
    assert EVERYWHERE not in found


def test_addresses_are_addresses_and_names_for_old_clients(kept: Certificates) -> None:
    found = leaf(kept.of_server(PA).value).extensions
    there = found.get_extension_for_class(library.SubjectAlternativeName).value
    assert [str(ip) for ip in there.get_values_for_type(library.IPAddress)] == ["127.0.0.1", "::1"]
    assert "127.0.0.1" in there.get_values_for_type(library.DNSName)  # libpq 14 looks there
    assert x509.names_of(leaf(kept.of_server(PA).value)) == names(PA)


def test_openssl_verifies_it_and_nobody_elses(kept: Certificates, tmp_path: Path) -> None:
    served = tmp_path / "served.pem"
    served.write_text(kept.of_server(PA).value + "\n")
    stranger = tmp_path / "stranger.crt"
    stranger.write_text(x509.new_authority("x")[0])
    for trusted, code in ((kept.root, 0), (stranger, 2)):
        words = ["openssl", "verify", "-purpose", "sslserver", "-verify_hostname", "localhost"]
        words += ["-CAfile", str(trusted), str(served)]
        assert subprocess.run(words, capture_output=True, check=False).returncode == code


def test_key_and_certificate_of_one_file_go_together(kept: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "server.pem"
    file.write_text(kept.of_server(PA).value)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(file)  # as a server does


# --- when they are made ---


def test_made_once_and_used_again(kept: Certificates, tmp_path: Path) -> None:
    first = kept.of_server(PA)
    assert opened(tmp_path).of_server(PA) == first
    assert kept.of_server(S1).value != first.value
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in kept.root.parent.iterdir()}
    assert files == dict.fromkeys(("ca.crt", "ca.key", "pa.pem", "s1.pem"), 0o600)
    assert stat.S_IMODE(kept.root.parent.stat().st_mode) == 0o700
    assert kept.known_digest(PA) == digest(first)


def test_looking_makes_nothing(kept: Certificates) -> None:
    assert (kept.known(PA), kept.known_digest(PA)) == (None, None)
    assert not kept.root.parent.exists()


def test_asked_for_it_is_made_anew_once(kept: Certificates) -> None:
    first = kept.of_server(PA)
    kept.renew(PA, client=False)
    second = kept.of_server(PA)
    assert second.value != first.value
    assert kept.of_server(PA) == second


def issued(kept: Certificates, days: int, wanted: tuple[str, ...] = names(PA)) -> str:
    """Write a certificate for the node pa that is good for so many days."""
    key = Path(kept.root.parent / "ca.key").read_text()
    by = x509.authority(kept.trusted().value, key)
    before, x509.DAYS = x509.DAYS, days
    try:
        text = x509.issue(by, common="pa", unit="", names=wanted)
    finally:
        x509.DAYS = before
    kept.path(PA).write_text(text)
    return text.rstrip("\n")


def test_one_that_is_good_stays(kept: Certificates) -> None:
    kept.trusted()
    assert kept.of_server(PA).value != issued(kept, int(SOON) + 2)
    text = issued(kept, int(SOON) + 2)
    assert kept.of_server(PA).value == text


@pytest.mark.parametrize("days", [int(SOON) - 1, 0])
def test_one_that_ends_soon_is_renewed(kept: Certificates, days: int) -> None:
    kept.trusted()
    assert kept.of_server(PA).value != issued(kept, days)
    text = issued(kept, days)
    known = kept.known(PA)
    assert known
    assert known.days <= SOON
    assert kept.of_server(PA).value != text


def test_one_for_other_names_is_made_anew(kept: Certificates) -> None:
    kept.trusted()
    text = issued(kept, 700, ("pa", "localhost"))
    assert kept.of_server(PA).value != text


def test_what_is_no_certificate_is_made_anew(kept: Certificates) -> None:
    kept.trusted()
    kept.path(PA).write_text("nothing\n")
    assert "PRIVATE KEY" in kept.of_server(PA).value


def test_a_file_that_is_no_certificate_is_named(kept: Certificates) -> None:
    kept.of_server(PA)
    for path, look in ((kept.path(PA), lambda: kept.known(PA)), (kept.root, kept.trusted)):
        path.write_bytes(b"nothing")
        with pytest.raises(Refused, match=f"{path}: there is no certificate in it"):
            look()
        path.write_bytes(b"\xff")
        with pytest.raises(Refused, match=f"{path} cannot be read"):
            look()


def test_one_of_another_authority_is_made_anew(kept: Certificates, tmp_path: Path) -> None:
    first = kept.of_server(PA)
    for name in ("ca.crt", "ca.key"):
        (kept.root.parent / name).unlink()
    second = opened(tmp_path).of_server(PA)
    assert second.value != first.value
    assert x509.signer(leaf(second.value), x509.read(kept.trusted().value))
    assert not x509.signer(leaf(first.value), x509.read(kept.trusted().value))


def test_without_the_key_what_is_there_is_used_and_nothing_made(kept: Certificates) -> None:
    first = kept.of_server(PA)
    (kept.root.parent / "ca.key").unlink()
    assert kept.of_server(PA) == first
    with pytest.raises(Refused, match=r"ca\.key is missing, which signs it: put it back"):
        kept.of_server(S1)


def test_a_key_without_its_certificate_is_used_again(kept: Certificates) -> None:
    """As a run leaves it that was killed between the two; what it signed stays good."""
    first, key = kept.of_server(PA), kept.authorities.key.read_text()
    kept.root.unlink()
    assert kept.of_server(PA) == first
    assert kept.authorities.key.read_text() == key


def test_a_node_that_is_no_more_leaves_no_key(kept: Certificates) -> None:
    kept.of_server(PA)
    kept.of_client(PA)
    kept.forget(PA)
    assert sorted(f.name for f in kept.root.parent.iterdir()) == ["ca.crt", "ca.key"]
    kept.forget(PA)


# --- another authority ---


def signers(kept: Certificates) -> tuple[str, int]:
    """Return who has signed the node's certificate, by its key, and how many are trusted."""
    made = leaf(kept.of_server(PA).value)
    trusted = x509.read(kept.trusted().value)
    by = x509.signer(made, trusted)
    assert by
    return f"{by.serial_number:x}", len(trusted)


@pytest.mark.parametrize("killed", range(6))
def test_another_authority_comes_in_two_stages_wherever_one_is_cut_short(
    tmp_path: Path, killed: int
) -> None:
    """No certificate is ever by one that is not trusted, nor by the new one before all trust it."""
    first, _ = signers(opened(tmp_path))
    done, cut, finished = 0, False, False

    def one_run() -> bool:
        nonlocal done, cut
        kept = opened(tmp_path)
        new = kept.authorities
        begin = [new.begin, new.trust]
        end = [new.take, lambda: kept.renew(PA, client=False), new.forget_old, new.finish]
        both = new.both
        for act in end if both else begin:
            if done == killed and not cut:
                cut = True
                return False
            act()
            done += 1
            by, count = signers(kept)
            assert count in {1, 2}
            assert both or by == first
        return both

    for _ in range(5):
        finished = finished or one_run()
    by, count = signers(opened(tmp_path))
    assert (finished, cut, by != first, count) == (True, True, True, 1)
    files = sorted(file.name for file in (tmp_path / "it's").iterdir())
    assert files == ["ca.crt", "ca.key", "pa.pem"]


# --- dry ---


def test_the_script_makes_what_python_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = opened(tmp_path, dry=True)
    for _ in range(2):  # each file is made once
        assert dry.of_server(PA).value == ""
        assert dry.of_client(PA).value == ""
    assert not (tmp_path / "it's").exists()
    script = capsys.readouterr().out
    assert script.count("openssl x509") == 3
    for _ in range(2):  # what is made by then is used again
        subprocess.run(["sh"], input=script, text=True, capture_output=True, check=True)
    kept = opened(tmp_path)
    before = {file.name: file.read_text() for file in (tmp_path / "it's").iterdir()}
    assert sorted(before) == ["ca.crt", "ca.key", "pa.client.pem", "pa.pem"]
    assert kept.of_server(PA).value + "\n" == before["pa.pem"]  # as good as its own
    assert kept.of_client(PA).value + "\n" == before["pa.client.pem"]
    ours, theirs = (leaf(t) for t in (before["pa.pem"], opened(tmp_path / "x").of_server(PA).value))
    assert x509.names_of(ours) == x509.names_of(theirs)
    for kind in (library.KeyUsage, library.ExtendedKeyUsage, library.BasicConstraints):
        one, other = (c.extensions.get_extension_for_class(kind) for c in (ours, theirs))
        assert one == other
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "it's").iterdir()}
    assert modes == {0o600}


def test_what_is_there_is_printed_by_its_path_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = opened(tmp_path).of_server(PA)
    capsys.readouterr()
    assert opened(tmp_path, dry=True).of_server(PA) == text
    assert capsys.readouterr().out == ""
    assert "PRIVATE" not in repr(text)
