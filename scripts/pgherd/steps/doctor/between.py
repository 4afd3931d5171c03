"""What does not fit between the nodes of a group, and between its secrets and who may read them."""

from __future__ import annotations

from collections.abc import Iterator

from pgherd.postgres.conf import read_conninfo
from pgherd.steps.doctor.case import GroupCase, NodeCase
from pgherd.steps.doctor.finding import PROBLEM, WARNING, Finding

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
