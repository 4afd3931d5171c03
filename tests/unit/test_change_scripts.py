"""The scripts of a change of primary, run by a real shell, with servers and tools that are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgherd.hosts.commands import Script
from pgherd.postgres import scripts
from pgherd.postgres.facts import Disk

RECORD = (
    "rmgr: {rmgr:<11} len (rec/tot): {size:6}/{size:6}, tx: {tx:10}, lsn: {lsn}, prev 0/02FFFFC8, "
    "desc: {desc}\n"
)  # as xlog_waldump.c prints it, 14 to 18


def record(lsn: str, desc: str, rmgr: str = "Transaction", size: int = 34, tx: int = 7) -> str:
    return RECORD.format(rmgr=rmgr, size=size, tx=tx, lsn=lsn, desc=desc)


class Box:
    """A container's tools, as stubs; what `psql` is asked goes to a file."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        self.pgdata = tmp_path / 'it\'s a "place"'
        (self.pgdata / "pg_wal").mkdir(parents=True)
        for name, body in {"chown": ":", "gosu": 'shift; exec "$@"'}.items():
            self.tool(name, body)
        self.tool("pg_controldata", "echo 'Bytes per WAL segment:                16777216'")
        # PostgreSQL's server is process 1; here that is whoever it is
        self.env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "PGDATA": str(self.pgdata)}

    def tool(self, name: str, body: str) -> None:
        """Put a program in front of the others."""
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def text(self, script: Script) -> str:
        """Return the script with its places in this box."""
        places = {"/tmp/pgherd": f"{self.root}/pgherd", "/etc/pgherd": f"{self.root}/etc"}  # noqa: S108
        text = script.text()
        for place, here in places.items():
            text = text.replace(place, here)
        return text

    def run(self, *pieces: str, **values: str | int) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        return subprocess.run(
            ["sh", "-s"], input=self.text(scripts.compose(*pieces, **values)), env=self.env,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def begin(self, *pieces: str, **values: str | int) -> subprocess.Popen[str]:
        """Begin a script."""
        begun = subprocess.Popen(
            ["sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=self.env,
        )  # fmt: skip
        assert begun.stdin
        begun.stdin.write(self.text(scripts.compose(*pieces, **values)))
        begun.stdin.close()
        begun.stdin = None
        return begun

    @property
    def promoted(self) -> Path:
        """Is there once pg_ctl was called."""
        return self.root / "promoted"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- what lies beyond ---

AWKS = [name for name in ("mawk", "gawk", "original-awk", "busybox") if shutil.which(name)]


def beyond(box: Box, dumps: dict[str, str], start: str, from_: str, awk: str = "") -> list[str]:
    """Return what is said, where pg_waldump prints this for each start; others are missing."""
    for begin, text in dumps.items():
        (box.root / f"dump {begin.replace('/', '_')}").write_text(text)
    box.tool(
        "pg_waldump",
        "for word; do case $word in --start=*) start=${word#*=} ;; esac; done\n"
        f'echo "$*" >>"{box.root}/asked"\n'
        f'exec cat "{box.root}/dump $(echo "$start" | tr / _)"',
    )
    if awk:
        box.tool("awk", f'exec {awk}{" awk" * (awk == "busybox")} "$@"')
    values: dict[str, str | int] = {"timeline": 1, "start": start, "from": from_}
    done = box.run("beyond", **values)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


HEAP = record("0/03000100", "INSERT off: 2, flags: 0x00", "Heap", 54)


@pytest.mark.parametrize("awk", AWKS)
def test_commits_are_counted(box: Box, awk: str) -> None:
    dump = (
        HEAP
        + record("0/03000138", "COMMIT 2026-01-01 00:00:00.000000 UTC")
        + record("0/03000160", "COMMIT_PREPARED 7: 2026-01-01 00:00:01.5 UTC")
        + record("0/03000190", "ABORT 2026-01-01")
        + record("0/030001B8", 'MESSAGE transactional, prefix "desc: COMMIT"', "LogicalMsg", 60)
    )
    said = beyond(box, {"0/3000100": dump}, "0/3000100", "0/3000100", awk)
    assert said == ["beyond=0/030001B8 60 2", "last=0/03000160 34 2026-01-01 00:00:01 UTC"]
    asked = (box.root / "asked").read_text()
    assert asked.startswith(f"--path={box.pgdata}/pg_wal --timeline=1 --start=0/3000100 ")


def test_nothing_and_no_file(box: Box) -> None:
    assert beyond(box, {"0/3000100": ""}, "0/3000100", "0/3000100") == []
    assert beyond(box, {}, "0/4000100", "0/4000100") == []


@pytest.mark.parametrize("awk", AWKS)
@pytest.mark.parametrize(
    ("lsn", "size", "from_", "counts"),
    [
        ("0/03000FF0", 34, "0/3001000", True),  # over the page's end: a part was received
        ("0/03000FD8", 40, "0/3001000", False),  # to the page's end exactly
        ("0/03000F00", 34, "0/3001000", False),
        ("0/03001FF0", 8200, "0/3004000", True),  # two pages further, each with its head
        ("0/03001FF0", 8160, "0/3004000", False),
        ("0/FFFFFFF0", 34, "1/0", True),  # from one 4 GB to the next
        ("A/FFFFFFD8", 40, "B/0", False),
        ("1/00000000", 34, "0/FFFFFFFF", True),
        ("0/03000100", 34, "10/0", False),
    ],
)
def test_a_record_of_which_a_part_was_received_is_beyond(
    box: Box, lsn: str, size: int, from_: str, counts: bool, awk: str
) -> None:
    dump = record(lsn, "COMMIT 2026-01-01", size=size)
    said = beyond(box, {"0/3000000": dump}, "0/3000000", from_, awk)
    assert said == ([f"beyond={lsn} {size} 1", f"last={lsn} {size} "] if counts else [])


def test_where_the_begin_is_gone_it_looks_from_the_position(box: Box) -> None:
    dump = record("0/05000100", "COMMIT 2026-01-01")
    said = beyond(box, {"0/5000100": dump}, "0/3000000", "0/5000100")
    assert said == ["beyond=0/05000100 34 1", "last=0/05000100 34 "]


# --- a promotion that waits for the end ---

SHUTDOWN = record("0/03000028", "CHECKPOINT_SHUTDOWN redo 0/3000028; tli 1; …", "XLOG", 114, 0)
ONLINE = record("0/03000098", "CHECKPOINT_ONLINE redo 0/3000060; tli 1; …", "XLOG", 114, 0)


def armed(
    box: Box, *, wal: str, in_recovery: str = "t", seconds: int = 30, patience: int = 30
) -> subprocess.Popen[str]:
    """Arm a promotion; the WAL and whether the server is in recovery are files."""
    (box.root / "wal").write_text(wal)
    box.tool("pg_waldump", f'cat "{box.root}/wal"')
    box.tool(
        "psql",
        'case "$*" in\n'
        f'*pg_promote*) [ ! -e "{box.root}/held" ] || exit 0\n'
        f'echo "$*" >"{box.root}/promoted"; echo t ;;\n'
        f'*wal_receiver*) cat "{box.root}/receiver" 2>/dev/null || : ;;\n'
        f"*redo_lsn*) echo 0/2000060 ;;\n"
        f'*is_in_recovery*) [ -e "{box.root}/promoted" ] && [ {in_recovery} = t ] && echo t ;;\n'
        "esac; exit 0",
    )
    (box.root / "pgherd.turn").write_text("ours\n")  # as take-turn.sh has left it
    return box.begin(*PIECES, **VALUES, seconds=seconds, patience=patience)


PIECES = ("in-turn", "promote-at-end", "turn-over")
VALUES: dict[str, str | int] = {
    "timeline": 1, "start": "0/3000000", "turn": "ours", "promoting": 60,
}  # fmt: skip


def waits(box: Box) -> bool:
    """Tell whether a script holds the turn."""
    lock = box.root / "pgherd.turn.lock"
    held = ["flock", "--nonblock", str(lock), "true"]
    return lock.exists() and subprocess.run(held, check=False).returncode != 0


def test_promoted_at_the_end(box: Box) -> None:
    waiting = armed(box, wal=HEAP)
    until(lambda: waits(box))
    time.sleep(0.2)
    assert not box.promoted.exists()
    (box.root / "wal").write_text(HEAP + SHUTDOWN)
    out, err = waiting.communicate(timeout=20)
    told = ["armed", "received 0/03000028", "promoted after 0/03000028"]
    assert (out.splitlines(), err) == (told, "")
    asked = box.promoted.read_text()
    assert "WHEN pg_last_wal_replay_lsn() > '0/03000028' THEN pg_promote(wait => false)" in asked
    assert not (box.root / "pgherd.turn").exists()


@pytest.mark.parametrize(
    "last",
    [
        "",
        ONLINE,
        SHUTDOWN + ONLINE,  # the primary was started again
        record("0/03000100", 'MESSAGE prefix "CHECKPOINT_SHUTDOWN"', "LogicalMessage", 60),
    ],
)
def test_not_before(box: Box, last: str) -> None:
    waiting = armed(box, wal=HEAP + last, seconds=1)
    out, _ = waiting.communicate(timeout=20)
    assert (out, waiting.returncode) == ("armed\n", 75)
    assert not box.promoted.exists()


def test_not_while_the_stream_goes_on(box: Box) -> None:
    """The receiver's process tells: this one here, as long as it is there."""
    receiver = subprocess.Popen(["sleep", "60"])
    try:
        (box.root / "receiver").write_text(f"{receiver.pid}\n")
        waiting = armed(box, wal=HEAP)
        until(lambda: waits(box))
        (box.root / "wal").write_text(HEAP + SHUTDOWN)
        (box.root / "receiver").unlink()
    finally:
        receiver.kill()
        receiver.wait()
    out, _ = waiting.communicate(timeout=20)
    assert "promoted after 0/03000028" in out


def test_called_off(box: Box) -> None:
    waiting = armed(box, wal=HEAP)
    until(lambda: waits(box))
    done = box.run("take-turn", turn="")
    assert (done.returncode, done.stdout) == (0, "")
    _, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, err) == (71, "the promotion was called off\n")
    assert not box.promoted.exists()
    assert not (box.root / "pgherd.turn").exists()


def test_one_that_begins_after_its_turn_does_nothing(box: Box) -> None:
    """The run that asked for it was killed, and another one has come meanwhile."""
    assert box.run("take-turn", turn="theirs").returncode == 0
    late = box.run(*PIECES, **VALUES, seconds=5, patience=5)
    assert (late.returncode, late.stdout) == (71, "")
    assert "another run has taken its turn" in late.stderr


def test_where_nothing_waits_the_turn_is_taken_at_once(box: Box) -> None:
    begun = time.monotonic()
    assert box.run("take-turn", turn="ours").returncode == 0
    assert time.monotonic() - begun < 5
    assert (box.root / "pgherd.turn").read_text() == "ours\n"


def test_one_that_the_server_was_told_to_make_is_waited_for(box: Box) -> None:
    """A replay conflict may hold it up: it must not count as called off."""
    waiting = armed(box, wal=HEAP + SHUTDOWN, in_recovery="f")
    until(box.promoted.exists)
    taking = box.begin("take-turn", turn="")
    time.sleep(0.3)
    assert taking.poll() is None
    box.tool("psql", "echo t")
    taking.communicate(timeout=20)
    assert taking.returncode == 0
    out, _ = waiting.communicate(timeout=20)
    assert "promoted after 0/03000028" in out


def test_what_holds_up_replay_is_waited_for_and_nothing_is_asked(box: Box) -> None:
    """Then the promotion can be called off, or given up."""
    (box.root / "held").touch()
    waiting = armed(box, wal=SHUTDOWN, patience=1)
    out, _ = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (75, "armed\nreceived 0/03000028\n")
    waiting = armed(box, wal=SHUTDOWN)
    time.sleep(0.3)
    assert box.run("take-turn", turn="").returncode == 0
    _, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, err) == (71, "the promotion was called off\n")
    assert not box.promoted.exists()


