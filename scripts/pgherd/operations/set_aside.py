"""Data that is set aside, beside where it lay: `…_bk_<UTC time>`. Step 4, and before a rewind.

A data directory and the places of its tablespaces are set aside as one: by one time, each beside
itself. The data directory goes first, since nothing runs without it; what of the rest was left by
a run that was killed then follows it.

Each act leaves a line in the host's journal: when, what, and why. No data depends on it: it tells
those who find a copy later, and those who remove a node once more that it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pgherd.docker.engine import docker
from pgherd.docker.models import GROUP_LABEL, Image, Mount
from pgherd.errors import Error, Refused
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Script, Tool, assignments
from pgherd.postgres import scripts
from pgherd.postgres.datadir import _STAMP, PART, set_aside_at
from pgherd.postgres.instance import PGDATA, Instance

ASIDE = "/aside"  # where a container that copies has the copy
UNFINISHED = "pgherd.unfinished"  # a file in a volume's copy until that is whole
WHY_LABEL = "pgherd.why"  # of a volume
REMOVED = "removed"  # the reason of a node's last line
CUT_SHORT = "an unfinished copy"  # in the reason, where what lay there was one
SAID_FILES = 20
# First what makes it a database: cut short, it is none that a server would run on.
EMPTY_DATA = f'rm -f "{PGDATA}/PG_VERSION"\nfind "{PGDATA}" -mindepth 1 -delete\n'
EMPTY_TABLESPACES = 'for place in ${tablespaces-}; do find "$place" -mindepth 1 -delete; done\n'
EMPTY = EMPTY_DATA + EMPTY_TABLESPACES
# Where nothing was copied before: of the places of tablespaces only what PostgreSQL makes there.
DELETE_TABLESPACES = """\
for place in ${tablespaces-}; do
  find "$place" -mindepth 1 -path '*/PG_[0-9]*' -delete
  find "$place" -mindepth 1 -depth -type d -exec rmdir {} \\; 2>/dev/null || :
done
"""
_STAMPS = f"{'[0-9]' * 8}T{'[0-9]' * 6}Z"  # the same as a pattern of the shell


# A directory is never renamed to one that has something in it. Where the kernel says something else
# than that, it is why this one could not be renamed at all. Other tools than GNU's know no -T.
_TRY_TO_RENAME = r"""
mv --version 2>/dev/null | grep -q GNU || exit 0
for source; do
  [ -d "$source" ] || continue
  if said=$(LC_ALL=C mktemp -d "$(dirname -- "$source")/.pgherd.XXXXXX" 2>&1); then
    trial=$said
    if said=$(LC_ALL=C mkdir -- "$trial/full" 2>&1) && [ -d "$trial/full" ]; then
      said=$(LC_ALL=C mv -T -- "$source" "$trial" 2>&1)
      rmdir -- "$trial/full"
    fi
    rmdir -- "$trial"
  fi
  case $said in *'not empty' | *exists) ;; *) printf '%s\t%s\n' "$source" "${said##*: }" ;; esac
done
"""
_BUSY = "Device or resource busy"  # what Linux says of a mount point


def set_data_aside(
    group: Group, instance: Instance, image: Image, *, unfinished: bool = False, why: str = ""
) -> str | None:
    """Step 4: move a node's data beside itself; return where to.

    A copy that was cut short is only moved if `unfinished` says so: seeding clears it. A named
    volume cannot be renamed: its contents are copied to a new one and then removed. Whoever calls
    has seen that no server runs on it.
    """
    if (
        preconditions.data_state(instance) != preconditions.FULL
        or (disk := instance.disk(image)).empty
    ):
        return _set_rest_aside(group, instance, image, why)
    if disk.half_copied and not unfinished:
        return None
    why = f"{why}, {CUT_SHORT}" if disk.unfinished else why
    return _move(group, instance, image, instance.data_mounts(), now_stamp(), why)


def _set_rest_aside(group: Group, instance: Instance, image: Image, why: str) -> str | None:
    """Set aside what lies in the places of tablespaces while the data directory is gone, or empty.

    It goes to the data that was set aside without it, as where a run was killed in between.
    """
    target = None
    for mount in _filled(instance, image):
        stamp = left_by(instance, mount) or now_stamp()
        target = _move(group, instance, image, [mount], stamp, why)
    return target


def left_by(instance: Instance, mount: Mount, but: str = "") -> str:
    """Return the time of the data that was set aside last without this place of tablespaces.

    Empty where there is none. `but` is a time that is not meant.
    """
    data = instance.data_mounts()[0]
    stamps = _stamps(instance, data)
    have = set(_stamps(instance, mount))
    lacking = [stamp for stamp in stamps if stamp not in have and stamp != but]
    if mount.volume:  # that is set aside before the data is
        lacking = [stamp for stamp in lacking if stamp == max(stamps)]
    return max(lacking, default="")


def refuse_unmovable(instance: Instance, *more: str) -> None:
    """Refuse to begin what will set a node's data aside, where its directories cannot be renamed.

    It is tried, in a way that renames nothing. `more` are other directories of its host.
    """
    for source, why in unmovable(instance.host, [*directories_of(instance), *more]):
        if why == _BUSY:
            raise Refused(
                f"{instance.name}: {source} is a mount point, and cannot be renamed: what it has "
                "cannot be set aside. Nothing was changed. Give the node a directory in it: "
                f"`invoke down` keeps the data; make {source}/data with the same owner and mode, "
                "move all into that, say it as the node's `data`, then `invoke start`."
            )
        raise Refused(
            f"{instance.name}: {source} cannot be renamed ({why}): what it has cannot be set "
            "aside. Nothing was changed. See to whom it and what it lies in belong (`ls -ld`), and "
            "whether `lsattr -d` shows an i or an a."
        )


def directories_of(instance: Instance) -> list[str]:
    """Return the directories of a node's data and tablespaces; of volumes there is none."""
    return [mount.source for mount in instance.data_mounts() if not mount.volume]


