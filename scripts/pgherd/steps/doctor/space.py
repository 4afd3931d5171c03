"""Whether there is room: for what is to be seeded, for WAL, for files at all."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.postgres.health import Server
from pgherd.rules import within
from pgherd.steps.doctor.case import GroupCase, NodeCase
from pgherd.steps.doctor.finding import PROBLEM, WARNING, Finding
from pgherd.steps.standing import retained, size

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
        what = f"{mount} has {size(free)} free, and {names} will need {size(need)}"
        cure, one = (
            "make room, or choose another place",
            nodes[0].name if len(nodes) == 1 else None,
        )
        if free < need:
            yield Finding("space-short", PROBLEM, what, cure, node=one, host=host_name)
        elif free < easy:
            text = f"{what} and up to {size(headroom)} of WAL each"
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
    text = f"The disk of {node.name} ({node.path.mount}) has {size(free)} free"
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
            f"Slots of {node.name} may keep {size(more)} more of WAL, and its disk has "
            f"{size(node.path.free)} free: a standby away fills it"
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
NODE_CHECKS = (full, slots, inodes)
