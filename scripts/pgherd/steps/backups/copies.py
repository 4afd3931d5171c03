"""What tasks have set aside for a group, on each of its hosts: data, volumes, passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime

from pgherd.errors import Error, Refused, Unreachable
from pgherd.host import LOCAL, Host
from pgherd.host.together import each_by_itself
from pgherd.postgres import scripts
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.occupancy import overlap
from pgherd.postgres.site import Site
from pgherd.shell import Script, Tool, assignments
from pgherd.steps.aside import CUT_SHORT, PART, journal, set_aside_at

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
        if not instance.node.volume:
            words = [*words, DATA, instance.name, instance.places.data]
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
    volumes = {v: i.name for i in group.instances.values() if (v := i.node.volume)}
    return [replace(c, node=c.node or volumes.get(c.of) or _node(c)) for c in copies], free


def _lived_in(copy: Copy, site: Site) -> bool:
    """Tell whether it is no copy any more, but where a node's data lies by the topology."""
    nodes = site.instances.values()
    if copy.kind == VOLUME:
        return any(i.node.volume == copy.path for i in nodes)
    return any(not i.node.volume and overlap(copy.path, i.places.data) for i in nodes)


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
        known = r"^(?:[a-z_.]+=|Database system identifier:).*$"
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
