"""What an audit makes of what it sees; the search itself runs here, in this machine's own shell."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeHost, Said, group, listed, topology

from pgherd.checks import audit
from pgherd.checks import hba as rules
from pgherd.checks import secrets as forms
from pgherd.checks.base import Audit, AuditFinding
from pgherd.checks.secrets import Look, NodeLook, SecretPatterns, assigned, holds_secret, read
from pgherd.config import loader
from pgherd.config.nodes import Encryption
from pgherd.errors import DeadlinePassed, Error, Unreachable
from pgherd.hosts.commands import Script, Secret
from pgherd.postgres import scripts
from pgherd.report import findings

ODD = "a'b\"c\\d:e é%$(id)&"


def sought(value: str = "Zq7superZq7", label: str = "postgres") -> SecretPatterns:
    return SecretPatterns(label, f"the password of {label}", Secret(value, f"/s/{label}.password"))


# --- the forms ---


@pytest.mark.parametrize(
    "text",
    [
        f"password is {ODD}.",
        json.dumps({"Env": [f"X={ODD}"]}),
        json.dumps([ODD], ensure_ascii=False),
        f"export PGPASSWORD={shlex.quote(ODD)}",
        "*:*:*:postgres:a'b\"c\\\\d\\:e é%$(id)&",
        "host=x password='a\\'b\"c\\\\d:e é%$(id)&'",
        "primary_conninfo = 'a''b\"c\\\\d:e é%$(id)&'",
        "PASSWORD 'a''b\"c\\d:e é%$(id)&'",
        "postgresql://postgres:a%27b%22c%5Cd%3Ae%20%C3%A9%25%24%28id%29%26@db/",
        "data: YSdiImNcZDplIMOpJSQoaWQpJg==",
    ],
)
def test_a_secret_is_known_in_each_form(text: str) -> None:
    assert holds_secret(sought(ODD), text)
    assert not holds_secret(sought(), text)


@pytest.mark.parametrize(
    ("value", "weak"),
    [("short", True), ("postgres", True), ("Password", True), ("12 chars long", False)],
)
def test_a_password_that_stands_everywhere_is_told_and_not_sought(value: str, weak: bool) -> None:
    assert sought(value).weak is weak


# --- the search ---


def shell(script: Script, *words: str) -> list[list[str]]:
    """Run a script of the search in this machine's shell; return its lines by their fields."""
    done = subprocess.run(
        ["sh", "-s", "--", *words], input=script.text(), text=True, capture_output=True, check=True
    )
    assert done.stderr == ""
    return [line.split("\t") for line in done.stdout.splitlines()]


def searching(lines: str, *secrets: SecretPatterns) -> Script:
    """Return a script that may use the functions of the search."""
    return (
        Script(("{\n",)) + assigned(list(secrets)) + scripts.fragment("search") + f"{lines}\n}}\n"
    )


def test_files_that_hold_a_secret(tmp_path: Path) -> None:
    (tmp_path / "a b.conf").write_text(f"x = 1\n# {ODD}\n", encoding="utf-8")
    (tmp_path / "bytes").write_bytes(b"\0\xff\n" + b"Zq7superZq7" + b"\0")
    (tmp_path / "none").write_text("Zq7super\n")
    (tmp_path / "directory").mkdir()
    script = searching(
        f"in_files file {shlex.quote(str(tmp_path))}/*", sought(ODD, "odd"), sought()
    )
    assert shell(script) == [
        ["file", "odd", "file", f"{tmp_path}/a b.conf"],
        ["file", "postgres", "file", f"{tmp_path}/bytes"],
    ]


def test_the_lines_that_hold_a_secret() -> None:
    said = f"printf '1\\n%s 2\\n3\\0\\377\\n%s\\n' {shlex.quote(ODD)} Zq7superZq7 | lines_with"
    assert shell(searching(f"{said} odd", sought(ODD, "odd"), sought())) == [["2"]]
    assert shell(searching(f'{said} "$labels"', sought(ODD, "odd"), sought())) == [["2"], ["4"]]


