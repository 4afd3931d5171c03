"""What was set aside: listed, put back, deleted when told so twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple

from pgherd.config.values import LOCAL, within
from pgherd.docker import models
from pgherd.docker.models import Image, Mount
from pgherd.errors import Error, Refused, Unreachable
from pgherd.group import outside_data, preconditions
from pgherd.group.group import Group, Site
from pgherd.group.observation import Observation
from pgherd.group.primary import is_primary_data, is_running
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Script, Tool, assignments
from pgherd.hosts.parallel import run_each
from pgherd.operations import set_aside
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import make_private
from pgherd.operations.set_aside import CUT_SHORT, clear_copies, entry, journal, now_stamp
from pgherd.postgres import scripts
from pgherd.postgres.datadir import PART, holders, in_use, overlap, set_aside_at, sharing
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import PGDATA, Instance

# --- what is never deleted and never put back: a node's data of now, and what a container has ---


def refuse_living(site: Site, path: str, *, volume: bool) -> None:
    """Refuse a directory or volume that is a node's data by now, holds it, or lies in it.

    The name tells nothing: `data` in the topology may be what was set aside once.
    """
    places = [
        (i.name, place.source)
        for i in site.instances.values()
        for place in i.data_mounts()
        if place.volume == volume
    ]
    if volume:
        found = [name for name, source in places if source == path]
    else:
        (own,) = site.host.paths(path)
        shared = sharing(site.host, own, (source for _, source in places))
        found = [name for name, source in places if source in shared]
    if found:
        raise Refused(
            f"{path} of {site.name} is no copy: the data of {found[0]} is there, as the "
            "topology has it now. Nothing was changed."
        )


def refuse_to_delete(site: Site, instance: Instance, path: str, *, volume: bool) -> None:
    """Refuse to delete what is a node's data, or what a container of that host can write to.

    A stopped container counts, and the node's own: it would start without its data.

    Args:
        site: the host.
        instance: a node there, for whom the deleting is done.
        path: of the directory, or the volume's name.
        volume: whether it is that.
    """
    refuse_living(site, path, volume=volume)
    source = path if volume else site.host.paths(path)[0]
    above = PurePosixPath(source).parents
    others = site.engine.containers().values()
    for other, mount in holders(site.engine, source, others, volume=volume):
        if other.alive:
            raise in_use(instance.name, path, other, mount)
        if not volume and PurePosixPath(mount.source) in above:
            continue  # it will find what else is there
        raise Refused(
            f"{path} is what the container {other.name} has (it is stopped). `docker rm "
            f"{other.name}` first, if neither is wanted any more."
        )


# --- what tasks have set aside for a group, on each of its hosts: data, volumes, passwords ---

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
    asked = _questions(group)
    answers = run_each(lambda ask: _look(group, *ask), asked)
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


def _questions(group: Group) -> list[_Ask]:
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
    script = Script((values + scripts.fragment("list-set-aside"),))
    command = Tool("sh")["-eus", "--", words]
    run = site.engine.run if site else host.run
    result = run(command, stdin=script, timeout=LOOK_SECONDS, reads=True)
    if not result.ok:
        raise Error(f"What was set aside cannot be looked at: {result.complaint()}")
    copies, free = read(result.out, host.name)
    copies = [copy for copy in copies if not (site and _is_in_use(copy, site))]
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


def _is_in_use(copy: Copy, site: Site) -> bool:
    """Tell whether it is no copy any more, but where a node's data lies by the topology."""
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    if copy.kind == VOLUME:
        return any(place.volume and place.source == copy.path for place in places)
    return any(not place.volume and overlap(copy.path, place.source) for place in places)


def _node(copy: Copy) -> str:
    """Return whose a copy was by what was written down: of a node that no topology has any more."""
    return copy.why.partition(" of ")[0] if copy.kind != SECRETS else ""


def read(text: str, host: str) -> tuple[list[Copy], dict[str, int]]:
    """Read what `sh/list-set-aside.sh` prints: the copies, and the bytes free beside them."""
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


