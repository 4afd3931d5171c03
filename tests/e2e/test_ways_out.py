"""Whatever state a group is in, the printed commands lead out of it, and lose nothing unasked.

A walk begins with `invoke status`, types the first command that it prints, and then the first that
each refusal prints, until `status` and `verify` are well. Every row that was acknowledged is there
then, unless --max-loss was typed. Each state was one where some refusal named the next, or a cure
threw acknowledged commits away.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from asking import until
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker
from trial import inside

STEPS = 12
SETTLE = 8.0  # seconds for a standby to connect again
DATA = "/var/lib/postgresql/data"


@dataclass
class Walk:
    """A group in trouble: the rows that it acknowledged, and what was typed so far."""

    herd: Herd
    rows: set[int] = field(default_factory=set)
    typed: list[str] = field(default_factory=list)
    said: str = ""

    def write(self, role: str, count: int = 3) -> None:
        """Commit rows as a client of that node does."""
        for _ in range(count):
            row = len(self.rows) + 1
            self.herd.sql(role, f"INSERT INTO kept VALUES ({row})")
            self.rows.add(row)

    def name(self, role: str) -> str:
        """The container of a role."""
        return self.herd.container(role)

    def reboot(self, *roles: str) -> None:
        """End all at once, as where the power goes; none comes back by itself."""
        docker("kill", *(self.name(role) for role in roles or self.herd.nodes), check=False)

    def out(self) -> None:
        """Go by the printed commands until all is well."""
        for _ in range(STEPS):
            if self._well():
                return
            while command := first_command(self.said):
                self.said = ""
                self._type(command)
        pytest.fail(f"{' / '.join(self.typed)}\n{self.said}")

    def _well(self) -> bool:
        end = time.monotonic() + SETTLE
        while True:
            done = self._run("invoke status")
            self.said = done.stdout
            if done.returncode == 0 or time.monotonic() > end:
                break
            time.sleep(0.5)
        if done.returncode == 0:
            done = self._run("invoke verify")
            self.said = done.stdout
        return done.returncode == 0

    def _type(self, command: str) -> None:
        assert len(self.typed) < STEPS, f"{' / '.join(self.typed)}\n{self.said}"
        self.typed.append(command)
        done = self._run(command)
        assert "Traceback" not in done.stderr, done.stderr
        assert "purge" not in done.stderr + done.stdout
        if done.returncode:
            self.said = done.stderr + done.stdout
            assert first_command(self.said), f"{command}: no way out of\n{self.said}"

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command)
        words = [*INVOKE, *words[1:]] if words[0] == "invoke" else words
        return subprocess.run(
            words, cwd=ROOT, env=self.herd.environment(), capture_output=True, text=True,
            timeout=240, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip


def first_command(said: str) -> str:
    """Return the first command that a text tells to type; one with an ellipsis is none."""
    found = re.findall(r"`((?:invoke|docker) [^`…]+)`", said)
    return found[0] if found else ""


# --- the states ---


def signal_off(walk: Walk, role: str) -> None:
    """Make a standby that is down forget that it is one."""
    (walk.herd.data(role) / "standby.signal").unlink()


def stray(walk: Walk) -> None:
    """A standby is promoted by hand, and clients go on at the primary with the other one."""
    docker("exec", "-u", "postgres", walk.name("standby2"), "pg_ctl", "promote")
    walk.write("master", 5)


def stray_that_wrote(walk: Walk) -> None:
    """The same, and clients wrote on both."""
    stray(walk)
    walk.write("standby2")
    walk.write("master")


def stray_and_reboot(walk: Walk) -> None:
    """The same, and then the power goes."""
    stray_that_wrote(walk)
    walk.reboot()


def stray_that_was_stopped(walk: Walk) -> None:
    """A standby was promoted by hand and stopped again."""
    stray_that_wrote(walk)
    docker("stop", walk.name("standby2"))


def three_primaries(walk: Walk) -> None:
    """Both standbys are promoted, and all three take writes."""
    inside(walk.herd, "master", "ALTER SYSTEM SET synchronous_standby_names = ''")
    inside(walk.herd, "master", "SELECT pg_reload_conf()")
    for role in ("standby", "standby2"):
        docker("exec", "-u", "postgres", walk.name(role), "pg_ctl", "promote")
    for role in walk.herd.nodes:
        walk.write(role)


def one_timeline(walk: Walk) -> None:
    """A standby was started without its mark: two primaries, of one timeline."""
    docker("stop", walk.name("standby2"))
    signal_off(walk, "standby2")
    docker("start", walk.name("standby2"))
    walk.write("master")
    assert inside(walk.herd, "standby2", "SELECT NOT pg_is_in_recovery()") == "t"
    walk.write("standby2", 1)


def one_timeline_and_reboot(walk: Walk) -> None:
    """The same, and then the power goes."""
    one_timeline(walk)
    walk.reboot()


def killed_reseed_and_reboot(walk: Walk) -> None:
    """After a switchover, a rebuild of the topology's first node is killed; then the power goes."""
    walk.herd.invoke("switchover", "--to", walk.name("standby"))
    walk.write("standby")
    kill_reseed(walk, "master")
    walk.write("standby")
    walk.reboot()