def test_without_a_position_it_begins_at_the_last_checkpoint(box: Box) -> None:
    armed(box, wal=SHUTDOWN).communicate(timeout=20)
    box.promoted.unlink()
    box.tool("pg_waldump", f'echo "$*" >"{box.root}/asked"; cat "{box.root}/wal"')
    (box.root / "pgherd.turn").write_text("ours\n")
    values = {**VALUES, "start": "0/0", "seconds": 5, "patience": 5}
    box.begin(*PIECES, **values).communicate(timeout=20)
    assert "--start=0/2000060" in (box.root / "asked").read_text()


@pytest.mark.parametrize(
    ("dump", "has"),
    [
        (SHUTDOWN, True),
        (SHUTDOWN.replace("0/03000028", "0/03000100"), False),  # the next one that it found
        (ONLINE.replace("0/03000098", "0/03000028"), False),
        ("", False),
    ],
)
def test_whether_it_has_the_shutdown(box: Box, dump: str, has: bool) -> None:
    (box.root / "wal").write_text(dump)
    box.tool("pg_waldump", f'cat "{box.root}/wal"')
    done = box.run("has-shutdown", checkpoint="0/3000028", timeline=1)
    assert done.stdout == "has the shutdown\n" * has


@pytest.mark.parametrize(
    ("checkpoint", "megabytes", "first"),
    [
        ("0/3000028", 16, "000000010000000000000003"),
        ("12/FF000028", 16, "0000000100000012000000FF"),
        ("1A/C0000028", 1024, "000000010000001A00000003"),
        ("0/4500028", 1, "000000010000000000000045"),
    ],
)
def test_the_length_of_files_is_not_learned_from_one_made_in_advance(
    box: Box, checkpoint: str, megabytes: int, first: str
) -> None:
    """pg_waldump is given the first file, which has records, and the last one, to go on to."""
    wal = box.pgdata / "pg_wal"
    last = "0000000100000099000000AA"
    for name in (first, last, "0000000200000099000000AB", "00000001.history", f"{last}.partial"):
        (wal / name).write_bytes(b"")
    box.tool("pg_controldata", f"echo 'Bytes per WAL segment: {megabytes * 1024 * 1024}'")
    box.tool("pg_waldump", f'echo "$*" >"{box.root}/asked"')
    box.run("has-shutdown", checkpoint=checkpoint, timeline=1)
    assert (box.root / "asked").read_text() == (
        f"--path={wal} --timeline=1 --start={checkpoint} --limit=1 {first} {last}\n"
    )