def find_copy(kept: Kept, name: str) -> Copy | None:
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


def refuse_unknown_copy(kept: Kept, name: str) -> Refused:
    """Return the refusal of a name that nothing was set aside by."""
    known = ", ".join(copy.name for copy in kept.copies) or "nothing is"
    return Refused(f"Nothing of {kept.group} is set aside as {name!r}: {known}.")


def _names(copy: Copy) -> set[str]:
    names = {copy.name, copy.path}
    return names | {f"{copy.host}:{name}" for name in names}


# --- the renaming by which a directory that was set aside comes back ---

PUT_BACK = "put back"  # the end of the journal's line
_LAST_WORD = r"""
[ ! -r "$journal" ] || awk -F '\t' -v path="$path" '
  $2 == path { why = $3 }
  END { print why }' "$journal"
"""


class Swap(NamedTuple):
    """A copy of a place of tablespaces, where it belongs, and by what name what is there goes.

    Without a copy nothing comes back there. Where the copy is not there any more, what is in its
    place came from it, before an earlier run was killed.
    """

    copy: str
    there: str
    target: str


def swap(
    host: Host,
    copy: Copy,
    there: str,
    who: str,
    why: str,
    stamp: str,
    more: Sequence[Swap] = (),
) -> str:
    """Rename a copy to where it was; what is there is set aside first, by that time.

    `more` is what comes back, and is set aside, as one with it.

    Returns:
        As what; empty where nothing was there.

    Raises:
        Error: it could not be renamed.
    """
    target = f"{there}_bk_{stamp}"
    script = script_of(host, copy.path, there, target, who=who, why=why, more=more)
    result = host.run(Tool("sh")["-eus"], stdin=Script((script,), ("put-back",)))
    if not result.ok:
        raise Error(f"{copy.path} cannot be put back as {there}: {result.err.strip()}")
    return target if "moved" in result.out else ""


def script_of(
    host: Host,
    copy: str,
    there: str,
    target: str,
    *,
    who: str,
    why: str,
    more: Sequence[Swap] = (),
) -> str:
    """Return the shell text for it, which ends with the line `moved`, or an empty one.

    The data directory goes first and comes back last: nothing runs without it.
    """
    left = set_aside.entry(host, target, f"{who}: {why}")
    back = set_aside.entry(host, copy, f"{who}: {PUT_BACK}")
    # An empty directory gives way; `mv` alone would move the copy into one that is there.
    # Nothing is said before the end: where nobody hears it any more, a word ends a script. Nor does
    # a signal end it between the two renamings.
    return (
        assignments(there=there, target=target)
        + f"""\
trap '' HUP INT TERM
moved=
if [ -e "$there" ] && ! rmdir -- "$there" 2>/dev/null; then
  [ ! -e "$target" ]
  mv -- "$there" "$target"
  moved=moved
  {left}fi
"""
        + "".join(_with(host, other, who, why) for other in more)
        + assignments(copy=copy, there=there)
        + f"""\
mv -- "$copy" "$there"
{back}echo "$moved"
"""
    )


def _with(host: Host, other: Swap, who: str, why: str) -> str:
    """Return the part of the script for a place of tablespaces.

    One that is empty is kept as well, and one stands for it where it is not there: see
    `aside.move_aside`.
    """
    left = set_aside.entry(host, other.target, f"{who}: {why}")
    back = set_aside.entry(host, other.copy, f"{who}: {PUT_BACK}")
    return (
        assignments(copy=other.copy, there=other.there, target=other.target)
        + f"""\
if [ -e "$there" ] && {{ [ -z "$copy" ] || [ -e "$copy" ]; }}; then
  [ ! -e "$target" ]
  mv -- "$there" "$target"
  {left}elif [ -n "$moved" ]; then
  [ ! -e "$target" ]
  mkdir -p -- "$target"
fi
if [ -n "$copy" ] && [ -e "$copy" ]; then
  mv -- "$copy" "$there"
  {back}fi
"""
    )


