"""A machine of its own inside this one that runs a Docker Engine: root on Linux only.

It has its own address, data, socket and process, so that it may be stopped, killed and started
again without touching the engine that the developer's containers live on.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from machine import DEADLINE, ENVIRONMENT, run, until
from space import Space


class Engine(Space):
    """A second dockerd; `address` is where the ports that it publishes are reached.

    Attributes:
        cgroup: what the control groups of its containers are below.
    """

    def __init__(self, directory: Path, name: str, cgroup: str, address: str = "") -> None:
        super().__init__(directory, name)
        self.cgroup = cgroup
        self.address = address

    @property
    def docker_host(self) -> str:
        """The engine, as a docker command of this machine finds it."""
        return f"unix://{self.directory}/run/docker.sock"

    @property
    def cli(self) -> str:
        """The docker command that came with the engine."""
        return str(self.system / "usr/bin/docker") if self.system else "docker"

    def environment(self) -> dict[str, str]:
        """Return what a command needs in its environment to talk to it by its own docker."""
        found = {"DOCKER_HOST": self.docker_host}
        if self.system:
            commands = self.directory / "bin"  # that one alone: others have to fit this machine
            commands.mkdir(exist_ok=True)
            if not (commands / "docker").is_symlink():
                (commands / "docker").symlink_to(self.cli)
            found["PATH"] = f"{commands}:{os.environ['PATH']}"
        return found

    def docker(self, *words: str, check: bool = True) -> str:
        """Run a docker command on this engine."""
        return run(self.cli, "--host", self.docker_host, *words, check=check)

    def start_engine(self) -> None:
        """Start it and wait until it answers; what a killed one left does not hinder it."""
        settings = self.directory / "daemon.json"  # or that of this machine would hold
        settings.write_text("{}")
        network = ["--bridge=none", "--iptables=false"]
        if self.address:
            number = self.address.rpartition(".")[2]
            network = [f"--bip=10.214.{number}.1/24",
                       f"--default-address-pool=base=10.215.{number}.0/24,size=28"]  # fmt: skip
        self.launch(
            "dockerd", f"--config-file={settings}", f"--data-root={self.directory}/docker",
            "--host=unix:///run/docker.sock", "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self.cgroup}", *network, log=self._log,
        )  # fmt: skip
        until(self._answers, f"{self.name}'s engine answers ({self._log})")

    @property
    def _log(self) -> Path:
        return self.directory / "dockerd.log"

    def _answers(self) -> bool:
        if not self.processes("setsid", "dockerd"):
            log = self._log.read_text(errors="replace")
            raise RuntimeError(f"{self.name}'s dockerd ended: {log[-2000:]}")
        return bool(self.docker("version", "--format", "{{.Server.Version}}", check=False).strip())

    def stop_engine(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End the engine by a signal to its process, and wait for that."""
        for pid in self.processes("dockerd"):
            os.kill(pid, sign)
        until(lambda: not self.processes("dockerd"), f"{self.name}'s dockerd has ended", DEADLINE)

    def load(self, *images: str) -> None:
        """Carry images over from the machine's own engine."""
        with subprocess.Popen(
            ["docker", "save", *images], stdout=subprocess.PIPE, env=ENVIRONMENT
        ) as saved:
            subprocess.run(
                [self.cli, "--host", self.docker_host, "load", "--quiet"], stdin=saved.stdout,
                stdout=subprocess.DEVNULL, env=ENVIRONMENT, timeout=240, check=True,
            )  # fmt: skip
