"""What ails a running server, by its own account: settings, rules, archiving, limits, damage."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.checks.base import NOTE, PROBLEM, WARNING, Finding
from pgherd.checks.collect import GroupCase, NodeCase
from pgherd.group.node_status import format_size
from pgherd.postgres.conf import read_conninfo

DEFAULT_SHM = 64 * 2**20  # bytes that Docker gives, if nothing is said
RETRY = 1000  # milliseconds of wal_retrieve_retry_interval, above which a promotion often sleeps
FILES = 1000  # max_files_per_process, if nothing is said: with less, servers reopen files
OLD = 1_500_000_000  # transactions, of 2^31: at 2^31 minus 3 million no more are given (varsup.c)
FULL = 0.9


def settings(node: NodeCase) -> Iterator[Finding]:
    """Yield lines of the configuration that the server does not take."""
    bad = node.server.bad_lines if node.server else ()
    if bad:
        text = f"{node.name} does not take what is in its configuration: {'; '.join(bad[:3])}"
        cure = f"`invoke logs --node {node.name}`; correct conf/ or the node's settings"
        yield node.finding("settings-broken", PROBLEM, text, cure)


def rules(node: NodeCase) -> Iterator[Finding]:
    """Yield rules of pg_hba.conf that are broken, or let no standby in."""
    bad = node.server.bad_rules if node.server else ()
    if bad:
        text = f"pg_hba.conf of {node.name} is broken, so that a reload is ignored: {bad[0]}"
        yield node.finding("hba-broken", PROBLEM, text, f"correct {node.node.data}/pg_hba.conf")
    elif node.facts and not node.facts.hba_lets_replicator_in and not node.alone:
        text = f"pg_hba.conf of {node.name} lets no replication in: `all` does not mean it"
        cure = "`invoke setup-master`" if not node.facts.in_recovery else "`invoke stop start`"
        yield node.finding("hba-no-replication", PROBLEM, text, cure)


def reloads(node: NodeCase) -> Iterator[Finding]:
    """Yield configuration that was changed and not read since."""
    server = node.server
    if server and server.unread and not server.bad_lines and not server.bad_rules:
        text = f"{', '.join(server.unread)} of {node.name} changed, and the server has not read it"
        cure, grave = "`invoke doctor --fix` reloads", ", ".join(server.grave)
        if grave:
            text = f"{text}: a reload would change {grave}"
            cure = f"look at that; `invoke psql --node {node.name}`: SELECT pg_reload_conf()"
        yield node.finding("reload-due", WARNING, text, cure, fixable=not grave)


def restarts(node: NodeCase) -> Iterator[Finding]:
    """Yield settings that wait for a restart."""
    due = node.facts.restart_due if node.facts else ()
    if due:
        text = f"{node.name} has to be restarted for {', '.join(due)}"
        yield node.finding("restart-due", WARNING, text, "`invoke stop start`")


def retry(node: NodeCase) -> Iterator[Finding]:
    """Yield a long wal_retrieve_retry_interval: a promotion sleeps so long."""
    server = node.server
    now = int(server.settings.get("wal_retrieve_retry_interval", "0")) if server else 0
    if server is None or now <= RETRY:
        return
    text = (
        f"wal_retrieve_retry_interval of {node.name} is {now / 1000:g} s: a promotion, or "
        "following another primary, often sleeps that long"
    )
    by_hand = server.retry_by is not None
    cure = "`invoke doctor --fix` takes back what ALTER SYSTEM set" if by_hand else "set 100ms"
    yield node.finding("retry-slow", WARNING, text, cure, fixable=by_hand)


def durability(node: NodeCase) -> Iterator[Finding]:
    """Yield settings under which a crash destroys the database."""
    known = node.server.settings if node.server else {}
    for name in ("fsync", "full_page_writes"):
        if known.get(name) == "off":
            text = f"{name} is off on {node.name}: a crash of its machine destroys the database"
            yield node.finding("not-durable", PROBLEM, text, f"set {name} = on, and reload")
    if known.get("wal_level") == "minimal":
        text = f"wal_level of {node.name} is minimal: nobody can stream from it"
        yield node.finding("wal-minimal", PROBLEM, text, "set wal_level = replica, and restart")


def shm(node: NodeCase) -> Iterator[Finding]:
    """Yield too little /dev/shm for parallel queries: `could not resize shared memory segment`."""
    server, given = node.server, node.health.shm if node.health else None
    if (
        server is None
        or given is None
        or server.settings.get("dynamic_shared_memory_type") != "posix"
    ):
        return
    workers = int(server.settings.get("max_parallel_workers_per_gather", "0"))
    factor = float(server.settings.get("hash_mem_multiplier", "1"))
    hashed = int(server.bytes.get("work_mem", 0) * factor * (workers + 1)) if workers else 0
    need = max(hashed, server.bytes.get("maintenance_work_mem", 0))
    have, used = given
    if have < need or have <= DEFAULT_SHM or used > have * FULL:
        text = (
            f"The /dev/shm of {node.name} has {format_size(have)}, {format_size(used)} used, and "
            f"one parallel query may need {format_size(need)} "
            "(work_mem, hash_mem_multiplier, maintenance_work_mem)"
        )
        cure = "lower work_mem or max_parallel_workers_per_gather of the node (settings)"
        yield node.finding("shm-small", WARNING, text, cure)


def limits(node: NodeCase) -> Iterator[Finding]:
    """Yield what is nearly used up: connections, senders, open files."""
    server = node.server
    if server is None:
        return
    for code, used, name in (
        ("connections-full", server.clients, "max_connections"),
        ("senders-full", server.senders, "max_wal_senders"),
    ):
        most = int(server.settings.get(name, "0"))
        if most and used >= most * FULL:
            text = f"{used} of {most} ({name}) are in use on {node.name}"
            yield node.finding(code, WARNING, text, f"raise {name} on every node, standbys first")
    files = node.health.files if node.health else None
    if files is not None and files < FILES:
        text = f"A process of {node.name} may have only {files} files open"
        yield node.finding("files-few", WARNING, text, "raise default-ulimits in daemon.json")


def damage(node: NodeCase) -> Iterator[Finding]:
    """Yield pages that were read with a wrong checksum, and transaction ids that run out."""
    server = node.server
    if server and server.broken_pages:
        text = f"{server.broken_pages} pages of {node.name} had a wrong checksum: its disk is bad?"
        cure = (
            f"`invoke failover` if it is primary, then `invoke rejoin {node.name}` on a good disk"
        )
        yield node.finding("checksum-failures", PROBLEM, text, cure)
    if server and server.oldest > OLD:
        text = f"Transaction ids of {node.name} run out: {server.oldest} of 2147 million are used"
        yield node.finding("wraparound", PROBLEM, text, "VACUUM FREEZE; end old transactions")


def collations(node: NodeCase) -> Iterator[Finding]:
    """Yield databases whose collations are another C library's: text indexes may be wrong."""
    names = node.server.collations if node.server else ()
    if names:
        text = (
            f"The collations of {', '.join(names)} on {node.name} are another C library's than the "
            "image has: indexes on text may be wrong"
        )
        cure = "REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION"
        yield node.finding("collation-changed", WARNING, text, cure)