def was_last_put_back(host: Host, path: str) -> bool:
    """Tell whether the last that the journal knows of a copy is that it was put back."""
    text = assignments(journal=set_aside.journal(host), path=path) + _LAST_WORD
    said = host.run(Tool("sh")["-s"], stdin=Script((text,)), reads=True).out
    return said.strip().endswith(PUT_BACK)


# --- putting a group's passwords back, with all that its nodes have beside their data ---


def restore_passwords(group: Group, copy: Copy, seen: Observation) -> None:
    """Put a group's passwords back; those that it has are set aside.

    Raises:
        Refused: a server of the group runs, or a password is missing.
    """
    running = [name for name, node in seen.nodes.items() if is_running(node)]
    if running:
        raise Refused(f"{running[0]} runs, and has the present passwords: `invoke stop` first.")
    if copy.fault:
        raise Refused(f"{copy.name} is not whole: {copy.fault}.")
    host = group.here if copy.host == LOCAL else group.sites[copy.host].host
    group.trace.note(f"{group.name}: putting its passwords back ({copy.path})")
    why = f"before {copy.name} was put back"
    if target := swap(host, copy, copy.of, f"passwords of {group.name}", why, now_stamp()):
        group.trace.note(f"{group.name}: those that it had are set aside as {target}")


# --- deleting one thing that was set aside, when told so twice; never anything else ---


def delete(group: Group, name: str, *, confirm: str) -> None:
    """Delete what was set aside by that name.

    Raises:
        Refused: `confirm` is not the same name, nothing of the group is set aside by it, or a
            container has it, or it is a node's data by now.
    """
    if not name or name != confirm:
        raise Refused(
            "Not confirmed: deleting wants the name twice, `invoke aside.delete NAME --confirm "
            "NAME`. Nothing was changed."
        )
    with group.locked(tolerant=True):
        kept = survey(group)
        copy = find_copy(kept, name)
        # Of a group that `on` has placed elsewhere only the passwords are here.
        if copy is None or (copy.host not in group.sites and copy.kind != SECRETS):
            raise refuse_unknown_copy(kept, name)
        group.trace.note(f"{copy.name}: deleting it ({copy.path} of {copy.host})")
        _delete(group, copy)


def _delete(group: Group, copy: Copy) -> None:
    if copy.host not in group.sites:  # the passwords of a group that `on` has placed elsewhere
        gone = group.here.run(Tool("rm")["-r", "--", copy.path])
        if not gone.ok:
            raise Error(f"{copy.path} could not be deleted: {gone.err.strip()}")
        return
    seen = group.observe()
    instance = _anybody(group, copy)
    site = group.sites[copy.host]
    copies = [Mount(copy.path, PGDATA, copy.kind == VOLUME)]
    copies += [Mount(c.path, inside, c.kind == VOLUME) for inside, c in copy.tablespaces.items()]
    for one in copies:
        refuse_to_delete(site, instance, one.source, volume=one.volume)
    clear_copies(instance, ensure_image(group, seen), copies)
    for one in copies:
        text = entry(instance.host, one.source, f"deleted, {copy.why or 'set aside'}")
        instance.host.run(Tool("sh")["-s"], stdin=Script((text,)))


def _anybody(group: Group, copy: Copy) -> Instance:
    """Return a node on the host of a copy, its own if there is one: to work there."""
    there = group.sites[copy.host].instances
    return there.get(copy.node) or next(iter(there.values()))


# --- putting back what was set aside ---

COPY = "/copy"  # where a container has the volume that is copied back


def restore(group: Group, name: str, *, foreign: bool) -> None:
    """Put a copy back where it was; the server is not started.

    A primary's copy comes back as a standby where the group has, or may have, another primary: two
    would take writes that the other never sees.

    Raises:
        Refused: the node runs, its data or the copy is in use, or the copy is not whole, or of
            another system or major version and `foreign` is not said.
    """
    with group.locked():
        kept = survey(group)
        copy = find_copy(kept, name)
        seen = group.observe()
        if copy is None:
            _report_already(group, name, ensure_image(group, seen), refuse_unknown_copy(kept, name))
        elif copy.kind == SECRETS:
            restore_passwords(group, copy, seen)
        else:
            _restore_data(group, copy, seen, foreign=foreign)


