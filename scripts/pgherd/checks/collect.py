"""What `sh/host.sh` prints of a host, read; nothing is judged here."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from pgherd.checks.base import NOTE, PROBLEM, WARNING, Checkup, Finding
from pgherd.checks.status import judge
from pgherd.config.nodes import Node
from pgherd.config.values import LOCAL
from pgherd.docker.engine import Engine
from pgherd.docker.models import Container, Image, Mount, read, read_image, records
from pgherd.errors import Error, Refused
from pgherd.group import outside_data
from pgherd.group.group import Group, Site
from pgherd.group.observation import Observation
from pgherd.hosts.base import About
from pgherd.hosts.commands import Script, Tool, assignments
from pgherd.hosts.parallel import run_all, run_each
from pgherd.postgres import health
from pgherd.postgres.datadir import holders, holders_of_each, is_part_of
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.health import Health, Server
from pgherd.postgres.instance import Instance

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
            mounts=tuple(filter(None, map(_read_mount, lines.get("mounts", ())))),
            paths=tuple(
                PathSheet.parse(path, said.get(f"path {number}", ""))
                for number, path in enumerate(data)
            ),
            containers=dict(filter(None, map(_read_made, lines.get("containers", ())))),
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


def _read_mount(line: str) -> Mounted | None:
    """Read a line of /proc/self/mounts, or of macOS's `mount`: `/dev/x on /y (apfs, local)`."""
    if found := re.fullmatch(r".+ on (/.*) \(([^(),]+)(?:, )?([^()]*)\)", line.strip()):
        return Mounted(found[1], found[2], frozenset(found[3].split(", ")))
    words = line.split()
    if len(words) < 4:  # noqa: PLR2004
        return None
    point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), words[1])
    return Mounted(point, words[2], frozenset(words[3].split(",")))


def _read_made(line: str) -> tuple[str, Made] | None:
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


# --- what the checks are made on: a host, a node, the group ---


@dataclass(frozen=True)
class PlaceCase:
    """Where tablespaces of a node lie, as it was seen.

    Attributes:
        inside: the path in its container.
        place: as the topology has it.
        path: of a named volume, the place where Docker keeps them all.
        used: as of `NodeCase`.
        busy: as of `NodeCase`.
    """

    inside: str
    place: str
    path: PathSheet
    used: tuple[tuple[str, str], ...] = ()
    busy: frozenset[str] = frozenset()


@dataclass(frozen=True)
class NodeCase:
    """One node as it was seen.

    Attributes:
        node: what is asked for.
        sheet: its host.
        path: where its data lies: of a named volume, the place where Docker keeps them all.
        container: its container, if it has one; a foreign one as well.
        owned: whether that container is the group's.
        facts: what its server says, if it answers.
        health: what its container tells of files and server; None where none could look.
        disk: what lies in the data directory of one that is down; None where nobody could look.
        beside: every container of its engine, by name.
        used: the other containers that are alive and can write to its data, a part of it, or what
            it lies in: what they have mounted, and the container's name.
        busy: of the copies beside it that were cut short, those that a container has so.
        streams: whether it is the primary, or streams from whom it should.
        image_major: of the image that the group has there; empty if that is not known.
        silence: why it could not be asked what ails it.
        alone: whether the topology has no other node, so that nobody is to stream from it.
        tablespaces: where tablespaces lie.
    """

    node: Node
    sheet: HostSheet
    path: PathSheet
    container: Container | None = None
    owned: bool = False
    facts: Facts | None = None
    health: Health | None = None
    disk: Disk | None = None
    beside: Mapping[str, Container] = field(default_factory=dict)
    used: tuple[tuple[str, str], ...] = ()
    busy: frozenset[str] = frozenset()
    streams: bool = False
    image_major: str = ""
    silence: str = ""
    alone: bool = False
    tablespaces: tuple[PlaceCase, ...] = ()

    @property
    def places(self) -> Iterator[NodeCase]:
        """The node for each place of its data: itself, and as if each other place was its data."""
        yield self
        for at in self.tablespaces:
            node = self.node.model_copy(update={"data": at.place})
            yield replace(self, node=node, path=at.path, used=at.used, busy=at.busy)

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def runs(self) -> bool:
        """Whether the group's container of it is alive."""
        return bool(self.owned and self.container and self.container.alive)

    @property
    def server(self) -> Server | None:
        """What ails its server, where that runs."""
        return self.health.server if self.health else None

    @property
    def seeded(self) -> bool:
        """Whether it has data already, so that it needs no room for that."""
        return self.runs or self.path.state == "full" or self.node.volume is not None

    def finding(self, code: str, level: str, text: str, cure: str = "", **more: Any) -> Finding:
        """Return a finding of this node."""
        return Finding(code, level, text, cure, node=self.name, host=self.node.host, **more)


