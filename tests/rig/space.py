"""A machine of its own inside this one: namespaces, with directories and users of its own.

What it has ends with its first process: processes, mounts, links. That process ends with the one
that began it, however that ends, unless it is to stay.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from machine import ENVIRONMENT, NAMESPACES, birth, end_process, run, until

SCRIPT = Path(__file__).with_name("space.sh")
OWN = ("root", "home", "run", "tmp", "srv")  # directories that each has for itself
GROUP = "docker"
MEMBER, STRANGER = "member", "stranger"  # in the group that may use Docker, and not
IDS = {MEMBER: 61001, STRANGER: 61002}


class Space:
    """A machine of its own, with this machine's programs.

    Attributes:
        name: its host name.
        directory: where its own directories really are: /root in `directory / "root"`, and so on.
        system: the root file system whose programs it has in place of this machine's, if any.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.directory = directory
        self.system: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, own: tuple[str, ...] = OWN, *, stay: bool = False) -> None:
        """Make it.

        Args:
            own: the directories that are not this machine's.
            stay: let it outlive this process.
        """
        for place in (*own, "etc/docker"):
            (self.directory / place).mkdir(parents=True, exist_ok=True)
        if "root" in own:
            (self.directory / "root").chmod(0o700)
            self._make_users()
        if "tmp" in own:
            (self.directory / "tmp").chmod(0o1777)
        with (self.directory / "holder.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", *NAMESPACES, "--fork", "--kill-child", "sh", str(SCRIPT),
                 str(self.directory), self.name, "stay" if stay else "attended",
                 *([str(self.system)] if self.system else [])],
                stdin=subprocess.DEVNULL if stay else subprocess.PIPE, stdout=log, stderr=log,
                env=ENVIRONMENT, cwd="/", start_new_session=True,
            )  # fmt: skip
        until(self._is_made, f"{self.name} is made ({self.directory / 'holder.log'})", 20)

    def _is_made(self) -> bool:
        if self.process and self.process.poll() is not None:
            said = (self.directory / "holder.log").read_text(errors="replace")
            raise RuntimeError(f"{self.name} could not be made: {said}")
        return (self.directory / "holder").exists()

    def _make_users(self) -> None:
        """Add one who may use Docker and one who may not, to this machine's users."""
        known = {n: Path("/etc", n).read_text().splitlines() for n in ("passwd", "group")}
        passwd = ["root:x:0:0:root:/root:/bin/bash"]
        passwd += [line for line in known["passwd"] if not line.startswith("root:")]
        group = [line for line in known["group"] if not line.startswith(f"{GROUP}:")]
        group.append(f"{GROUP}:x:{IDS[MEMBER] - 1}:{MEMBER}")
        for name, number in IDS.items():
            passwd.append(f"{name}:x:{number}:{number}::/home/{name}:/bin/bash")
            group.append(f"{name}:x:{number}:")
            home = self.directory / "home" / name
            home.mkdir(mode=0o700)
            os.chown(home, number, number)
        shadow = [f"{line.split(':')[0]}:*:19000:0:99999:7:::" for line in passwd]
        for file, lines in (("passwd", passwd), ("group", group), ("shadow", shadow)):
            path = self.directory / "etc" / file
            path.write_text("\n".join(lines) + "\n")
            path.chmod(0o600 if file == "shadow" else 0o644)

    # --- inside ---

    @property
    def pid(self) -> int:
        """The number that its first process has on this machine."""
        return birth((self.directory / "holder").read_text())[0]

    def inside(self, *words: str) -> list[str]:
        """Return the argument list that runs a command in it."""
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, "--wd", *words]

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command in it, as root, and return what it printed."""
        return run(*self.inside(*words), check=check)

    def launch(self, *words: str, log: Path) -> None:
        """Start a daemon in it: a child of nobody else, as it would be on a machine."""
        with log.open("ab") as out:
            subprocess.run(
                self.inside("setsid", "--fork", *words), stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, env=ENVIRONMENT, timeout=20, check=True,
            )  # fmt: skip

    def place(self, path: str) -> Path:
        """Return where a path of it is seen from outside, whatever is mounted there."""
        return Path(f"/proc/{self.pid}/root{path}")

    def processes(self, *names: str) -> dict[int, int]:
        """Find processes by their program's name, but none in containers.

        Returns:
            the number that each has outside, and inside.
        """
        mine = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "ns" / "pid").readlink() != mine:
                    continue
                status = dict(
                    line.split(":", 1) for line in (entry / "status").read_text().splitlines()
                )
            except OSError:  # it has ended
                continue
            if status["Name"].strip() in names and "Z" not in status["State"].split()[0]:
                found[int(entry.name)] = int(status["NSpid"].split()[-1])
        return found

    # --- its end ---

    def end(self) -> None:
        """End it, with all that runs in it."""
        end_space(self.directory)
        if self.process:
            if self.process.stdin:
                self.process.stdin.close()
            self.process.wait(20)


def end_space(directory: Path) -> None:
    """End the machine that has this directory, whoever began it."""
    holder = directory / "holder"
    if holder.exists():
        end_process(holder.read_text())
