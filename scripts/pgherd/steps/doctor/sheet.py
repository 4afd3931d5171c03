"""What `sh/host.sh` prints of a host, read; nothing is judged here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgherd.docker.model import Image, read, read_image, records
from pgherd.steps.aside import is_part_of

_SECTION = re.compile(r"^== (.+)\n", re.MULTILINE)
_DF = re.compile(r"\s(\d+)\s+(\d+)\s+(-?\d+)\s+(?:\d+%|-)\s+(/.*)$")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mounted:
    """A file system where it is mounted."""

    point: str
    kind: str  # ext4, nfs4, overlay …
    options: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PathSheet:
    """A data directory as its host has it, or the nearest directory above that is there.

    Attributes:
        path: the data directory.
        up: the nearest directory that is there: itself, or one above.
        state: absent, empty, full, or no directory.
        inode: of the directory itself; None where it is not there.
        mode: its permissions, as `700`.
        writable: whether who runs pgherd may write into `up`.
        user: who runs pgherd there, as `1000:1000`.
        label: SELinux's of `up`, where it has one.
        free: bytes for who is not root; None where `df` does not tell.
        total: bytes of the file system.
        inodes: how many files it may have more; None where there is no limit.
        mount: the file system's mount point.
        parts: copies set aside beside it that were cut short; other people's `….part` are none.
    """

    path: str
    up: str = "/"
    state: str = "absent"
    inode: int | None = None
    mode: str = ""
    writable: bool = False
    user: str = ""
    label: str = ""
    free: int | None = None
    total: int | None = None
    inodes: int | None = None
    mount: str = ""
    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, path: str, text: str) -> PathSheet:
        """Read a section `path N`."""
        said: dict[str, list[str]] = {}
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            said.setdefault(word, []).append(rest)
        first = {word: lines[0] for word, lines in said.items()}
        stat = first.get("stat", "").split()
        space, files = _DF.search(first.get("df", "")), _DF.search(first.get("inodes", ""))
        label = first.get("label", "")
        return cls(
            path=path,
            up=first.get("up", "/"),
            state=first.get("state", "absent"),
            inode=int(stat[0]) if stat else None,
            mode=stat[2] if stat else "",
            writable="writable" in said,
            user=first.get("owner", "").replace(" ", ":"),
            label="" if label == "?" else label,
            free=int(space[3]) * 1024 if space else None,
            total=int(space[1]) * 1024 if space else None,
            inodes=int(files[3]) if files and int(files[1]) else None,
            mount=space[4] if space else "",
            parts=tuple(part for part in said.get("part", ()) if is_part_of(part, path)),
        )


@dataclass(frozen=True)
class Made:
    """What `docker inspect` says of a node's container beyond `docker.Container`."""

    restarts: int
    oom_killed: bool
    shm: int  # bytes
    network: str
    stop_timeout: int | None  # seconds
    words: tuple[str, ...]  # of its command


@dataclass(frozen=True)
class HostSheet:
    """What a host is and has. See `sh/host.sh` for the sources.

    Attributes:
        docker: what `docker info` says; empty where no engine answers, and `complaint` tells why.
        client: the CLI's version.
        endpoint: where the CLI finds the engine: `unix:///var/run/docker.sock`.
        image: the group's image, where it is there.
        registry: `has` or `lacks …`, where it is not.
        clones: the user's scripts for a new database that copy another server.
        networks: the subnets of each Docker network.
    """

    system: str = ""
    docker: Mapping[str, Any] = field(default_factory=dict)
    complaint: str = ""
    client: str = ""
    endpoint: str = ""
    image: Image | None = None
    registry: str = ""
    clones: tuple[str, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    routes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    kernel: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes, by /proc/meminfo's names
    selinux: bool = False  # it enforces
    mounts: tuple[Mounted, ...] = ()
    paths: tuple[PathSheet, ...] = ()
    containers: Mapping[str, Made] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, data: list[str], host: str = "") -> HostSheet:
        """Read what the script printed of a host, whose data directories were `data`.

        Raises:
            Error: an image's record is none.
        """
        parts = _SECTION.split(text)
        said = dict(zip(parts[1::2], parts[2::2], strict=True))
        lines = {name: tuple(body.splitlines()) for name, body in said.items()}
        ref, image = _image(said, host)
        info = _json(said.get("docker", ""))
        answers = bool(info.get("ServerVersion"))
        return cls(
            system=said.get("system", "").strip(),
            docker=info if answers else {},
            complaint="" if answers else _unindented(said.get("docker-said", "")).strip(),
            client=said.get("client", "").strip(),
            endpoint=said.get("endpoint", "").strip(),
            image=replace(read(read_image, image, host), ref=ref) if image else None,
            registry=said.get("registry", "").strip(),
            clones=tuple(line[1:] for line in lines.get("clones", ())),
            networks={w[0]: tuple(w[1:]) for w in map(str.split, lines.get("networks", ())) if w},
            routes=lines.get("routes", ()),
            addresses=lines.get("addresses", ()),
            listeners=tuple(line[1:] for line in lines.get("listeners", ())),
            kernel=dict(line.partition(" ")[::2] for line in lines.get("kernel", ())),
            memory=_memory(said.get("memory", "")),
            selinux=said.get("selinux", "").strip() == "1",
            mounts=tuple(filter(None, map(_mounted, lines.get("mounts", ())))),
            paths=tuple(
                PathSheet.parse(path, said.get(f"path {number}", ""))
                for number, path in enumerate(data)
            ),
            containers=dict(filter(None, map(_made, lines.get("containers", ())))),
            logs={
                name.removeprefix("log "): _unindented(body)
                for name, body in said.items()
                if name.startswith("log ")
            },
        )

    def mounted(self, path: str) -> Mounted | None:
        """Return the file system that a path lies on; of several at one place the last counts."""
        found = None
        for mount in self.mounts:
            above = f"{mount.point.rstrip('/')}/"
            if f"{path}/".startswith(above) and len(mount.point) >= len(
                found.point if found else ""
            ):
                found = mount
        return found


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _image(said: Mapping[str, str], host: str) -> tuple[str, dict[str, Any] | None]:
    for name, body in said.items():
        if name.startswith("image "):
            found = records(body, host)
            return name.removeprefix("image "), found[0] if found else None
    return "", None


def _memory(text: str) -> dict[str, int]:
    rows = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(count) * 1024 for name, count in rows}


def _mounted(line: str) -> Mounted | None:
    """Read a line of /proc/self/mounts, or of macOS's `mount`: `/dev/x on /y (apfs, local)`."""
    if found := re.fullmatch(r".+ on (/.*) \(([^(),]+)(?:, )?([^()]*)\)", line.strip()):
        return Mounted(found[1], found[2], frozenset(found[3].split(", ")))
    words = line.split()
    if len(words) < 4:  # noqa: PLR2004
        return None
    point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), words[1])
    return Mounted(point, words[2], frozenset(words[3].split(",")))


def _made(line: str) -> tuple[str, Made] | None:
    words = line.split(" ", 6)
    if len(words) < 7:  # noqa: PLR2004
        return None
    name, restarts, oom, shm, network, stop, command = words
    return name.lstrip("/"), Made(
        restarts=int(restarts),
        oom_killed=oom == "true",
        shm=int(shm),
        network=network,
        stop_timeout=None if stop == "null" else int(stop),
        words=tuple(json.loads(command) or ()),
    )


def _unindented(text: str) -> str:
    return "\n".join(line[1:] for line in text.splitlines())
