"""The bootstrap in a copy of its own, with a `docker` and a PATH that are made for the case."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOTSTRAP = ROOT / "scripts" / "bootstrap"

# What the script uses of any system; the rest is there only if a test says so.
TOOLS = ["cat", "cut", "date", "dirname", "grep", "id", "mv", "rm", "sed", "sh", "sleep", "timeout"]

DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at "
    "unix:///var/run/docker.sock"
)


@dataclass
class Machine:
    """A repository of its own, and a PATH with nothing unsaid in it."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        """A path that is hard to quote."""
        return self.home / "a répo's place"

    @property
    def bin(self) -> Path:
        """The only directory in PATH."""
        return self.home / "bin"

    def install(self, name: str, body: str, into: Path | None = None) -> None:
        """Make a command of a shell script."""
        path = (into or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def make_venv(self) -> None:
        """Make a venv that is up to date, with an invoke that tells its arguments."""
        place = self.repo / ".venv" / "bin"
        self.install("python", f'exec {shlex.quote(sys.executable)} "$@"', place)
        self.install("invoke", 'pwd; printf "<%s>" "$@"; exit "${STATUS:-0}"', place)
        text = BOOTSTRAP.read_text(encoding="utf-8")
        code = text.split('print_stamp() {\n\t"$1" -I -c \'', 1)[1].split('\' "$root"', 1)[0]
        stamp = subprocess.run(
            [sys.executable, "-I", "-c", code, str(self.repo.resolve())],
            cwd=self.repo,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        (self.repo / ".venv" / "pgherd.stamp").write_text(stamp)

    def run(self, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the bootstrap from outside the repository."""
        env = {"PATH": str(self.bin), **self.env, **variables}
        return subprocess.run(
            ["/bin/sh", "-eu", str(self.repo / "scripts" / "bootstrap"), *args],
            cwd=self.home,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=20,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (made.repo / "scripts").mkdir(parents=True)
    shutil.copy(BOOTSTRAP, made.repo / "scripts" / "bootstrap")
    (made.repo / "requirements.lock").write_text("nothing==1\n")
    made.bin.mkdir()
    made.install("sshd", "exit 1")
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (made.bin / tool).symlink_to(found)
    return made


def answering(machine: Machine) -> Machine:
    machine.install("docker", "echo 20.10.24")
    return machine


def silent(machine: Machine, message: str) -> Machine:
    machine.install(
        "docker",
        f'case $1 in context) echo "${{CONTEXT:-default}}"; exit ;; esac\n'
        f"echo {shlex.quote(message)} >&2; exit 1",
    )
    return machine


@pytest.mark.parametrize("script", [BOOTSTRAP, ROOT / ".ci" / "run"])
def test_script_parses_and_is_executable(script: Path) -> None:
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)


def test_help_is_on_stdout_and_needs_nothing(machine: Machine) -> None:
    ran = machine.run("--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith("usage: scripts/bootstrap")


def test_arguments_status_and_place_are_those_of_invoke(machine: Machine) -> None:
    answering(machine).make_venv()
    ran = machine.run("--dry", "a b", "", STATUS="7")
    assert ran.returncode == 7
    assert ran.stdout == f"{machine.repo.resolve()}\n<--dry><a b><>"


def test_only_the_last_line_is_said_when_all_is_ready(machine: Machine) -> None:
    answering(machine).make_venv()
    ran = machine.run("test")
    quoted = str(machine.repo.resolve() / ".venv/bin/activate").replace("'", "'\\''")
    assert ran.stderr == f"bootstrap: for `invoke` in your own shell:  . '{quoted}'\n", ran.stderr


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-", "2>&1 >answer | true"])
def test_what_cannot_be_said_ends_nothing(machine: Machine, stream: str) -> None:
    answering(machine).make_venv()
    line = f'"{machine.repo}/scripts/bootstrap" verify {stream}; exit ${{PIPESTATUS[0]}}'
    ran = subprocess.run(
        ["/bin/bash", "-c", line], cwd=machine.home, env={"PATH": str(machine.bin), **machine.env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    answer = machine.home / "answer"
    said = ran.stdout + (answer.read_text(encoding="utf-8") if answer.exists() else "")
    assert (ran.returncode, said[-8:]) == (0, "<verify>"), ran


def test_without_arguments_the_tasks_are_listed(machine: Machine) -> None:
    answering(machine).make_venv()
    assert machine.run().stdout.endswith("<--list>")


def test_a_socket_that_may_not_be_used(machine: Machine) -> None:
    ran = silent(machine, DENIED).run("test")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "usermod -aG docker" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"DOCKER_HOST": "tcp://192.0.2.1:2375"}, "DOCKER_HOST=tcp://192.0.2.1:2375"),
        ({"CONTEXT": "far"}, 'the docker context "far"'),
    ],
)
def test_an_engine_elsewhere_is_never_replaced_by_one_here(
    machine: Machine, variables: dict[str, str], named: str
) -> None:
    machine.install("dockerd", 'echo started >"$0.started"')
    ran = silent(machine, "Cannot connect to the Docker daemon").run("test", **variables)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert named in ran.stderr
    assert not (machine.bin / "dockerd.started").exists()


