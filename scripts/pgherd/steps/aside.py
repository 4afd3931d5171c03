"""Data that is set aside, beside where it lay: `…_bk_<UTC time>`. Step 4, and before a rewind.

Each act leaves a line in the host's journal: when, what, and why. No data depends on it: it tells
those who find a copy later, and those who remove a node once more that it was.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pgherd.docker import GROUP_LABEL, Image, Mount, docker
from pgherd.errors import Error
from pgherd.host import Host
from pgherd.postgres import scripts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PGDATA, Instance
from pgherd.shell import Script, Tool, assignments
from pgherd.steps import guards

ASIDE = "/aside"  # where a container that copies has the copy
PART = ".part"  # the end of a copy's name until it is whole
UNFINISHED = "pgherd.unfinished"  # a file in a volume's copy until that is whole
WHY_LABEL = "pgherd.why"  # of a volume
REMOVED = "removed"  # the reason of a node's last line
CUT_SHORT = "an unfinished copy"  # in the reason, where what lay there was one
# First what makes it a database: cut short, it is none that a server would run on.
EMPTY = f'rm -f "{PGDATA}/PG_VERSION"\nfind "{PGDATA}" -mindepth 1 -delete\n'
_STAMP = "%Y%m%dT%H%M%SZ"
_STAMPS = f"{'[0-9]' * 8}T{'[0-9]' * 6}Z"  # the same as a pattern of the shell


def set_aside(
    group: Group, instance: Instance, image: Image, *, unfinished: bool = False, why: str = ""
) -> str | None:
    """Step 4: move a node's data beside itself; return where to.

    A copy that was cut short is only moved if `unfinished` says so: seeding clears it. A named
    volume cannot be renamed: its contents are copied to a new one and then removed. Whoever calls
    has seen that no server runs on it.
    """
    if guards.data_state(instance) != guards.FULL:
        return None
    disk = instance.disk(image)
    if disk.empty or (disk.half_copied and not unfinished):
        return None
    why = f"{why}, {CUT_SHORT}" if disk.unfinished else why
    if instance.node.volume:
        return copy_aside(group, instance, image, then=EMPTY, why=why)
    target = name_aside(instance.places.data)
    group.trace.note(f"{instance.name}: setting its data aside as {target}")
    count = move_aside(
        instance.host, instance.places.data, target, reason(group, instance.name, why)
    )
    if count > 1:
        group.trace.note(f"{instance.name}: {count} copies lie beside it: `invoke backups`")
    return target


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


def move_aside(host: Host, source: str, target: str, why: str) -> int:
    """Rename a directory; `mv` alone would move it into a target that is there already.

    Returns:
        How many copies lie beside it then; 0 with `--dry`.

    Raises:
        Error: it could not be renamed.
    """
    script = (
        assignments(source=source, target=target)
        + '[ ! -e "$target" ]\nmv -- "$source" "$target"\n'
        + entry(host, target, why)
        + 'set -- "$source"_bk_*\necho $#\n'
    )
    result = host.run(Tool("sh")["-eus"], stdin=Script((script,)))
    if not result.ok:
        raise Error(f"{source} cannot be set aside as {target}: {result.err.strip()}")
    return int(result.out.strip() or 0)


def copy_aside(
    group: Group, instance: Instance, image: Image, then: str = "", why: str = ""
) -> str:
    """Copy the data of a node that is down beside itself; return where to.

    It takes as much space again, except where the file system can share it. `then` is shell text
    that is run once all is copied. A copy that was cut short has a name that ends in `.part`, or
    as a volume the file `pgherd.unfinished`; the next one is made in its place.
    """
    volume = instance.node.volume
    target = name_aside(volume or instance.places.data)
    group.trace.note(f"{instance.name}: copying its data aside as {target}")
    part = target if volume else f"{target}{PART}"
    if volume:
        if instance.engine.volume_exists(part):  # docker would take that one
            raise Error(f"There is a volume {part} already: run this again in a second.")
        labels = {GROUP_LABEL: group.name, WHY_LABEL: reason(group, instance.name, why)}
        words = [word for item in labels.items() for word in ("--label", "=".join(item))]
        instance.engine.must(docker["volume", "create", *words, part])
    else:
        _make_part(instance, part)
    lines = (
        f"find {ASIDE} -mindepth 1 -delete\n: >{ASIDE}/{UNFINISHED}\n"
        f"cp -a --reflink=auto {PGDATA}/. {ASIDE}/ 2>/dev/null || cp -a {PGDATA}/. {ASIDE}/\n"
        f"rm {ASIDE}/{UNFINISHED}\n"
    )
    mounts = [*instance.mounts(), Mount(part, ASIDE, volume is not None)]
    script = scripts.compose(f"{lines}sync\n{then}")
    instance.offline(image, script, mounts=mounts, timeout=None)
    if part != target:
        move_aside(instance.host, part, target, reason(group, instance.name, why))
    return target


def _make_part(instance: Instance, part: str) -> None:
    """Make the directory for a copy, of the one that a killed run left behind if there is any.

    Raises:
        Error: it cannot be made.
    """
    script = (
        assignments(data=instance.places.data, part=part, end=PART)
        + f'for left in "$data"_bk_{_STAMPS}"$end"; do\n'
        + '  [ ! -d "$left" ] || { mv -- "$left" "$part"; exit; }\ndone\nmkdir -- "$part"\n'
    )
    made = instance.host.run(Tool("sh")["-eus"], stdin=Script((script,)))
    if not made.ok:
        raise Error(f"{part} cannot be made: {made.err.strip()}")


def drop_copy(instance: Instance, image: Image, target: str) -> None:
    """Remove what `copy_aside` made."""
    if instance.node.volume:
        instance.engine.must(docker["volume", "rm", target])
        return
    clear_directory(instance, image, target)


def clear_directory(instance: Instance, image: Image, target: str) -> None:
    """Delete a copy beside a node's data; it belongs to the user of the containers.

    Raises:
        Refused: a server runs on it. Mounted as data is, it has to be held first (`sh/hold.sh`).
    """
    instance.offline(image, scripts.compose(EMPTY), mounts=[Mount(target, PGDATA)], timeout=None)
    gone = instance.host.run(Tool("rmdir")["--", target])
    if not gone.ok:
        raise Error(f"{target} is empty and stays: {gone.err.strip()}")


def name_aside(of: str) -> str:
    """Return the name by which something is set aside now."""
    return f"{of}_bk_{datetime.now(UTC).strftime(_STAMP)}"


def set_aside_at(name: str) -> datetime | None:
    """Return when something was set aside, by its name; None if it is not one of ours."""
    stamp = name.removesuffix(PART).rpartition("_bk_")[2]
    try:
        at = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return at if at.strftime(_STAMP) == stamp else None  # which takes fewer digits as well


def is_part_of(name: str, data: str) -> bool:
    """Tell whether a path has the name of a copy of this data that was cut short."""
    of = name.rpartition("_bk_")[0]
    return of == data and name.endswith(PART) and set_aside_at(name) is not None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
