"""The rig: further Docker hosts on this machine, on one link with it, and the way to them by SSH.

Nothing outside the rig's own directory is written, and all of it ends with the process that made
it. What a killed one leaves, files and empty control groups, the next one takes away.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import images as image_store
from host import Host
from login import make_key
from machine import BASE, ENVIRONMENT, alone, lives, myself, run
from network import FIRST, Lan
from space import OWN, end_space

NAMES = tuple(f"host{letter}" for letter in "abcdefgh")
SSH_CONFIG = """\
Host *
    User root
    IdentityFile {directory}/key
    IdentitiesOnly yes
    UserKnownHostsFile {directory}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
"""


class Rig:
    """Hosts on one link.

    Attributes:
        hosts: by their names: "hosta", "hostb", …
        machine: this machine's address on the link.
        ssh_config: has the names as aliases, for root, with a key that all users take.
        key: the private half of that key.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lan = Lan(directory / "lan", f"pgr{directory.name}")
        self.hosts: dict[str, Host] = {}
        self.machine = ""
        self.ssh_config = directory / "ssh_config"
        self.key = directory / "key"

    def make(
        self,
        hosts: int,
        images: tuple[str, ...] = (),
        *,
        engines: bool = False,
        system: Path | None = None,
        stay: bool = False,
    ) -> None:
        """Make it; see `rig`."""
        with alone():
            sweep()
            self.directory.mkdir(parents=True)
            BASE.chmod(0o755)
            (self.directory / "owner").write_text(myself())
            self.lan.lay(stay=stay)
        self.machine = self.lan.address(1)
        cgroup = f"pgherd-rig-{self.directory.name}"
        for last, name in enumerate(NAMES[:hosts], FIRST):
            where, address = self.directory / name, self.lan.address(last)
            self.hosts[name] = Host(where, name, cgroup, address, self.lan)
            self.hosts[name].system = system
        store = image_store.stored(self.directory, cgroup, images) if images else None
        public = make_key(self.key)

        def begin(host: Host) -> None:
            host.begin(("run",) if engines else OWN, stay=stay)
            self.lan.attach(host, host.address)
            if store:
                image_store.lay(store, host.directory / "docker")
            if engines:
                host.start_engine()
            else:
                host.ready(public)

        self.on_all(begin)
        if not engines:
            self._tell_ssh()
        if stay:
            (self.directory / "owner").unlink()

    def on_all(self, act: Callable[[Host], None]) -> None:
        """Do something with all hosts side by side."""
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(act, self.hosts.values()))

    # --- the way to them ---

    def _tell_ssh(self) -> None:
        hosts = self.hosts.values()
        known = [line for host in hosts for line in host.known_as()]
        (self.directory / "known_hosts").write_text("\n".join(known) + "\n")
        names = [f"Host {host.name}\n    HostName {host.address}\n\n" for host in hosts]
        self.ssh_config.write_text("".join(names) + SSH_CONFIG.format(directory=self.directory))

    def config_with(self, *lines: str) -> Path:
        """Return another ssh_config that begins with these lines: ssh takes the first of a kind."""
        path = self.directory / f"ssh_config-{secrets.token_hex(3)}"
        path.write_text("\n".join(lines) + "\n" + self.ssh_config.read_text())
        return path

    def environment(self) -> dict[str, str]:
        """Return what a command needs in its environment to find the hosts."""
        return {"INVOKE_SSH_CONFIG": str(self.ssh_config)}

    def ssh(
        self, destination: str, *words: str, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host by the ssh of this machine.

        Args:
            destination: the host's name, or a user's at it.
            words: arguments, which reach the command unchanged.
            check: a command that fails is a failure.
            timeout: seconds.
        """
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), destination, shlex.join(words)],
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=check,
        )  # fmt: skip

    # --- as it was ---

    def repair(self) -> None:
        """Undo what befell the hosts; containers and data stay."""
        self.on_all(Host.repair)

    def empty(self) -> None:
        """Take away what is on the hosts; images stay."""
        self.on_all(Host.empty)

    def clear(self) -> None:
        """Take all of it away."""
        for space in (*self.hosts.values(), self.lan):
            with suppress(OSError, subprocess.SubprocessError):
                space.end()
        with alone():
            clear(self.directory)
            forget_images()


@contextmanager
def rig(
    hosts: int = 3,
    images: tuple[str, ...] = (),
    *,
    engines: bool = False,
    system: Path | None = None,
) -> Iterator[Rig]:
    """Make Docker hosts; all of it is gone afterwards, also after a failure.

    Args:
        hosts: how many: "hosta", "hostb", …
        images: what each has at once, as this machine's engine names them.
        engines: engines only, without sshd, that see this machine's files as their own.
        system: the root file system whose programs they have in place of this machine's.
    """
    made = Rig(BASE / secrets.token_hex(3))
    try:
        made.make(hosts, images, engines=engines, system=system)
        yield made
    finally:
        made.clear()


# --- what is left ---


def is_up(directory: Path) -> bool:
    """Whether a rig is in use, or being made."""
    owner = directory / "owner"
    stats = [owner] if owner.exists() else list(directory.glob("*/holder"))
    return any(lives(stat.read_text()) for stat in stats)


def clear(directory: Path) -> None:
    """Take away a rig, whoever made it, in whatever state it is."""
    for holder in directory.glob("*/holder"):
        end_space(holder.parent)
    run("ip", "link", "delete", f"pgr{directory.name}", check=False)
    _remove_cgroups(f"pgherd-rig-{directory.name}")
    shutil.rmtree(directory, ignore_errors=True)


def _remove_cgroups(name: str) -> None:
    """Remove the control groups of containers that have ended, with patience: they end slowly."""
    end = time.monotonic() + 5
    root = Path("/sys/fs/cgroup")
    while tops := [top for top in (root / name, *root.glob(f"*/{name}")) if top.exists()]:
        for top in tops:
            for path, _directories, _files in os.walk(top, topdown=False):
                with suppress(OSError):
                    Path(path).rmdir()
        if time.monotonic() > end:
            return
        time.sleep(0.05)


def sweep() -> None:
    """Take away what rigs of ended runs have left."""
    for directory in BASE.glob("*") if BASE.exists() else ():
        if directory != image_store.STORE and not is_up(directory):
            clear(directory)


def forget_images() -> None:
    """Take away the stored images, and the directory of all rigs, if this was the last one."""
    if BASE.exists() and not [left for left in BASE.iterdir() if left != image_store.STORE]:
        shutil.rmtree(BASE)
