"""What is wrong with where a node's data lies, or will lie: path, file system, rights, space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pgherd.checks.base import NOTE, PROBLEM, WARNING, Finding
from pgherd.checks.collect import GroupCase, HostCase, NodeCase, PathSheet
from pgherd.config.values import within
from pgherd.group import outside_data
from pgherd.group.node_status import format_size, retained
from pgherd.postgres.datadir import overlap
from pgherd.postgres.health import Server
from pgherd.postgres.instance import PGDATA

LONGEST_PATH, LONGEST_NAME = 4095, 255  # bytes: Linux's PATH_MAX and NAME_MAX
INSIDE = 80  # bytes of the longest path within a data directory, as a WAL file's status has it
ASIDE = len("_bk_20260101T000000Z.part")  # what setting aside adds to the name

NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs",
    "afs", "beegfs", "lustre", "fuse.s3fs", "ncpfs", "9p", "afpfs",
}  # fmt: skip
SHARED = {  # a virtual machine's window on its host's files
    "virtiofs", "fuse.virtiofs", "fuse.grpcfuse", "osxfs", "fuse.osxfs", "vboxsf", "prl_fs",
    "fuse.vmhgfs-fuse", "vmhgfs", "drvfs",
}  # fmt: skip
OWNERLESS = {"vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk"}
FLEETING = {"tmpfs", "ramfs", "overlay", "aufs"}
LABELS = ("container_file_t", "svirt_sandbox_file_t", "container_share_t")
MAC_SHARED = ("/Users/", "/Volumes/", "/private/", "/tmp/", "/var/folders/")  # noqa: S108


def rights(node: NodeCase) -> Iterator[Finding]:
    """Yield a data directory that is none, or cannot be made."""
    path = node.path
    if path.state == "no directory":
        text = f"{path.path} is not a directory"
        yield node.finding("no-directory", PROBLEM, text, "move it away, or choose another place")
    elif path.state == "absent" and not path.writable and not node.node.volume:
        text = f"{path.path} cannot be made: {path.up} may not be written by who runs pgherd"
        cure = f"`invoke doctor --fix` makes it as root, in a container, owned by {path.user}"
        yield node.finding(
            "parent-not-writable", PROBLEM, text, cure, target=path.path, fixable=True
        )


def length(node: NodeCase) -> Iterator[Finding]:
    """Yield a path that is too long, or has blanks in it."""
    path = PurePosixPath(node.path.path)
    name, whole = len(path.name.encode()), len(str(path).encode())
    if name + ASIDE > LONGEST_NAME:
        text = f"The name {path.name} has {name} bytes: set aside it would have more than 255"
        yield node.finding("path-long", PROBLEM, text, "choose a shorter `data`")
    elif whole + INSIDE > LONGEST_PATH:
        text = f"The path {path} has {whole} bytes: files in it would have more than 4095"
        yield node.finding("path-long", PROBLEM, text, "choose a shorter `data`")
    if any(c.isspace() for c in str(path)):
        text = f"There are blanks in {path}: pgherd does not mind, scripts of yours may"
        yield node.finding("path-blanks", NOTE, text)


def file_system(node: NodeCase) -> Iterator[Finding]:
    """Yield a file system that is not fit for a database, or wants care."""
    mount = node.sheet.mounted(node.path.up)
    if mount is None:
        return
    on, move = f"{node.path.path} lies on {mount.kind} ({mount.point})", "choose another place"
    if mount.kind in NETWORK:
        text = f"{on}, a network file system: a lost connection stops or damages the server"
        cure = "use a local disk; or NFS with hard, sync and without root_squash"
        yield node.finding("network-file-system", WARNING, text, cure)
    elif mount.kind in SHARED:
        text = f"{on}, another machine's files: owners and fsync may not be what they seem"
        yield node.finding("shared-file-system", WARNING, text, 'use data = "volume:NAME"')
    elif mount.kind in OWNERLESS:
        text = f"{on}, which knows no owners: PostgreSQL refuses a directory that is not its own"
        yield node.finding("ownerless-file-system", PROBLEM, text, move)
    elif mount.kind in FLEETING:
        text = f"{on}: it is gone when the machine, or what made it, ends"
        yield node.finding("fleeting-file-system", WARNING, text, move)
    if "ro" in mount.options or "read-only" in mount.options:
        yield node.finding("read-only", PROBLEM, f"{on}, which is mounted read-only", move)


def selinux(node: NodeCase) -> Iterator[Finding]:
    """Yield a label under which SELinux keeps containers out."""
    confines = "name=selinux" in [str(o) for o in node.sheet.docker.get("SecurityOptions") or ()]
    label = node.path.label
    if not (node.sheet.selinux and confines and label) or node.node.volume:
        return
    if not any(f":{kind}" in label for kind in LABELS):
        where = node.path.up
        text = f"SELinux keeps containers out of {where} (its label is {label})"
        cure = f"sudo chcon -Rt container_file_t {where}"
        yield node.finding("selinux-label", PROBLEM, text, cure)


def sharing(node: NodeCase) -> Iterator[Finding]:
    """Yield a path that an engine in a box of its own may not see."""
    if node.node.volume:
        return
    info, path = node.sheet.docker, f"{node.path.path}/"
    desktop = str(info.get("OperatingSystem", "")).startswith("Docker Desktop")
    if desktop and node.sheet.system.startswith("Darwin") and not path.startswith(MAC_SHARED):
        text = f"Docker Desktop shares {node.path.path} with its containers only if it is told so"
        cure = "add it under Settings, Resources, File sharing"
        yield node.finding("file-sharing", WARNING, text, cure)
    elif desktop and node.sheet.system.startswith("Linux") and not path.startswith("/home/"):
        text = f"Docker Desktop shares /home only, and {node.path.path} lies elsewhere"
        cure = "add it under Settings, Resources, File sharing"
        yield node.finding("file-sharing", WARNING, text, cure)
    snap = str(info.get("DockerRootDir", "")).startswith("/var/snap/")
    if snap and not path.startswith(("/home/", "/media/", "/mnt/")):
        text = f"Docker is a snap and sees homes only, not {node.path.path}"
        cure = "install Docker's own packages, or put it under /home"
        yield node.finding("file-sharing", PROBLEM, text, cure)


def shared(node: NodeCase) -> Iterator[Finding]:
    """Yield other containers that have the data directory, a part of it, or what it lies in.

    PostgreSQL's own lock cannot see it: in every container the server is process 1.
    """
    mine = node.node.volume or node.path.path
    for theirs, container in node.used:
        text = f"{mine} is in use by the container {container} too (it has {theirs})"
        cure = f"docker stop {container}, or choose another place: two servers destroy it"
        yield node.finding("data-shared", PROBLEM, text, cure)


def moved(node: NodeCase) -> Iterator[Finding]:
    """Yield a data directory that was taken away under the running server."""
    health = node.health
    if not (node.runs and health and node.facts):
        return
    path, cure = node.path, "`invoke stop`, put the directory back, `invoke start`"
    if health.no_database:
        text = f"{node.name} runs, and its data directory has no database any more ({path.path})"
        yield node.finding("data-gone", PROBLEM, text, f"`invoke rejoin {node.name}` or a copy")
    elif node.node.volume:
        return
    elif path.state == "absent" or (path.inode and health.inode and path.inode != health.inode):
        text = f"{path.path} is not the directory any more that {node.name} runs on"
        yield node.finding("data-moved", PROBLEM, text, cure)


def noexec(host: HostCase) -> Iterator[Finding]:
    """Yield scripts for a new database where nothing may be executed."""
    mount = host.sheet.mounted(host.initdb) if host.initdb else None
    if mount and "noexec" in mount.options:
        text = f"{host.initdb} lies on {mount.point}, mounted noexec: executable *.sh there fail"
        yield host.finding("noexec", WARNING, text, "chmod -x them: then the image sources them")


def clones(host: HostCase) -> Iterator[Finding]:
    """Yield scripts for a new database that copy a server: there a server runs on the data."""
    for script in host.sheet.clones:
        text = f"{script} copies a server while the new one runs on the very data directory"
        yield host.finding("initdb-clones", PROBLEM, text, "leave that to `invoke seed-standby`")


def leftovers(node: NodeCase) -> Iterator[Finding]:
    """Yield copies set aside that were cut short."""
    for part in node.path.parts:
        if part in node.busy:
            continue  # a run is at work on it
        text = f"{part} is a copy that was cut short, and nothing uses it"
        cure = "`invoke doctor --fix --delete-parts`"
        yield node.finding("unfinished-copy", WARNING, text, cure, target=part)


def lies_within(one: PathSheet, other: PathSheet) -> bool:
    """Tell whether one of two paths lies in the other, or is it."""
    return overlap(one.path, other.path)


def nested(host: HostCase) -> Iterator[Finding]:
    """Yield data directories that lie in each other once links are followed."""
    nodes = [place for node in host.nodes for place in node.places if not place.node.volume]
    for number, one in enumerate(nodes):
        for other in nodes[:number]:
            if lies_within(one.path, other.path):
                paths = f"{one.path.path}, {other.path.path}"
                text = f"The data of {one.name} and {other.name} overlap: {paths}"
                yield host.finding("data-nested", PROBLEM, text, "choose another place")


HOST_CHECKS = (noexec, clones, nested)
MOVED_CHECKS = (moved,)
PLACE_CHECKS = (rights, length, file_system, selinux, sharing, shared, leftovers)


# --- whether there is room: for what is to be seeded, for WAL, for files at all ---

NEW = 128 * 10**6  # bytes of a new database: 40 MB, and the first files of WAL
MAX_WAL = 2**30  # max_wal_size, if nothing is said
FULL, LOW = 64 * 2**20, 0.03  # of a living server's disk
FEW_FILES = 2000  # an empty database has about 1000


def seeding(group: GroupCase) -> Iterator[Finding]:
    """Yield file systems without room for what is to be laid there, all nodes together."""
    led = group.led.server if group.led else None
    headroom = led.bytes.get("max_wal_size", MAX_WAL) if led else MAX_WAL
    places: dict[tuple[str, str], list[tuple[NodeCase, int, int]]] = {}
    for host in group.hosts:
        for node in (node for node in host.nodes if not node.seeded):
            rooms = [headroom, *(0 for _ in node.tablespaces)]
            for place, need, room in zip(node.places, _needs(led, node), rooms, strict=True):
                if place.path.free is not None and (need or room):
                    at = (host.name, place.path.mount)
                    places.setdefault(at, []).append((place, need, room))
    for (host_name, mount), wanted in places.items():
        nodes = list({node.name: node for node, _, _ in wanted}.values())
        free, names = nodes[0].path.free or 0, " and ".join(node.name for node in nodes)
        need = sum(need for _, need, _ in wanted)
        easy = need + sum(room for _, _, room in wanted)
        what = f"{mount} has {format_size(free)} free, and {names} will need {format_size(need)}"
        cure, one = (
            "make room, or choose another place",
            nodes[0].name if len(nodes) == 1 else None,
        )
        if free < need:
            yield Finding("space-short", PROBLEM, what, cure, node=one, host=host_name)
        elif free < easy:
            text = f"{what} and up to {format_size(headroom)} of WAL each"
            yield Finding("space-low", WARNING, text, cure, node=one, host=host_name)


def _needs(led: Server | None, node: NodeCase) -> list[int]:
    """Return how many bytes will be wanted in each place of a node's data."""
    if led is None:
        return [NEW, *(0 for _ in node.tablespaces)]
    others = [
        sum(size for path, size in led.tablespaces.items() if within(path, at.inside))
        for at in node.tablespaces
    ]
    return [led.databases + led.wal - sum(others), *others]


