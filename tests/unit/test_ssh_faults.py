"""What can go wrong on another machine, with a real sshd on loopback: told within seconds."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from boxes import LIMIT, Box, alive, box, eventually, program, sh
from sshd import needs_sshd

from pgherd.errors import Error, Refused, Unreachable
from pgherd.hosts.commands import Script, Tool
from pgherd.hosts.ssh_session import MOST

pytestmark = needs_sshd

STAYS = 'echo $$ >"$1"; echo up; exec sleep 100'


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def once_up(act: object) -> object:
    """Return a listener that acts when the command runs."""
    return lambda _: threading.Timer(0.1, act).start()  # type: ignore[arg-type]


# --- the connection is lost ---


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_connection_killed_midway(there: Box, tmp_path: Path, timeout: float | None) -> None:
    host, file = there.host(), tmp_path / "pid"
    up = threading.Event()

    def kill() -> None:
        up.wait(LIMIT)
        killed.append(time.monotonic())
        there.signal(signal.SIGKILL)

    killed: list[float] = []
    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(Unreachable, match="connection to box was lost: it was closed from there"):
        sh(host, STAYS, str(file), timeout=timeout, on_line=lambda _: up.set())
    assert time.monotonic() - killed[0] < 2
    assert eventually(lambda: not alive(int(file.read_text())), seconds=3)
    assert host.run(Tool("echo")["again"]).out == "again\n"
    assert host.logins == 2


def test_a_black_hole_is_noticed(there: Box, tmp_path: Path) -> None:
    host, file = there.host(), tmp_path / "pid"
    timer = threading.Timer(0.2, there.signal, [signal.SIGSTOP])
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:  # one that listens, one that fills what there is to fill
        quiet = pool.submit(
            sh, host, STAYS, str(file), timeout=None, on_line=lambda _: timer.start()
        )
        loud = pool.submit(host.run, Tool("cat"), stdin=forever(), on_line=lambda _: None)
        for run in (quiet, loud):
            with pytest.raises(Unreachable, match="10 s without an answer"):
                run.result(30)
        with pytest.raises(Unreachable):
            loud.result(30)
    assert time.monotonic() - started < 15
    there.signal(signal.SIGCONT)
    assert eventually(lambda: not alive(int(file.read_text())), seconds=3)


def forever() -> Iterator[bytes]:
    while True:
        yield b"x" * 65536


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a connection as lost after 2 s."""
    monkeypatch.setattr("pgherd.hosts.ssh_session.TICK_SECONDS", 0.4)
    monkeypatch.setattr("pgherd.hosts.ssh_session.BEAT_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_black_hole_before_a_command(there: Box) -> None:
    host = there.host()
    host.link()
    there.signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(Unreachable, match="2 s without an answer"):
        host.run(Tool("true"))
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("impatient")
def test_a_slow_reader_over_there_is_no_lost_connection(there: Box) -> None:
    """What is in its stdin lies for longer than any answer may take."""
    result = sh(there.host(), "sleep 4; wc -c", stdin=Script(("x" * 5_000_000,)), timeout=30)
    assert result.out == "5000000\n"


def test_a_frozen_client_loses_its_commands(there: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remote side ends by itself what nobody asks for any more, even if the line stands."""
    monkeypatch.setattr("pgherd.hosts.ssh_session.PATIENCE", 2)
    monkeypatch.setattr("pgherd.hosts.ssh_session.BEAT_SECONDS", 60)
    host, file = there.host(), there.home / "pid"
    with pytest.raises(Unreachable, match="was lost"):
        sh(host, STAYS, str(file), timeout=None)
    assert not alive(int(file.read_text()))


def test_a_connection_that_fails_is_tried_once_for_all_who_wait(there: Box) -> None:
    there.server.stop()
    host = there.host()
    with ThreadPoolExecutor(4) as pool:
        said = {str(fault) for fault in pool.map(lambda _: failure(host), range(4))}
    assert len(said) == 1


def failure(host: object) -> Error:
    with pytest.raises(Unreachable) as caught:
        host.run(Tool("true"))  # type: ignore[attr-defined]
    return caught.value


# --- few sessions ---


def test_two_sessions_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with box(tmp_path, "MaxSessions 2") as there:
        host = there.host()
        with host.lease("g", "g"), ThreadPoolExecutor(8) as pool:
            said = list(pool.map(lambda n: sh(host, 'echo "$1"', str(n)).out, range(24)))
        assert said == [f"{n}\n" for n in range(24)]
        assert host.logins == 1
    noted = capsys.readouterr().err
    assert noted.count("box allows few sessions at once (MaxSessions in its sshd_config)") == 1


@pytest.mark.parametrize(("allowed", "room"), [(2, 1), (3, 2), (10, 5)])
def test_how_many_there_is_room_for_is_tried(tmp_path: Path, allowed: int, room: int) -> None:
    """Beside the keeper; and at once after, there is room for as many commands."""
    with box(tmp_path, f"MaxSessions {allowed}") as there:
        host = there.host()
        for _ in range(3):
            assert sh(host, "echo before").out == "before\n"
            assert host.room(5) == room
            with ThreadPoolExecutor(5) as pool:
                said = list(pool.map(lambda n: sh(host, 'echo "$1"', str(n)).out, range(5)))
            assert said == [f"{n}\n" for n in range(5)]
        assert host.logins == 1


def test_one_session_is_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgherd.hosts.ssh_session.DENIED_SECONDS", 0.5)
    with (
        box(tmp_path, "MaxSessions 1") as there,
        pytest.raises(Unreachable, match=f"MaxSessions in its sshd_config to {MOST + 1}"),
    ):
        there.host().run(Tool("true"))


def test_no_session_at_all(tmp_path: Path) -> None:
    with (
        box(tmp_path, "MaxSessions 0") as there,
        pytest.raises(Unreachable, match="opens no session"),
    ):
        there.host().link()


# --- what logs in, but runs no commands ---


def test_a_login_shell_that_prints(there: Box) -> None:
    if "bash" not in there.host().run(Tool("sh")["-c", "echo $SHELL"]).out:
        pytest.skip("this user's login shell is not bash, which reads ~/.bashrc")
    (there.home / ".bashrc").write_text('echo "Welcome, $USER!"; printf "no end"\n')
    with pytest.raises(Refused, match=r'box prints "Welcome, \w*! no end" before each command'):
        there.host().link()


def test_a_login_shell_that_prints_for_ever(tmp_path: Path) -> None:
    with (
        box(tmp_path, "ForceCommand yes") as there,
        pytest.raises(Refused, match=r'login shell of box prints "y y y .*…" before'),
    ):
        there.host().link()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo This account is currently not available.; exit 1", "This account is currently not"),
        ("internal-sftp", ""),
        ("/bin/false", ""),
        ("echo no >&2", "no"),
    ],
)
def test_an_account_without_commands(tmp_path: Path, command: str, said: str) -> None:
    with (
        box(tmp_path, f"ForceCommand {command}") as there,
        pytest.raises(Unreachable, match=f'runs no commands: it answered "{said}'),
    ):
        there.host().link()


def test_an_account_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgherd.hosts.supervisor.ANSWER_SECONDS", 1.0)
    with (
        box(tmp_path, "ForceCommand sleep 3") as there,
        pytest.raises(Unreachable, match='it answered "nothing of use within 1 s"'),
    ):
        there.host().link()


def test_a_shell_with_other_quotes(tmp_path: Path) -> None:
    """As fish has: a backslash stands for itself only if there are two, in quotes as well."""
    shell = tmp_path / "fish"
    program(shell, r"""exec sh -c "$(printf '%s' "$SSH_ORIGINAL_COMMAND" | sed 's/\\\\/\\/g')" """)
    with (
        box(tmp_path, f"ForceCommand {shell}") as there,
        pytest.raises(Unreachable, match="login shell of box takes quotes and backslashes"),
    ):
        there.host().link()


def test_no_docker(tmp_path: Path) -> None:
    with box(tmp_path, docker=False, path="/nowhere") as there:
        for name in ("sh", "grep", "uname", "date", "readlink", "timeout", "true", "id"):
            (there.programs / name).symlink_to(shutil.which(name) or name)
        with pytest.raises(Unreachable, match="box has no docker command: install Docker there"):
            there.host().link()