@dataclass(frozen=True)
class HostCase:
    """One host as it was seen, with its nodes.

    Attributes:
        name: as the topology has it.
        sheet: what it is and has.
        about: its clock against this machine's.
        nodes: those that live there.
        network: the name of the group's network.
        image_names: the names by which the group's image may be there.
        image_elsewhere: whether another host, or this machine, has the image.
        initdb: where the user's scripts for a new database are; None where none are.
    """

    name: str
    sheet: HostSheet
    about: About = field(default_factory=lambda: About(""))
    nodes: tuple[NodeCase, ...] = ()
    network: str = ""
    image_names: tuple[str, ...] = ()
    image_elsewhere: bool = False
    initdb: str | None = None

    @property
    def where(self) -> str:
        """The host, to stand in a sentence."""
        return "here" if self.name == LOCAL else f"on {self.name}"

    @property
    def answers(self) -> bool:
        """Whether its engine does."""
        return bool(self.sheet.docker)

    def finding(self, code: str, level: str, text: str, cure: str = "", **more: Any) -> Finding:
        """Return a finding of this host."""
        return Finding(code, level, text, cure, host=self.name, **more)


@dataclass(frozen=True)
class GroupCase:
    """The group as it was seen.

    Attributes:
        hosts: those that answer.
        primary: the node that counts as primary, if one does.
        secrets: of each file with a secret on this machine, path and permissions.
    """

    hosts: tuple[HostCase, ...]
    primary: str | None = None
    secrets: tuple[tuple[str, int], ...] = ()

    @property
    def nodes(self) -> dict[str, NodeCase]:
        """Every node on a host that answers, by name."""
        return {node.name: node for host in self.hosts for node in host.nodes}

    @property
    def led(self) -> NodeCase | None:
        """The primary."""
        return self.nodes.get(self.primary or "")


# --- what `invoke status` warns of, as findings: the same look, the same codes and sentences ---

# What keeps the group from doing what it is for; the rest may come to that.
TROUBLE = {
    "two-primaries", "old-primary", "no-primary", "marked", "commits-hang", "sync-short",
    "diverged", "not-streaming", "wrong-upstream", "slot-lost", "down", "no-answer", "foreign",
    "archive-fails", "off-network",
}  # fmt: skip
NOT_YET = {"no-primary", "absent"}  # of a group that is not there yet, or was taken down


def leading_node(group: Group, seen: Observation) -> str | None:
    """Return the node that counts as primary."""
    leads = group.leader(seen.facts, seen.own)
    return leads.name if leads else None


def has_trouble(group: Group, seen: Observation) -> set[str]:
    """Return the nodes that do not do what they are for."""
    return {w.node for w in judge(group, seen).warnings if w.node and w.code in TROUBLE}


def warnings(subject: tuple[Group, Observation, GroupCase]) -> Iterator[Finding]:
    """Yield what `invoke status` warns of; of a group that is not there yet nothing is missing."""
    group, seen, case = subject
    lives = any(node.owned for node in case.nodes.values())
    for told in judge(group, seen).warnings:
        node = case.nodes.get(told.node or "")
        host = group.topology.node(told.node).host if told.node else None
        if told.code == "unreachable" or (told.code in NOT_YET and not (lives or _has_data(case))):
            continue
        level = PROBLEM if told.code in {*TROUBLE, outside_data.CODE} else WARNING
        if told.code in NOT_YET and not lives:
            level = NOTE
        mends = told.code == "fenced" and bool(node and node.streams)
        yield Finding(told.code, level, told.text, "", told.node, host, fixable=mends)


