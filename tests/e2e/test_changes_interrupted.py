"""Changes of primary that are cut short, or whose stages fail: the same command converges.

Every point of every task is tried by `invoke torture`; here are samples. After
each, whatever was done: one node is primary, every acknowledged row is there, verify passes.

What was considered, as one who wants to see two primaries, a lost row, or no primary for good. A is
the primary, B the standby that is to take over.

Killed, and run again:
- A is marked, and goes on: its commits still wait for B, also after a reload; `start` unmarks it.
- A is marked, and comes back as a standby like B, from a crash or as its engine starts again: none
  is primary. B streams from A, whatever more that has, and is promoted: test_all_are_standbys.
- A is marked, crashes and stays down: it is started as the primary that it was, and stopped then in
  order: test_a_marked_primary_crashed.
- A is stopped, and B has its last record: it is promoted. B lacks it: A serves again first.
- A promotion waits inside B, and its run is gone: A's stop by hand completes the switchover, A's
  crash does not promote; a later run calls it off before it does anything else.
- A promotion or a mark of a run that is gone gets to act only when a later run is at work: it has
  lost its turn and gives up. One that has been asked for cannot be taken back, and is awaited.
- A failover is killed when A is fenced: it fences again, goes on. It is killed when B was promoted:
  it finishes, and is not refused as one that is not needed.
- A failover is killed while B is being promoted, and run again with less loss allowed: A's fence is
  not lifted, as B may be primary.
- A rejoin is killed while it copies aside, rewinds or copies: what is half done is marked, and made
  anew; what was set aside stays.

Failing:
- B is stopped or paused as A is stopped: B is stopped for good, its data tells that it was not
  promoted, and A serves again. B's host is cut off: A stays down, as B may have been promoted.
- The disk of B is full: it stops, as above.
- Ctrl-C, SIGTERM: the old primary serves again, or the new one does, which is said.
- Two at once: the second one is refused.
- B is paused, delayed, its replay is paused, it is far behind: refused, nothing is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asking import until
from changes import CHANGES
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker
from killing import MOMENTS, Act, acts, killed
from stories import SWITCHED_SECONDS
from trial import Trial, changing, inside

SAMPLE = [
    ("switchover of a pair", "stop"),
    ("switchover and Ctrl-C", "stop"),
    ("switchover and SIGTERM", "promote-at-end"),
    ("failover of a pair", "promote"),
    ("rejoin that follows", "start"),
    ("rejoin by pg_rewind", "rewind"),
]
LONG = {"switchover and Ctrl-C", "switchover and SIGTERM", "rejoin that follows"}
BEFALLING = """\
#!/bin/sh
# Stands before docker: as the old primary is stopped, something befalls the standby.
case "$1 $4" in "stop $SHIM_OLD") {act} ;; esac
exec "$SHIM_DOCKER" "$@"
"""


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    herd = make_herd("17")
    for keys in herd.nodes.values():  # so that the primary gives up a standby that is silent
        keys["settings"] = {"wal_sender_timeout": "3s"}
    herd.write()
    return herd


@contextmanager
def trial_of(herd: Herd, name: str) -> Iterator[Trial]:
    with changing(CHANGES[name], herd) as trial:
        yield trial


@pytest.mark.parametrize(
    ("name", "act"),
    [pytest.param(*one, marks=[pytest.mark.long] * (one[0] in LONG)) for one in SAMPLE],
)
def test_a_change_is_cut_short(herd: Herd, name: str, act: str) -> None:
    with trial_of(herd, name) as trial:
        fitting = acts(trial.counted(), act)
        place = SAMPLE.index((name, act))
        number = fitting[min(len(fitting) - 1, 1 + place % 2)]
        trial.cut_short(number, MOMENTS[(place + 1) % len(MOMENTS)])


# --- no node is primary ---


@pytest.mark.long
def test_a_stop_by_hand_completes_what_was_cut_short(herd: Herd) -> None:
    """The promotion waits inside the standby for the primary's end, whoever brings that about."""
    with trial_of(herd, "switchover of a pair") as trial:
        trial.ready()
        old, new = herd.primary(), trial.standbys[0]
        assert killed(herd, Act("stop"), "before", *trial.words).killed
        assert herd.primary() == old
        docker("stop", "--time", "60", herd.container(old))
        assert until(lambda: inside(herd, new, "SELECT pg_is_in_recovery()") == "f")
        trial.again()