# --- the end of a primary ---

OURS, THEIRS = (
    "postgres: pa: walsender replicator 10.0.0.2(4) streaming 0/3",
    ("postgres: pa: walsender ann app 10.0.0.9(5) START_REPLICATION"),
)
ENDING: dict[str, str | int] = {"seconds": 1, "archiving": 1, "grace": "", "spared": ""}


def state(box: Box, text: str) -> None:
    """Have pg_control tell this."""
    (box.root / "state").write_text(f"Database cluster state:               {text}\n")


@pytest.fixture
def ending(box: Box) -> Box:
    """Where a server ends: its processes are what is laid into a directory like /proc."""
    box.tool("pg_controldata", f'cat "{box.root}/state"')
    (box.root / "proc").mkdir()
    state(box, "in production")
    return box


def process(box: Box, title: str) -> subprocess.Popen[bytes]:
    """Have a process that has this title."""
    one = subprocess.Popen(["sleep", "60"])
    (box.root / "proc" / str(one.pid)).mkdir()
    title = title.ljust(70, "\0")
    (box.root / "proc" / str(one.pid) / "cmdline").write_text(title)
    return one


def see_end(box: Box, **changes: str | int) -> tuple[int, list[str]]:
    """Return the exit code, and what was said."""
    done = box.run("ending", processes=str(box.root / "proc"), **ENDING | changes)
    assert done.stderr == ""
    return done.returncode, [line.rstrip() for line in done.stdout.splitlines()]