def unmovable(host: Host, sources: Sequence[str]) -> list[tuple[str, str]]:
    """Return which of these directories of a host cannot be renamed, each with the reason."""
    if host.trace.dry or not sources:
        return []
    command = Tool("sh")["-s", "--", list(sources)]
    said = host.run(command, stdin=Script((_TRY_TO_RENAME,), ("try-to-rename",))).out
    lines = (line.rpartition("\t") for line in said.splitlines())
    return [(source, why) for source, _, why in lines if source]


def _stamps(instance: Instance, mount: Mount) -> list[str]:
    """Return the times by which something was set aside beside a directory or volume."""
    if mount.volume:
        words = docker["volume", "ls", "--quiet", "--filter", f"name={mount.source}_bk_"]
        names = instance.engine.must(words, reads=True).out.split()
    else:
        script = (
            f'{assignments(of=mount.source)}for at in "$of"_bk_*; do echo "${{at##*/}}"; done\n'
        )
        names = instance.host.run(Tool("sh")["-s"], stdin=Script((script,)), reads=True).out.split()
    begin = f"{mount.source.rpartition('/')[2]}_bk_"
    return [n.removeprefix(begin) for n in names if n.startswith(begin) and _is_stamp(n)]


def _is_stamp(name: str) -> bool:
    return set_aside_at(name) is not None and not name.endswith(PART)


def _move(
    group: Group, instance: Instance, image: Image, mounts: list[Mount], stamp: str, why: str
) -> str:
    """Move directories beside themselves, and the contents of volumes; return the first's name.

    The data directory comes first, if it is one of them: it is no database any more before its
    tablespaces are moved, nor after a copy of volumes was cut short.
    """
    volumes = [mount for mount in mounts if mount.volume]
    directories = [mount for mount in mounts if not mount.volume]
    first = f"{mounts[0].source}_bk_{stamp}"
    if volumes:
        empty = EMPTY if mounts[0].target == PGDATA else EMPTY_TABLESPACES
        then = empty if mounts[0].volume else ""
        _copy(group, instance, image, volumes, stamp, (why, then))
    if directories:
        pairs = [(mount.source, f"{mount.source}_bk_{stamp}") for mount in directories]
        for _, target in pairs:
            group.trace.note(f"{instance.name}: setting its data aside as {target}")
        count = move_aside(instance.host, pairs, reason(group, instance.name, why))
        if count > 1:
            group.trace.note(f"{instance.name}: {count} copies lie beside it: `invoke aside.list`")
    if volumes and not mounts[0].volume:
        instance.offline(image, scripts.compose(EMPTY_TABLESPACES), mounts=volumes, timeout=None)
    return first


def reason(group: Group, name: str, why: str) -> str:
    """Return the third word of a line of the journal."""
    return f"{name} of {group.name}: {why}"


def journal(host: Host) -> str:
    """Return the file on a host that tells what was set aside, put back and deleted there."""
    return f"{host.home}/aside.log"


