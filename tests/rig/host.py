"""A Docker host of the rig, and what may befall it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from login import Reached
from machine import ENVIRONMENT
from network import Lan
from space import OWN

NAMESERVER = Path(__file__).with_name("nameserver.py")
PLACES = [f"{top}{last}" for top in ("/usr/local/", "/usr/", "/") for last in ("sbin", "bin")]


class Host(Reached):
    """A Docker host with an address, an engine and an sshd of its own.

    Attributes:
        lan: the link that it is on.
    """

    def __init__(self, directory: Path, name: str, cgroup: str, address: str, lan: Lan) -> None:
        super().__init__(directory, name, cgroup, address)
        self.lan = lan
        self._mounted: list[str] = []

    def begin(self, own: tuple[str, ...] = OWN, *, stay: bool = False) -> None:
        """Make it; one with a home of its own has a name server of its own."""
        if "root" in own:
            (self.directory / "etc").mkdir(parents=True, exist_ok=True)
            (self.directory / "etc" / "resolv.conf").write_text(f"nameserver {self.address}\n")
        super().begin(own, stay=stay)

    def home(self, user: str = "root") -> Path:
        """Return where a user's home directory is seen from outside."""
        return self.place("/root" if user == "root" else f"/home/{user}")

    # --- its cable ---

    def cut(self) -> None:
        """Pull out its cable."""
        self.lan.switch(self.name, on=False)

    def block(self, other: Host | str) -> None:
        """Drop what comes from another host, or from an address: one direction of a partition."""
        address = other if isinstance(other, str) else other.address
        rule = ("PREROUTING", "--source", address, "--jump", "DROP")
        self.run("iptables", "--wait", "--table", "raw", "--append", *rule)

    def unblock(self) -> None:
        """Let everything come again."""
        self.run("iptables", "--wait", "--table", "raw", "--flush", "PREROUTING")

    def rate(self, limit: str) -> None:
        """Let no more pass its cable than that, in each direction: "8mbit"."""
        shape = ("root", "tbf", "rate", limit, "burst", "64kb", "latency", "400ms")
        self.run("tc", "qdisc", "replace", "dev", "eth0", *shape)
        self.lan.run("tc", "qdisc", "replace", "dev", self.name, *shape)

    def unlimited(self) -> None:
        """Let everything pass again as fast as it can."""
        self.run("tc", "qdisc", "delete", "dev", "eth0", "root", check=False)
        self.lan.run("tc", "qdisc", "delete", "dev", self.name, "root", check=False)

    def mend(self) -> None:
        """Have its cable as it was: in, with nothing dropped and no limit."""
        self.lan.switch(self.name, on=True)
        self.unblock()
        self.unlimited()

    # --- its disk and its commands ---

    def small_disk(self, path: str, megabytes: int, user: str = "root") -> None:
        """Put a file system of limited size at a path."""
        self.run("mkdir", "--parents", path)
        self.run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", path)
        self._mounted.append(path)
        self.run("chown", f"{user}:", path)

    def hide(self, command: str) -> None:
        """Take a command away from everybody: `hide("docker")`."""
        there = {self.run("realpath", place).strip() for place in PLACES}
        for number, place in enumerate(sorted(there)):
            if not os.path.lexists(self.place(f"{place}/{command}")):
                continue
            layer = self.directory / "hidden" / f"{command}-{number}"
            for part in ("upper", "work"):
                (layer / part).mkdir(parents=True, exist_ok=True)
            # How overlayfs says that a file of the layer below is not there.
            if not (layer / "upper" / command).exists():
                os.mknod(layer / "upper" / command, stat.S_IFCHR, os.makedev(0, 0))
            layers = f"lowerdir={place},upperdir={layer}/upper,workdir={layer}/work"
            self.run("mount", "-t", "overlay", "-o", layers, "overlay", place)
            self._mounted.append(place)

    def replace(self, command: str, script: str) -> None:
        """Put a shell script in a command's place; it finds the command itself in `$original`."""
        there = self.run("sh", "-c", 'realpath "$(command -v "$1")"', "sh", command).strip()
        kept = self.directory / "original" / command
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(self.place(there), kept)
        text = kept.with_name(f"{command}.sh")
        text.write_text(f"#!/bin/sh\noriginal={kept}\n{script}\n")
        text.chmod(0o755)
        self.run("mount", "--bind", str(text), there)
        self._mounted.append(there)

    def unmount(self) -> None:
        """Have its disks and commands as they were."""
        while self._mounted:
            self.run("umount", "--lazy", self._mounted.pop())

    # --- as it was ---

    def repair(self) -> None:
        """Undo all that befell it; its containers and data stay as they are."""
        self.mend()
        self.unmount()
        self.repair_sshd()
        if not self.processes("dockerd"):
            self.start_engine()

    def empty(self) -> None:
        """Take away containers, volumes, networks and data, as on a new host; images stay."""
        for kind, words in (("ps", ("--all",)), ("volume", ("ls",))):
            left = self.docker(kind, *words, "--quiet").split()
            remove = ("rm",) if kind == "ps" else (kind, "rm")
            if left:
                self.docker(*remove, "--force", *(["--volumes"] if kind == "ps" else []), *left)
        self.docker("network", "prune", "--force")
        for place in (p for p in OWN if p not in {"run", "home"}):
            _empty(self.directory / place)
        for home in (self.directory / "home").iterdir():
            _empty(home)

    def ready(self, public: str) -> None:
        """Start what it runs, on a link that it is attached to already."""
        self._answer_names()
        self.let_in(public)
        self.start_sshd()
        self.start_engine()

    def _answer_names(self) -> None:
        """Start its name server, by this machine's Python, which it may not see itself."""
        inside = ("nsenter", f"--target={self.pid}", "--net", "--pid", "setsid", "--fork")
        with (self.directory / "nameserver.log").open("wb") as log:
            subprocess.run(
                [*inside, sys.executable, str(NAMESERVER), self.address], env=ENVIRONMENT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=20, check=True,
            )  # fmt: skip


def _empty(directory: Path) -> None:
    for left in directory.iterdir():
        if left.name == ".ssh":
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
