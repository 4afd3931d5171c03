"""What may ail one node, as its server and its files tell it: reads only, nothing is judged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pgherd.errors import Error
from pgherd.hosts.commands import Script
from pgherd.postgres import scripts


@dataclass(frozen=True)
class Server:
    """What a running server says of itself: see `sql/health.sql` for each field's source."""

    bytes: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    retry_by: str | None = None
    databases: int = 0
    wal: int = 0
    unread: tuple[str, ...] = ()
    grave: tuple[str, ...] = ()
    bad_lines: tuple[str, ...] = ()
    bad_rules: tuple[str, ...] = ()
    collations: tuple[str, ...] = ()
    libc: str | None = None
    broken_pages: int = 0
    oldest: int = 0
    clients: int = 0
    senders: int = 0
    tablespaces: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read the JSON object that `sql/health.sql` returns. Raises Error for anything else."""
        try:
            raw: dict[str, Any] = json.loads(text)
            lists = {k: tuple(v) for k, v in raw.items() if isinstance(v, list)}
            known = {f.name for f in fields(cls)}
            return cls(**{k: v for k, v in {**raw, **lists}.items() if k in known})
        except (ValueError, TypeError, AttributeError) as fault:
            raise Error(f"A server's answer cannot be read ({fault}): {text[:200]!r}") from None


@dataclass(frozen=True)
class Health:
    """What a node's container has, running or one that only looks.

    Attributes:
        server: None where it does not run.
        inode: of the data directory, as the container has it.
        owner: who has the data directory, as `postgres`.
        mode: its permissions, as `700`.
        no_database: there is no PG_VERSION in it.
        recovery_conf: a recovery.conf of before 12 lies there; a server with one does not start.
        passfile: owner and mode, as `postgres 600`; `none` where there is no such file; empty
            where that was not looked at.
        keys: name, owner and mode of each key for TLS, as `./server.pem postgres 600`.
        ahead: seconds by which its newest file is newer than now.
        shm: bytes of /dev/shm, and how many of them are used; None where that is not known.
        files: how many files a process may have open; None: no limit, or not known.
    """

    server: Server | None = None
    inode: int | None = None
    owner: str = ""
    mode: str = ""
    no_database: bool = False
    recovery_conf: bool = False
    passfile: str = ""
    keys: tuple[str, ...] = ()
    ahead: int = 0
    shm: tuple[int, int] | None = None
    files: int | None = None

    @classmethod
    def parse(cls, text: str) -> Health:
        """Read what `sh/health-files.sh` prints and, of a running server, what follows it.

        Raises:
            Error: the server's part is not what it should be.
        """
        head, running, answer = text.partition("== ANSWER\n")
        said = dict(re.findall(r"^([a-z_]+)=(.*)$", head, re.MULTILINE))
        data, shm = said.get("data", "").split(), said.get("shm", "").split()
        limit = said.get("files", "")
        return cls(
            server=Server.parse(answer) if running else None,
            inode=int(data[0]) if data else None,
            owner=data[1] if data else "",
            mode=data[2] if data else "",
            no_database="no_database" in said,
            recovery_conf="recovery_conf" in said,
            passfile=said.get("passfile", ""),
            keys=tuple(re.findall(r"^key=(.*)$", head, re.MULTILINE)),
            ahead=int(said.get("ahead", "0")),
            shm=(int(shm[0]) * 1024, int(shm[1]) * 1024) if shm else None,
            files=int(limit) if limit.isdecimal() else None,
        )


def of_running() -> Script:
    """Return the script that asks a running server, inside its container."""
    return scripts.compose("health-files", "health-server", scripts.query("health"))


def of_stopped() -> Script:
    """Return the script that looks at the files of one that is down; its disk is told as well."""
    return scripts.compose("examine", "health-files")