def entry(host: Host, path: str, why: str) -> str:
    """Return shell text that adds a line to the journal; where that cannot be, nothing is said.

    In a shell of its own: a file's limit of size (`ulimit -f`) ends that, and not what goes on.
    """
    values = assignments(journal=journal(host), entry=f"{_now()}\t{path}\t{why}")
    return f'{values}( printf \'%s\\n\' "$entry" >>"$journal" ) 2>/dev/null || :\n'


def move_aside(host: Host, pairs: Sequence[tuple[str, str]], why: str) -> int:
    """Rename directories, the first one first; `mv` alone would move into a target that is there.

    Of the others, where one is not there an empty one stands for it: so what was set aside with
    them, or before there were any, can be told from what is not moved yet.

    Returns:
        How many copies lie beside the first then; 0 with `--dry`.

    Raises:
        Error: one could not be renamed.
    """
    script = "trap '' HUP INT TERM\n" if len(pairs) > 1 else ""  # they are moved as one
    for number, (source, target) in enumerate(pairs):
        move = 'mv -- "$source" "$target"\n'
        if number:
            move = f'if [ -e "$source" ]; then {move}else mkdir -p -- "$target"; fi\n'
        script += assignments(source=source, target=target) + f'[ ! -e "$target" ]\n{move}'
        script += entry(host, target, why)
    script += f'{assignments(source=pairs[0][0])}set -- "$source"_bk_*\necho $#\n'
    result = host.run(Tool("sh")["-eus"], stdin=Script((script,), ("set-aside",)))
    if not result.ok:
        source, target = pairs[0]
        raise Error(f"{source} cannot be set aside as {target}: {result.err.strip()}")
    return int(result.out.strip() or 0)


def copy_aside(group: Group, instance: Instance, image: Image, why: str = "") -> str:
    """Copy the data of a node that is down beside itself; return where to.

    It takes as much space again, except where the file system can share it.
    """
    return _copy(group, instance, image, instance.data_mounts(), now_stamp(), (why, ""))


def _copy(
    group: Group,
    instance: Instance,
    image: Image,
    mounts: list[Mount],
    stamp: str,
    what: tuple[str, str],
) -> str:
    """Copy directories and volumes beside themselves; return the first one's name.

    `what` is why, and shell text that is run once all is copied. A copy that was cut short has a
    name that ends in `.part`, or as a volume the file `pgherd.unfinished`; the next one is made in
    its place. The first one, the data directory, is whole last.
    """
    why, then = what
    asides = []
    for number, mount in enumerate(mounts):
        target = f"{mount.source}_bk_{stamp}"
        group.trace.note(f"{instance.name}: copying its data aside as {target}")
        part = target if mount.volume else f"{target}{PART}"
        _make_volume(group, instance, part, why) if mount.volume else _make_part(
            instance, mount.source, part
        )
        asides.append(Mount(part, f"{ASIDE}.{number}" if number else ASIDE, mount.volume))
    ways = list(zip(mounts, asides, strict=True))
    lines = "".join(
        f"find {to.target} -mindepth 1 -delete\n: >{to.target}/{UNFINISHED}\n" for _, to in ways
    )
    lines += "".join(
        f"cp -a --reflink=auto {at.target}/. {to.target}/ 2>/dev/null || "
        f"cp -a {at.target}/. {to.target}/\n"
        for at, to in ways
    )
    lines += "sync\n" + "".join(f"rm {to.target}/{UNFINISHED}\n" for _, to in reversed(ways))
    script = scripts.compose(f"{lines}sync\n{then}")
    private = instance.mounts()[1:]
    instance.offline(image, script, mounts=[*mounts, *private, *asides], timeout=None)
    for at, to in reversed(ways):
        if not at.volume:
            target = to.source.removesuffix(PART)
            move_aside(instance.host, [(to.source, target)], reason(group, instance.name, why))
    return f"{mounts[0].source}_bk_{stamp}"


def keep_unarchived(group: Group, instance: Instance, image: Image, files: Sequence[str]) -> None:
    """Copy the WAL files that a former primary has not archived, before it is a standby.

    As one it would remove them, and the new primary never archives what it has received: the
    archive would have a gap of which nothing tells. Whoever calls has seen that no server runs.
    """
    if not files:
        return
    volume, host = instance.node.volume, instance.host
    target = f"{volume or instance.places.data}_unarchived_{datetime.now(UTC).strftime(_STAMP)}"
    why = "WAL that was not archived"
    if volume:
        _make_volume(group, instance, target, why)
    else:
        told = entry(host, target, reason(group, instance.name, why))
        text = assignments(target=target) + 'mkdir -- "$target"\n' + told
        made = host.run(Tool("sh")["-eus"], stdin=Script((text,)))
        if not made.ok:
            raise Error(f"{target} cannot be made: {made.err.strip()}")
    mounts = [*instance.mounts(), Mount(target, ASIDE, volume is not None)]
    instance.offline(image, scripts.compose("keep-unarchived"), mounts=mounts, timeout=None)
    names = " ".join(files) if len(files) <= SAID_FILES else f"{files[0]} to {files[-1]}"
    group.trace.note(
        f"{instance.name}: {len(files)} WAL files were not archived, and are kept in {target}: "
        f"{names}. Put them into the archive, or take a new base backup: it has a gap without them"
    )


