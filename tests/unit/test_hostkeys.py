"""Whether it is really that host: host keys of real servers against known_hosts of all kinds."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sshd import Client, Sshd, client, fingerprint, make_key, needs_sshd, public, run, sshd

from pgherd.errors import Refused
from pgherd.hosts import ssh_keys, ssh_login

pytestmark = needs_sshd
KINDS = ("rsa", "ecdsa", "ed25519")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server with a key of every type."""
    with sshd(tmp_path_factory.mktemp("server"), kinds=KINDS) as made:
        yield made


@pytest.fixture
def user(tmp_path: Path, server: Sshd) -> Client:
    """Somebody whom the server lets in by the alias box, and who does not know it."""
    made = client(tmp_path / "user")
    server.admit(made.directory / "id")
    made.server("box", server)
    return made


def connects(user: Client, destination: str = "box") -> str:
    """Connect, and return the type of the key that the host showed."""
    known = user.known_hosts.read_bytes()
    connected = ssh_login.connect(destination, note=pytest.fail, config_file=user.config)
    kind = connected.transport.get_remote_server_key().get_name()
    connected.close()
    assert user.known_hosts.read_bytes() == known
    return str(kind)


def refusal(user: Client, destination: str = "box") -> str:
    """Return with which sentence the host's key is refused."""
    known = user.known_hosts.read_bytes()
    with pytest.raises(Refused) as caught:
        ssh_login.connect(destination, note=pytest.fail, config_file=user.config)
    assert user.known_hosts.read_bytes() == known
    return caught.value.sentence


def accept(told: str) -> None:
    """Do what a sentence says; instead of a user, an option answers yes."""
    found = re.search(r"accept it: (ssh .*) \(answer yes\)", told)
    assert found, told
    command = shlex.split(found[1].replace("StrictHostKeyChecking=ask", "Compression=no"))
    command[1:1] = ["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"]
    subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, check=True, capture_output=True)


# --- unknown ---


def test_an_unknown_key_is_refused_until_it_is_accepted(user: Client, server: Sshd) -> None:
    told = refusal(user)
    assert told.startswith("box: ")
    assert server.name in told
    assert f"ED25519 {fingerprint(server.keys['ed25519'])}" in told
    assert "administrator" in told
    accept(told)
    assert connects(user) == "ssh-ed25519"