def _has_data(case: GroupCase) -> bool:
    return any(node.path.state == "full" and not node.node.volume for node in case.nodes.values())


# --- one look at each host and one at each node of a group, put together as what is checked ---

LOOK_SECONDS = 60.0
SECRETS = (".password", ".key", ".pem")
VOLUMES = "(volumes)"  # in place of a path: where Docker keeps them


@dataclass(frozen=True)
class Looked:
    """What a look at a host brought, before its engine's containers are known."""

    sheet: HostSheet
    about: About
    private: dict[str, PathSheet]  # of each node, what is beside its data


# --- looking ---


@cache
def _script() -> str:
    return resources.files(__package__).joinpath("sh", "host.sh").read_text(encoding="utf-8")


def hosts(group: Group, checkup: Checkup) -> dict[str, Looked]:
    """Look at the hosts; one that cannot be reached is found, and left out of all that follows."""
    sites = list(group.sites.values())
    group.away.clear()
    answers = run_each(lambda site: _look(group, site), sites)
    found = {}
    for site, answer in zip(sites, answers, strict=True):
        checkup.checks += 1
        if isinstance(answer, Looked):
            found[site.name] = answer
            if answer.sheet.docker:
                continue
            group.away[site.name] = f"The Docker Engine does not answer (host {site.name})."
        elif isinstance(answer, Refused):
            raise answer
        else:
            group.away[site.name] = answer.sentence
            checkup.away.append(site.name)
            text = f"{site.name} cannot be reached: {answer.sentence}"
            cure = "`invoke hosts`"
            checkup.findings.append(
                Finding("host-unreachable", PROBLEM, text, cure, host=site.name)
            )
    return found


def _look(group: Group, site: Site) -> Looked:
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    paths = [place.source for place in places if not place.volume]
    private = {node.name: site.places(node.name).private for node in site.nodes}
    values = assignments(
        images=" ".join(group.image_names),
        group=group.name,
        home=site.host.home,
        initdb=next((site.places(node.name).initdb or "" for node in site.nodes), ""),
        volumes="yes" if len(paths) < len(places) else "",
    )
    asked = [*paths, *private.values()]
    result = site.engine.run(
        Tool("sh")["-s", "--", asked],
        stdin=Script((values + _script(),)),
        timeout=LOOK_SECONDS,
        reads=True,
    )
    sheet = HostSheet.parse(result.out, [*asked, VOLUMES], site.name)
    beside = dict(zip(private, sheet.paths[len(paths) :], strict=False))
    return Looked(sheet, site.host.about(), beside)


def observed(group: Group, looked: dict[str, Looked]) -> Observation | None:
    """Look at the containers and servers of the hosts whose engines answer; None if none does."""
    if not any(found.sheet.docker for found in looked.values()):
        return None
    return group.observe(tolerant=True)


# --- putting together ---


def group_case(group: Group, looked: dict[str, Looked], seen: Observation | None) -> GroupCase:
    """Put together what was seen; each node is asked what ails it, side by side."""
    images = {name for name, found in looked.items() if found.sheet.image}
    if looked and not images and LOCAL not in group.sites and _image_here(group):
        images = {LOCAL}
    troubled = has_trouble(group, seen) if seen else set()

    def put_together(name: str) -> HostCase:
        site, found = group.sites[name], looked[name]
        return HostCase(
            name=name,
            sheet=found.sheet,
            about=found.about,
            nodes=tuple(_nodes(group, site, found, seen, troubled)),
            network=group.network,
            image_names=tuple(group.image_names),
            image_elsewhere=bool(images - {name}),
            initdb=next((site.places(n.name).initdb for n in site.nodes), None),
        )

    hosts = run_all(put_together, list(looked))
    leader = leading_node(group, seen) if seen else None
    return GroupCase(tuple(hosts), leader, tuple(_secrets(group)))


