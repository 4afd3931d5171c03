"""Logging in by keys: those of files and of a real agent, certificates, and who is not let in."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from sshd import (
    ME,
    Client,
    Sshd,
    agent,
    client,
    fingerprint,
    make_key,
    needs_sshd,
    public,
    run,
    sshd,
)

from pgherd.errors import Unreachable
from pgherd.hosts import ssh_login

pytestmark = needs_sshd
ACCEPTED = "Accepted publickey"
LOCK = "not to be asked for"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def user(tmp_path: Path, server: Sshd) -> Client:
    """Somebody who knows the server as box, and whom it does not let in."""
    made = client(tmp_path / "user")
    made.knows(server.known())
    made.server("box", server)
    return made


@pytest.fixture
def own_agent(tmp_path: Path) -> Iterator[Path]:
    with agent(tmp_path, SSH_ASKPASS="/bin/false", DISPLAY="x") as path:
        yield path


def logs_in(user: Client, destination: str = "box", server: Sshd | None = None) -> str:
    """Log in, and return what the server last accepted; its log may come after the login."""
    before = server.log().count(ACCEPTED) if server else 0
    connected = ssh_login.connect(destination, note=pytest.fail, config_file=user.config)
    assert connected.transport.is_authenticated()
    connected.close()
    end = time.monotonic() + 10
    while server and server.log().count(ACCEPTED) == before and time.monotonic() < end:
        time.sleep(0.05)
    return server.log().rpartition(ACCEPTED)[2] if server else ""


def refusal(user: Client, destination: str = "box", timeout: float = 15.0) -> str:
    """Return with which sentence nobody is let in."""
    with pytest.raises(Unreachable) as caught:
        ssh_login.connect(destination, timeout=timeout, note=pytest.fail, config_file=user.config)
    return caught.value.sentence


def add(path: Path, key: Path, *options: str) -> None:
    """Give the agent a key."""
    environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
    subprocess.run(
        ["ssh-add", "-q", *options, key], env=environment, stdin=subprocess.DEVNULL, check=True
    )


# --- who is not let in ---


def test_a_wrong_key(user: Client, server: Sshd) -> None:
    told = refusal(user)
    key = user.directory / "id"
    assert told.startswith("box: ")
    assert f"{ME}@127.0.0.1:{server.port} does not let the user {ME!r} in" in told
    assert f"ED25519 {fingerprint(key)} ({key})" in told
    assert f"ssh-copy-id -i {key} -F {user.config} box" in told


def test_a_wrong_user(user: Client, server: Sshd) -> None:
    server.admit(user.directory / "id")
    user.host("box", User="nobody-here")
    assert "does not let the user 'nobody-here' in" in refusal(user)


def test_a_wrong_key_on_a_jump_host(user: Client, server: Sshd, tmp_path: Path) -> None:
    server.admit(user.directory / "id")
    with sshd(tmp_path / "jump") as jump:
        user.knows(jump.known())
        user.server("jump", jump)
        user.host("box", ProxyJump="jump")
        assert refusal(user).startswith("box, at its jump host jump: ")


def test_no_key_at_all(user: Client) -> None:
    user.host("box", IdentityFile="/nosuch/key", IdentitiesOnly="yes")
    (user.directory / "id").unlink()
    told = refusal(user)
    assert "there is no key to try" in told
    assert "/nosuch/key" in told


def test_files_that_are_no_keys(user: Client, server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk", encoding="utf-8")
    (tmp_path / "directory").mkdir()
    for name in ("junk", "directory"):
        user.host("box", IdentityFile=tmp_path / name)
    told = refusal(user)
    assert f"{tmp_path}/junk: it is no private key" in told
    assert f"{tmp_path}/directory: Is a directory" in told
    server.admit(user.directory / "id")
    logs_in(user)


@pytest.mark.parametrize("format_", [[], ["-m", "PEM"]])
def test_a_locked_key(user: Client, server: Sshd, tmp_path: Path, format_: list[str]) -> None:
    run("ssh-keygen", "-q", "-t", "ecdsa", *format_, "-N", LOCK, "-f", tmp_path / "locked")
    server.admit(tmp_path / "locked")
    user.host("box", IdentityFile=tmp_path / "locked")
    told = refusal(user)
    assert f"ssh-add {tmp_path}/locked" in told
    assert "ssh-agent" in told


def test_a_server_that_wants_a_password(user: Client, tmp_path: Path) -> None:
    options = ("PubkeyAuthentication no", "PasswordAuthentication yes")
    with sshd(tmp_path / "other", *options) as other:
        user.knows(other.known())
        told = refusal(user, f"127.0.0.1:{other.port}")
    assert re.search("takes no keys, only password, .* never asks", told)


def test_a_server_that_wants_a_password_besides(user: Client, tmp_path: Path) -> None:
    options = ("AuthenticationMethods publickey,password", "PasswordAuthentication yes")
    with sshd(tmp_path / "other", *options) as other:
        other.admit(user.directory / "id")
        user.knows(other.known())
        assert "takes a key, but wants password besides" in refusal(user, f"127.0.0.1:{other.port}")


def test_keys_turned_off(user: Client) -> None:
    user.host("box", PubkeyAuthentication="no")
    assert "PubkeyAuthentication no" in refusal(user)


def test_too_many_keys(user: Client, tmp_path: Path) -> None:
    keys = [make_key(tmp_path / f"key{index}") for index in range(4)]
    with sshd(tmp_path / "other", "MaxAuthTries 2") as other:
        other.admit(keys[-1])
        user.knows(other.known())
        user.server("many", other, IdentitiesOnly="yes")
        for key in reversed(keys):
            user.host("many", IdentityFile=key)
        told = refusal(user, "many")
        assert "hung up at the login (Too many authentication failures" in told
        assert fingerprint(keys[0]) in told
        assert "IdentitiesOnly yes" in told
        user.host("many", IdentityFile=keys[-1])
        logs_in(user, "many")


def test_a_login_that_hangs(user: Client, tmp_path: Path) -> None:
    hanging = ("AuthorizedKeysCommand /bin/sleep 20", f"AuthorizedKeysCommandUser {ME}")
    with sshd(tmp_path / "other", *hanging) as other:
        user.knows(other.known())
        began = time.monotonic()
        told = refusal(user, f"127.0.0.1:{other.port}", timeout=1.0)
    assert time.monotonic() - began < 8.0
    assert "does not answer to the login in time" in told


# --- keys of all kinds ---


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_key_of_every_type(user: Client, server: Sshd, tmp_path: Path, kind: str) -> None:
    server.admit(key := make_key(tmp_path / "key", kind))
    user.host("box", IdentityFile=key)
    assert fingerprint(key) in logs_in(user, server=server)


class OneKey(paramiko.ServerInterface):  # type: ignore[misc]
    """The rules of a server that lets the owner of one key in."""

    def __init__(self, key: Path) -> None:
        self.key = public(key)

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        """Return what a client may try."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:  # noqa: ARG002
        """Tell whether a key opens."""
        known = f"{key.get_name()} {key.get_base64()}" == self.key
        return int(paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED)