def full(node: NodeCase) -> Iterator[Finding]:
    """Yield a living server's disk that is full, or nearly so."""
    for place in node.places if node.runs else ():
        yield from _nearly_full(place)


def _nearly_full(node: NodeCase) -> Iterator[Finding]:
    free, total = node.path.free, node.path.total
    if free is None:
        return
    text = f"The disk of {node.name} ({node.path.mount}) has {format_size(free)} free"
    cure = "make room there; WAL that slots keep is in `invoke status`"
    if free < FULL:
        yield node.finding("disk-full", PROBLEM, text, cure)
    elif total and free < total * LOW and free < MAX_WAL:
        yield node.finding("disk-low", WARNING, text, cure)


def slots(node: NodeCase) -> Iterator[Finding]:
    """Yield slots that may keep more WAL than there is room for, or without any limit."""
    facts, server = node.facts, node.server
    if not (facts and server and facts.slots):
        return
    limit = server.bytes.get("max_slot_wal_keep_size", -1)
    cure = "set max_slot_wal_keep_size lower than the room (conf/postgresql.conf or settings)"
    if limit < 0:
        text = (
            f"max_slot_wal_keep_size of {node.name} is without limit: a standby away fills its disk"
        )
        yield node.finding("slot-unlimited", WARNING, text, cure)
        return
    more = limit - max(retained(slot) for slot in facts.slots)
    if node.path.free is not None and node.path.free < more:
        text = (
            f"Slots of {node.name} may keep {format_size(more)} more of WAL, and its disk has "
            f"{format_size(node.path.free)} free: a standby away fills it"
        )
        yield node.finding("slot-room", WARNING, text, cure)