def test_processes_with_a_secret(tmp_path: Path) -> None:
    """But not those of the session that looks, which got it from its user."""
    env = {"PATH": "/usr/bin:/bin", "PGPASSWORD": "Zq7superZq7"}
    wait = ["sh", "-c", "read x; : $1", "sh", f"postgresql://{ODD}"]
    other = subprocess.Popen(["sleep", "60"], env=env)
    named = subprocess.Popen(wait, stdin=subprocess.PIPE)
    script = searching("in_processes", sought(ODD, "odd"), sought()).text()
    try:
        done = subprocess.run(
            ["sh", "-c", 'sleep 0.1; sh -s; :'], input=script, env=env, text=True, check=True,
            capture_output=True, cwd=tmp_path,
        )  # fmt: skip
    finally:
        other.kill()
        named.communicate(b"\n")
        other.wait()
    lines = [line.split("\t")[:5] for line in done.stdout.splitlines()]
    assert ["process", "odd", "cmdline", str(named.pid), "sh"] in lines
    assert ["process", "postgres", "environ", str(other.pid), "sleep"] in lines
    assert len([line for line in lines if line[1] == "postgres"]) == 1


def test_a_search_that_cannot_find_says_so() -> None:
    script = searching("", sought())
    blind = Script((script.text().replace("grep -nF", "grep -nFQ"),))
    done = subprocess.run(
        ["sh", "-s"], input=blind.text(), text=True, capture_output=True, check=True
    )
    assert done.stdout == "failed\tgrep does not find what is there\n"


def test_what_others_can_read(tmp_path: Path) -> None:
    private = tmp_path / "my secrets"
    private.mkdir(mode=0o700)
    for name, mode in (("own", 0o600), ("group", 0o640), ("all", 0o604)):
        (private / name).touch()
        (private / name).chmod(mode)
    (tmp_path / "my secrets_bk_1").mkdir(mode=0o755)
    (tmp_path / "data_bk_1").mkdir(mode=0o700)
    (tmp_path / "data_bk_2").mkdir()
    (tmp_path / "data_bk_2").chmod(0o755)
    values = f"private='{private}\n/nowhere'\ndata='{tmp_path}/data'\ndocker=\n"
    found = shell(searching(values + scripts.fragment("search-host"), sought()))
    assert sorted(path for word, path in found if word == "open") == [
        f"{tmp_path}/data_bk_2",
        f"{private}/all",
        f"{private}/group",
        f"{private}_bk_1",
    ]


def test_a_path_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a[1]", "a1"):
        for made in (tmp_path / name, tmp_path / f"{name}_bk_1"):
            made.mkdir()
            made.chmod(0o755)
    values = f"private='{tmp_path}/a[1]'\ndata='{tmp_path}/a[1]\n{tmp_path}/*'\ndocker=\n"
    found = shell(searching(values + scripts.fragment("search-host"), sought()))
    assert sorted(path for word, path in found if word == "open") == [
        f"{tmp_path}/a[1]",
        f"{tmp_path}/a[1]_bk_1",  # beside the secrets, and beside the data
        f"{tmp_path}/a[1]_bk_1",
    ]


# --- what is made of it ---


def record(name: str, **config_: Any) -> dict[str, Any]:
    """A container as docker has it."""
    state = {"Running": True, "Restarting": False}
    return {
        "Id": "ab" * 32,
        "Name": f"/{name}",
        "Config": config_,
        "State": state,
        "HostConfig": {},
    }


def test_a_secret_in_a_container_is_told_by_the_name_of_its_variable() -> None:
    look = Look(
        "local", containers=[record("pa", Env=["A=1", "PW=x Zq7superZq7"], Cmd=["Zq7superZq7"])]
    )
    (found,) = forms.in_docker(group(topology("s1")), look, [sought()])
    assert (found.code, found.node) == ("secret-container", "pa")
    assert found.where == "docker container inspect pa: Config.Env PW, Config.Cmd[0]"
    assert "Zq7" not in repr(found)


