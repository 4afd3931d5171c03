"""The lock on another machine: who is kept away, and that it never outlives its holder."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from boxes import LIMIT, Box, box, eventually, sh
from sshd import ME, needs_sshd

from pgherd.errors import Error, Refused, Unreachable
from pgherd.hosts.commands import Tool, Trace
from pgherd.hosts.local import LocalHost
from pgherd.hosts.lock import hold_lock
from pgherd.hosts.ssh import SshHost

pytestmark = needs_sshd

ROOT = Path(__file__).parents[2]


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def is_free(host: SshHost) -> bool:
    try:
        with host.lease("pair", "pair"):
            return True
    except Refused:
        return False


def test_a_second_run_is_told_who_holds_it(there: Box) -> None:
    mine, theirs = there.host(), there.host()
    with mine.lease("pair", "the group pair"):
        with pytest.raises(Refused) as caught, theirs.lease("pair", "the group pair"):
            pass
        with theirs.lease("other", "the group other"):  # another name is another lock
            pass
    who = rf"{ME}@{re.escape(socket.gethostname())}, process {os.getpid()}, since"
    assert re.fullmatch(
        rf"Another pgherd run \({who} \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\) is at work on the "
        "group pair at box: wait for it, or end it, then run this again.",
        caught.value.sentence,
    )
    with theirs.lease("pair", "the group pair"):
        pass


def test_the_root_is_made_for_it_and_private(there: Box) -> None:
    root = there.home / "a root" / "of mine"
    with there.host(root="~/a root/of mine").lease("pair", "pair"):
        assert root.is_dir()
        assert root.stat().st_mode & 0o777 == 0o700
        assert (root / ".pair.lock").is_file()


def test_a_root_that_is_there_stays_as_it_is(there: Box) -> None:
    root = there.home / "pgherd"
    root.mkdir(mode=0o750)
    with there.host().lease("pair", "pair"):
        assert root.stat().st_mode & 0o777 == 0o750


def test_it_is_the_lock_that_a_checkout_takes_in_its_own_directory(there: Box) -> None:
    file = there.home / "pgherd" / ".pair.lock"
    said = f"process {os.getpid()}, since"
    with (
        there.host().lease("pair", "pair"),
        pytest.raises(Refused, match=said),
        hold_lock(file, "pair"),
    ):
        pass
    with (
        hold_lock(file, "pair"),
        pytest.raises(Refused, match=said),
        there.host().lease("pair", "pair"),
    ):
        pass


def test_nothing_but_the_keeper_holds_it(there: Box) -> None:
    """Not what it has begun: a lock lasts as long as anybody has its descriptor."""
    host, other = there.host(), there.host()
    assert not opened(there.home / "pgherd" / ".pair.lock")
    with host.lease("pair", "pair"):
        link = host.link()
        link.end(999)  # it looks for that for a while
        time.sleep(0.3)  # by then it listens again, which is a program of its own
        lock = there.home / "pgherd" / ".pair.lock"
        assert eventually(lambda: len(opened(lock)) == 1, seconds=0.3)
        assert not is_free(other)
    started = time.monotonic()
    assert is_free(other)
    assert time.monotonic() - started < 0.5


def opened(file: Path) -> list[Path]:
    """Return the descriptors that lead to a file, of all processes but this one."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if descriptor.resolve() == file and descriptor.parts[2] != str(os.getpid()):
                found.append(descriptor)
    return found


def test_a_root_that_cannot_be_written(there: Box) -> None:
    (there.home / "file").touch()
    host = there.host(root="~/file/x")
    said = r"lock .*/file/x/\.pair\.lock at box cannot be written: .*/file"
    with pytest.raises(Refused, match=said), host.lease("pair", "pair"):
        pass


def test_locks_and_commands_share_a_connection(there: Box) -> None:
    host = there.host()
    with host.lease("a", "a"), host.lease("b", "b"):
        assert host.run(Tool("echo")["x"]).out == "x\n"
    with host.lease("a", "a"):
        pass
    assert host.logins == 1


HOLDER = """
import sys, time
from pgherd.hosts.ssh import SshHost
from pgherd.hosts.commands import Trace
host = SshHost("box", Trace(), config_file=sys.argv[1])
with host.lease("pair", "pair"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_lets_go(there: Box, sign: signal.Signals) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, there.client.config],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match=f"process {holder.pid},"), there.host().lease("pair", ""):
            pass
    finally:
        holder.send_signal(sign)
        holder.communicate(timeout=LIMIT)
    started = time.monotonic()
    with there.host().lease("pair", ""):  # at once: what is left of it is waited for
        assert time.monotonic() - started < LIMIT
    print(f"free {time.monotonic() - started:.1f} s after the end of its holder")


def test_a_frozen_holder_loses_it(there: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose machine sleeps, or whose line is cut without a word."""
    monkeypatch.setattr("pgherd.hosts.ssh_session.PATIENCE", 2)
    monkeypatch.setattr("pgherd.hosts.ssh_session.BEAT_SECONDS", 60.0)
    frozen = there.host()
    link = frozen.link()
    with frozen.lease("pair", "the group pair"):
        monkeypatch.undo()
        host = there.host()
        assert not is_free(host)
        assert eventually(lambda: is_free(host), seconds=6)
        assert eventually(lambda: link.lost, seconds=6)
        with pytest.raises(Unreachable, match="The lock of the group pair at box was lost"):
            sh(frozen, "true")
        assert sh(frozen, "echo seen", reads=True).out == "seen\n"
        assert frozen.logins == 2
        with pytest.raises(Unreachable, match="The lock of the group pair at box was lost"):
            sh(frozen, "true")
    assert sh(frozen, "true").ok


def test_a_lost_connection_loses_it(there: Box) -> None:
    host = there.host()
    link = host.link()
    with host.lease("pair", "pair"):
        there.signal(signal.SIGKILL)
        assert eventually(lambda: link.lost, seconds=2)
        with pytest.raises(Unreachable, match=r"lock of pair at box was lost .* closed from there"):
            sh(host, "true")
    assert eventually(lambda: is_free(host), seconds=5)


def test_an_error_in_the_block_lets_go(there: Box) -> None:
    with pytest.raises(Error, match="mine"), there.host().lease("pair", "pair"):
        raise Error("mine")
    assert is_free(there.host())


def test_without_flock_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with box(tmp_path, path="/nowhere") as there:
        for name in ("sh", "grep", "uname", "date", "readlink", "timeout", "sleep", "tr"):
            (there.programs / name).symlink_to(f"/bin/{name}")
        with there.host().lease("pair", "pair"), there.host().lease("pair", "pair"):
            pass
    assert "box has no flock command" in capsys.readouterr().err


def test_the_lock_of_this_machine() -> None:
    """It has the name that runs on other machines use as well."""
    host = LocalHost(Trace())
    file = Path(host.home) / ".test-lease.lock"
    try:
        with host.lease("test-lease", "it"):
            assert f"process {os.getpid()}, since" in file.read_text(encoding="utf-8")
            said = r"pgherd run \(.*\) is at work on it: wait"
            with pytest.raises(Refused, match=said), host.lease("test-lease", "it"):
                pass
    finally:
        file.unlink()
