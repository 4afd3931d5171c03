"""Putting a group's passwords back, with all that its nodes have beside their data."""

from __future__ import annotations

from pgherd.errors import Refused
from pgherd.host import LOCAL
from pgherd.postgres.group import Group
from pgherd.postgres.observation import Observation
from pgherd.steps.aside import now_stamp
from pgherd.steps.backups import swap
from pgherd.steps.backups.copies import Copy
from pgherd.steps.leaders import alive


def restore_passwords(group: Group, copy: Copy, seen: Observation) -> None:
    """Put a group's passwords back; those that it has are set aside.

    Raises:
        Refused: a server of the group runs, or a password is missing.
    """
    running = [name for name, node in seen.nodes.items() if alive(node)]
    if running:
        raise Refused(f"{running[0]} runs, and has the present passwords: `invoke stop` first.")
    if copy.fault:
        raise Refused(f"{copy.name} is not whole: {copy.fault}.")
    host = group.here if copy.host == LOCAL else group.sites[copy.host].host
    group.trace.note(f"{group.name}: putting its passwords back ({copy.path})")
    why = f"before {copy.name} was put back"
    if target := swap.swap(host, copy, copy.of, f"passwords of {group.name}", why, now_stamp()):
        group.trace.note(f"{group.name}: those that it had are set aside as {target}")