def test_an_engine_elsewhere_without_the_command(machine: Machine) -> None:
    # Appended sbin directories hold no docker command on any system known.
    ran = machine.run("test", DOCKER_HOST="ssh://box")
    assert ran.returncode == 3
    assert "the docker command is not installed" in ran.stderr


def test_an_answer_that_is_no_refusal_starts_nothing(machine: Machine) -> None:
    machine.install("dockerd", 'echo started >"$0.started"')
    ran = silent(machine, "Error response from daemon: client version 1.12 is too old").run("test")
    assert ran.returncode == 3
    assert "client version 1.12 is too old" in ran.stderr
    assert not (machine.bin / "dockerd.started").exists()


def test_a_user_is_told_to_start_the_engine(machine: Machine) -> None:
    (machine.bin / "id").unlink()
    machine.install("id", "case $1 in -un) echo someone ;; *) echo 1000 ;; esac")
    machine.install("dockerd", 'echo started >"$0.started"')
    ran = silent(machine, "Cannot connect to the Docker daemon").run("test")
    assert ran.returncode == 3
    assert "installed but not running" in ran.stderr
    assert not (machine.bin / "dockerd.started").exists()


@pytest.mark.parametrize("broken", ["stamp", "python", "lock"])
def test_a_venv_that_is_not_of_this_checkout_needs_python(machine: Machine, broken: str) -> None:
    answering(machine).make_venv()
    if broken == "stamp":
        (machine.repo / ".venv" / "pgherd.stamp").unlink()
    elif broken == "python":
        (machine.repo / ".venv" / "bin" / "python").unlink()
    else:
        (machine.repo / "requirements.lock").write_text("other==1\n")
    # No python3 on this machine, and no apt-get to get one with.
    ran = machine.run("test")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no Python 3.11 or later" in ran.stderr


def test_an_old_python_is_passed_over(machine: Machine) -> None:
    answering(machine)
    machine.install("python3", "exit 1")
    machine.install(
        "python3.12", 'case $3 in *ensurepip*) echo "$0" ;; *) echo "$*" >&2; exit 1 ;; esac'
    )
    ran = machine.run("test")
    assert ran.returncode == 2
    assert "python3.12 could not make" in ran.stderr


def test_a_checkout_without_its_lock_file(machine: Machine) -> None:
    (machine.repo / "requirements.lock").unlink()
    ran = answering(machine).run("test")
    assert ran.returncode == 2
    assert "requirements.lock is missing" in ran.stderr


# --- what the tests need ---


def without_sshd(machine: Machine) -> Machine:
    """An unsupervised Debian machine with all ready but an sshd, and with no sbin and no root."""
    answering(machine).make_venv()
    (machine.bin / "sshd").unlink()
    (machine.bin / "id").unlink()
    machine.install("id", 'echo "${ID:-1000}"')
    (machine.home / "os-release").write_text("ID=debian\n")
    script = machine.repo / "scripts" / "bootstrap"
    text = script.read_text(encoding="utf-8").replace(":/usr/local/sbin:/usr/sbin:/sbin", "")
    for path in ("/etc/os-release", "/run/systemd/system", "/run/pgherd", "/usr/sbin/policy-rc.d"):
        assert path in text
        text = text.replace(path, str(machine.home / Path(path).name))
    script.write_text(text, encoding="utf-8")
    for tool in ("mktemp", "mkdir", "chmod", "tail", "flock"):
        found = shutil.which(tool)
        if found:
            (machine.bin / tool).symlink_to(found)
    machine.install("apt-get", f'echo "$*" >>"$0.asked"; cp "$0" {machine.bin}/sshd; exit $FAULT')
    (machine.bin / "cp").symlink_to(str(shutil.which("cp")))
    return machine


def test_the_tests_are_given_an_sshd(machine: Machine) -> None:
    ran = without_sshd(machine).run("test", "--unit", ID="0", FAULT="0")
    assert (ran.returncode, ran.stdout.splitlines()[1]) == (0, "<test><--unit>")
    asked = (machine.bin / "apt-get.asked").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == ["update", "iptables"]
    assert "install -y --no-install-recommends openssh-server openssh-client" in asked[1]
    assert not (machine.home / "policy-rc.d").exists()
    assert "skipped" not in ran.stderr


@pytest.mark.parametrize("why", ["supervised", "no root", "no package"])
def test_without_an_sshd_the_tests_run_and_it_is_said(machine: Machine, why: str) -> None:
    without_sshd(machine)
    if why == "supervised":
        (machine.home / "system").mkdir()
        machine.install("systemctl", "exit 1")
    elif why == "no package":
        machine.install("apt-get", 'echo "E: no network"; exit 100')
    ran = machine.run("test", ID="1000" if why == "no root" else "0", FAULT="0")
    assert (ran.returncode, ran.stdout.splitlines()[1]) == (0, "<test>")
    assert "will be skipped" in ran.stderr
    assert ("E: no network" in ran.stderr) is (why == "no package")
    assert not (machine.home / "policy-rc.d").exists()
    assert not (machine.bin / "apt-get.asked").exists()


def test_other_tasks_need_no_sshd(machine: Machine) -> None:
    ran = without_sshd(machine).run("verify", ID="0", FAULT="0")
    assert ran.stderr.count("\n") == 1
    assert not (machine.bin / "apt-get.asked").exists()
