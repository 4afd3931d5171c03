"""Another primary on another host: switchovers, partitions, and connections that are cut midway."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import INVOKE, ROOT
from far import REFUSED, UNREACHABLE, Far, MakeFar, wait_for
from load import Load, missing, running_load, two_at_once
from machine import ENVIRONMENT, lacking, run
from rig import Rig
from stories import said_seconds

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

# A partition of seconds is to be one for PostgreSQL, too.
IMPATIENT = {
    "wal_sender_timeout": "2s",
    "wal_receiver_timeout": "2s",
    "wal_retrieve_retry_interval": "500ms",
}
SESSIONS = 12  # of a switchover on one host: one is the keeper's
LOGIN_SECONDS = 60.0


@pytest.fixture(scope="module")
def three(make_far: MakeFar) -> Far:
    """A group of three on three hosts, in which a commit waits for either standby."""
    far = make_far("hosta", "member@hostb", "hostc", sync="ANY 1 (standby1, standby2)")
    for node in far.nodes.values():
        node["settings"] = IMPATIENT
    far.write()
    far.invoke("setup-master")
    for role in ("standby", "standby2"):
        far.invoke("seed-standby", "--node", far.container(role))
    return far


@pytest.fixture
def far(rigged: Rig, three: Far) -> Far:
    """The same, whole again, whatever the last test left; any node may be primary."""
    assert rigged
    if not three.primaries():
        three.invoke("start")
    timeline = "SELECT timeline_id FROM pg_control_checkpoint()"
    leading = sorted(three.primaries(), key=lambda role: int(three.sql(role, timeline)))
    for role in [*leading[:-1], *(role for role in three.nodes if role not in leading)]:
        three.invoke("rejoin", three.container(role))
    return three


@contextmanager
def loaded(far: Far, directory: Path) -> Iterator[Load]:
    """Insert rows while the block lasts; then nothing acknowledged is lost, and verify passes."""
    # One for each node: who begins with an old primary that hangs finds no other.
    with running_load(far.places, far.password(), directory, clients=3) as load:
        yield load
    (primary,) = far.primaries()
    acknowledged = load.acknowledged()
    assert missing(acknowledged, lambda text: json.loads(far.sql(primary, text))) == set()
    assert two_at_once(acknowledged) == []
    far.checks()


def port(far: Far, role: str) -> int:
    return int(far.nodes[role]["port"])


def after(far: Far, primary: str, turns: int = 1) -> str:
    """Return the role that comes so many after this one."""
    roles = list(far.nodes)
    return roles[(roles.index(primary) + turns) % len(roles)]


def isolate(far: Far, role: str) -> None:
    """Pull out a host's cable, and let this machine forget where it was, which takes its time."""
    far.host(role).cut()
    run("ip", "neighbour", "flush", "dev", far.rig.lan.link)


