"""Commands on another machine, with a real sshd on loopback."""

from __future__ import annotations

import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from boxes import LIMIT, Box, alive, box, eventually, sh
from sshd import needs_sshd

from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable
from pgherd.hosts.commands import Script, Secret, Tool, Trace
from pgherd.hosts.local import LocalHost
from pgherd.hosts.parallel import Cancelled, CancelScope
from pgherd.hosts.ssh import SshHost

pytestmark = needs_sshd

ROOT = Path(__file__).parents[2]
MB = 2**20
# $1: where its process number goes
STAYS = 'echo $$ >"$1"; echo up; exec sleep 100'


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("box")) as made:
        yield made


@pytest.fixture
def host(there: Box) -> SshHost:
    return there.host()


def process(file: Path) -> int:
    assert eventually(lambda: file.is_file() and file.read_text().strip(), seconds=5)
    return int(file.read_text())


def memory() -> int:
    """Return the bytes that this process has in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


# --- what goes in and comes out ---


def test_arguments_reach_the_program_unchanged(host: SshHost) -> None:
    words = ["", "a b", "it's", '"', "$HOME; x", "`id`", "\\", "\\\\", "*", "-n", "ü", "a\nb", "!!"]
    assert sh(host, 'printf "%s\\0" "$@"', *words).out.split("\0")[:-1] == words


def test_a_nul_is_refused(host: SshHost) -> None:
    with pytest.raises(Refused, match="holds a NUL byte"):
        host.run(Tool("echo")["a\0b"])
    assert host.run(Tool("echo")["a"]).out == "a\n"


def test_the_exit_code_is_no_error(host: SshHost) -> None:
    result = sh(host, "echo out; echo err >&2; exit 37")
    assert (result.code, result.out, result.err, result.host) == (37, "out\n", "err\n", "box")
    assert sh(host, "exit 37", timeout=None).code == 37


def test_an_end_by_a_signal_is_an_exit_code(host: SshHost) -> None:
    assert sh(host, "kill -KILL $$", timeout=None).code == -1
    assert host.run(Tool("true")).ok
    assert host.logins == 1


def test_stdin_goes_at_full_speed(host: SshHost) -> None:
    host.link()
    started = time.monotonic()
    result = host.run(Tool("wc")["-c"], stdin=Script(("0123456789abcdé\n" * (3 * MB // 17),)))
    assert result.out.split() == [str(3 * MB // 17 * 17)]
    assert time.monotonic() - started < 2


def test_stdin_may_come_in_pieces(host: SshHost) -> None:
    assert host.run(Tool("wc")["-c"], stdin=(b"x" * 99_999 for _ in range(9))).out == "899991\n"


def test_a_source_that_fails_is_not_taken_for_whole(there: Box) -> None:
    host, file = there.host(), there.home / "half"

    def source() -> Iterator[bytes]:
        yield b"half"
        assert eventually(lambda: file.exists() and file.read_text() == "half", seconds=5)
        raise Error("no more")

    with pytest.raises(Error, match="no more"):
        sh(host, 'cat >"$1"; echo whole >"$1"', str(file), stdin=source())
    assert file.read_text() == "half"


def test_without_text_stdin_is_empty(host: SshHost) -> None:
    assert host.run(Tool("cat"), timeout=LIMIT).out == ""


def test_a_program_may_leave_its_stdin_unread(host: SshHost) -> None:
    assert sh(host, "exit 3", stdin=Script(("x" * (5 * MB),))).code == 3


def test_both_streams_pass_in_little_memory(host: SshHost) -> None:
    lines, most = [0], [0]
    line = "0123456789" * 10

    def heard(_: str) -> None:
        lines[0] += 1
        if lines[0] % 5000 == 0:
            most[0] = max(most[0], memory())

    host.link()
    before = memory()
    script = 'yes "$1" | head -c 30000000 & yes "$1" | head -c 30000000 >&2; wait'
    result = sh(host, script, line, on_line=heard, timeout=120)
    assert result.ok
    assert lines[0] >= 2 * 30_000_000 // 101
    assert (len(result.out.splitlines()), len(result.err.splitlines())) == (500, 500)
    assert most[0] - before < 20 * MB  # both streams are 57 MB


def test_characters_are_whole_however_the_pieces_are_cut(host: SshHost) -> None:
    assert host.run(Tool("sh")["-c", 'yes "ü€𝄞" | head -n 100000']).out == "ü€𝄞\n" * 100_000
    assert sh(host, r"printf 'a\377ü'").out == "a\N{REPLACEMENT CHARACTER}ü"


def test_lines_come_while_the_program_runs(host: SshHost, tmp_path: Path) -> None:
    mark, lines = tmp_path / "mark", list[str]()

    def heard(line: str) -> None:
        lines.append(line)
        mark.touch()

    script = 'echo first; until [ -e "$1" ]; do sleep 0.01; done; echo second >&2'
    sh(host, script, str(mark), on_line=heard)
    assert lines == ["first", "second"]


def test_a_fault_of_the_listener_ends_the_command(host: SshHost) -> None:
    def heard(_: str) -> None:
        raise BrokenPipeError

    started = time.monotonic()
    with pytest.raises(BrokenPipeError):
        host.run(Tool("yes"), timeout=LIMIT, on_line=heard)
    assert time.monotonic() - started < 4


def test_a_missing_program_is_said(host: SshHost) -> None:
    with pytest.raises(Unreachable, match=r"'no-such-program' is not on the PATH of box"):
        host.run(Tool("no-such-program")["x"])
    with pytest.raises(Unreachable):
        host.run(Tool("no-such-program")["x"], timeout=None)
    assert sh(host, "exit 127").code == 127


# --- speed ---


def test_a_command_takes_milliseconds(host: SshHost) -> None:
    times = []
    for _ in range(40):
        started = time.perf_counter()
        assert host.run(Tool("true")).ok
        times.append((time.perf_counter() - started) * 1000)
    print(f"`true` on a remote host: median {statistics.median(times):.1f} ms")
    assert statistics.median(times) < 25


def test_many_threads_log_in_once(there: Box) -> None:
    host = there.host()
    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda n: host.run(Tool("echo")[str(n)]).out, range(24)))
    assert said == [f"{n}\n" for n in range(24)]
    assert (host.logins, host.round_trips) == (1, 25)


# --- the end ---


def test_timeout_ends_the_remote_process(host: SshHost, tmp_path: Path) -> None:
    with pytest.raises(DeadlinePassed) as caught:
        sh(host, STAYS, str(tmp_path / "pid"), timeout=0.5)
    assert eventually(lambda: not alive(process(tmp_path / "pid")), seconds=1)
    assert "did not end within 0.5 s and was ended." in caught.value.sentence
    assert caught.value.sentence.endswith("  on box, exit status -1:\n  | up")


def test_timeout_ends_stubborn_grandchildren(host: SshHost, tmp_path: Path) -> None:
    words = [f"trap '' TERM; {STAYS}", str(tmp_path / "pid")]
    started = time.monotonic()
    with pytest.raises(DeadlinePassed):
        sh(host, 'sh -c "$1" sh "$2" & exec sleep 100', *words, timeout=1)
    assert time.monotonic() - started < 4
    assert eventually(lambda: not alive(process(tmp_path / "pid")), seconds=9)


def test_ctrl_c_ends_the_remote_process(host: SshHost, tmp_path: Path) -> None:
    main = threading.main_thread().ident
    assert main is not None
    ctrl_c = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        sh(host, STAYS, str(tmp_path / "pid"), on_line=lambda _: ctrl_c.start())
    assert eventually(lambda: not alive(process(tmp_path / "pid")), seconds=3)
    assert host.run(Tool("true")).ok
    assert host.logins == 1


def test_what_is_given_up_ends_the_remote_processes(host: SshHost, tmp_path: Path) -> None:
    files = [tmp_path / str(n) for n in range(3)]
    scope = CancelScope()

    def stays(file: Path) -> None:
        with scope.entered(), pytest.raises(Cancelled):
            sh(host, STAYS, str(file), timeout=None)

    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(stays, file) for file in files]
        processes = [process(file) for file in files]
        scope.cancel()
        for run in runs:
            run.result(LIMIT)
    assert not any(map(alive, processes))


def test_a_killed_client_leaves_nothing_behind(there: Box, tmp_path: Path) -> None:
    """Neither a command with a deadline nor one without, and not their children."""
    code = (
        "import sys, threading; from pgherd.hosts.ssh import SshHost\n"
        "from pgherd.hosts.commands import *\n"
        "host = SshHost('box', Trace(), config_file=sys.argv[1])\n"
        "def go(file, timeout): host.run(Tool('sh')['-c', sys.argv[2], 'sh', file],"
        " timeout=timeout, stdin=Script(('x' * 10,)))\n"
        "threading.Thread(target=go, args=(sys.argv[3], None)).start()\n"
        "go(sys.argv[4], 100)\n"
    )
    script = f'sh -c \'trap "" TERM; {STAYS}\' sh "$1" & wait'
    files = [tmp_path / "a", tmp_path / "b"]
    argv = [sys.executable, "-c", code, there.client.config, script, *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    client = subprocess.Popen(argv, env=environment)
    try:
        processes = [process(file) for file in files]
    finally:
        client.kill()
        client.wait()
    assert all(map(alive, processes))
    assert eventually(lambda: not any(map(alive, processes)), seconds=9)


def test_python_ends_without_waiting(there: Box, tmp_path: Path) -> None:
    """Whatever is still open then: commands in threads, pieces, tunnels, locks."""
    code = (
        "import sys, threading, time; from pgherd.hosts.ssh import SshHost\n"
        "from pgherd.hosts.commands import Tool, Trace\n"
        "host = SshHost('box', Trace(), config_file=sys.argv[1])\n"
        "stays = Tool('sh')['-c', sys.argv[2], 'sh', sys.argv[3]]\n"
        "threading.Thread(target=host.run, args=(stays,), daemon=True).start()\n"
        "chunks = host.chunks(Tool('yes')); next(chunks)\n"
        "host.reach('127.0.0.1', 1); lease = host.lease('g', 'g'); lease.__enter__()\n"
        "time.sleep(1); print(time.time(), flush=True)\n"
    )
    argv = [sys.executable, "-c", code, there.client.config, STAYS, str(tmp_path / "pid")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.time() - float(done.stdout) < 3
    assert eventually(lambda: not alive(process(tmp_path / "pid")), seconds=3)


# --- output in pieces ---


def test_chunks_carry_bytes_from_host_to_host(host: SshHost, there: Box) -> None:
    source = host.chunks(Tool("head")["-c", str(9 * MB), "/dev/urandom"])
    result = there.host().run(Tool("wc")["-c"], stdin=source)
    assert result.out == f"{9 * MB}\n"
    local = LocalHost(Trace())
    assert local.run(Tool("cat"), stdin=host.chunks(Tool("echo")["ü"])).out == "ü\n"
    assert host.run(Tool("cat"), stdin=local.chunks(Tool("echo")["ü"])).out == "ü\n"


def test_chunks_end_the_command_when_dropped(host: SshHost, tmp_path: Path) -> None:
    script = 'echo $$ >"$1"; exec yes'
    chunks = host.chunks(Tool("sh")["-c", script, "sh", str(tmp_path / "pid")])
    assert next(chunks)[:2] == b"y\n"
    started = time.monotonic()
    del chunks
    assert time.monotonic() - started < 4
    assert eventually(lambda: not alive(process(tmp_path / "pid")), seconds=3)


def test_chunks_of_a_failed_command_are_an_error(host: SshHost, there: Box) -> None:
    failing = Tool("sh")["-c", "echo half; echo why >&2; exit 4"]
    with pytest.raises(Error, match=r"on box, exit status 4:\n  \| why$"):
        list(host.chunks(failing))
    file = there.home / "fed"
    with pytest.raises(Error, match="exit status 4"):
        sh(there.host(), 'cat; echo whole >"$1"', str(file), stdin=host.chunks(failing))
    assert not file.exists()


# --- modes ---


def test_dry_runs_what_reads_only(there: Box, capsys: pytest.CaptureFixture[str]) -> None:
    host = there.host(dry=True)
    assert host.run(Tool("touch")["it's"]).ok
    assert host.run(Tool("cat"), stdin=Script(("a\n", Secret("s3cret", "/s/p")))).ok
    assert host.run(Tool("cat"), stdin=host.chunks(Tool("echo")["x y"])).ok
    assert host.interactive(Tool("cat")) == 0
    assert host.logins == 0
    assert host.run(Tool("echo")["seen"], reads=True).out == "seen\n"
    ssh = f"ssh -F {there.client.config} box"
    printed = capsys.readouterr().out
    assert f"""{ssh} 'touch '"'"'it'"'"'"'"'"'"'"'"'s'"'"'' </dev/null\n""" in printed
    assert f"}} | {ssh} cat\n" in printed
    assert f"{ssh} 'echo '\"'\"'x y'\"'\"'' | {ssh} cat\n" in printed
    assert f"ssh -F {there.client.config} -T -o StrictHostKeyChecking=yes box cat" in printed
    assert "s3cret" not in printed


def test_the_dry_script_does_it(there: Box, capsys: pytest.CaptureFixture[str]) -> None:
    """A command without input does not read the rest of the script."""
    host, file = there.host(dry=True), there.home / "a file"
    host.run(Tool("sh")["-c", 'cat; echo "$1" >"$2"', "sh", "it's\nhere", str(file)])
    host.run(Tool("tee")["-a", str(file)], stdin=Script(("EOF\n",)))
    script = capsys.readouterr().out.encode()
    subprocess.run(["sh", "-s"], input=script, check=True, capture_output=True, timeout=LIMIT)
    assert file.read_text() == "it's\nhere\nEOF\n"


def test_interactive_returns_the_exit_code(host: SshHost) -> None:
    assert host.interactive(Tool("sh")["-c", "exit 5"]) == 5


# --- what sort of machine ---


def test_about(host: SshHost) -> None:
    about, kernel = host.about(), os.uname()
    assert about.system == f"{kernel.sysname} {kernel.machine}"
    assert abs(about.skew) <= about.doubt + 0.01 < 5
    assert (host.logins, host.round_trips) == (1, 1)


def test_paths_are_those_of_the_host(there: Box) -> None:
    host, home = there.host(root="~/the root"), there.home
    (home / "target").mkdir()
    (home / "link").symlink_to(home / "target")
    (home / "dangling").symlink_to(home / "nowhere")
    asked = {
        "data/x": f"{home}/the root/data/x",
        "-n": f"{home}/the root/-n",
        "../y": f"{home}/y",
        '~/it\'s a "ü"': f'{home}/it\'s a "ü"',
        "~": str(home),
        "~/link/new/x": f"{home}/target/new/x",
        "~/dangling/x": f"{home}/nowhere/x",
        "/usr/../$HOME//x/": "/$HOME/x",
        "/": "/",
    }
    assert host.paths(*asked) == list(asked.values())
    assert host.home == f"{home}/the root"
    assert not (home / "the root").exists()
    assert host.round_trips == 2
    assert host.paths(*asked) == list(asked.values())
    assert host.round_trips == 2
