"""This machine's commands, with real small programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgherd.config import loader
from pgherd.errors import DeadlinePassed, Error, Unreachable
from pgherd.hosts import process
from pgherd.hosts.base import About
from pgherd.hosts.commands import Result, Script, Tool, Trace
from pgherd.hosts.local import LocalHost
from pgherd.hosts.parallel import Cancelled, CancelScope
from pgherd.hosts.process import Program, start_program, wait_for_end

MB = 2**20
LIMIT = 20.0  # for what ends by itself: reached only if something hangs


@pytest.fixture
def host() -> LocalHost:
    return LocalHost(Trace())


@pytest.fixture
def all_ended(tmp_path: Path) -> Callable[[], bool]:
    """Tell whether no process has the file `alive` open for writing any more: a FIFO knows."""
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def ended() -> bool:
        try:
            return os.read(reader, 1) == b""
        except BlockingIOError:
            return False

    return ended


def eventually(holds: Callable[[], bool], *, seconds: float) -> bool:
    """Ask until it holds; processes need a moment to go."""
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.01)
    return held


def sh(host: LocalHost, script: str, *words: str, timeout: float = LIMIT) -> Result:
    return host.run(Tool("sh")["-c", script, "sh", *words], timeout=timeout)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# --- what goes in and comes out ---


def test_arguments_reach_the_program_unchanged(host: LocalHost) -> None:
    words = ["", "a b", "it's", '"', "$HOME; x", "`id`", "\\", "*", "-n", "ü", "a\nb"]
    assert sh(host, 'printf "%s\\0" "$@"', *words).out.split("\0")[:-1] == words


def test_a_program_may_be_named_by_a_path(host: LocalHost, tmp_path: Path) -> None:
    program = tmp_path / "a program"
    program.write_text('#!/bin/sh\necho "$0"\n')
    program.chmod(0o755)
    assert host.run(Tool(str(program))).out == f"{program}\n"


def test_the_exit_code_is_no_error(host: LocalHost) -> None:
    result = sh(host, "echo out; echo err >&2; exit 37")
    assert (result.code, result.out, result.err, result.host) == (37, "out\n", "err\n", "local")
    assert not result.ok


def test_three_megabytes_pass_through(host: LocalHost) -> None:
    text = "0123456789abcdé\n" * (3 * MB // 17)
    assert host.run(Tool("cat"), stdin=Script((text,)), timeout=LIMIT).out == text


def test_both_streams_are_drained(host: LocalHost) -> None:
    code = f"import sys; t='x'*{6 * MB}; sys.stderr.write(t); sys.stdout.write(t)"
    name, *words = python(code)
    result = host.run(Tool(name)[words], timeout=LIMIT)
    assert (len(result.out), len(result.err)) == (6 * MB, 6 * MB)


def test_bytes_that_are_no_text_are_replaced(host: LocalHost) -> None:
    assert sh(host, r"printf 'a\377ü'").out == "a\N{REPLACEMENT CHARACTER}ü"


def test_without_text_stdin_is_empty(host: LocalHost) -> None:
    assert host.run(Tool("cat"), timeout=LIMIT).out == ""


def test_a_program_may_leave_its_stdin_unread(host: LocalHost) -> None:
    text = "x" * (3 * MB)
    result = host.run(Tool("sh")["-c", "exit 3"], stdin=Script((text,)), timeout=LIMIT)
    assert result.code == 3


def test_stdin_may_come_in_pieces(host: LocalHost) -> None:
    assert host.run(Tool("wc")["-c"], stdin=(b"x" * 99_999 for _ in range(9))).out == "899991\n"


def test_a_source_that_fails_is_not_taken_for_whole(host: LocalHost, tmp_path: Path) -> None:
    file = tmp_path / "half"

    def source() -> Iterator[bytes]:
        yield b"half"
        assert eventually(lambda: file.exists() and file.read_text() == "half", seconds=5)
        raise Error("no more")

    with pytest.raises(Error, match="no more"):
        host.run(Tool("sh")["-c", 'cat >"$1"; echo whole >"$1"', "sh", str(file)], stdin=source())
    assert file.read_text() == "half"


# --- output in pieces ---


def test_chunks_are_what_the_program_prints(host: LocalHost) -> None:
    assert b"".join(host.chunks(Tool("printf")[r"a\377\0b"])) == b"a\xff\0b"
    source = host.chunks(Tool("head")["-c", str(9 * MB), "/dev/zero"])
    assert host.run(Tool("wc")["-c"], stdin=source, timeout=LIMIT).out == f"{9 * MB}\n"


def test_chunks_end_the_program_when_dropped(
    host: LocalHost, tmp_path: Path, all_ended: Callable[[], bool]
) -> None:
    chunks = host.chunks(Tool("sh")["-c", 'exec 3>"$1"; yes', "sh", str(tmp_path / "alive")])
    assert next(chunks)[:2] == b"y\n"
    assert not all_ended()
    del chunks
    assert eventually(all_ended, seconds=3)


def test_chunks_of_a_failed_program_are_an_error(host: LocalHost) -> None:
    chunks = host.chunks(Tool("sh")["-c", "echo half; echo why >&2; exit 4"])
    assert next(chunks) == b"half\n"
    with pytest.raises(Error, match=r"on local, exit status 4:\n  \| why$"):
        next(chunks)


def test_output_that_nobody_wants_any_more_is_not_read_from_the_next_command(
    host: LocalHost,
) -> None:
    # A grandchild keeps the pipe, so that it is still read when the next command begins.
    later = "for i in 1 2 3 4 5 6 7 8; do sleep 0.1; echo late; done"
    dropped = host.chunks(Tool("sh")["-c", f"setsid sh -c '{later}' 2>/dev/null & echo half; wait"])
    assert next(dropped) == b"half\n"
    dropped.close()
    del dropped
    said = "for i in 1 2 3 4 5 6 7 8; do sleep 0.1; echo $i; done"
    assert b"".join(host.chunks(Tool("sh")["-c", said])).split() == b"1 2 3 4 5 6 7 8".split()


def test_a_source_that_is_ended_ends_its_reader(host: LocalHost, tmp_path: Path) -> None:
    file = tmp_path / "read"
    failing = host.chunks(Tool("sh")["-c", "echo half; exit 4"])
    with pytest.raises(Error, match="exit status 4"):
        host.run(Tool("sh")["-c", 'cat; echo whole >"$1"', "sh", str(file)], stdin=failing)
    assert not file.exists()


# --- lines as they come ---


def test_lines_come_while_the_program_runs(host: LocalHost, tmp_path: Path) -> None:
    mark, lines = tmp_path / "mark", list[str]()

    def heard(line: str) -> None:
        lines.append(line)
        mark.touch()

    script = 'echo first; until [ -e "$1" ]; do sleep 0.01; done; echo second >&2'
    host.run(Tool("sh")["-c", script, "sh", str(mark)], timeout=LIMIT, on_line=heard)
    assert lines == ["first", "second"]


def test_of_lines_handed_on_the_last_are_kept(host: LocalHost) -> None:
    lines = list[str]()
    result = host.run(Tool("seq")["2000"], timeout=LIMIT, on_line=lines.append)
    assert (len(lines), lines[-1]) == (2000, "2000")
    assert result.out.splitlines() == [str(n) for n in range(1501, 2001)]


@pytest.mark.parametrize("fault", [BrokenPipeError(), RuntimeError("x")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_listener_ends_the_command(host: LocalHost, fault: Exception) -> None:
    def heard(_: str) -> None:
        raise fault

    with pytest.raises(type(fault)):
        host.run(Tool("yes"), timeout=5, on_line=heard)


# --- the end ---


def test_timeout_ends_the_command_and_its_children(
    host: LocalHost, tmp_path: Path, all_ended: Callable[[], bool]
) -> None:
    script = 'exec 3>"$1"; echo waiting; sleep 60 & sleep 60'
    with pytest.raises(DeadlinePassed) as caught:
        sh(host, script, str(tmp_path / "alive"), timeout=0.5)
    assert eventually(all_ended, seconds=3)
    said = caught.value.sentence
    assert said.startswith("sh -c exec 3>")
    assert "did not end within 0.5 s and was ended." in said
    assert said.endswith("  | waiting")


def test_timeout_ends_stubborn_grandchildren(
    host: LocalHost,
    tmp_path: Path,
    all_ended: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    script = 'exec 3>"$1"; (trap "" TERM; sleep 5) & sleep 60'
    with pytest.raises(DeadlinePassed):
        sh(host, script, str(tmp_path / "alive"), timeout=0.2)
    assert eventually(all_ended, seconds=2)


def test_ctrl_c_ends_the_command(
    host: LocalHost, tmp_path: Path, all_ended: Callable[[], bool]
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    ctrl_c = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    script = 'exec 3>"$1"; echo up; sleep 60'
    with pytest.raises(KeyboardInterrupt):
        host.run(
            Tool("sh")["-c", script, "sh", str(tmp_path / "alive")],
            timeout=LIMIT,
            on_line=lambda _: ctrl_c.start(),
        )
    assert eventually(all_ended, seconds=3)


def test_a_grandchild_that_holds_the_pipes_is_not_waited_for(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    started = time.monotonic()
    result = sh(host, "echo done; sleep 6 &")
    assert (result.code, result.out) == (0, "done\n")
    assert time.monotonic() - started < 4


def test_a_missing_program_is_said(host: LocalHost) -> None:
    with pytest.raises(Unreachable) as caught:
        host.run(Tool("no-such-program")["x"])
    assert caught.value.code == 3
    assert caught.value.sentence.startswith("The program 'no-such-program' is not on this machine")


def test_what_is_given_up_ends_with_its_children(
    host: LocalHost, tmp_path: Path, all_ended: Callable[[], bool]
) -> None:
    words = ['exec 3>"$1"; echo >>"$2"; sleep 60 & sleep 60', tmp_path / "alive", tmp_path / "up"]
    scope = CancelScope()

    def stays() -> None:
        with scope.entered(), pytest.raises(Cancelled):
            sh(host, *map(str, words))

    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(stays) for _ in range(3)]
        up = tmp_path / "up"
        assert eventually(lambda: up.exists() and len(up.read_text()) == 3, seconds=5)
        scope.cancel()
        for run in runs:
            run.result(LIMIT)
    assert eventually(all_ended, seconds=3)


def test_what_is_given_up_as_it_starts_is_ended(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, started = CancelScope(), list[Program]()

    def start(argv: list[str], act: str, **streams: Any) -> Program:
        started.append(start_program(argv, act, **streams))
        scope.cancel()
        return started[0]

    monkeypatch.setattr("pgherd.hosts.local.start_program", start)
    with scope.entered(), pytest.raises(Cancelled):
        sh(host, "sleep 60")
    assert wait_for_end(started[0], 1)


def test_the_wait_for_an_end_is_not_longer_than_asked() -> None:
    program = start_program(["sleep", "100"])
    assert not wait_for_end(program, 0.05)
    program.kill()
    assert wait_for_end(program, LIMIT)


# --- modes ---


def test_dry_runs_what_reads_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    host = LocalHost(Trace(dry=True))
    assert host.run(Tool("touch")[str(tmp_path / "x")]).ok
    assert host.interactive(Tool("touch")[str(tmp_path / "y")]) == 0
    assert list(tmp_path.iterdir()) == []
    assert host.run(Tool("echo")["seen"], reads=True).out == "seen\n"
    assert capsys.readouterr().out.endswith(f"touch {tmp_path}/x\ntouch {tmp_path}/y\n")


def test_dry_shows_where_the_bytes_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    host = LocalHost(Trace(dry=True))
    assert host.run(Tool("docker")["load"], stdin=host.chunks(Tool("docker")["save", "a b"])).ok
    assert capsys.readouterr().out.endswith("docker save 'a b' | docker load\n")


def test_interactive_returns_the_exit_code(host: LocalHost) -> None:
    assert host.interactive(Tool("sh")["-c", "exit 5"]) == 5


def test_a_path_is_absolute_with_links_resolved(host: LocalHost, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    asked = [str(tmp_path / "link" / "x"), "data/x"]
    assert host.paths(*asked) == [f"{tmp_path.resolve()}/real/x", f"{loader.ROOT}/data/x"]


def test_about(host: LocalHost) -> None:
    said = subprocess.run(["uname", "-sm"], capture_output=True, text=True, check=True).stdout
    assert host.about() == About(said.strip())
    assert host.home == f"{loader.ROOT}/data"


def test_what_changes_something_has_the_name_of_its_act(host: LocalHost) -> None:
    """In its environment, for those who watch; what only looks has none."""
    told = Tool("sh")["-s"]
    script = Script(('echo "${PGHERD_ACT-nothing}"\n',), ("lay", "mark"))
    assert host.run(told, stdin=script).out == "lay mark\n"
    assert host.run(told, stdin=script, reads=True).out == "nothing\n"
    assert host.run(Tool("sh")["-c", 'echo "$PGHERD_ACT"']).out == "sh\n"
