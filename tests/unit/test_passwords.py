"""Password files: made once, kept private, used again."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from pgherd.errors import Refused
from pgherd.passwords import Passwords
from pgherd.shell import Secret, Trace


@pytest.fixture
def passwords(tmp_path: Path) -> Passwords:
    return Passwords(tmp_path / "it's a group", Trace())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def laid(passwords: Passwords, content: bytes) -> Path:
    passwords.directory.mkdir()
    path = passwords.directory / "postgres.password"
    path.write_bytes(content)
    return path


def test_made_once_and_used_again(passwords: Passwords) -> None:
    secret = passwords.of("postgres")
    assert len(secret.value) == 32
    assert secret.value.isalnum()
    assert secret.path == passwords.path("postgres")
    assert Path(secret.path).read_text() == f"{secret.value}\n"
    assert passwords.of("postgres") == passwords.known("postgres") == secret
    assert [path.name for path in passwords.directory.iterdir()] == ["postgres.password"]


def test_each_role_has_its_own(passwords: Passwords) -> None:
    assert passwords.of("postgres").value != passwords.of("replicator").value


def test_nobody_else_may_read_them(passwords: Passwords) -> None:
    before = os.umask(0)
    try:
        path = Path(passwords.of("postgres").path)
    finally:
        os.umask(before)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_making_one_is_said(passwords: Passwords, capsys: pytest.CaptureFixture[str]) -> None:
    secret = passwords.of("postgres")
    assert capsys.readouterr() == ("", f"made {secret.path}\n")


def test_looking_makes_nothing(passwords: Passwords) -> None:
    assert passwords.known("postgres") is None
    assert not passwords.directory.exists()


@pytest.mark.parametrize("content", [b"own\n", b"own", b"own\r\n"])
def test_a_file_of_the_users_own(passwords: Passwords, content: bytes) -> None:
    path = laid(passwords, content)
    assert passwords.of("postgres") == Secret("own", str(path))
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"a\n\n", b"a\0b\n", b"\xff\n"])
def test_a_bad_file_is_refused(passwords: Passwords, content: bytes) -> None:
    path = laid(passwords, content)
    for ask in (passwords.of, passwords.known):
        with pytest.raises(Refused) as caught:
            ask("postgres")
        assert caught.value.sentence.startswith(f"The password file {path} ")
    assert path.read_bytes() == content


def test_a_directory_in_its_place_is_refused(passwords: Passwords) -> None:
    Path(passwords.path("postgres")).mkdir(parents=True)
    with pytest.raises(Refused, match="cannot be read"):
        passwords.of("postgres")


def test_dry_prints_what_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passwords = Passwords(tmp_path / "it's a group", Trace(dry=True))
    secret = passwords.of("postgres")
    assert passwords.of("postgres") == secret == Secret("", passwords.path("postgres"))
    assert not passwords.directory.exists()
    script = capsys.readouterr().out
    assert script.count("urandom") == 1

    subprocess.run(["sh", "-s"], input=script, text=True, check=True, umask=0)
    made = Passwords(passwords.directory, Trace()).of("postgres")
    assert len(made.value) == 32
    assert made.value.isalnum()
    assert (mode(Path(made.path)), mode(passwords.directory)) == (0o600, 0o700)

    subprocess.run(["sh", "-s"], input=script, text=True, check=True)
    assert Passwords(passwords.directory, Trace()).of("postgres") == made


def test_dry_reads_one_that_is_there(tmp_path: Path) -> None:
    secret = Passwords(tmp_path, Trace()).of("postgres")
    assert Passwords(tmp_path, Trace(dry=True)).of("postgres") == secret
