"""What is wrong with where a node's data lies, or will lie: path, file system, rights, space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pgherd.postgres.occupancy import overlap
from pgherd.steps.doctor.case import HostCase, NodeCase
from pgherd.steps.doctor.finding import NOTE, PROBLEM, WARNING, Finding
from pgherd.steps.doctor.sheet import PathSheet

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
NODE_CHECKS = (moved,)
PLACE_CHECKS = (rights, length, file_system, selinux, sharing, shared, leftovers)