def test_a_variable_that_is_a_secret_itself_is_not_told() -> None:
    look = Look(
        "local",
        images=[{"Id": "sha256:1", "RepoTags": ["a:1"], "Config": {"Env": ["Zq7superZq7=1"]}}],
    )
    (found,) = forms.in_docker(group(topology()), look, [sought()])
    assert (found.code, "Zq7" in repr(found)) == ("secret-image", False)


def test_processes_are_told_once() -> None:
    """What a container was made with is in its processes' environments, too; the host sees both."""
    env = {"Env": ["PW=Zq7superZq7"]}
    lines = [("process", "postgres", "environ", str(n), "postgres", "ab" * 32) for n in range(8)]
    argv = ("process", "postgres", "cmdline", "9", "psql", "cd" * 32)
    look = Look("local", containers=[record("pa", **env)], lines=[*lines, argv])
    (found,) = forms.in_processes(group(topology()), look, [sought()])
    assert (found.code, found.where) == ("secret-argv", "process 9 (psql) of local")
    look.containers = [record("pa")]
    environ, _ = forms.in_processes(group(topology()), look, [sought()])
    assert environ.code == "secret-environ"
    assert environ.where.startswith("process 0 (postgres), 1 (postgres), ")
    assert environ.where.endswith(" … in pa")
    look.nodes["pa"] = NodeLook()  # it was looked into, so what was seen from outside counts twice
    assert [f.code for f in forms.in_processes(group(topology()), look, [sought()])] == [
        "secret-argv"
    ]


SERVER: dict[str, Any] = {
    "in_recovery": False, "password_encryption": "scram-sha-256", "ssl": "off", "md5_roles": [],
    "roles": [
        {"name": "postgres", "super": True, "more": True},
        {"name": "replicator", "super": False, "more": False},
    ],
    "senders": [{"role": "replicator", "name": "s1", "tls": True}], "conninfo": [], "hba": [],
}  # fmt: skip


def judged(*, tls: bool = False, **changes: Any) -> list[tuple[str, str]]:
    """What is found on a primary and its standby that say this of themselves."""
    asked = group(topology("s1"))
    for instance in asked.instances.values():
        instance.encryption = Encryption(tls)
    standby = {**SERVER, "in_recovery": True, "senders": []}
    standby |= {"conninfo": [{"place": "pg_settings", "password": False, "user": "replicator"}]}
    nodes = {"s1": NodeLook(server=standby | changes), "pa": NodeLook(server=SERVER | changes)}
    found = rules.findings(asked, [Look("local", nodes=nodes)])
    return [(f.code, f.node) for f in found]