def _report_already(group: Group, name: str, image: Image, otherwise: Refused) -> None:
    """Say that it is back already, where a run that was killed has put it back; else refuse."""
    short = name.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    for instance in group.instances.values():
        if (
            preconditions.data_state(instance) == preconditions.FULL
            and _restored_from(instance, image) == short
        ):
            group.trace.note(f"{instance.name}: already has {short} back")
            return
    path = f"{group.secrets.parent}/{short}"
    if path.startswith(f"{group.secrets}_bk_") and was_last_put_back(group.here, path):
        group.trace.note(f"{group.name}: already has {short} back")
        return
    raise otherwise


def _restored_from(instance: Instance, image: Image) -> str:
    """Return the name of the copy that a node that has not run since was given back."""
    if (
        preconditions.directory_state(instance.host, instance.places.private)
        == preconditions.ABSENT
    ):
        return ""
    script = scripts.compose("restored")
    said = instance.offline(image, script, mounts=instance.mounts(readonly=True), reads=True)
    return said.strip().removeprefix("restored=")


# --- data ---


def _restore_data(group: Group, copy: Copy, seen: Observation, *, foreign: bool) -> None:
    if copy.node not in group.instances:
        raise Refused(
            f"{copy.name} was the data of {copy.node or 'a node'}, which {group.topology.source} "
            f"has not: give that its table again, with data = {copy.of!r}, then this again."
        )
    instance = group.instance(copy.node)
    if copy.host != instance.node.host:
        raise Refused(
            f"{copy.name} is on {copy.host}, and {instance.name} lives on {instance.node.host} "
            f"now: copy {copy.path} there, beside its data, then this again."
        )
    refuse_living(group.site(instance), copy.path, volume=copy.kind == VOLUME)
    preconditions.check_name(group, instance, seen)
    if is_running(seen.nodes[instance.name]):
        raise Refused(
            f"{instance.name} runs: `invoke stop` (or `docker stop {instance.name}`, where no "
            "commit waits for it), then this again."
        )
    preconditions.check_data_unused(instance, seen)
    preconditions.check_unused(instance, _mounts(copy), seen)
    outside_data.refuse_to_remove_all(group, [instance], seen)
    image = ensure_image(group, seen)
    full = copy.kind == VOLUME and preconditions.data_state(instance) == preconditions.FULL
    if full and _restored_from(instance, image) == copy.name:  # the copy of a volume stays
        group.trace.note(f"{instance.name}: already has {copy.name} back")
        return
    disk = _disk_of_copy(instance, copy, image)
    _refuse_broken(copy, disk, instance)
    _refuse_astray(group, copy, disk, instance)
    set_aside.refuse_unmovable(instance, *(m.source for m in _mounts(copy) if not m.volume))
    others = list(_others(group, instance, seen, image))
    _refuse_foreign(instance, copy, disk, image, others, foreign=foreign)
    mark = is_primary_data(disk) and (primary := _primary(others, disk))
    if mark:
        group.trace.note(
            f"{instance.name}: {copy.name} was a primary's, and {primary} is the primary now: it "
            "is marked as a standby"
        )
        if container := seen.nodes[instance.name].container:
            instance.engine.set_restart(container, models.NEVER)
    _put_back(group, instance, copy, image, mark=bool(mark))
    _say_next(group, instance, copy, disk, marked=bool(mark))
    if is_primary_data(disk) and not mark:
        _say_followers(group, instance, disk, others)


def _disk_of_copy(instance: Instance, copy: Copy, image: Image) -> Disk:
    """Look at a copy with the node's marks beside it, which tell an unfinished one."""
    there = (
        preconditions.directory_state(instance.host, instance.places.private)
        != preconditions.ABSENT
    )
    data, private = instance.mounts(readonly=True)
    mounts = [Mount(copy.path, PGDATA, data.volume, readonly=True), *([private] * there)]
    said = instance.offline(image, scripts.compose("examine"), mounts=mounts, reads=True)
    return Disk.parse(said)