def read_unarchived(said: str) -> list[str]:
    """Return the WAL files that a script tells of as not archived."""
    return re.findall(r"^unarchived (\S+)$", said, re.MULTILINE)


def _make_volume(group: Group, instance: Instance, name: str, why: str) -> None:
    """Make the volume for a copy.

    Raises:
        Error: it is there already.
    """
    if instance.engine.volume_exists(name):  # docker would take that one
        raise Error(f"There is a volume {name} already: run this again in a second.")
    labels = {GROUP_LABEL: group.name, WHY_LABEL: reason(group, instance.name, why)}
    words = [word for item in labels.items() for word in ("--label", "=".join(item))]
    instance.engine.must(docker["volume", "create", *words, name])


def _make_part(instance: Instance, data: str, part: str) -> None:
    """Make the directory for a copy, of the one that a killed run left behind if there is any.

    Raises:
        Error: it cannot be made.
    """
    script = (
        assignments(data=data, part=part, end=PART)
        + f'for left in "$data"_bk_{_STAMPS}"$end"; do\n'
        + '  [ ! -d "$left" ] || { mv -- "$left" "$part"; exit; }\ndone\nmkdir -- "$part"\n'
    )
    made = instance.host.run(Tool("sh")["-eus"], stdin=Script((script,)))
    if not made.ok:
        raise Error(f"{part} cannot be made: {made.err.strip()}")


def not_known(instance: Instance, image: Image) -> list[Mount]:
    """Return the places of tablespaces that have something nobody knows of, without any data.

    What was set aside without it tells whose it is, and that the node had a database.
    """
    filled = [m for m in _filled(instance, image) if not left_by(instance, m)]
    known = filled and instance.disk(image, data=False).was_initialised
    return [] if known else filled


def _filled(instance: Instance, image: Image) -> list[Mount]:
    """Return the places of tablespaces that are there and have something in them."""
    there = instance.there(instance.tablespace_mounts())
    if not there:
        return []
    lines = 'for place in $tablespaces; do [ -z "$(ls -A "$place")" ] || echo "$place"; done\n'
    mounts = [replace(mount, readonly=True) for mount in there]
    script = scripts.compose(lines)
    said = instance.offline(image, script, mounts=mounts, readonly=True, reads=True).split()
    return [mount for mount in there if mount.target in said]


def parts_of(instance: Instance, target: str) -> list[Mount]:
    """Return what was set aside as one, by the data's name, in the places of the node's data."""
    end = target.rpartition("_bk_")[2]
    return [replace(m, source=f"{m.source}_bk_{end}") for m in instance.data_mounts()]


def drop_copy(instance: Instance, image: Image, target: str) -> None:
    """Remove what `copy_aside` made, or a part of it that was cut short."""
    data, *rest = parts_of(instance, target)
    clear_copies(instance, image, [replace(data, source=target), *instance.there(rest)])


def clear_copies(instance: Instance, image: Image, copies: Sequence[Mount]) -> None:
    """Delete what was set aside of a node; it belongs to the user of the containers.

    Raises:
        Refused: a server runs on it. Mounted as data is, it has to be held first (`sh/hold.sh`).
    """
    if directories := [copy for copy in copies if not copy.volume]:
        empty = EMPTY if any(copy.target == PGDATA for copy in directories) else EMPTY_TABLESPACES
        instance.offline(image, scripts.compose(empty), mounts=directories, timeout=None)
    for copy in copies:
        if copy.volume:
            instance.engine.must(docker["volume", "rm", copy.source])
            continue
        gone = instance.host.run(Tool("rmdir")["--", copy.source])
        if not gone.ok:
            raise Error(f"{copy.source} is empty and stays: {gone.err.strip()}")


def name_aside(of: str) -> str:
    """Return the name by which something is set aside now."""
    return f"{of}_bk_{now_stamp()}"


def now_stamp() -> str:
    """Return the end of the names by which something is set aside now."""
    return datetime.now(UTC).strftime(_STAMP)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