def test_a_server_that_announces_to_take_no_rsa_keys(user: Client, tmp_path: Path) -> None:
    """As OpenSSH does since 9.6 with PubkeyAcceptedAlgorithms; paramiko can be such a server."""
    rsa, host = make_key(tmp_path / "rsa", "rsa", bits="2048"), make_key(tmp_path / "host")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            without = {"pubkeys": ["rsa-sha2-512", "rsa-sha2-256"]}
            server = paramiko.Transport(listening.accept()[0], disabled_algorithms=without)
            server.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(host)))
            server.start_server(server=OneKey(user.directory / "id"))
            server.join(20)

        serving = threading.Thread(target=serve)
        serving.start()
        user.knows(f"[127.0.0.1]:{port} {public(host)}\n")
        user.host("box", Port=port, IdentityFile=rsa)
        logs_in(user)
        serving.join(20)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
@pytest.mark.parametrize("place", ["beside", "named", "agent"])
def test_a_certificate(
    user: Client, tmp_path: Path, own_agent: Path, kind: str, place: str
) -> None:
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "key", kind)
    run("ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", ME, f"{key}.pub")
    certificate = Path(f"{key}-cert.pub")
    with sshd(tmp_path / "other", f"TrustedUserCAKeys {authority}.pub") as other:
        user.knows(other.known())
        if place == "agent":
            add(own_agent, key)
            user.server("box2", other, IdentityAgent=own_agent)
        else:
            user.server("box2", other, IdentityFile=key)
        if place == "named":
            certificate = Path(shutil.move(certificate, tmp_path / "elsewhere.pub"))
            user.host("box2", CertificateFile=certificate)
        assert "-CERT" in logs_in(user, "box2", other)
        if place != "agent":
            certificate.unlink()
            refusal(user, "box2")


