"""Proof that the group replicates, as a client of its published ports would see it.

First everything is examined and nothing is changed. Only if all of that holds, a table is made on
the primary, its rows are waited for and read on each standby, and writes to the standbys are
tried; the table is gone afterwards. Every wait has a deadline: `verify` never hangs.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field

from pgherd.docker import docker
from pgherd.errors import DeadlinePassed, Error, Refused
from pgherd.host.together import side_by_side
from pgherd.postgres import scripts
from pgherd.postgres.conf import SESSION, SUPERUSER_SESSION, session_options
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.shell import assignments, command_line
from pgherd.steps.node import delayed
from pgherd.verify.checks import EXAMINED, KEPT, PROBED, CheckResult, View, not_tried
from pgherd.verify.client import SHOW_CERTIFICATES, UNTRUSTED, Client, connected
from pgherd.verify.examine import examine, standbys_of
from pgherd.verify.probe import probe

__all__ = ["CheckResult", "Verdict", "as_script", "verify"]

LOG_SECONDS = 10.0
# The lines that the tutorial looks for, in the words of 14 to 18 in English.
PRIMARY_LINES = (r"is now a (?:synchronous standby|candidate for quorum)",)
STANDBY_LINES = (
    r"entering standby mode",
    r"ready to accept read-only connections",
    r"started streaming WAL from primary",
)


@dataclass(frozen=True)
class Verdict:
    """What was proven of a group, check by check, and the log lines that go with it."""

    group: str
    checks: list[CheckResult]
    seconds: float
    log: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every check passed, and there was one at least."""
        return bool(self.checks) and all(check.ok for check in self.checks)


def verify(group: Group, timeout: float = 15.0) -> Verdict:
    """Check the group from outside; `timeout` is for each single wait, in seconds.

    Raises:
        Refused: the topology has no standby.
        Error: it has none, and its one node does not answer.
    """
    started = time.monotonic()
    with connected(group) as clients:
        silent = clients[group.master.name].fault
        if silent and not group.topology.standbys:
            down = "`invoke start` if it is down"
            raise Error(f"{silent}\n{SHOW_CERTIFICATES if UNTRUSTED in silent else down}.")
        _refuse_alone(group)
        view, checks = _checked(group, clients, timeout)
    order = [*EXAMINED, *PROBED]
    checks.sort(key=lambda check: order.index(check.name))
    log = _log_lines(group, view.primary) if all(check.ok for check in checks) else {}
    return Verdict(group.name, checks, time.monotonic() - started, log)


def _refuse_alone(group: Group) -> None:
    if not group.topology.standbys:
        raise Refused(
            f"{group.name} has no standby to verify: give its topology file a table "
            f'`[nodes.NAME]` with `upstream = "{group.master.name}"`, then `invoke add-standby '
            "NAME`."
        )


def _checked(
    group: Group, clients: dict[str, Client], timeout: float
) -> tuple[View, list[CheckResult]]:
    view = examine(group, clients, timeout)
    if view.primary and all(check.ok for check in view.checks if check.name != KEPT):
        return view, view.checks + probe(clients, view, timeout)
    rest = [
        not_tried(name, node, "an examination failed, so nothing was written")
        for node in standbys_of(group, view.primary)
        for name in PROBED
    ]
    return view, view.checks + rest


def as_script(group: Group) -> str:
    """Return the checks as shell text, for each standby of the topology as it is asked for.

    Raises:
        Refused: the topology has no standby.
    """
    _refuse_alone(group)
    primary = group.master
    return "\n".join(
        assignments(primary=primary.name, standby=node.name, delayed=_delayed(group, node.name))
        + _way("on_primary", primary)
        + _way("on_standby", group.instance(node.name))
        + scripts.fragment("proof")
        for node in group.topology.standbys
    )


def _delayed(group: Group, name: str) -> str:
    return "yes" if delayed(group.instance(name)) else ""


def _way(name: str, instance: Instance) -> str:
    """Return a shell function that hands its stdin to psql in a node's container."""
    options = session_options({**SESSION, **SUPERUSER_SESSION})
    words = ["docker", "exec", "-i", "--user", "postgres", "--env", f"PGOPTIONS={options}"]
    words += ["--env", f"PGDATABASE={instance.database or 'postgres'}"]
    words += [instance.name, "psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate"]
    return f"{name}() {{ {command_line(words, instance.host.over)}; }}\n"


def _log_lines(group: Group, primary: str | None) -> dict[str, list[str]]:
    """Return the tutorial's log lines; the primary's comes with the write that was just made."""

    def lines(instance: Instance) -> list[str]:
        wanted = PRIMARY_LINES if instance.name == primary else STANDBY_LINES
        found: dict[str, str] = {}

        def look(line: str) -> None:
            found.update({pattern: line for pattern in wanted if re.search(pattern, line)})

        with suppress(DeadlinePassed):  # a log of many GB: what was found by then has to do
            instance.engine.run(
                docker["logs", instance.name], timeout=LOG_SECONDS, on_line=look, reads=True
            )
        return [found[pattern] for pattern in wanted if pattern in found]

    instances = list(group.instances.values())
    return dict(zip(group.instances, side_by_side(lines, instances), strict=True))