def inodes(node: NodeCase) -> Iterator[Finding]:
    """Yield a file system that can have few files more."""
    left = node.path.inodes
    if left is not None and left < FEW_FILES:
        text = f"{node.path.mount} can have {left} files more, and a new database has 1000"
        level = PROBLEM if left < FEW_FILES / 2 and not node.seeded else WARNING
        yield node.finding("inodes-short", level, text, "remove small files there")


GROUP_CHECKS = (seeding,)
SPACE_CHECKS = (full, slots, inodes)


# --- what is wrong with a node's own files: its data directory, its passfile, its mounts ---

AHEAD_SECONDS = 5  # by which a file may be newer than now before it is told
MODES = {"700", "750"}  # what PostgreSQL takes (miscinit.c, checkDataDir)


def silence(node: NodeCase) -> Iterator[Finding]:
    """Yield that a node could not be asked what ails it: it ended meanwhile, or is too busy."""
    if node.silence:
        text = f"{node.name} could not be examined: {node.silence}"
        yield node.finding("not-examined", WARNING, text, "`invoke doctor` again")


def database(node: NodeCase) -> Iterator[Finding]:
    """Yield a data directory that is no database, or another major's."""
    disk, where = node.disk, node.node.data
    if disk is None or disk.empty or disk.unfinished:
        return
    if disk.pg_version is None:
        text = f"{where} is not empty and has no PostgreSQL database in it"
        yield node.finding("data-foreign", PROBLEM, text, "move it away, or choose another `data`")
    elif node.image_major and disk.pg_version != node.image_major:
        text = (
            f"{where} is a database of PostgreSQL {disk.pg_version}, and the image has "
            f"{node.image_major}"
        )
        cure = f"ask for an image of {disk.pg_version}, or choose another `data`"
        yield node.finding("wrong-major", PROBLEM, text, cure)