@pytest.fixture
def trial(herd: Herd) -> Iterator[Trial]:
    with trial_of(herd, "switchover of a pair") as trial:
        yield trial


def marked(trial: Trial) -> tuple[str, str]:
    """Mark the primary as a switchover does; return its role and the standby's."""
    old, new = trial.herd.primary(), trial.standbys[0]
    conninfo = inside(trial.herd, new, "SHOW primary_conninfo")
    back = conninfo.replace(trial.herd.container(old), trial.herd.container(new))
    inside(
        trial.herd,
        old,
        f"ALTER SYSTEM SET primary_conninfo = '{back.replace(chr(39), chr(39) * 2)}'",
    )
    docker("exec", "--user", "postgres", trial.herd.container(old), "touch",
           "/var/lib/postgresql/data/standby.signal")  # fmt: skip
    return old, new


@pytest.mark.long
def test_all_are_standbys(trial: Trial) -> None:
    old, new = marked(trial)
    docker("stop", trial.herd.container(new))
    trial.write(old)  # which the other lacks
    docker("kill", "--signal", "KILL", trial.herd.container(old))
    docker("start", trial.herd.container(old), trial.herd.container(new))
    assert inside(trial.herd, old, "SELECT pg_is_in_recovery()") == "t"
    assert inside(trial.herd, new, "SELECT pg_is_in_recovery()") == "t"
    trial.herd.invoke("switchover", "--to", trial.herd.container(new))
    trial.sound()
    assert trial.herd.primary() == new


@pytest.mark.long
def test_a_marked_primary_crashed(trial: Trial) -> None:
    old, new = marked(trial)
    docker("kill", "--signal", "KILL", trial.herd.container(old))
    trial.herd.invoke("switchover", "--to", trial.herd.container(new))
    trial.sound()
    assert trial.herd.primary() == new


def test_start_lets_a_marked_primary_go_on(trial: Trial) -> None:
    old, _ = marked(trial)
    assert "goes on as the primary" in trial.herd.invoke("start").stderr
    trial.herd.invoke("stop", "start")
    trial.sound()
    assert trial.herd.primary() == old


# --- files of WAL that were made in advance ---


@pytest.mark.long
def test_the_end_is_found_among_files_that_are_all_zeros(trial: Trial) -> None:
    """A checkpoint may make the next file of WAL in advance, and any may be listed first."""
    herd, new = trial.herd, trial.standbys[0]
    script = (
        "cd /var/lib/postgresql/data/pg_wal; for n in $(seq 16 40); do "
        'truncate -s 16777216 "$(ls | grep -E "^[0-9A-F]{24}$" | tail -n 1 | cut -c 1-16)'
        '$(printf 000000%02X $((n + 100)))"; done'
    )
    for role in herd.nodes:
        docker("exec", "--user", "postgres", herd.container(role), "sh", "-ec", script)
    herd.invoke("switchover", "--to", herd.container(new))
    trial.sound()
    assert herd.primary() == new


# --- stages that fail ---


def beset(
    herd: Herd, old: str, new: str, act: str, place: Path
) -> subprocess.CompletedProcess[str]:
    """Switch over while something befalls the standby, as the primary is about to be stopped."""
    real = shutil.which("docker")
    assert real
    shim = place / "docker"
    shim.write_text(BEFALLING.format(act=act))
    shim.chmod(0o755)
    return herd.within(SWITCHED_SECONDS).invoke(
        "switchover", "--to", herd.container(new), code=None,
        PATH=f"{place}:{os.environ['PATH']}", SHIM_DOCKER=real,
        SHIM_OLD=herd.container(old), SHIM_NEW=herd.container(new),
    )  # fmt: skip