def _mounts(copy: Copy) -> list[Mount]:
    """Return all that was set aside as one, as it is mounted in place of the node's data."""
    rest = [Mount(c.path, inside, c.kind == VOLUME) for inside, c in copy.tablespaces.items()]
    return [Mount(copy.path, PGDATA, copy.kind == VOLUME), *rest]


def _refuse_astray(group: Group, copy: Copy, disk: Disk, instance: Instance) -> None:
    for one in outside_data.astray(instance.node, disk.outside):
        lines = "\n".join(outside_data.declared(group, [one.path]))
        raise Refused(
            f"{copy.name} has {one.what} at {one.path}, and the topology has no place for it: no "
            f"server could run on it. Declare one on every node, then this again:\n{lines}"
        )


def _back_already(copy: Copy, instance: Instance) -> bool:
    """Tell whether what a copy lacks is in its place, where a run that put it back was killed.

    Or it is still there, where one that set all of it aside was.
    """
    if preconditions.data_state(instance) == preconditions.FULL:
        return False
    places = {place.target: place for place in instance.tablespace_mounts()}
    return all(set_aside.left_by(instance, places[at]) == copy.stamp for at in copy.lacks)


def _refuse_broken(copy: Copy, disk: Disk, instance: Instance) -> None:
    fault = copy.fault or (set_aside.CUT_SHORT if disk.unfinished else "")
    if copy.lacks and fault.startswith(LACKS) and _back_already(copy, instance):
        return
    if fault:
        raise Refused(
            f"{copy.name} is not whole ({fault}): no server could run on it. `invoke aside.list` "
            "lists the others."
        )


def _others(
    group: Group, instance: Instance, seen: Observation, image: Image
) -> Iterator[tuple[str, str | None, bool, int]]:
    """Yield what the other nodes are: name, system, whether they lead, timeline."""
    for name, node in seen.nodes.items():
        if name == instance.name:
            continue
        if facts := node.facts:
            yield name, facts.system_identifier, not facts.in_recovery, facts.timeline
        elif is_running(node) and not node.planned:
            raise Refused(
                f"{name} runs and does not answer, so it is not known who is primary: `invoke logs "
                f"--node {name}`, then again.\n{node.silence}"
            )
        elif preconditions.data_state(other := group.instance(name)) == preconditions.FULL:
            disk = other.disk(image)
            if disk.pg_version and not disk.unfinished:
                yield name, disk.system_identifier, is_primary_data(disk), disk.timeline


_Others = list[tuple[str, str | None, bool, int]]


def _primary(others: _Others, disk: Disk) -> str:
    """Return the node that leads, or whose history is newer; empty if the copy may lead itself."""
    for name, system, its_leads, timeline in others:
        if system == disk.system_identifier and (its_leads or timeline > disk.timeline):
            return name
    return ""


def _refuse_foreign(
    instance: Instance, copy: Copy, disk: Disk, image: Image, others: _Others, *, foreign: bool
) -> None:
    if foreign:
        return
    try:
        preconditions.check_major(instance, disk, image)
    except Refused:
        raise Refused(
            f"{copy.name} is a database of PostgreSQL {disk.pg_version}, and the image {image.ref} "
            f"has {image.env.get('PG_MAJOR')}: ask for an image of {disk.pg_version}, or say "
            "--foreign to put it back all the same; it does not start like this."
        ) from None
    for name, system, _, _ in others:
        if system != disk.system_identifier:
            raise Refused(
                f"{copy.name} is of another system ({disk.system_identifier}) than {name} "
                f"({system}): neither can follow the other. --foreign puts it back all the same."
            )


