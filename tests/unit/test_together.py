"""An error in one place stops the others: real programs here, and over a real sshd on loopback."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from boxes import LIMIT, Box, box, eventually, program
from fakes import image
from plumbum import local
from sshd import needs_sshd, wait_until

from pgherd.docker.engine import Engine
from pgherd.errors import Error, Refused
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Result, Script, Tool, Trace
from pgherd.hosts.local import LocalHost
from pgherd.hosts.parallel import cleaning_up, run_all

SOON = 3.0  # seconds; what is waited for here would take ten times as long


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("box")) as made:
        yield made


@pytest.fixture(params=["local", pytest.param("ssh", marks=needs_sshd)])
def host(request: pytest.FixtureRequest) -> Host:
    """This machine, and another."""
    if request.param == "local":
        return LocalHost(Trace())
    made = cast("Box", request.getfixturevalue("there")).host()
    made.link()
    return made


def sh(host: Host, script: str, *words: object, **options: Any) -> Result:
    return host.run(Tool("sh")["-c", script, "sh", *map(str, words)], **options)


def fails_after(began: threading.Event | Path) -> None:
    """Fail as soon as something has begun."""
    if isinstance(began, Path):
        wait_until(began.exists, "it begins")
    else:
        assert began.wait(LIMIT)
    raise Refused("the first")


def _do(act: Callable[[], Any]) -> Any:
    return act()


def given_up(*acts: Callable[[], Any]) -> None:
    """Do these side by side, of which one fails: it ends soon, with that one's error."""
    started = time.monotonic()
    with pytest.raises(Refused, match="the first"):
        run_all(_do, list(acts))
    assert time.monotonic() - started < SOON


# --- what the others begin ---


def test_between_two_commands_no_second_one_begins(host: Host, tmp_path: Path) -> None:
    between = threading.Event()

    def two() -> None:
        sh(host, "true")
        between.set()
        time.sleep(0.5)  # the other one fails
        sh(host, 'echo >"$1"; sleep 30', tmp_path / "second")

    given_up(two, lambda: fails_after(between))
    assert not (tmp_path / "second").exists()


def test_what_is_killed_passes_for_no_answer(host: Host, tmp_path: Path) -> None:
    answers = list[object]()

    def asks() -> None:
        answers.append(sh(host, 'echo half; echo >"$1"; sleep 30', tmp_path / "up", reads=True))

    def listens() -> None:
        answers.append(b"".join(host.chunks(Tool("sh")["-c", "echo half; sleep 30"])))

    given_up(asks, listens, lambda: fails_after(tmp_path / "up"))
    assert answers == []


def test_a_command_that_ends_well_all_the_same_is_no_answer(host: Host, tmp_path: Path) -> None:
    answers = list[Result]()
    script = 'trap "exit 0" TERM; echo >"$1"; while :; do sleep 0.1; done'
    given_up(
        lambda: answers.append(sh(host, script, tmp_path / "up")),
        lambda: fails_after(tmp_path / "up"),
    )
    assert answers == []


def test_what_feeds_a_command_ends_too(host: Host, there: Box, tmp_path: Path) -> None:
    script = 'echo $$ >"$1"; exec sleep 100'
    source = there.host().chunks(Tool("sh")["-c", script, "sh", str(tmp_path / "up")])
    given_up(
        lambda: sh(host, "cat", stdin=source),
        lambda: fails_after(tmp_path / "up"),
    )
    process = Path("/proc") / (tmp_path / "up").read_text().strip()
    assert eventually(lambda: not process.exists(), seconds=SOON)


