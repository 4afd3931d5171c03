"""What a script in a container ended with."""

from __future__ import annotations

import re

from pgherd.errors import Error, room_wanted
from pgherd.shell import Result

# The servers' words, 14 to 18, where all connections are taken, and where no rule lets in.
_TAKEN = re.compile(r"too many clients already|remaining connection slots are reserved")
_NOT_LET_IN = re.compile(r"pg_hba\.conf|no password supplied|authentication failed for user")
_SUPERUSER = "postgres"


def no_login(node: str, said: str, told: str = "", database: str = "") -> str:
    """Say why a server lets us not in, and what to do, where its words tell; else nothing.

    `told` is what `sh/running.sh` says of it, with the number of connections and the rules.
    """
    if _TAKEN.search(said):
        number = re.search(r"^max_connections setting: *([0-9]+)$", told, re.MULTILINE)
        return (
            f"All {f'{number[1]} ' if number else ''}connections of {node} (max_connections) are "
            "taken, those kept for superusers as well: end some of its clients (`docker top "
            f"{node}` shows them), then this again."
        )
    if _NOT_LET_IN.search(said):
        rule = _rule(told, database or "postgres")
        return (
            f"pg_hba.conf of {node} does not let pgherd in, which comes by the local socket as "
            f"{_SUPERUSER}{f', by {rule}' if rule else ''}: put a line `local all {_SUPERUSER} "
            f"peer` before it, and reload (`docker kill --signal HUP {node}`)."
        )
    missing = re.search(r'database "([^"]*)" (?:does not exist|is not currently accepting)', said)
    if missing and missing[1] == database:
        return (
            f"There is no database {database} on {node} that takes connections, and group.database "
            "says to work there: correct the topology."
        )
    return ""


def _rule(told: str, database: str) -> str:
    """Return the first rule of pg_hba.conf that is for us, with its line; empty if there is none.

    Who is not let in by any has none.
    """
    for number, line in re.findall(r"^hba=([0-9]+):(.*)$", told, re.MULTILINE):
        words = [*line.replace('"', "").split(), "", "", ""]
        databases, users = (set(listed.split(",")) for listed in words[1:3])
        if databases & {"all", database} and users & {"all", _SUPERUSER}:
            return f"line {number} ({' '.join(line.split())})"
    return ""


class ScriptFailed(Error):
    """A script in a container ended with an exit code that its step may know."""

    def __init__(self, node: str, result: Result, data: str = "") -> None:
        cure = room_wanted(result.host, result.err, data)
        cure += f"{why}\n" if (why := no_login(node, result.err)) else ""
        super().__init__(f"{cure}On {node}: {result.complaint()}")
        self.exit_code = result.code
        self.said = result.err.strip().splitlines()[-1] if result.err.strip() else ""