@pytest.mark.parametrize(
    "act",
    ['"$SHIM_DOCKER" stop --time 5 "$SHIM_NEW"', '"$SHIM_DOCKER" pause "$SHIM_NEW"'],
    ids=["stopped", "paused"],
)
@pytest.mark.long
def test_something_befalls_the_standby(trial: Trial, tmp_path: Path, act: str) -> None:
    herd, old, new = trial.herd, trial.herd.primary(), trial.standbys[0]
    done = beset(herd, old, new, f"{act} >/dev/null & sleep 0.02", tmp_path)
    primary = herd.primary()
    served = "serves again" if primary == old else "is primary now"
    assert f"{herd.container(primary)}: {served}" in done.stderr, done.stderr
    herd.invoke("start")
    herd.invoke("switchover", "--to", herd.container(new))
    trial.sound()
    assert herd.primary() == new


@pytest.mark.long
def test_a_standby_that_lacks_the_primarys_last_words_does_not_take_over(
    trial: Trial, tmp_path: Path
) -> None:
    """The stream breaks just before the primary stops: what it writes last would be lost."""
    herd, old, new = trial.herd, trial.herd.primary(), trial.standbys[0]
    inside(herd, new, "ALTER SYSTEM SET wal_retrieve_retry_interval = '60s'")
    inside(herd, new, "SELECT pg_reload_conf()")
    # It comes back at once from a first break, and after that interval from a second.
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
    psql = '"$SHIM_DOCKER" exec --user postgres "$SHIM_OLD" psql -Xq'
    act = f'{psql} -c "{cut}" -c "SELECT pg_sleep(1)" -c "{cut}" >/dev/null'
    done = beset(herd, old, new, act, tmp_path)
    assert done.returncode == 1, done.stderr
    assert herd.primary() == old
    assert inside(herd, new, "SELECT timeline_id FROM pg_control_checkpoint()") == inside(
        herd, old, "SELECT timeline_id FROM pg_control_checkpoint()"
    )
    inside(herd, new, "ALTER SYSTEM RESET wal_retrieve_retry_interval")
    inside(herd, new, "SELECT pg_reload_conf()")
    herd.invoke("start")
    herd.invoke("switchover", "--to", herd.container(new))
    trial.sound()
    assert herd.primary() == new


@pytest.mark.long
def test_of_two_at_once_one_is_refused(trial: Trial) -> None:
    new = trial.standbys[0]
    words = [*INVOKE, "switchover", "--to", trial.herd.container(new)]
    runs = [
        subprocess.Popen(words, cwd=ROOT, env=trial.herd.environment(), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]  # fmt: skip
    said = {run.wait(60): run.communicate()[0] for run in runs}
    assert sorted(said) == [0, 2], said
    assert "Another pgherd run" in said[2]
    trial.sound()
    assert trial.herd.primary() == new


# --- refused ---


@pytest.mark.long
def test_who_cannot_take_over_is_refused(trial: Trial) -> None:
    herd, old, new = trial.herd, trial.herd.primary(), trial.standbys[0]
    name = herd.container(new)

    def refused(text: str) -> None:
        assert text in herd.invoke("switchover", "--to", name, code=2).stderr
        assert herd.primary() == old
        assert not inside(herd, old, "SELECT size FROM pg_stat_file('standby.signal', true)")

    def setting(value: str) -> None:
        inside(herd, new, f"ALTER SYSTEM SET {value}")
        inside(herd, new, "SELECT pg_reload_conf()")

    docker("pause", name)
    try:
        text = herd.invoke("switchover", "--to", name, code=2).stderr
    finally:
        docker("unpause", name)
    assert "paused" in text
    inside(herd, new, "SELECT pg_wal_replay_pause()")
    refused("Replay is paused")
    inside(herd, new, "SELECT pg_wal_replay_resume()")
    setting("recovery_min_apply_delay = '1h'")
    refused("late on purpose")
    setting("recovery_min_apply_delay = 0")
    setting("primary_conninfo = 'host=127.0.0.1 port=1'")
    trial.write(old, rows=20000)
    refused("does not stream")
    herd.invoke("rejoin", name)
    trial.sound()