def test_an_end_that_waits_for_who_receives(ending: Box) -> None:
    ours, theirs = process(ending, OURS), process(ending, THEIRS)
    try:
        code, said = see_end(ending)
        assert code == 74
        (line,) = said
        assert line.startswith("walsenders ")
        assert f" {theirs.pid} ann app 10.0.0.9(5) START_REPLICATION" in line
        assert (ours.poll(), theirs.poll()) == (None, None)
        see_end(ending, grace=1, seconds=2, spared=str(ours.pid))
        assert (ours.poll(), theirs.wait(10)) == (None, -15)
        state(ending, "shut down")
        assert see_end(ending, grace=0, seconds=1)[0] == 75
        assert ours.wait(10) == -15
    finally:
        ours.kill()
        theirs.kill()
        ours.wait()
        theirs.wait()


@pytest.mark.parametrize(
    ("now", "title", "changes", "code", "said"),
    [
        ("shut down", "postgres: pa: archiver archiving 00000001000000000000000A",
         {"seconds": 30}, 75, ["archiver archiving 00000001000000000000000A"]),
        ("shut down", "postgres: pa: archiver", {}, 75, ["sessions"]),
        ("in production", "postgres: pa: archiver archiving 0", {}, 74, ["sessions"]),
        ("in production", "sh -c 'echo postgres: walsender'", {"grace": 0}, 74, ["sessions"]),
    ],
)  # fmt: skip
def test_an_end_that_waits_for_others(
    ending: Box, now: str, title: str, changes: dict[str, str | int], code: int, said: list[str]
) -> None:
    other = process(ending, title)
    try:
        state(ending, now)
        assert see_end(ending, **changes) == (code, said)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_time_for_the_shutdown_checkpoint_does_not_count(ending: Box) -> None:
    """To give up there would be a crash."""
    state(ending, "shutting down")
    (ending.root / "head").write_text("")
    running = ending.begin("ending", processes=str(ending.root / "proc"), **ENDING)
    time.sleep(2.5)
    assert running.poll() is None
    state(ending, "shut down")
    out, _ = running.communicate(timeout=20)
    assert (running.returncode, out) == (75, "checkpoint\nsessions\n")