def container(node: NodeCase) -> Iterator[Finding]:
    """Yield what is wrong with how the server's container runs."""
    made = node.sheet.containers.get(node.name)
    if made is None or not node.owned:
        return
    logs = f"`invoke logs --node {node.name}`"
    if node.container and node.container.status == "restarting":
        text = f"{node.name} ends as soon as it is started, {made.restarts} times until now"
        yield node.finding("restarting", PROBLEM, text, logs)
    elif made.restarts:
        text = f"Docker has started {node.name} again {made.restarts} times after it ended"
        yield node.finding("restarted", NOTE, text, logs)
    if made.oom_killed:
        text = f"The kernel killed {node.name} for want of memory"
        yield node.finding("oom-killed", PROBLEM, text, "lower shared_buffers or work_mem")
    if made.stop_timeout is None or made.stop_timeout < 90:  # noqa: PLR2004
        text = (
            f"Docker kills {node.name} {made.stop_timeout or 10} s after a stop: it then recovers"
        )
        yield node.finding("stop-short", WARNING, text, "`invoke down`, then `invoke start`")
    if made.network == "host":
        text = f"{node.name} is on the host's network: who is on that machine needs no password"
        yield node.finding("network-host", WARNING, text, "`invoke down`, then `invoke start`")
    given = [word for word in made.words[1:] if word.startswith("-")]
    if given:
        text = f"{node.name} was started with options ({' '.join(given)}): they outrank its files"
        cure = "use the node's settings; `invoke down`, then `invoke start`"
        yield node.finding("command-options", WARNING, text, cure)