def test_what_is_not_begun_is_left() -> None:
    begun = list[int]()
    first = threading.Event()

    def act(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise Refused("the first")
        first.wait(0.3)

    with pytest.raises(Refused, match="the first"):
        run_all(act, list(range(30)))
    assert len(begun) < 15


# --- on the way to another machine ---


RELAY = """
import os, socket, sys, threading, time
open(sys.argv[3], "w").close()
time.sleep(1)
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        line.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := line.recv(65536):
    os.write(1, data)
"""


def slow(there: Box, alias: str, directory: Path) -> Path:
    """Make an alias to which the way takes a second; return a file that is there when it begins."""
    (directory / "relay").write_text(RELAY, encoding="utf-8")
    words = shlex.join([sys.executable, str(directory / "relay")])
    began = directory / "began"
    there.client.server(alias, there.server, ProxyCommand=f"{words} %h %p {began}")
    return began


@needs_sshd
def test_at_the_login(there: Box, tmp_path: Path) -> None:
    host, began = there.host("slow"), slow(there, "slow", tmp_path)
    given_up(
        lambda: sh(host, 'echo >"$1"; sleep 30', tmp_path / "ran"),
        lambda: fails_after(began),
    )
    assert not (tmp_path / "ran").exists()
    assert sh(host, "echo again").out == "again\n"


@needs_sshd
def test_a_login_that_was_given_up_is_no_failure_for_others(there: Box, tmp_path: Path) -> None:
    """Who waits for the same login makes it."""
    began = slow(there, "jump", tmp_path)
    there.client.server("behind", there.server, ProxyJump="jump")
    host = there.host("behind")

    def other() -> str:
        wait_until(began.exists, "the login begins")
        return sh(host, "echo whole").out

    with ThreadPoolExecutor() as pool:
        asked = pool.submit(other)
        given_up(lambda: sh(host, "true"), lambda: fails_after(began))
        assert asked.result(LIMIT) == "whole\n"
    assert host.logins == 1


@needs_sshd
def test_in_the_queue_for_a_session(tmp_path: Path) -> None:
    with box(tmp_path, "MaxSessions 2") as narrow, ThreadPoolExecutor() as pool:
        host = narrow.host()
        up, begun = tmp_path / "up", threading.Event()
        other = pool.submit(sh, host, 'echo >"$1"; sleep 4; echo whole', up)
        wait_until(up.exists, "the other one has the session")

        def waits() -> None:
            begun.set()
            sh(host, 'echo >"$1"', tmp_path / "ran")

        def fails() -> None:
            begun.wait(LIMIT)
            time.sleep(0.3)
            raise Refused("the first")

        given_up(waits, fails)
        assert other.result(LIMIT).out == "whole\n"
        assert not (tmp_path / "ran").exists()


# --- one within another ---


def test_an_error_outside_stops_what_is_within(host: Host, tmp_path: Path) -> None:
    def inner(name: str) -> None:
        sh(host, 'echo >"$1"; sleep 30', tmp_path / name)

    def outer() -> None:
        try:
            run_all(inner, ["a", "b"])
        finally:
            with pytest.raises(Error, match="Given up"):
                sh(host, 'echo >"$1"', tmp_path / "c")

    given_up(outer, lambda: fails_after(tmp_path / "b"))
    assert not (tmp_path / "c").exists()


def test_an_error_within_stops_nothing_outside(host: Host, tmp_path: Path) -> None:
    """Whoever has seen to it goes on, and so do the others."""
    seen = threading.Event()

    def inner() -> str:
        with pytest.raises(Refused, match="the first"):
            run_all(
                _do,
                [lambda: sh(host, "sleep 30"), lambda: fails_after(tmp_path / "up")],
            )
        seen.set()
        return sh(host, "echo after").out

    def other() -> str:
        out = sh(host, 'echo >"$1"; sleep 1; echo whole', tmp_path / "up").out
        assert seen.wait(LIMIT)
        return out

    assert run_all(_do, [inner, other]) == ["after\n", "whole\n"]


# --- what is done all the same ---


def test_the_caller_goes_on(host: Host, tmp_path: Path) -> None:
    with host.lease("test-together", "it"):
        given_up(
            lambda: sh(host, 'echo >"$1"; sleep 30', tmp_path / "up"),
            lambda: fails_after(tmp_path / "up"),
        )
        assert sh(host, "echo after").out == "after\n"
    with host.lease("test-together", "it"):
        pass
    (Path(host.home) / ".test-together.lock").unlink(missing_ok=True)


def test_what_cleans_up_runs_to_its_end(host: Host, tmp_path: Path) -> None:
    def act() -> None:
        try:
            sh(host, 'echo >"$1"; sleep 30', tmp_path / "up")
        finally:
            with cleaning_up():
                sh(host, 'sleep 0.5; echo >"$1"', tmp_path / "cleaned")
            with pytest.raises(Error, match="Given up"):
                sh(host, 'echo >"$1"', tmp_path / "more")

    given_up(act, lambda: fails_after(tmp_path / "up"))
    assert (tmp_path / "cleaned").exists()
    assert not (tmp_path / "more").exists()


def test_a_helper_container_is_removed(host: Host, there: Box, tmp_path: Path) -> None:
    """The docker command is a script that stays, and notes what it is told to remove."""
    up, removed = tmp_path / "up", tmp_path / "removed"
    stays = f'case $1 in run) echo >{up}; exec sleep 30 ;; rm) echo "$@" >{removed} ;; esac'
    program(there.programs / "docker", stays)
    engine = Engine(host)
    with local.env(PATH=f"{there.programs}:{local.env['PATH']}"):
        given_up(
            lambda: engine.once("helper", image(), [], Script(("true\n",))),
            lambda: fails_after(up),
        )
    assert removed.read_text() == "rm --force --volumes helper\n"


def test_ctrl_c_gives_all_of_it_up(host: Host, tmp_path: Path) -> None:
    main = threading.main_thread().ident
    assert main is not None
    wait = threading.Event()

    def two(name: str) -> None:
        sh(host, 'echo >"$1"; sleep 30', tmp_path / name)

    def interrupt() -> None:
        wait_until((tmp_path / "a").exists, "it runs")
        wait_until((tmp_path / "b").exists, "it runs")
        signal.pthread_kill(main, signal.SIGINT)
        wait.set()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_all(two, ["a", "b"])
    assert wait.is_set()
    assert sh(host, "echo after").out == "after\n"