def killed_reseed_and_down(walk: Walk) -> None:
    """The same, and the containers were removed."""
    killed_reseed_and_reboot(walk)
    docker("rm", *(walk.name(role) for role in walk.herd.nodes))


def killed_reseed_of_a_standby(walk: Walk) -> None:
    """A rebuild of a standby is killed; then the power goes."""
    kill_reseed(walk, "standby2")
    walk.write("master")
    walk.reboot()


def kill_reseed(walk: Walk, role: str) -> None:
    """Begin to seed a node anew, slowly, and kill that in the middle of the copy."""
    words = ["seed-standby", "--node", walk.name(role), "--rebuild", "--allow-async"]
    with subprocess.Popen(
        [*INVOKE, *words, "--max-rate", "32k"], cwd=ROOT, env=walk.herd.environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as run:  # fmt: skip
        assert until((walk.herd.data(role) / "base").exists)
        run.send_signal(signal.SIGKILL)
    docker("rm", "--force", f"pgherd-{walk.herd.name}-{walk.name(role)}")


def gone_standby(walk: Walk) -> None:
    """A standby's directory is gone."""
    walk.reboot("standby2")
    shutil.rmtree(walk.herd.data("standby2"))


def gone_primary(walk: Walk) -> None:
    """The primary's directory is gone, and the power went."""
    walk.reboot()
    shutil.rmtree(walk.herd.data("master"))


def gone_first_node(walk: Walk) -> None:
    """After a failover the first node's directory is gone, and then the power goes."""
    walk.reboot("master")
    walk.herd.invoke("failover")
    shutil.rmtree(walk.herd.data("master"))
    walk.write(walk.herd.primary())
    walk.reboot()


def all_standbys(walk: Walk) -> None:
    """A switchover was killed when the primary was marked; it came back as a standby."""
    (walk.herd.data("master") / "standby.signal").touch()
    docker("restart", "--time", "60", walk.name("master"))


def marked(walk: Walk) -> None:
    """A switchover was killed when the primary was marked; it goes on."""
    (walk.herd.data("master") / "standby.signal").touch()
    walk.write("master")


def came_back(walk: Walk) -> None:
    """After a failover somebody starts the old primary by hand, without its mark."""
    walk.reboot("master")
    walk.herd.invoke("failover")
    walk.write(walk.herd.primary())
    signal_off(walk, "master")
    docker("start", walk.name("master"))
    inside(walk.herd, "master", "SELECT 1")


def came_back_alone(walk: Walk) -> None:
    """The same, and then the one that was promoted goes down."""
    came_back(walk)
    new = "standby" if walk.herd.status("standby") == "running" else "standby2"
    docker("stop", walk.name("standby"), walk.name("standby2"))
    assert new


def failed_over_and_reboot(walk: Walk) -> None:
    """After a failover, the old primary unmarked and down, the power goes."""
    walk.reboot("master")
    walk.herd.invoke("failover")
    walk.write(walk.herd.primary())
    signal_off(walk, "master")
    docker("update", "--restart", "unless-stopped", walk.name("master"))
    walk.reboot()


CORE = [stray, killed_reseed_and_reboot]
LONG = [
    stray_that_wrote, stray_and_reboot, stray_that_was_stopped, three_primaries, one_timeline,
    one_timeline_and_reboot, killed_reseed_and_down, killed_reseed_of_a_standby, gone_standby,
    gone_primary, gone_first_node, all_standbys, marked, came_back, came_back_alone,
    failed_over_and_reboot,
]  # fmt: skip


@pytest.mark.parametrize(
    "state",
    [*CORE, *(pytest.param(state, marks=pytest.mark.long) for state in LONG)],
    ids=lambda state: state.__name__,
)
def test_the_printed_commands_lead_out(make_herd: MakeHerd, state: Callable[[Walk], None]) -> None:
    herd = make_herd("17", standbys=2)
    herd.invoke("setup-master")
    herd.invoke("add-standby", "--all")
    herd.sql("master", "CREATE TABLE kept (id int)")
    walk = Walk(herd)
    walk.write("master")
    state(walk)
    walk.out()
    print(state.__name__, "->", " / ".join(walk.typed).replace(herd.name, ""))
    found = json.loads(herd.sql(herd.primary(), "SELECT json_agg(id)::text FROM kept"))
    lost = walk.rows - set(found)
    assert not lost or any("--max-loss" in command for command in walk.typed), (lost, walk.typed)
    herd.clear()