def _image_here(group: Group) -> bool:
    """Tell whether this machine has the image, from where it would go to the hosts."""
    try:
        return Engine(group.here).image(*group.image_names) is not None
    except Error:  # an engine here is not needed
        return False


def _secrets(group: Group) -> Iterator[tuple[str, int]]:
    for path in sorted(group.secrets.glob("*")):
        if path.suffix in SECRETS and path.is_file():
            yield str(path), stat.S_IMODE(path.stat().st_mode)


def _nodes(
    group: Group, site: Site, found: Looked, seen: Observation | None, troubled: set[str]
) -> list[NodeCase]:
    """Return the nodes of a host as they were seen, each having been asked what ails it."""
    beside = dict(seen.engines[site.name]) if seen and found.sheet.docker else {}
    held = _holders(site, found, [c for c in beside.values() if c.alive])
    image = found.sheet.image
    paths = {path.path: path for path in found.sheet.paths}
    cases = []
    for node in site.nodes:
        there = seen.nodes[node.name] if seen else None
        container = there.container if there else None
        owned = bool(container and not container.planned and group.owns(container, site.name))
        data, *others = site.instances[node.name].data_mounts()
        path = paths[VOLUMES if data.volume else data.source]
        users = held.get(data.source, [])
        cases.append(
            NodeCase(
                node=node,
                sheet=found.sheet,
                path=path,
                container=container,
                owned=owned,
                facts=there.facts if there else None,
                beside=beside,
                used=_used(node.name, users),
                busy=_busy(path, held),
                streams=bool(there and there.facts) and node.name not in troubled,
                image_major=image.env.get("PG_MAJOR", "") if image else "",
                alone=len(group.instances) == 1,
                tablespaces=tuple(
                    PlaceCase(
                        inside=place.target,
                        place=node.tablespaces[place.target],
                        path=paths[VOLUMES if place.volume else place.source],
                        used=_used(node.name, held.get(place.source, [])),
                        busy=_busy(paths.get(place.source), held),
                    )
                    for place in others
                ),
            )
        )
    return run_all(lambda case: _ask_node(site.instances[case.name], case, found), cases)


_Held = dict[str, list[tuple[Container, Mount]]]


def _used(name: str, users: Sequence[tuple[Container, Mount]]) -> tuple[tuple[str, str], ...]:
    return tuple((mount.source, c.name) for c, mount in users if c.name != name)


def _busy(path: PathSheet | None, held: _Held) -> frozenset[str]:
    return frozenset(part for part in (path.parts if path else ()) if held.get(part))


def _holders(site: Site, found: Looked, alive: Sequence[Container]) -> _Held:
    """Return which of these containers have each data directory, volume, and unfinished copy."""
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    data = {place.source for place in places if not place.volume}
    sheets = [sheet for sheet in found.sheet.paths if sheet.path in data]
    paths = [path for sheet in sheets for path in (sheet.path, *sheet.parts)]
    held = dict(zip(paths, holders_of_each(site.engine, paths, alive), strict=True))
    for volume in (place.source for place in places if place.volume):
        held[volume] = holders(site.engine, volume, alive, volume=True)
    return held


def _ask_node(instance: Instance, case: NodeCase, found: Looked) -> NodeCase:
    """Ask a node what ails it: its server, or a container that looks at what lies there."""
    try:
        if case.owned and case.facts:
            told = instance.execute(health.of_running(), reads=True)
            return replace(case, health=Health.parse(told))
        full = case.path.state == "full" and not case.node.volume
        image = found.sheet.image
        if case.runs or image is None or not (full or (case.owned and case.node.volume)):
            return case
        mounts = instance.mounts(readonly=True)
        if found.private[case.name].state == "absent":
            mounts = mounts[:1]
        there = instance.there(instance.tablespace_mounts(readonly=True))
        told = instance.offline(
            image, health.of_stopped(), mounts=[*mounts, *there], readonly=True, reads=True
        )
        disk = instance.with_tablespaces(Disk.parse(told), there)
        return replace(case, health=Health.parse(told), disk=disk)
    except Error as fault:
        return replace(case, silence=fault.sentence)