def begun_commit(far: Far, role: str) -> subprocess.Popen[str]:
    """Begin a commit through the server's own socket."""
    words = ("docker", "exec", far.container(role), "psql", "-XAtq", "-U", "postgres", "-c")
    return subprocess.Popen(
        far.host(role).inside(*words, "CREATE TABLE isolated (id int)"), env=ENVIRONMENT,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def warnings(far: Far) -> dict[str, str | None]:
    """Return what status warns of: codes, with their nodes."""
    told = json.loads(far.invoke("status", "--json", code=1).stdout)["warnings"]
    return {warning["code"]: warning["node"] for warning in told}


# --- in order ---


def test_switchovers_between_hosts(far: Far, tmp_path: Path) -> None:
    hosts = far.rig.hosts.values()
    with loaded(far, tmp_path) as load:
        for turn in range(2):
            (old,) = far.primaries()
            new = after(far, old, 1 + turn)
            before = [(len(host.logins()), len(host.sessions())) for host in hosts]
            done = far.invoke("switchover", "--to", far.container(new))
            now = [(len(host.logins()), len(host.sessions())) for host in hosts]
            load.first(time.monotonic(), port=port(far, new))
            assert far.primaries() == [new]
            assert said_seconds(done.stdout + done.stderr) is not None
            for (logins, sessions), (logins_now, sessions_now) in zip(before, now, strict=True):
                assert logins_now - logins == 1
                assert sessions_now - sessions <= SESSIONS
            far.checks()


@pytest.mark.long
def test_the_third_hosts_is_away(far: Far) -> None:
    (old,) = far.primaries()
    new, third = after(far, old), after(far, old, 2)
    name = far.container(third)
    far.host(third).stop_sshd()
    for task in ("switchover", "failover"):
        code = UNREACHABLE if task == "switchover" else REFUSED  # the primary serves
        far.invoke(task, "--to", name, code=code)
    said = far.invoke("switchover", "--to", far.container(new)).stderr
    assert f"{name}: left out, since {far.destination(third)} cannot be reached" in said
    far.docker(new, "stop", "--time", "60", far.container(new))
    far.invoke("failover", "--to", name, code=UNREACHABLE)
    said = far.invoke("failover").stderr
    assert f"{name}: left out" in said
    assert far.primaries() == [old]
    far.host(third).repair()
    far.invoke("rejoin", far.container(new))
    far.invoke("rejoin", name)
    far.checks()


# --- partitions ---


@pytest.mark.long
def test_the_primarys_host_is_cut_off(far: Far, tmp_path: Path) -> None:
    (old,) = far.primaries()
    name = far.container(old)
    with loaded(far, tmp_path) as load:
        isolate(far, old)
        hanging = begun_commit(far, old)
        said = far.invoke("failover", code=REFUSED).stderr
        assert f"{name} cannot be fenced, as {far.destination(old)} cannot be reached" in said
        assert "may write what will be lost" in said
        assert far.primaries() == [old]
        begun = time.monotonic()
        said = far.invoke("failover", "--skip-fencing").stderr
        assert "its commits hang" in said
        assert load.first(begun).port != port(far, old)
        assert hanging.poll() is None  # not acknowledged
        far.host(old).mend()
        found = warnings(far)
        assert found["old-primary"] == found["commits-hang"] == name
        said = far.invoke("rejoin", name).stderr
        assert "pg_rewind: it has" in said
        assert "commits of its own are in" in said
        told = hanging.communicate(timeout=10)[0]
        assert "terminating connection" in told
        assert list(far.data(old).parent.glob(f"{far.data(old).name}_bk_*"))
        assert far.invoke("status").returncode == 0


@pytest.mark.long
def test_the_primarys_host_is_out_of_reach_from_here_only(far: Far, tmp_path: Path) -> None:
    """Clients and standbys still reach the primary: it must not acknowledge beside the new one."""
    (old,) = far.primaries()
    with loaded(far, tmp_path) as load:
        far.host(old).stop_sshd()
        far.invoke("failover", code=REFUSED)
        begun = time.monotonic()
        said = far.invoke("failover", "--skip-fencing").stderr
        assert "lets go of the lost primary" in said
        assert len(far.primaries()) == 2
        load.first(begun, port=port(far, next(r for r in far.primaries() if r != old)))
        ended = [row.ended for row in load.acknowledged() if row.port == port(far, old)]
        time.sleep(1)
        again = [row.ended for row in load.acknowledged() if row.port == port(far, old)]
        assert again == ended
        far.host(old).repair()
        far.invoke("rejoin", far.container(old))
    assert len(far.primaries()) == 1


def edit_rules(far: Far, role: str, edit: str) -> None:
    """Edit a server's pg_hba.conf by sed, and have it read."""
    rules = "/var/lib/postgresql/data/pg_hba.conf"
    far.docker(role, "exec", far.container(role), "sed", "-i", edit, rules)
    far.sql(role, "SELECT pg_reload_conf()")


@pytest.mark.long
def test_a_rewind_that_the_primary_does_not_let_in(far: Far) -> None:
    """Of an adopted database pg_hba.conf may name the superuser's addresses: a copy is made."""
    (old,) = far.primaries()
    new, name = after(far, old), far.container(old)
    edit_rules(far, new, "s/^host all all all/#&/")
    far.host(old).stop_sshd()
    far.invoke("failover", "--to", far.container(new), "--skip-fencing")
    hanging = begun_commit(far, old)
    far.host(old).repair()
    try:
        said = far.invoke("rejoin", name).stderr
    finally:
        for role in (new, old):
            edit_rules(far, role, "s/^#host all all all/host all all all/")
        hanging.kill()
        hanging.communicate()
    assert f"{name}: pg_rewind could not: " in said
    assert "no pg_hba.conf entry" in said
    assert f"{name}: a new base backup" in said
    far.checks()


# --- connections that are cut ---


def interrupted(far: Far, words: list[str], line: str, act: Callable[[], None]) -> tuple[int, str]:
    """Do something once a run has said a line; return its exit status and what it said."""
    begun = far.begin(*words)
    said = []
    assert begun.stdout
    for text in begun.stdout:
        said.append(text)
        if line in text:
            act()
            break
    try:
        rest, _ = begun.communicate(timeout=LOGIN_SECONDS)
    finally:
        begun.kill()
    told = "".join(said) + rest
    assert line in told
    assert "Traceback" not in told
    return begun.returncode, told


@pytest.mark.parametrize("whose", ["successor", "primary"])
@pytest.mark.long
def test_a_connection_is_lost_in_a_switchover(far: Far, tmp_path: Path, whose: str) -> None:
    (old,) = far.primaries()
    new = after(far, old)
    words = ["switchover", "--to", far.container(new)]
    with loaded(far, tmp_path):
        lost = far.host(new if whose == "successor" else old)
        code, said = interrupted(far, words, "stopping it;", lost.kill_sessions)
        assert code in {1, UNREACHABLE}, said
        assert "The connection to" in said
        far.invoke(*words)
        assert far.primaries() == [new]


@pytest.mark.long
def test_the_successors_host_is_cut_off_while_it_takes_over(far: Far, tmp_path: Path) -> None:
    """The primary stays down: the successor was promoted, or may be at any time."""
    (old,) = far.primaries()
    new, third = after(far, old), after(far, old, 2)
    words = ["switchover", "--to", far.container(new)]

    def cut() -> None:
        while far.status(old) == "running":
            time.sleep(0.02)
        isolate(far, new)

    with loaded(far, tmp_path):
        code, said = interrupted(far, words, "stopping it;", cut)
        assert code in {1, UNREACHABLE}, said
        # If the cut came late it is back already, but as a standby, and follows the successor.
        late = far.status(old) == "running"
        assert far.primaries() in ([], [new])
        far.invoke("switchover", "--to", far.container(third), code=UNREACHABLE)
        said = far.invoke("failover", code=REFUSED).stderr
        assert ("cannot be fenced" if late else "may be primary by now") in said
        assert far.primaries() in ([], [new])
        far.host(new).mend()
        far.invoke(*words)
        assert far.primaries() == [new]


STOP_HANGS = """
case $1 in stop) : >{called}; exec sleep 600 ;; esac
exec "$original" "$@"
"""


def cut_short(far: Far, old: str, new: str) -> None:
    """Kill a switchover as it stops the primary, which goes on: the standby waits for its end."""
    host = far.host(old)
    called = host.directory / "stop-was-called"
    called.unlink(missing_ok=True)
    host.replace("docker", STOP_HANGS.format(called=called))
    try:
        run = far.begin("switchover", "--to", far.container(new))
        wait_for(run, called.exists)
        run.kill()
        run.communicate(timeout=10)
    finally:
        host.unmount()
    assert far.status(old) == "running"


@pytest.mark.long
def test_a_stop_by_hand_completes_a_switchover_that_was_cut_short(far: Far) -> None:
    """So the standby does wait, in the tests below as well."""
    (old,) = far.primaries()
    new = after(far, old)
    cut_short(far, old, new)
    far.docker(old, "stop", "--time", "60", far.container(old))
    end = time.monotonic() + LOGIN_SECONDS
    while far.primaries() != [new]:
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.long
def test_a_standby_that_waits_to_take_over_is_called_off(far: Far) -> None:
    """After a cut-short switchover to one of two, one to the other: only that is promoted."""
    (old,) = far.primaries()
    new, third = after(far, old), after(far, old, 2)
    cut_short(far, old, new)
    far.host(new).stop_sshd()
    said = far.invoke("switchover", "--to", far.container(third), code=REFUSED).stderr
    assert "may wait for the end of" in said
    far.host(new).repair()
    far.invoke("switchover", "--to", far.container(third))
    assert far.primaries() == [third]
    far.checks()


@pytest.mark.long
def test_start_ends_a_switchover_that_was_cut_short(far: Far) -> None:
    (old,) = far.primaries()
    cut_short(far, old, after(far, old))
    assert warnings(far) == {"marked": far.container(old)}
    assert "it goes on as the primary" in far.invoke("start").stderr
    far.docker(old, "restart", "--time", "60", far.container(old))
    far.invoke("start")
    assert far.primaries() == [old]
    far.checks()


@pytest.mark.long
def test_a_connection_is_lost_in_a_failover_and_in_a_rejoin(far: Far, tmp_path: Path) -> None:
    (old,) = far.primaries()
    name = far.container(old)

    def drop() -> None:
        for role in far.nodes:
            if role != old:
                far.host(role).kill_sessions()

    with loaded(far, tmp_path):
        far.docker(old, "kill", "--signal", "KILL", name)
        code, said = interrupted(far, ["failover"], "promoting it", drop)
        assert code in {1, UNREACHABLE}, said
        again = subprocess.run(
            [*INVOKE, *far.words("failover")], cwd=ROOT, env=far.environment(), check=False,
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert again.returncode in {0, REFUSED}, again.stderr  # it may have been promoted before
        assert len(far.primaries()) == 1
        lost = far.host(old).kill_sessions
        code, said = interrupted(far, ["rejoin", name], f"{name}: ", lost)
        assert code in {1, UNREACHABLE}, said
        far.invoke("rejoin", name)


# --- on one host ---


@pytest.mark.long
def test_a_group_that_on_has_placed(rigged: Rig, make_far: MakeFar) -> None:
    assert rigged
    host = "member@hosta"
    far = make_far(on=host)
    far.invoke("setup-master", "seed-standby")
    master, standby = far.container("master"), far.container("standby")
    far.invoke("switchover", "--to", standby)
    assert far.primaries() == ["standby"]
    far.docker("standby", "kill", "--signal", "KILL", standby)
    said = far.invoke("failover", "--to", standby, code=REFUSED).stderr
    assert f"{standby} does not run as a standby" in said
    done = far.invoke("failover")
    assert f"`invoke on {host} rejoin {standby}` brings it back" in done.stdout
    assert far.primaries() == ["master"]
    told = far.invoke("status", code=1).stdout
    assert f"its restart policy is `no`: `invoke on {host} rejoin {standby}`" in told
    assert f"`invoke on {host} " in far.invoke("diff", code=1).stdout
    far.invoke("rejoin", standby)
    far.checks()
    far.invoke("status")
    assert far.invoke("diff").returncode == 0
    both = far.invoke("uri", "--role", "primary").stdout
    assert all(str(far.nodes[role]["port"]) in both for role in far.nodes)
    assert master != standby
