"""What a server's log tells of why it does not do what it should.

Sentences are PostgreSQL's own in English, 14 to 18; of a log in another language nothing is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pgherd.checks.base import PROBLEM, WARNING, Finding
from pgherd.checks.collect import NodeCase

# What a standby complains of before this line is over; what ends the stream comes after it.
STREAMS = "started streaming WAL from primary"


@dataclass(frozen=True)
class LogPattern:
    """A line of a log, what it means and what helps; `NODE` in the cure is the node's name."""

    code: str
    pattern: re.Pattern[str]
    cure: str
    always: bool = False  # also of a server that does what it should


def _pattern(code: str, pattern: str, cure: str, *, always: bool = False) -> LogPattern:
    return LogPattern(code, re.compile(pattern), cure, always)


LOG_PATTERNS = (
    _pattern("log-no-rule", r"no pg_hba\.conf entry for replication", "`invoke setup-master`"),
    _pattern("log-password", r"password authentication failed|no password supplied",
            "`invoke setup-master` sets the password anew, then `invoke rejoin NODE`"),
    _pattern("log-wal-removed", r"requested WAL segment \w+ has already been removed",
            "`invoke rejoin NODE`"),
    _pattern("log-other-system", r"database system identifier differs", "`invoke rejoin NODE`"),
    _pattern("log-timeline", r"is not a child of this server's history|is behind recovery timeline|"
            r"is not in this server's history", "`invoke rejoin NODE`"),
    _pattern("log-slot", r"replication slot \"[^\"]*\" does not exist|"
            r"can no longer (access|get changes from) replication slot", "`invoke rejoin NODE`"),
    _pattern("log-senders", r"exceeds \"?max_wal_senders|all replication slots are in use",
            "raise max_wal_senders and max_replication_slots, `invoke stop start`"),
    _pattern("log-settings", r"insufficient parameter settings|contains errors|"
            r"unrecognized configuration parameter",
            "correct the node's settings: a standby needs at least what its primary has"),
    _pattern("log-major", r"database files are incompatible with server",
            "ask for the image of the data's major"),
    _pattern("log-owner", r"has wrong ownership|has invalid permissions", "`invoke doctor --fix`"),
    _pattern("log-tablespace", r"Create this directory for the tablespace",
            "tablespaces have no mount: move what is in them to pg_default on the primary"),
    _pattern("log-recovery-conf", r"recovery command file \"[^\"]*\" is not supported",
            "move recovery.conf away"),
    _pattern("log-unreached", r"could not connect to the primary server|"
            r"could not translate host name", "`invoke status` tells whether its upstream answers"),
    _pattern("log-shm", r"could not resize shared memory segment",
            "lower work_mem or max_parallel_workers_per_gather", always=True),
    _pattern("log-no-space", r"No space left on device", "make room on the disk", always=True),
    _pattern(
        "log-panic", r"PANIC: ", "`invoke logs --node NODE`, and see to its disk", always=True
    ),
    _pattern("log-io", r"could not (fsync|read|write) .*: Input/output error|"
            r"invalid page in block", "its disk is bad: `invoke rejoin NODE` on another",
            always=True),
)  # fmt: skip


def log_findings(node: NodeCase) -> Iterator[Finding]:
    """Yield what the log says: of a server that is not well all, else what is serious by itself.

    One that was stopped in order has nothing to explain.
    """
    box = node.container
    well = node.streams or bool(box and not box.alive and box.exit_code == 0)
    lines = node.sheet.logs.get(node.name, "").splitlines()
    since = max((n for n, line in enumerate(lines) if STREAMS in line), default=0)
    told: set[str] = set()
    for saying in LOG_PATTERNS if node.owned else ():
        if well and not saying.always:
            continue
        asked = lines if saying.always else lines[since:]
        line = next((line for line in reversed(asked) if saying.pattern.search(line)), None)
        if line and line not in told:
            told.add(line)
            level = WARNING if well else PROBLEM
            text = f"{node.name} says: {line.strip()}"
            yield node.finding(saying.code, level, text, saying.cure.replace("NODE", node.name))


NODE_CHECKS = (log_findings,)