# --- what lies in a directory ---


def test_the_marks_of_one_that_may_come_back(box: Box) -> None:
    box.tool(
        "pg_controldata",
        "cat <<'EOF'\nDatabase cluster state:               in production\n"
        "Latest checkpoint's TimeLineID:       9\nMin recovery ending loc's timeline:   10\n"
        "Data page checksum version:           1\nEOF",
    )
    (box.pgdata / "global").mkdir()
    (box.pgdata / "global" / "pg_control").touch()
    (box.pgdata / "PG_VERSION").write_text("17\n")
    (box.pgdata / "postgresql.auto.conf").write_text(
        "# Do not edit this file manually!\n"
        "synchronous_standby_names = 'FIRST 1 (old)'\n"
        "primary_conninfo = 'host=pa'\n"
        "synchronous_standby_names = 'FIRST 1 (\"it''s\")'\n"
    )
    history = "8\t0/5000148\tno recovery target specified\n\n# x\n9\t0/6000000\tbefore 2000-01-01\n"
    (box.pgdata / "pg_wal" / "0000000A.history").write_text(history)
    done = box.run("examine")
    assert (done.returncode, done.stderr) == (0, "")
    disk = Disk.parse(done.stdout)
    assert disk.history == "8 0/5000148\n9 0/6000000\n"
    assert disk.came_through.timeline == 10
    assert disk.sync_names == 'FIRST 1 ("it\'s")'
    assert disk.rewindable
    assert disk.connected
    assert not disk.standby_signal