def unfinished(node: NodeCase) -> Iterator[Finding]:
    """Yield a data directory whose filling was cut short."""
    if node.disk and node.disk.unfinished and not node.runs:
        again = f"`invoke seed-standby --node {node.name}`"
        cure = again if node.node.upstream else "`invoke setup-master`"
        text = f"Filling {node.node.data} was cut short: it is cleared when that is done again"
        yield node.finding("data-unfinished", NOTE, text, cure)


def elsewhere(node: NodeCase) -> Iterator[Finding]:
    """Yield what a database that is down has outside its data directory, where it gets lost.

    Of one that runs `invoke status` tells it.
    """
    if node.disk is None or node.runs:
        return
    for one in outside_data.astray(node.node, node.disk.outside, node.container):
        text = f"{node.name} has {one.what} at {one.path}, outside its data directory"
        cure = f"`docker start {node.name}`, then `invoke status` tells the way out"
        if node.container is None:
            cure = "`invoke start` tells the way out"
        yield node.finding(outside_data.CODE, PROBLEM, text, cure)


def owner(node: NodeCase) -> Iterator[Finding]:
    """Yield a data directory that PostgreSQL refuses for its owner or its permissions."""
    health = node.health
    if health is None or not health.owner or health.no_database:
        return
    if health.owner != "postgres" or health.mode not in MODES:
        text = (
            f"{node.node.data} belongs to {health.owner} with permissions {health.mode}, as the "
            "container has it: PostgreSQL wants its own, 0700"
        )
        yield node.finding(
            "data-owner", PROBLEM, text, "`invoke doctor --fix` sets both", fixable=True
        )


