"""A Docker Engine of the tests' own, in a network namespace of its own: root on Linux only.

It has its own address, data, socket and process, so that it may be stopped, killed and started
again without touching the engine that the developer's containers live on.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("dockerd", "ip", "nsenter", "iptables", "mount")
DEADLINE = 60.0
CONTAINERD_PID = "exec/containerd/containerd.pid"


def lacking() -> str:
    """Say what this machine lacks for the rig; empty if nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root can make a network namespace"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"this machine has no {', '.join(missing)}" if missing else ""


def until(so: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Ask until it is so.

    Raises:
        TimeoutError: it was not so within the time.
    """
    end = time.monotonic() + seconds
    while not so():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {seconds:g} s: {what}")
        time.sleep(0.05)


def _run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Engine:
    """A second dockerd; `address` is where the ports that it publishes are reached."""

    def __init__(self, directory: Path, subnet: int) -> None:
        mark = secrets.token_hex(2)
        self.directory = directory
        self.space = f"pgherd-{mark}"
        self.veth = f"pgh{mark}"
        self.here, self.address = f"10.213.{subnet}.1", f"10.213.{subnet}.2"
        self.bridge = f"10.214.{subnet}.1/24"
        self.pool = f"base=10.215.{subnet}.0/24,size=28"
        self.host = f"unix://{directory}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def docker(self, *words: str, check: bool = True) -> str:
        """Run a docker command on this engine."""
        return _run("docker", "--host", self.host, *words, check=check)

    # --- its network ---

    def make_network(self) -> None:
        """Make the namespace, and a cable to it."""
        inside = ["ip", "-netns", self.space]
        _run("ip", "netns", "add", self.space)
        _run("ip", "link", "add", self.veth, "type", "veth", "peer", "name", "up0",
             "netns", self.space)  # fmt: skip
        _run("ip", "address", "add", f"{self.here}/30", "dev", self.veth)
        _run("ip", "link", "set", self.veth, "up")
        _run(*inside, "address", "add", f"{self.address}/30", "dev", "up0")
        _run(*inside, "link", "set", "up0", "up")
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "route", "add", "default", "via", self.here)

    # --- its process ---

    def start(self) -> None:
        """Start it and wait until it answers; what a killed one left does not hinder it."""
        for stale in (self.directory / "docker.pid", self.directory / CONTAINERD_PID):
            # A dead process that nobody reaped still counts as running for dockerd.
            if stale.exists() and int(stale.read_text()) not in self._processes():
                stale.unlink()
        # nsenter, not `ip netns exec`: that remounts /sys, and dockerd finds no devices cgroup.
        words = ["nsenter", f"--net=/run/netns/{self.space}", "dockerd",
                 "--data-root", str(self.directory / "data"),
                 "--exec-root", str(self.directory / "exec"),
                 "--pidfile", str(self.directory / "docker.pid"), "--host", self.host,
                 "--bip", self.bridge, "--default-address-pool", self.pool]  # fmt: skip
        with (self.directory / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, f"the engine answers ({self.directory / 'dockerd.log'})")

    def _answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            log = (self.directory / "dockerd.log").read_text(errors="replace")
            raise RuntimeError(f"dockerd ended: {log[-2000:]}")
        return bool(self.docker("version", "--format", "{{.Server.Version}}", check=False).strip())

    def end(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End the engine by a signal to its process, and wait for that."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(sign)
            self.process.wait(DEADLINE)

    def load(self, image: str) -> None:
        """Carry an image over from the machine's own engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            subprocess.run(
                ["docker", "--host", self.host, "load", "--quiet"], stdin=saved.stdout,
                stdout=subprocess.DEVNULL, timeout=180, check=True,
            )  # fmt: skip

    # --- its end ---

    def clear(self) -> None:
        """Take away all that the engine and its namespace had."""
        if self.process and self.process.poll() is None:
            left = self.docker("ps", "--all", "--quiet", check=False).split()
            if left:
                self.docker("rm", "--force", "--volumes", *left, check=False)
        try:
            self.end()
        except subprocess.TimeoutExpired:
            self.end(signal.SIGKILL)
        for pid in self._processes():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not self._processes(), "its processes have ended", 10)
        for place in self._mounts():
            _run("umount", "--lazy", place, check=False)
        _run("ip", "link", "delete", self.veth, check=False)
        _run("ip", "netns", "delete", self.space, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _processes(self) -> list[int]:
        """Find what runs with this engine's directory on its command line: containerd, shims."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"{self.directory}/" in words and state != "Z" and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        places = [line.split()[1] for line in lines]
        return [p for p in reversed(places) if p.startswith(f"{self.directory}/")]


@contextmanager
def engine(directory: Path, subnet: int = 77) -> Iterator[Engine]:
    """Run an engine; all of it is gone afterwards, also after a failure.

    Args:
        directory: a short path of its own: the names of sockets must not be longer than 107.
        subnet: 0 to 255, another for each engine that runs at the same time.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = Engine(directory, subnet)
    try:
        made.make_network()
        made.start()
        yield made
    finally:
        made.clear()