def test_the_unknown_key_of_a_jump_host(user: Client, server: Sshd, tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(sshd(tmp_path / "first"))
        second = stack.enter_context(sshd(tmp_path / "second"))
        for jump in (first, second):
            jump.admit(user.directory / "id")
        user.server("first", first)
        user.server("second", second)
        user.host("far", ProxyJump="first,second", HostName="127.0.0.1", Port=server.port)
        for hop, jump in (("first", first), ("second", second)):
            told = refusal(user, "far")
            assert told.startswith(f"far, at its jump host {hop}: ")
            assert fingerprint(jump.keys["ed25519"]) in told
            accept(told)
        told = refusal(user, "far")
        assert told.startswith("far: ")
        accept(told)
        connects(user, "far")


@pytest.mark.parametrize("setting", ["no", "accept-new", "yes"])
def test_what_ssh_config_allows_is_not_allowed(user: Client, setting: str) -> None:
    user.host("box", StrictHostKeyChecking=setting)
    told = refusal(user)
    assert "-o StrictHostKeyChecking=ask" in told
    accept(told)
    connects(user)


def test_a_key_that_is_kept_nowhere(user: Client) -> None:
    user.host("box", UserKnownHostsFile="/dev/null")
    assert "no file to keep it in" in refusal(user)


# --- known ---


@pytest.mark.parametrize(
    ("known", "shown"),
    [("rsa", "ssh-rsa"), ("ecdsa", "ecdsa-sha2-nistp256"), ("ed25519", "ssh-ed25519")],
)
def test_the_key_is_asked_for_that_is_known(
    user: Client, server: Sshd, known: str, shown: str
) -> None:
    user.knows(server.known(known))
    assert connects(user) == shown


@pytest.mark.parametrize(
    "names",
    [
        "[127.0.0.1]:*",
        "other,[127.0.0.?]:{port}",
        "*",
        "127.0.0.1",
        "!nobody,*",
        "[127.0.0.1]:{port}",
    ],
)
def test_names_of_known_hosts(user: Client, server: Sshd, names: str) -> None:
    user.knows(server.known("ecdsa", name=names.format(port=server.port)))
    connects(user)


def test_hashed_names(user: Client, server: Sshd) -> None:
    user.knows(server.known())
    run("ssh-keygen", "-H", "-f", user.known_hosts)
    assert server.name not in user.known_hosts.read_text(encoding="utf-8")
    connects(user)


def test_the_alias_of_a_key(user: Client, server: Sshd) -> None:
    user.host("box", HostKeyAlias="the-box")
    assert "under the name the-box:" in refusal(user)
    user.knows(server.known(name="the-box"))
    connects(user)


def test_several_files(user: Client, server: Sshd, tmp_path: Path) -> None:
    other = tmp_path / "a b"
    other.write_text(server.known(), encoding="utf-8")
    user.host("box", UserKnownHostsFile=f'/nosuch {user.known_hosts} "{other}"')
    connects(user)
    other.rename(tmp_path / "c")
    refusal(user)
    user.host("box", GlobalKnownHostsFile=tmp_path / "c")
    connects(user)


def test_lines_that_nobody_understands(user: Client, server: Sshd) -> None:
    user.known_hosts.write_bytes(
        b"\xff\xfe\x00 \n*\n* ssh-rsa AAAA\n* ssh-ed25519 !!!\n|1|x|y\n@x\n"
    )
    user.knows(f"|1|x ssh-rsa {public(server.keys['rsa']).split()[1]}\n", server.known("ecdsa"))
    connects(user)


# --- another key than the known one ---


def test_a_changed_key_is_refused_louder(user: Client, server: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    user.knows("# a comment\n", f"{server.name} {public(other)}\n")
    told = refusal(user)
    assert "CHANGED" in told
    assert f"{user.known_hosts}:2" in told
    assert fingerprint(other) in told
    assert fingerprint(server.keys["ed25519"]) in told
    forget = re.search(r"(ssh-keygen -R .*)", told)
    assert forget
    run(*shlex.split(forget[1]))
    accept(told)
    connects(user)


def test_a_changed_key_of_a_jump_host(user: Client, server: Sshd, tmp_path: Path) -> None:
    user.knows(server.known())
    with sshd(tmp_path / "jump") as jump:
        user.knows(f"{jump.name} {public(make_key(tmp_path / 'other'))}\n")
        user.server("jump", jump)
        user.host("box", ProxyJump="jump")
        told = refusal(user)
    assert told.startswith("box, at its jump host jump: ")
    assert "CHANGED" in told


def test_another_type_than_the_known_one(user: Client, tmp_path: Path) -> None:
    """As one does who listens in and has no key of the known type."""
    with sshd(tmp_path / "impostor") as impostor:
        other = make_key(tmp_path / "other", "ecdsa")
        user.knows(f"{impostor.name} {public(other)}\n")
        told = refusal(user, f"127.0.0.1:{impostor.port}")
    assert f"Beware: {user.known_hosts}:1" in told
    assert fingerprint(other) in told


def test_the_key_of_another_port_is_not_changed_but_unknown(user: Client, tmp_path: Path) -> None:
    user.knows(f"127.0.0.1 {public(make_key(tmp_path / 'other'))}\n")
    assert "is not known under the name" in refusal(user)


def test_a_revoked_key(user: Client, server: Sshd) -> None:
    user.knows(server.known("ed25519"), f"@revoked * {public(server.keys['ed25519'])}\n")
    told = refusal(user)
    assert "is revoked" in told
    assert f"{user.known_hosts}:2" in told


def test_a_key_that_is_revoked_without_a_port_is_revoked_on_each(
    user: Client, server: Sshd
) -> None:
    key = public(server.keys["ed25519"])
    user.knows(f"127.0.0.1 {key}\n")
    connects(user)
    user.knows(f"@revoked 127.0.0.1 {key}\n")
    told = refusal(user)
    assert f"is revoked ({user.known_hosts}:2)" in told


def test_a_line_without_a_port_does_not_revoke_what_is_known_of_the_port(
    user: Client, server: Sshd
) -> None:
    """As OpenSSH has it: the host's other lines count only where nothing is known of the port."""
    user.knows(server.known("ed25519"))
    user.knows(f"@revoked 127.0.0.1 {public(server.keys['ed25519'])}\n")
    connects(user)
    run("ssh", "-F", user.config, "-o", "BatchMode=yes", "box", "true")


@pytest.mark.parametrize("made", ["text", "krl", "missing"])
def test_a_list_of_revoked_keys(user: Client, server: Sshd, tmp_path: Path, made: str) -> None:
    revoked = tmp_path / "revoked"
    if made == "text":
        revoked.write_text(f"# stolen\n{public(server.keys['ed25519'])} x\n", encoding="utf-8")
    elif made == "krl":
        run("ssh-keygen", "-k", "-f", revoked, f"{make_key(tmp_path / 'k')}.pub")
    user.knows(server.known())
    user.host("box", RevokedHostKeys=revoked)
    sentence = {"text": f"is revoked ({revoked}:2)", "krl": "is binary", "missing": "No such file"}
    assert sentence[made] in refusal(user)


def test_only_an_authority_is_known(user: Client, tmp_path: Path) -> None:
    user.knows(f"@cert-authority * {public(make_key(tmp_path / 'authority'))}\n")
    told = refusal(user)
    assert f"{user.known_hosts}:1 trusts the certificates of an authority" in told
    accept(told)
    connects(user)


# --- against OpenSSH's own reading ---


@pytest.mark.parametrize(
    "names",
    ["*", "?", "box", "BOX", "b*", "b?x", "*x", "a,box", "!box,*", "*,!b*", "!box", "[box]:22",
     "bo", "boxx", "b.x", "[!a]ox"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["box", "Box", "[box]:2222"])
def test_names_mean_what_openssh_takes_them_for(names: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"{names} {public(make_key(tmp_path / 'key'))}\n", encoding="utf-8")
    done = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", file], capture_output=True, text=True, check=False
    )
    assert ssh_keys.matches(names, name) == (done.returncode == 0)