NODE_CHECKS = (
    settings, rules, reloads, restarts, retry, durability, shm, limits, damage,
    collations, container,
)  # fmt: skip


# --- what does not fit between the nodes ---

# A standby with less than its primary does not start, or stops replaying
# (CheckRequiredParameterValues).
NOT_LESS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)


def standbys(group: GroupCase) -> Iterator[NodeCase]:
    """Yield the standbys that answer."""
    for node in group.nodes.values():
        if node.facts and node.facts.in_recovery:
            yield node


def parameters(group: GroupCase) -> Iterator[Finding]:
    """Yield standbys that have less of something than their primary."""
    led = group.led.server if group.led else None
    for node in standbys(group):
        if not (led and node.server):
            continue
        for name in NOT_LESS:
            mine, theirs = node.server.settings.get(name), led.settings.get(name)
            if mine and theirs and int(mine) < int(theirs):
                text = (
                    f"{name} of {node.name} is {mine}, and {group.primary} has {theirs}: replay "
                    "stops, or the standby does not start again"
                )
                cure = f"give {node.name} at least that (settings), then `invoke stop start`"
                yield node.finding("settings-less", PROBLEM, text, cure)


def libraries(group: GroupCase) -> Iterator[Finding]:
    """Yield standbys whose C library sorts otherwise than the primary's; 14 says nothing of it."""
    led = group.led.server if group.led else None
    for node in standbys(group):
        if led and node.server and led.libc and node.server.libc and led.libc != node.server.libc:
            text = (
                f"The C library of {node.name} is {node.server.libc}, that of {group.primary} "
                f"{led.libc}: indexes on text are wrong on one of them"
            )
            cure = "the same image on both: `invoke down` and `invoke start`"
            yield node.finding("libc-differs", PROBLEM, text, cure)


def names(group: GroupCase) -> Iterator[Finding]:
    """Yield standbys that stream under a name that nobody waits for, or without a slot."""
    for node in standbys(group):
        if node.facts is None or not node.facts.primary_conninfo:
            continue
        said = read_conninfo(node.facts.primary_conninfo).get("application_name", "")
        asked = node.node.application_name
        if said.lower() != asked.lower():
            text = f"{node.name} streams as {said or 'walreceiver'}, and the topology has {asked}"
            more = "commits that wait for it wait for ever"
            yield node.finding(
                "application-name", PROBLEM, f"{text}: {more}", f"`invoke rejoin {node.name}`"
            )
        if not node.facts.primary_slot:
            text = f"{node.name} streams without a slot: away for long, it cannot follow any more"
            yield node.finding("no-slot", WARNING, text, f"`invoke rejoin {node.name}`")


def secrets(group: GroupCase) -> Iterator[Finding]:
    """Yield files with secrets that others may read."""
    for path, mode in group.secrets:
        if mode & 0o077:
            text = f"{path} has permissions {mode:04o}: others may read it"
            anew = "rotate-passwords" if path.endswith(".password") else "tls --renew"
            cure = f"`invoke doctor --fix`, and as others may have read it, `invoke {anew}`"
            yield Finding("secret-open", PROBLEM, text, cure, target=path, fixable=True)


GROUP_CHECKS = (parameters, libraries, names, secrets)
