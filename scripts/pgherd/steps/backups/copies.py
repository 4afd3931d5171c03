"""What tasks have set aside for a group, on each of its hosts: data, volumes, passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pgherd.errors import Error, Refused, Unreachable
from pgherd.host import LOCAL, Host
from pgherd.host.together import each_by_itself
from pgherd.postgres import scripts
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.occupancy import overlap
from pgherd.postgres.site import Site
from pgherd.rules import within
from pgherd.shell import Script, Tool, assignments
from pgherd.steps.aside import CUT_SHORT, PART, journal, set_aside_at

LACKS = "lacks what was at"  # the begin of a fault
DATA, VOLUME, SECRETS = "data", "volume", "secrets"
LOOK_SECONDS = 600.0  # many and large copies are counted file by file
_BLOCK = re.compile(r"^== (\d+)$\n?", re.MULTILINE)


@dataclass(frozen=True)
class Copy:
    """One thing that was set aside.

    Attributes:
        kind: data, volume or secrets.
        node: whose it was; empty for the group's passwords.
        host: where it is.
        path: of the directory, or the volume's name.
        at: when it was set aside, by its name.
        size: bytes; None where nobody could look.
        disk: what is in it, where it is data and somebody could look.
        why: what set it aside, where that was written down.
        fault: why it is not whole; empty if it is.
        tablespaces: what was set aside with it, by the paths where it belongs in a container.
        lacks: those of these paths that its data needs, and for which nothing was set aside.
    """

    kind: str
    node: str
    host: str
    path: str
    at: datetime
    size: int | None = None
    disk: Disk | None = None
    why: str = ""
    fault: str = ""
    tablespaces: Mapping[str, Copy] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name without the path, as it is said on the command line."""
        return self.path.rpartition("/")[2]

    @property
    def reason(self) -> str:
        """What set it aside, without whose it was."""
        return self.why.partition(": ")[2] or self.why

    @property
    def of(self) -> str:
        """What it was set aside from: the path or name of that."""
        return self.path.rpartition("_bk_")[0]

    @property
    def stamp(self) -> str:
        """The end of its name, which all have that were set aside as one."""
        return self.path.rpartition("_bk_")[2]


@dataclass(frozen=True)
class Kept:
    """All that was set aside for a group.

    Attributes:
        group: its name.
        copies: by time, the newest first.
        free: bytes that are free where such copies lie, by the host's name; the least of them.
        away: the hosts that do not answer, with the reason.
    """

    group: str
    copies: tuple[Copy, ...]
    free: dict[str, int]
    away: dict[str, str]

    @property
    def size(self) -> int:
        """How many bytes they take, as far as that is known."""
        return sum(copy.size or 0 for copy in self.copies)


def survey(group: Group) -> Kept:
    """Look at every host of the group at once; nothing is changed.

    Raises:
        Unreachable: no host answers.
    """
    asked = _asked(group)
    answers = each_by_itself(lambda ask: _look(group, *ask), asked)
    copies: list[Copy] = []
    free: dict[str, int] = {}
    away: dict[str, str] = {}
    for (host, _, _), answer in zip(asked, answers, strict=True):
        if isinstance(answer, Unreachable):
            away[host.name] = answer.sentence
        elif isinstance(answer, Error):
            raise answer
        else:
            copies += answer[0]
            free |= answer[1]
    if len(away) == len(asked):
        raise Unreachable(next(iter(away.values())))
    copies.sort(key=lambda copy: (copy.at, copy.node), reverse=True)
    return Kept(group.name, tuple(copies), free, away)


_Ask = tuple[Host, Site | None, list[str]]


def _asked(group: Group) -> list[_Ask]:
    """Return for each host what to ask it for; the passwords are here, wherever the nodes are."""
    own = [SECRETS, "", str(group.secrets)]
    asked: list[_Ask] = [] if LOCAL in group.sites else [(group.here, None, own)]
    sites = group.sites.values()
    return asked + [
        (site.host, site, own if site.name == LOCAL else [SECRETS, "", site.private])
        for site in sites
    ]


def _look(
    group: Group, host: Host, site: Site | None, words: list[str]
) -> tuple[list[Copy], dict[str, int]]:
    for instance in site.instances.values() if site else ():
        for place in instance.data_mounts():
            if not place.volume:
                words = [*words, DATA, instance.name, place.source]
    images = " ".join(group.image_names) if site else ""
    # What this machine's journal says is of the group of that name that lives here, not of one
    # that lives elsewhere and has only its passwords here.
    values = assignments(group=group.name, journal=journal(host) if site else "", images=images)
    script = Script((values + scripts.fragment("backups"),))
    command = Tool("sh")["-eus", "--", words]
    run = site.engine.run if site else host.run
    result = run(command, stdin=script, timeout=LOOK_SECONDS, reads=True)
    if not result.ok:
        raise Error(f"What was set aside cannot be looked at: {result.complaint()}")
    copies, free = read(result.out, host.name)
    copies = [copy for copy in copies if not (site and _lived_in(copy, site))]
    nodes = list(site.instances.values()) if site else []
    volumes = {p.source: i.name for i in nodes for p in i.data_mounts() if p.volume}
    copies = [replace(c, node=c.node or volumes.get(c.of) or _node(c)) for c in copies]
    for instance in nodes:
        copies = _as_one(copies, instance)
    return copies, free