def test_servers_in_order() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"md5_roles": ["app", "replicator"]}, [("md5", "pa"), ("md5", "pa")]),
        ({"password_encryption": "md5"}, [("md5", "s1"), ("md5", "pa")]),
        ({"senders": [{"role": "postgres", "name": "s1", "tls": True}]}, [("superuser", "pa")]),
        (
            {"conninfo": [{"place": "pg_settings", "password": True, "user": None}]},
            [("conninfo-password", "s1"), ("conninfo-password", "pa"), ("superuser", "pa")],
        ),
        (
            {"roles": [{"name": "replicator", "super": False, "more": True}]},
            [("superuser", "pa")],
        ),
    ],
)
def test_a_server_that_is_not(changes: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert judged(**changes) == found


def test_without_the_tls_that_is_asked_for() -> None:
    assert judged(tls=True) == [("in-clear", "s1"), ("in-clear", "pa")]
    laid = [("hostnossl", ["all"]), ("hostnossl", ["replication"]), ("host", ["all"])]
    hba = [
        {"file": "/x", "line": n, "type": kind, "databases": names, "users": ["all"],
         "address": "all", "netmask": None,
         "method": "reject" if kind == "hostnossl" else "scram-sha-256"}
        for n, (kind, names) in enumerate(laid, 1)
    ]  # fmt: skip
    assert judged(tls=True, ssl="on", hba=hba) == []
    assert judged(tls=True, ssl="on", hba=hba[1:]) == [("in-clear", "s1"), ("in-clear", "pa")]
    clear = [{"role": "replicator", "name": "s1", "tls": False}]
    assert judged(tls=True, ssl="on", senders=clear) == [("in-clear", "s1"), ("in-clear", "pa")]
    assert judged(ssl="off", senders=clear) == []


def test_a_key_belongs_to_its_node_and_that_of_the_authority_to_none(secrets: Path) -> None:
    for name in ("ca.key", "pa.pem", "pa.client.pem"):
        lines = f"{name:A<64}\n{name:B<50}\n==\n"
        block = f"-----BEGIN PRIVATE KEY-----\n{lines}-----END PRIVATE KEY-----\n"
        cert = f"-----BEGIN CERTIFICATE-----\n{'C' * 64}\n-----END CERTIFICATE-----\n"
        (secrets / name).write_text(block + cert)
    everything = audit._secret_patterns(group(topology("s1")))
    keys = {s.name.split()[-1]: s for s in everything if s.label.startswith("key_")}
    assert {name: len(key.forms) for name, key in keys.items()} == dict.fromkeys(
        ("ca.key", "pa.pem", "pa.client.pem"), 2
    )
    seen: list[tuple[str, ...]] = [
        ("file", keys[name].label, "file", f"/etc/pgherd/{file}")
        for name in keys
        for file in ("server.pem", "client.pem")
    ]
    passfile = [
        ("file", role, "file", "/etc/pgherd/passfile") for role in ("postgres", "replicator")
    ]
    look = Look("local", nodes={"pa": NodeLook([*seen, *passfile]), "s1": NodeLook(seen[2:4])})
    found = forms.in_logs_and_files(group(topology("s1")), look, everything)
    assert [(f.node, f.text.split(" is in")[0]) for f in found] == [
        ("pa", "the private key of ca.key"),
        ("pa", "the private key of ca.key"),
        ("pa", "the superuser's password"),
        *[("s1", f"the private key of {seen_in}") for seen_in in ["pa.client.pem"] * 2],
    ]


@pytest.mark.parametrize(
    ("file", "cure"),
    [
        ("ca.key", "`invoke tls --renew-ca` replaces it"),
        ("ca.coming.pem", "`invoke tls --renew-ca` until it is the only one, then twice more, "),
        ("ca.trusted.pem", "`invoke tls --renew-ca` until it is the only one, then twice more, "),
        ("ca.pem", "`invoke tls --renew` replaces it"),  # of a node of that name
        ("pa.client.pem", "`invoke tls --renew` replaces it"),
    ],
)
def test_how_a_key_that_others_have_is_made_worthless(file: str, cure: str) -> None:
    key = SecretPatterns("key_0", f"the private key of {file}", Secret("k", f"/s/g/{file}"))
    assert key.anew.startswith(cure)


@pytest.mark.parametrize("text", ["node\tpa\tserver\tnull x", "image\t[1"])
def test_an_answer_that_cannot_be_read(text: str) -> None:
    with pytest.raises(Error, match="cannot be read"):
        read("box", text)


def test_a_file_s_name_may_have_a_tab_and_a_line_may_be_unknown() -> None:
    look = read(
        "box", "node\tpa\tfile\tpostgres\tfile\t/a\tb\nwhat\n\nnode\tpa\tgateway\t10.0.0.1/32\n"
    )
    assert look.nodes["pa"].gateways == ["10.0.0.1/32"]
    (found,) = forms.in_logs_and_files(group(topology()), look, [sought()])
    assert found.where == "/a\tb"


# --- all of it ---


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory with the passwords of group `g`."""
    monkeypatch.setattr(loader, "secrets_dir", lambda *_: tmp_path)
    for role in ("postgres", "replicator"):
        (tmp_path / f"{role}.password").write_text(f"Zq7{role}Zq7\n")
    return tmp_path


HOST, LIST = "sh -s", "docker ps"


@pytest.mark.usefixtures("secrets")
def test_secrets_go_by_stdin_only() -> None:
    other = record("other") | {"Image": "sha256:1"}
    host = FakeHost({
        HOST: [Said(), Said("absent\n")], LIST: Said(listed("other")),
        "docker container inspect": Said(json.dumps([other])),
    })  # fmt: skip
    found = audit.audit(group(topology(), host))
    assert (found.clean, found.looked) == (True, 0)
    assert "Zq7" not in " ".join(host.ran)
    assert host.ran[1] == "docker container inspect id-other"
    assert "Zq7postgresZq7\n" in host.calls[2].stdin
    assert "\nimages=sha256:1\n" in host.calls[2].stdin
    assert all(call.reads for call in host.calls)


@pytest.mark.usefixtures("secrets")
def test_a_host_that_is_away_keeps_nobody_from_looking_at_the_others() -> None:
    asked = topology("s1", s1={"host": "box", "address": "192.0.2.1"}, pa={"listen": "192.0.2.2"})
    here, box = (
        FakeHost({HOST: [Said(), Said("absent\n")], LIST: Said()}),
        FakeHost({LIST: Unreachable("box: gone")}),
    )
    box.name = "box"
    made = group(asked, here)
    made.sites["box"].host = made.sites["box"].engine.host = box
    found = audit.audit(made)
    assert (found.clean, dict(found.away)) == (True, {"box": "box: gone"})
    here.plan[("docker", "ps")] = Unreachable("no engine")
    with pytest.raises(Unreachable, match="no engine"):
        audit.audit(made)


@pytest.mark.usefixtures("secrets")
def test_a_container_that_does_not_answer_is_told_and_keeps_nobody_waiting() -> None:
    late = DeadlinePassed("too late")
    host = FakeHost({
        HOST: [Said(), Said("absent\n")], LIST: Said(f"{listed('other')}{listed('x')}"),
        "docker container inspect": late,
        "docker container inspect id-other": Said(json.dumps([record("other")])),
        "docker container inspect id-other id-x": late,
    })  # fmt: skip
    (found,) = audit.audit(group(topology(), host)).findings
    assert (found.code, found.node, found.where) == ("unseen", "", "docker container inspect x")


def test_a_weak_password_is_a_finding(secrets: Path) -> None:
    (secrets / "postgres.password").write_text("postgres\n")
    host = FakeHost({HOST: [Said(), Said("absent\n")], LIST: Said()})
    (found,) = audit.audit(group(topology(), host)).findings
    assert (found.code, found.where) == ("weak", str(secrets / "postgres.password"))
    assert "labels='replicator'" in host.calls[1].stdin


def test_the_report() -> None:
    finding = AuditFinding("readable", "", "local", "it can be read", "/x", "`invoke status` tells")
    found = Audit("g", (finding,), ("s1 is down",), (("box", "gone\nfor good"),), 1)
    assert findings.audit_text(found).splitlines() == [
        "readable  it can be read",
        "          where  /x",
        "          cure   `invoke status` tells",
        "note: s1 is down",
        "note: box cannot be reached: gone for good",
        "audit of g: 1 finding, 1 node looked into",
    ]
    told = json.loads(findings.audit_json(found, "box"))
    assert told["ok"] is False
    assert told["findings"][0]["cure"] == "`invoke on box status` tells"
    assert json.loads(findings.audit_json(Audit("g", (), (), (), 2)))["ok"] is True