def recovery_conf(node: NodeCase) -> Iterator[Finding]:
    """Yield a recovery.conf, as tutorials of before PostgreSQL 12 have it."""
    if node.health and node.health.recovery_conf:
        text = f"{node.node.data}/recovery.conf is there: no server since 12 starts with one"
        cure = "move it away; what it says is in standby.signal and primary_conninfo now"
        yield node.finding("recovery-conf", PROBLEM, text, cure)


def passfile(node: NodeCase) -> Iterator[Finding]:
    """Yield a passfile that libpq ignores, so that a good password fails."""
    said = node.health.passfile if node.health else ""
    if said == "none" and node.seeded and node.owned:
        text = f"{node.name} has no passfile: it cannot stream from anyone"
        yield node.finding("passfile-missing", PROBLEM, text, "`invoke stop start`")
    elif said and said not in {"none", "postgres 600", "postgres 400"}:
        who, _, mode = said.partition(" ")
        text = (
            f"The passfile of {node.name} belongs to {who} with permissions {mode}: libpq "
            "ignores it, and the password fails"
        )
        yield node.finding(
            "passfile-open", PROBLEM, text, "`invoke doctor --fix` sets both", fixable=True
        )


def keys(node: NodeCase) -> Iterator[Finding]:
    """Yield keys for TLS with which PostgreSQL or libpq refuse to work."""
    for said in node.health.keys if node.health else ():
        name, who, mode = said.removeprefix("./").rsplit(" ", 2)
        if (who, mode) not in {("postgres", "600"), ("postgres", "400")}:
            text = f"The key {name} of {node.name} belongs to {who} with permissions {mode}"
            more = f"{text}: no server starts with it"
            cure = "`invoke doctor --fix` sets both"
            yield node.finding("key-open", PROBLEM, more, cure, fixable=True)


def clock(node: NodeCase) -> Iterator[Finding]:
    """Yield files that were written later than now: the clock was set back."""
    ahead = node.health.ahead if node.health else 0
    if ahead > AHEAD_SECONDS:
        text = f"Files of {node.name} are {ahead} s newer than its host's clock: that was set back"
        cure = "let NTP set the clock; until it has passed, times in logs and lags mislead"
        yield node.finding("clock-back", WARNING, text, cure)


def mounts(node: NodeCase) -> Iterator[Finding]:
    """Yield a container whose database is in no mount, and gone with it."""
    container = node.container
    targets = {mount.target for mount in container.mounts} if container else set()
    if node.owned and container and PGDATA not in targets:
        text = f"The container {node.name} has no mount at {PGDATA}: its data goes with it"
        cure = f"copy that out (`docker cp {container.name}:{PGDATA} …`), then `docker rm`"
        yield node.finding("mount-missing", PROBLEM, text, cure)


FILE_CHECKS = (
    silence, database, unfinished, elsewhere, owner, recovery_conf, passfile, keys, clock, mounts,
)  # fmt: skip
