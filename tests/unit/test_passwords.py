"""Password files: made once, kept private, used again."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from pgherd.errors import Refused
from pgherd.hosts.commands import Secret, Trace
from pgherd.security import passwords as secretfile
from pgherd.security.passwords import Passwords


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


# --- of the environment's choice, and new ones in place of those in use ---


def test_one_that_the_environment_says(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVOKE_POSTGRES_PASSWORD", "as I want it")
    assert passwords.of("postgres").value == "as I want it"
    assert passwords.of("replicator").value != "as I want it"
    monkeypatch.setenv("INVOKE_POSTGRES_PASSWORD", "another")
    for ask in (passwords.of, passwords.known):
        with pytest.raises(Refused, match=r"INVOKE_POSTGRES_PASSWORD is another .*rotate-pass"):
            ask("postgres")


@pytest.mark.parametrize("value", ["two\nlines", "a\rb", "tab\t", "not \udcff UTF-8"])
def test_what_the_environment_cannot_say(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("INVOKE_POSTGRES_PASSWORD", value)
    with pytest.raises(Refused, match="INVOKE_POSTGRES_PASSWORD must be one line") as caught:
        passwords.of("postgres")
    assert value not in caught.value.sentence
    assert not passwords.directory.exists() or not any(passwords.directory.iterdir())


def test_new_ones_lie_beside_until_they_are_in_use(passwords: Passwords) -> None:
    former = passwords.of("postgres")
    new = passwords.replace(["postgres", "replicator"])
    assert (mode(passwords.pending), mode(Path(new["postgres"].path))) == (0o700, 0o600)
    assert passwords.former("postgres") == former
    assert passwords.former("replicator").value == ""  # it is lost, or was never made
    assert Passwords(passwords.directory, Trace()).replacing() == new
    passwords.replaced("postgres")
    assert passwords.of("postgres").value == new["postgres"].value
    assert list(passwords.replacing()) == ["replicator"]
    passwords.replaced("replicator")
    assert passwords.replacing() == {}
    assert sorted(path.name for path in passwords.directory.iterdir()) == [
        "postgres.password",
        "replicator.password",
    ]


def test_what_was_cut_short_is_told_once(
    passwords: Passwords, capsys: pytest.CaptureFixture[str]
) -> None:
    passwords.of("postgres")
    passwords.replace(["postgres"])
    capsys.readouterr()
    passwords.known("postgres")
    passwords.of("postgres")
    assert capsys.readouterr().err.count("`invoke rotate-passwords` completes it") == 1


def test_a_run_that_was_killed_while_it_made_them_leaves_nothing(passwords: Passwords) -> None:
    passwords.of("postgres")
    left = passwords.directory / ".rotation-x"
    left.mkdir()
    (left / "postgres.password").write_text("half\n")
    passwords.pending.mkdir()  # and one that was killed at its very end
    assert passwords.replacing() == {}
    assert passwords.replace(["postgres"])["postgres"].value != "half"
    assert not left.exists()


def test_the_one_that_is_there_is_no_new_one(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVOKE_POSTGRES_PASSWORD", "the same")
    passwords.of("postgres")
    with pytest.raises(Refused, match="is the password that postgres has already"):
        passwords.replace(["replicator", "postgres"])
    assert passwords.replacing() == {}


@pytest.mark.parametrize("asked", ["", 'it\'s "mine" $HOME'])
def test_dry_prints_how_they_are_replaced(
    passwords: Passwords,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
) -> None:
    former = passwords.of("postgres")
    monkeypatch.setenv("INVOKE_POSTGRES_PASSWORD", asked)
    capsys.readouterr()
    dry = Passwords(passwords.directory, Trace(dry=True))
    new = dry.replace(["postgres"])["postgres"]
    dry.replaced("postgres")
    assert (new.value, passwords.former("postgres")) == ("", former)
    script = capsys.readouterr().out
    assert former.value not in script
    assert not asked or asked not in script
    subprocess.run(["sh", "-eu"], input=script, text=True, check=True)
    found = passwords.former("postgres").value
    assert found == asked or (not asked and len(found) == 32 and found != former.value)
    assert not passwords.pending.exists()


def test_one_of_the_environment_that_is_too_long_leaves_nothing(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords.of("replicator")
    monkeypatch.setenv("INVOKE_POSTGRES_PASSWORD", "x" * 901)
    for ask in (lambda: passwords.of("postgres"), lambda: passwords.replace(["postgres"])):
        with pytest.raises(Refused, match="INVOKE_POSTGRES_PASSWORD may have at most 900 bytes"):
            ask()
    assert [path.name for path in passwords.directory.iterdir()] == ["replicator.password"]


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    """Its place is taken by a directory: nothing can be renamed over that, and nothing is left."""
    file = tmp_path / "secrets" / "postgres.password"
    secretfile.write(file, "first\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("first\n", 0o600)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    (file.parent / "taken").mkdir()
    with pytest.raises(Refused, match="taken cannot be written: Is a directory"):
        secretfile.write(file.parent / "taken", "second\n")
    assert sorted(path.name for path in file.parent.iterdir()) == ["postgres.password", "taken"]
