"""What is wrong with a node's own files: its data directory, its passfile, its mounts."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.postgres.instance import PGDATA
from pgherd.steps import outside
from pgherd.steps.doctor.case import NodeCase
from pgherd.steps.doctor.finding import NOTE, PROBLEM, WARNING, Finding

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
    for one in outside.astray(node.node, node.disk.outside, node.container):
        text = f"{node.name} has {one.what} at {one.path}, outside its data directory"
        cure = f"`docker start {node.name}`, then `invoke status` tells the way out"
        if node.container is None:
            cure = "`invoke start` tells the way out"
        yield node.finding(outside.CODE, PROBLEM, text, cure)


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


NODE_CHECKS = (
    silence, database, unfinished, elsewhere, owner, recovery_conf, passfile, keys, clock, mounts,
)  # fmt: skip