def _as_one(copies: list[Copy], instance: Instance) -> list[Copy]:
    """Put what was set aside as one together: a node's data, with what its tablespaces had."""
    data, *others = instance.data_mounts()
    of = {(p.source, VOLUME if p.volume else DATA): p.target for p in others}
    parts: dict[str, dict[str, Copy]] = {}
    for copy in copies:
        if inside := of.get((copy.of, copy.kind)):
            parts.setdefault(copy.stamp, {})[inside] = copy
    whole = {c.stamp for c in copies if c.of == data.source and c.disk and c.disk.pg_version}
    found = []
    for copy in copies:
        if copy.of == data.source and copy.stamp in whole:
            found.append(_with_parts(copy, parts.get(copy.stamp, {}), instance))
        elif not ((copy.of, copy.kind) in of and copy.stamp in whole):
            found.append(copy)
    return found


def _with_parts(copy: Copy, parts: Mapping[str, Copy], instance: Instance) -> Copy:
    """Return a copy of data with what was set aside as one with it."""
    links = copy.disk.outside if copy.disk else ()
    places = instance.node.tablespaces
    needed = {at for at in places for one in links if within(one.path, at)}
    lacks = tuple(sorted(needed - parts.keys()))
    size = sum(c.size or 0 for c in (copy, *parts.values()))
    fault = copy.fault or next((part.fault for part in parts.values() if _cut_short(part)), "")
    if lacks and not fault:
        fault = f"{LACKS} {', '.join(lacks)}"
    return replace(copy, size=size, fault=fault, tablespaces=parts, lacks=lacks)


def _cut_short(part: Copy) -> bool:
    """Tell whether the copy of a tablespace's place is no whole one; a database it never is."""
    return part.fault == CUT_SHORT


def _lived_in(copy: Copy, site: Site) -> bool:
    """Tell whether it is no copy any more, but where a node's data lies by the topology."""
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    if copy.kind == VOLUME:
        return any(place.volume and place.source == copy.path for place in places)
    return any(not place.volume and overlap(copy.path, place.source) for place in places)


def _node(copy: Copy) -> str:
    """Return whose a copy was by what was written down: of a node that no topology has any more."""
    return copy.why.partition(" of ")[0] if copy.kind != SECRETS else ""


def read(text: str, host: str) -> tuple[list[Copy], dict[str, int]]:
    """Read what `sh/backups.sh` prints: the copies, and the bytes that are free beside them."""
    head, *blocks = _BLOCK.split(text)
    inside = dict(zip(blocks[::2], blocks[1::2], strict=True))
    lines = [line.split("\t") for line in head.splitlines()]
    why = {line[1]: line[2] for line in lines if line[0] == "why"}
    free = [int(line[1]) * 1024 for line in lines if line[0] == "free" and line[1].isdecimal()]
    copies = []
    for line in (line for line in lines if line[0] == "found"):
        number, kind, node, path = line[1:5]
        if at := set_aside_at(path):  # another name is not of our making
            copies.append(_copy((kind, node, host, path), at, inside.get(number), why.get(number)))
    return copies, {host: min(free)} if free else {}


def _copy(
    known: tuple[str, str, str, str], at: datetime, inside: str | None, why: str | None
) -> Copy:
    kind, node, host, path = known
    if inside is None:
        fault = "an unfinished copy" if path.endswith(PART) else ""
        return Copy(kind, node, host, path, at, why=why or "", fault=fault)
    marks = dict(re.findall(r"^([a-z_.]+)=(.*)$", inside, re.MULTILINE))
    disk = _disk(inside) if kind != SECRETS else None
    size = int(marks["size"]) * 1024 if marks.get("size", "").isdecimal() else None
    control = bool(disk and disk.system_identifier)
    fault = _fault((kind, host, path), marks, why or "", control=control)
    return Copy(kind, node, host, path, at, size, disk, why or "", fault)


def _disk(inside: str) -> Disk:
    """Read the control data; of another major's, which comes with a warning, only what is first.

    The system identifier begins pg_control in every major (pg_control.h).
    """
    if "WARNING" in inside:
        known = r"^(?:[a-z_.]+=|link\t|Database system identifier:).*$"
        inside = "\n".join(re.findall(known, inside, re.MULTILINE))
    return Disk.parse(inside)


def _fault(known: tuple[str, ...], marks: dict[str, str], why: str, *, control: bool) -> str:
    """Return why a copy is not whole; empty if it is, as far as can be seen."""
    kind, host, path = known
    if path.endswith(PART) or "pgherd.unfinished" in marks or CUT_SHORT in why:
        return CUT_SHORT
    if kind == SECRETS:  # elsewhere it is only what the nodes have beside their data
        lacking = [r for r in ("postgres", "replicator") if f"{r}.password" not in marks]
        return f"has no password of {lacking[0]}" if lacking and host == LOCAL else ""
    if "pg_version" not in marks:
        return "no database"
    return "" if control else "no control data"


def found_by(kept: Kept, name: str) -> Copy | None:
    """Return the copy that a name or a path means, alone or after `HOST:`; None if there is none.

    Raises:
        Refused: it means several.
    """
    said = name.rstrip("/")
    found = [c for c in kept.copies if said in _names(c)]
    if len(found) > 1:
        ways = " or ".join(f"{copy.host}:{copy.path}" for copy in found)
        raise Refused(f"{name} is set aside more than once: say {ways}.")
    return found[0] if found else None


def nothing_by(kept: Kept, name: str) -> Refused:
    """Return the refusal of a name that nothing was set aside by."""
    known = ", ".join(copy.name for copy in kept.copies) or "nothing is"
    return Refused(f"Nothing of {kept.group} is set aside as {name!r}: {known}.")


def _names(copy: Copy) -> set[str]:
    names = {copy.name, copy.path}
    return names | {f"{copy.host}:{name}" for name in names}
