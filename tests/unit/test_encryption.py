"""TLS of a group: when it is asked for, and what it changes of settings, rules and connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes import facts, observation, sender, standby_facts, topology
from fakes import group as fake_group
from pydantic import ValidationError
from test_certificates import with_tls

from pgherd.checks import diff, replication
from pgherd.config.topology import Topology
from pgherd.errors import Refused
from pgherd.group import node_config
from pgherd.group.group import Group
from pgherd.group.node_config import hba_rules
from pgherd.group.node_status import ReplicationView
from pgherd.operations import certificates
from pgherd.operations.certificates import Shown
from pgherd.postgres.conf import read_conninfo
from pgherd.postgres.facts import GONE, Facts
from pgherd.report import tls, uris
from pgherd.security import x509
from pgherd.security.authority import Certificates, digest, names
from pgherd.security.x509 import Details

WAY = {
    "sslmode": "verify-full",
    "sslrootcert": "/etc/pgherd/ca.crt",
    "channel_binding": "require",
}
OWN = {"sslcert": "/etc/pgherd/client.pem", "sslkey": "/etc/pgherd/client.pem"}


def with_group(**group: Any) -> Group:
    return fake_group(with_tls("s1", **group))


# --- asked for ---


def spanning(**group: Any) -> Topology:
    """A group over two hosts."""
    keys = {"listen": "192.0.2.1", "host": "db1"}
    tables = topology("s1", pa=keys, s1={"listen": "192.0.2.2", "host": "db2"}).model_dump()
    tables["group"] |= {"sync": "", **group}
    return Topology.model_validate(tables)


def test_unless_said_it_is_where_hosts_are_spanned() -> None:
    assert not topology("s1").encryption.on
    assert spanning().encryption.on
    assert not spanning(tls=False).encryption.on
    assert with_tls("s1").encryption == (True, False)
    assert with_tls("s1", tls_client_certificates=True).encryption == (True, True)


@pytest.mark.parametrize(
    ("group", "fault"),
    [
        ({"tls_ca": "a"}, "group.tls_ca_key: missing: group.tls_ca is there"),
        ({"tls_ca_key": "a"}, "group.tls_ca: missing: group.tls_ca_key is there"),
        ({"tls": False, "tls_ca": "a", "tls_ca_key": "b"}, "group.tls_ca: needs group.tls = true"),
        ({"tls": None, "tls_client_certificates": True}, "needs group.tls = true"),
        ({"tls": "yes"}, "group.tls: "),
        ({"tls_ca": "a\nb", "tls_ca_key": "b"}, "group.tls_ca: "),
    ],
)
def test_contradictions_are_refused(group: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as caught:
        with_tls("s1", **group)
    said = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors()]
    assert any(fault in line for line in said), said


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("ssl", False, True),
        ("SSL_Cert_File", "x", True),
        ("ssl_min_protocol_version", "TLSv1.1", True),
        ("ssl_min_protocol_version", "", True),
        ("ssl_min_protocol_version", "TLSv1.3", False),
        ("ssl_ciphers", "x", False),
    ],
)
def test_settings_that_pgherd_writes_are_refused_with_tls_only(
    name: str, value: Any, refused: bool
) -> None:
    tables = with_tls("s1").model_dump()
    tables["group"]["sync"] = ""
    tables["nodes"]["pa"]["settings"] = {name: value}
    plain = {**tables, "group": {**tables["group"], "tls": False}}
    Topology.model_validate(plain)
    if not refused:
        Topology.model_validate(tables)
        return
    with pytest.raises(ValidationError, match=f"nodes.pa.settings.{name}"):
        Topology.model_validate(tables)


# --- what it changes ---


def test_a_standby_verifies_whom_it_follows() -> None:
    made = with_group()
    found = read_conninfo(node_config.conninfo(made.instance("s1"), made.master))
    assert WAY.items() <= found.items()
    assert found["host"] == "pa"
    assert not OWN.keys() & found.keys()


def test_with_client_certificates_it_shows_its_own() -> None:
    made = with_group(tls_client_certificates=True)
    found = read_conninfo(node_config.conninfo(made.instance("s1"), made.master))
    assert (WAY | OWN).items() <= found.items()


def test_without_tls_nothing_is_said_of_it() -> None:
    made = fake_group(topology("s1"))
    assert "ssl" not in node_config.conninfo(made.instance("s1"), made.master)
    assert "ssl" not in node_config.settings(made.master)
    first, rules = hba_rules(made.master)
    assert first == ""
    assert "hostssl" not in rules


def test_between_hosts_the_name_is_one_that_the_certificate_has() -> None:
    made = fake_group(spanning())
    found = read_conninfo(node_config.conninfo(made.instance("s1"), made.master))
    assert found["host"] == "192.0.2.1"
    assert found["host"] in names(made.master.node)


def test_the_settings() -> None:
    text = node_config.settings(with_group().master)
    for line in (
        "ssl = on",
        "ssl_cert_file = '/etc/pgherd/server.pem'",
        "ssl_key_file = '/etc/pgherd/server.pem'",
        "ssl_min_protocol_version = 'TLSv1.2'",
    ):
        assert f"\n{line}\n" in text
    assert "ssl_ca_file" not in text  # else each client would be asked for a certificate
    asking = node_config.settings(with_group(tls_client_certificates=True).master)
    assert "\nssl_ca_file = '/etc/pgherd/ca.crt'\n" in asking


def test_the_users_own_least_version_stands_alone() -> None:
    tables = with_tls("s1").model_dump()
    tables["group"]["sync"] = ""
    tables["nodes"]["pa"]["settings"] = {"SSL_min_protocol_version": "TLSv1.3"}
    text = node_config.settings(fake_group(Topology.model_validate(tables)).master)
    assert text.lower().count("ssl_min_protocol_version") == 1


def test_the_rules() -> None:
    first, rules = hba_rules(with_group().master)
    assert [line.split() for line in first.splitlines()] == [
        ["hostnossl", "all", "all", "all", "reject"],
        ["hostnossl", "replication", "all", "all", "reject"],
    ]
    kinds = {line.split()[0]: line.split()[-1] for line in rules.splitlines()}
    assert kinds == {"host": "reject", "hostssl": "scram-sha-256"}
    _, asking = hba_rules(with_group(tls_client_certificates=True).master)
    let_in = [line for line in asking.splitlines() if "reject" not in line]
    assert all(line.endswith("scram-sha-256 clientcert=verify-full") for line in let_in)


def test_the_uris() -> None:
    wanted = uris.Wanted("any", "libpq", trusted="/a b/ca.crt")
    assert uris.lines(with_tls(), wanted) == [
        (
            "postgresql://postgres@127.0.0.1:5432/postgres?target_session_attrs=any"
            "&sslmode=verify-full&sslrootcert=/a%20b/ca.crt&channel_binding=require"
        )
    ]
    jdbc = uris.lines(with_tls(), uris.Wanted("", "jdbc", trusted="/ca.crt"))[0]
    assert jdbc.endswith("?user=postgres&sslmode=verify-full&sslrootcert=/ca.crt")
    env = uris.lines(with_tls(), uris.Wanted("", "env", trusted="/a b/ca.crt"))[0].splitlines()
    assert "export PGSSLMODE=verify-full" in env
    assert "export PGSSLROOTCERT='/a b/ca.crt'" in env
    assert "export PGCHANNELBINDING=require" in env


# --- what is told ---

INFO = "host=pa port=5432 " + " ".join(f"{k}={v}" for k, v in WAY.items())


def test_what_a_standby_says_is_compared_with_what_is_asked() -> None:
    standby, plain = with_group().instance("s1"), fake_group(topology("s1")).instance("s1")
    by_tls, in_the_clear = (standby_facts(primary_conninfo=i) for i in (INFO, "host=pa port=5432"))
    assert node_config.as_asked(standby, by_tls)
    assert not node_config.as_asked(standby, in_the_clear)
    assert node_config.as_asked(plain, in_the_clear)
    assert not node_config.as_asked(plain, by_tls)
    [(what, asked, found)] = diff.of_connection(standby, in_the_clear)
    assert (what, found) == ("tls", "it connects with no TLS")
    assert "sslmode=verify-full" in asked


def of_server(made: Group, found: Facts) -> list[tuple[str, str, str]]:
    return [(d.what, d.found, d.command) for d in diff.of_server(made, made.master, found)]


def test_a_server_without_tls_is_a_difference_and_one_with_it_that_should_not() -> None:
    allow = "invoke apply"
    assert of_server(with_group(), facts()) == [("tls", diff.FOUND[False], allow)]
    plain = fake_group(topology("s1"))
    assert of_server(plain, facts(certificate="x")) == [("tls", diff.FOUND[True], allow)]
    assert of_server(plain, facts()) == []
    assert of_server(with_group(), standby_facts())[0][2] == allow


def test_another_certificate_is_a_difference(tmp_path: Path) -> None:
    made = with_group()
    made.certificates = Certificates(tmp_path, made.topology, made.trace, Path)
    assert of_server(made, facts(certificate="x"))[0][:2] == ("certificate", "none is here")
    laid = digest(made.certificates.of_server(made.master.node))
    assert of_server(made, facts(certificate="x"))[0][:2] == ("certificate", "another one")
    assert of_server(made, facts(certificate=laid)) == []
    gone = of_server(made, facts(certificate=GONE))
    assert gone == [("certificate", "the server's file is gone", "invoke stop start")]
    other = x509.authority(*x509.new_authority("other"))
    text = x509.issue(other, common="pa", unit="", names=["pa"])
    made.certificates.path(made.master.node).write_text(text)
    [(what, found, _)] = of_server(made, facts(certificate=laid))
    assert (what, found) == ("certificate", "one by CN=pgherd other CA for pa")


def test_what_ends_soon_is_told_with_what_helps(tmp_path: Path) -> None:
    made = with_group()
    made.certificates = Certificates(tmp_path, made.topology, made.trace, Path)
    kept, primary = made.certificates, made.master.node
    by = x509.authority(kept.trusted().value, kept.authorities.key.read_text())
    days, x509.DAYS = x509.DAYS, 20
    try:
        kept.path(primary).write_text(x509.issue(by, common="pa", unit="", names=names(primary)))
    finally:
        x509.DAYS = days
    laid = digest(made.certificates.authorities.trusted())
    assert of_server(made, facts(certificate=laid))[0][2] == "invoke tls --renew"
    plain = facts(certificate=laid)
    assert [code for code, _ in warnings(made, pa=plain, s1=standby_facts(certificate="x"))] == [
        "certificate"
    ]
    days, x509.AUTHORITY_DAYS = x509.AUTHORITY_DAYS, 20
    try:
        kept.root.unlink()
        kept.of_server(primary)  # by an authority that ends soon
    finally:
        x509.AUTHORITY_DAYS = days
    assert kept.cure(primary) == "`invoke tls --renew-ca`"
    assert of_server(made, facts(certificate=laid))[0][2] == "invoke tls --renew-ca"


def warnings(made: Group, **nodes: Facts) -> list[tuple[str, str | None]]:
    picture = ReplicationView(made, observation(**nodes))
    return [(w.code, w.node) for w in replication.of_encryption(picture)]


def test_status_warns_of_what_is_in_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgherd.security.authority.Authorities.fault", lambda _: "")
    streams = standby_facts(primary_conninfo=INFO, certificate="x")
    by_tls = sender("s1", tls="TLSv1.3", cipher="c")
    assert warnings(with_group(), pa=facts(by_tls, certificate="x"), s1=streams) == []
    plain = facts(sender("s1"), certificate="x")
    assert warnings(with_group(), pa=plain, s1=streams) == [("in-clear", "s1")]
    assert warnings(with_group(), pa=facts(by_tls), s1=streams) == [("in-clear", "pa")]
    gone = facts(by_tls, certificate=GONE)
    assert warnings(with_group(), pa=gone, s1=streams) == [("certificate", "pa")]
    assert warnings(fake_group(topology("s1")), pa=facts(sender("s1")), s1=streams) == []


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ([], ""),
        (["ca.key"], ""),  # it may be kept elsewhere
        (["ca.crt"], "ca.crt, which clients trust, is missing: put a copy back, or `invoke tls --"),
        (["ca.crt", "ca.key"], "if they are lost, `invoke tls --renew` makes another authority"),
    ],
)
def test_an_authority_that_is_missing_is_told(tmp_path: Path, lost: list[str], said: str) -> None:
    made = with_group()
    made.certificates = Certificates(tmp_path, made.topology, made.trace, Path)
    made.certificates.of_server(made.master.node)
    for name in lost:
        (tmp_path / name).unlink()
    shown = [Shown("pa", certificate("a", 700), certificate("a", 700))]
    amiss = certificates.amiss(made, shown)
    assert (said in "".join(amiss), bool(amiss)) == (True, bool(said))
    streams = standby_facts(primary_conninfo=INFO, certificate="x")
    found = [("certificate", None)] if said else []
    assert warnings(made, pa=facts(certificate="x"), s1=streams) == found
    trusted = tls.Trusted("/ca.crt", certificates.trusted(made), amiss)
    last = "1 to see to" if said else "all is well"
    assert tls.text("g", trusted, shown).endswith("\n".join([*amiss, f"tls of g: {last}"]))
    told = json.loads(tls.as_json("g", trusted, shown))
    assert (told["ok"], told["trusted"]["warnings"]) == (not said, amiss)
    assert certificates.amiss(made, [Shown("pa", None, None)]) == []  # not made yet


def test_an_authority_that_does_not_fit_its_key_is_told(tmp_path: Path) -> None:
    made = with_group()
    made.certificates = Certificates(tmp_path, made.topology, made.trace, Path)
    made.certificates.of_server(made.master.node)
    (tmp_path / "ca.crt").write_text(x509.new_authority("other")[0])
    fault = made.certificates.authorities.fault()
    assert "the key is that of none of the certificates" in fault


KEY = x509.new_authority("third")[1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "pa shows no certificate: it is down, or not made yet (connection refused): `inv"),
        (b"N", "pa shows no certificate: the server has no TLS: `invoke diff`"),
        (b"S", "pa shows no certificate: "),  # and then hangs up
    ],
)
def test_a_server_that_shows_no_certificate_is_told_with_a_cure(
    answer: bytes | None, said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tables = with_tls("s1").model_dump()
        tables["group"]["sync"] = ""
        tables["nodes"]["pa"]["port"] = server.getsockname()[1]
        made = fake_group(Topology.model_validate(tables))
        if answer is None:
            server.close()
        else:
            threading.Thread(target=answered, args=(server, answer)).start()
        [pa] = [shown for shown in certificates.look(made) if shown.node == "pa"]
    [warning] = pa.warnings
    assert warning.startswith(said)
    assert "`invoke " in warning


def answered(server: socket.socket, answer: bytes) -> None:
    """Answer one request for TLS, and hang up."""
    with server.accept()[0] as taken:
        taken.recv(8)
        taken.sendall(answer)


FOREIGN, FOREIGN_KEY = x509.new_authority("other")


@pytest.mark.parametrize("act", [certificates.renew, certificates.renew_authority])
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ca.crt", FOREIGN, "the key is that of none of the certificates. Put back the two that"),
        ("ca.crt", "nothing", "there is no certificate in it"),
        ("ca.key", FOREIGN_KEY, "the key is that of none of the certificates. Put back the two"),
        ("ca.key", "", "ca.key is missing, which signs it: put it back, or move"),
    ],
)
def test_without_what_signs_nothing_is_changed(
    tmp_path: Path, act: Callable[[Group], object], name: str, text: str, said: str
) -> None:
    made = with_group()
    made.certificates = Certificates(tmp_path, made.topology, made.trace, Path)
    made.certificates.of_server(made.master.node)
    (tmp_path / name).unlink()
    if text:
        (tmp_path / name).write_text(text)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    with pytest.raises(Refused) as caught:
        act(made)  # a command would fail: none is planned
    assert said in caught.value.sentence
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("stage", ["coming", "trusted"])
def test_another_authority_that_cannot_sign_is_refused_first(tmp_path: Path, stage: str) -> None:
    made = with_group()
    made.certificates = Certificates(tmp_path, made.topology, made.trace, Path)
    authorities = made.certificates.authorities
    authorities.begin()
    if stage == "trusted":
        authorities.trust()
    authorities.check()
    authorities.check_other()
    way = tmp_path / f"ca.{stage}.pem"
    way.write_text(FOREIGN + KEY if stage == "coming" else FOREIGN_KEY + FOREIGN)
    with pytest.raises(Refused, match=f"or remove ca.{stage}.pem to have another one"):
        certificates.renew_authority(made)  # a command would fail: none is planned


NOW = datetime.now(UTC)


def certificate(serial: str, days: float) -> Details:
    half = timedelta(minutes=10)
    return Details("CN=pa", "CN=ca", ("pa",), serial, NOW, NOW + timedelta(days=days) + half)


@pytest.mark.parametrize(
    ("kept", "served", "said"),
    [
        (certificate("a", 700), certificate("a", 700), ""),
        (certificate("a", 700), certificate("b", 700), "shows another certificate"),
        (None, certificate("b", 700), "shows another certificate"),
        (certificate("a", 29), certificate("a", 29), "in 29 days: `invoke tls --renew`"),
        (certificate("a", -2), certificate("a", -2), "ended on"),
        (certificate("a", 700), None, "pa shows no certificate: refused"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told(
    kept: Details | None, served: Details | None, said: str
) -> None:
    shown = Shown("pa", kept, served, fault="" if served else "refused")
    assert (said in " ".join(shown.warnings)) if said else shown.warnings == []
    text = tls.text("g", tls.Trusted("/ca.crt"), [shown])
    assert all(warning in text for warning in shown.warnings)
    assert text.endswith("tls of g: " + ("1 to see to" if said else "all is well"))
    told = tls.as_json("g", tls.Trusted("/ca.crt"), [shown])
    assert f'"ok": {"false" if said else "true"}' in told