# --- the agent ---


@pytest.mark.parametrize("format_", ["RFC4716", "PEM"])  # the former is OpenSSH's own
def test_the_agent_has_the_locked_key(
    user: Client, server: Sshd, tmp_path: Path, own_agent: Path, format_: str
) -> None:
    key = make_key(tmp_path / "key", "ecdsa")
    server.admit(key)
    add(own_agent, key)
    run("ssh-keygen", "-q", "-p", "-m", format_, "-N", LOCK, "-f", key)
    if format_ == "RFC4716":  # which has the public key in the clear
        Path(f"{key}.pub").unlink()
    user.host("box", IdentityFile=key, IdentityAgent=own_agent, IdentitiesOnly="yes")
    logs_in(user)


def test_the_agent_of_the_environment(
    user: Client, server: Sshd, tmp_path: Path, own_agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.admit(key := make_key(tmp_path / "key"))
    add(own_agent, key)
    user.host("box", IdentityAgent="SSH_AUTH_SOCK")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(own_agent))
    logs_in(user)
    monkeypatch.delenv("SSH_AUTH_SOCK")
    refusal(user)


def test_of_an_agent_with_many_keys_the_named_one_comes_first(
    user: Client, tmp_path: Path, own_agent: Path
) -> None:
    keys = [make_key(tmp_path / f"key{index}") for index in range(3)]
    for key in keys:
        add(own_agent, key)
        key.unlink()
    with sshd(tmp_path / "other", "MaxAuthTries 1") as other:
        other.admit(keys[-1])
        user.knows(other.known())
        user.server("one", other, IdentityFile=f"{keys[-1]}.pub", IdentityAgent=own_agent)
        logs_in(user, "one")


def test_only_the_named_keys_of_an_agent(
    user: Client, server: Sshd, tmp_path: Path, own_agent: Path
) -> None:
    server.admit(key := make_key(tmp_path / "key"))
    add(own_agent, key)
    user.host("box", IdentityAgent=own_agent)
    logs_in(user)
    user.host("box", IdentitiesOnly="yes")
    refusal(user)


def test_an_agent_that_refuses_a_key(
    user: Client, server: Sshd, tmp_path: Path, own_agent: Path
) -> None:
    """It asks by a program that says no; the next key is tried."""
    server.admit(asked := make_key(tmp_path / "asked"), user.directory / "id")
    add(own_agent, asked, "-c")
    user.host("box", IdentityAgent=own_agent)
    assert fingerprint(user.directory / "id") in logs_in(user, server=server)


def test_an_agent_that_is_gone(user: Client, server: Sshd, tmp_path: Path) -> None:
    user.host("box", IdentityAgent=tmp_path / "gone")
    assert f"the agent at {tmp_path}/gone" in refusal(user)
    server.admit(user.directory / "id")
    logs_in(user)