def _put_back(group: Group, instance: Instance, copy: Copy, image: Image, *, mark: bool) -> None:
    """Make the copy ready where it lies, then rename it; a volume's contents are copied back."""
    group.trace.note(f"{instance.name}: putting {copy.path} back")
    make_private(instance)
    why = f"before {copy.name} was put back"
    pieces: list[str | Script] = [*(["mark-standby"] * mark), "restorable"]
    if group.passwords.known("replicator"):  # else it is not this group's to run before they are
        pieces.append("adopted")
    if instance.node.volume:
        set_aside.set_data_aside(group, instance, image, why=why)
        _copy_back(group, instance, image, copy, pieces)
        return
    private = instance.mounts()[1]
    there = {place.target: place for place in instance.tablespace_mounts()}
    directories = [m for m in _mounts(copy) if m.target == PGDATA or not m.volume]
    script = scripts.compose(*pieces, name=copy.name)
    instance.offline(image, script, mounts=[*directories, private], timeout=None)
    if any(place.volume for place in there.values()):
        set_aside.set_data_aside(group, instance, image, unfinished=True, why=why)
        _copy_back(group, instance, image, copy, ())
    stamp = set_aside.now_stamp()
    more = [_swapped(instance, copy, m, stamp) for m in there.values() if not m.volume]
    who = f"{instance.name} of {group.name}"
    target = swap(instance.host, copy, instance.places.data, who, why, stamp, more)
    if target:
        group.trace.note(f"{instance.name}: what it had is set aside as {target}")


def _copy_back(
    group: Group, instance: Instance, image: Image, copy: Copy, pieces: Sequence[str | Script]
) -> None:
    """Copy back what is in volumes, and all that was set aside with the volume of the data."""
    whole = instance.node.volume is not None
    there = {place.target: place for place in instance.data_mounts()}
    asked = [m for m in _mounts(copy) if m.target in there and (whole or there[m.target].volume)]
    lines = "begin seeding\n" if whole else ""
    froms = []
    for number, mount in enumerate(asked):
        froms.append(replace(mount, target=f"{COPY}/{number}", readonly=True))
        lines += f'cp -a {COPY}/{number}/. "{mount.target}"/\n'
    mounts = [there[mount.target] for mount in asked]
    if whole:
        mounts = instance.all_mounts()
        instance.make_tablespaces()
    if not asked:
        return
    script = scripts.compose(f"{lines}sync\n", *pieces, name=copy.name)
    instance.offline(image, script, mounts=[*mounts, *froms], timeout=None)
    for mount in asked:
        name = there[mount.target].source
        group.trace.note(f"{name}: has what {mount.source} has, which stays")


def _swapped(instance: Instance, copy: Copy, place: Mount, stamp: str) -> Swap:
    """Return how a place of tablespaces changes with its data directory, set aside by that time."""
    if (
        preconditions.data_state(instance) != preconditions.FULL
    ):  # an earlier run may have moved the data only
        stamp = set_aside.left_by(instance, place, but=copy.stamp) or stamp
    target = f"{place.source}_bk_{stamp}"
    kept = copy.tablespaces.get(place.target)
    back = kept.path if kept else f"{place.source}_bk_{copy.stamp}"
    return Swap(back if kept or place.target in copy.lacks else "", place.source, target)


def _say_next(group: Group, instance: Instance, copy: Copy, disk: Disk, *, marked: bool) -> None:
    """Say what the node will be, and what brings it up."""
    if marked or disk.standby_signal:
        text = (
            f"`invoke rejoin {instance.name}` makes it follow the primary that runs; where none "
            "does, `invoke start` first"
        )
    else:
        text = (
            "it is a primary's; `invoke start` runs it as that. Its standbys need their copies of "
            "the same time, or `invoke seed-standby`"
        )
    group.trace.note(f"{instance.name}: has {copy.name} back: {text}")
    if not group.passwords.known("postgres"):
        group.trace.note(
            f"{group.name}: its passwords are not here. If `invoke aside.list` shows some that "
            "were set aside, put them back first"
        )


def _say_followers(group: Group, instance: Instance, disk: Disk, others: _Others) -> None:
    """Say of which nodes it is not known that they have no more than the copy."""
    for name, system, _, _ in others:
        if system == disk.system_identifier:
            group.trace.note(
                f"{name}: may have more than {instance.name} has now, and cannot follow it then: "
                f"`invoke status` tells, `invoke rejoin {name}` mends it"
            )
