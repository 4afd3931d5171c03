"""How a client reaches the group: connection strings in several forms, and tunnels. Pure.

None holds a password: libpq takes it from PGPASSWORD or a passfile.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pgherd.config.nodes import Node
from pgherd.config.topology import Topology
from pgherd.config.values import LOCAL, NAME_LIMIT, only_here, reachable
from pgherd.errors import Refused, quoted
from pgherd.postgres.conf import conninfo

# By role: libpq's target_session_attrs (14 or later) and pgJDBC's targetServerType.
# read-write, not primary: it also passes over a primary that is set read-only.
# prefer-standby, not standby: where no standby is there, reads go on, on the primary.
ROLES: Mapping[str, tuple[str, str]] = {
    "primary": ("read-write", "primary"),
    "standby": ("prefer-standby", "preferSecondary"),
    "any": ("any", "any"),
}
FORMATS = ("libpq", "jdbc", "psycopg", "env")


@dataclass(frozen=True)
class Wanted:
    """What kind of connection is wanted, as said on the command line.

    Attributes:
        role: one of ROLES; empty for each node's own, and then whichever is primary.
        form: one of FORMATS.
        database: its name, as it is in PostgreSQL.
        user: the role that logs in.
        password_file: the file with that user's password, for `env`; empty where none is known.
        trusted: the file with the authorities that are trusted; empty without TLS.
    """

    role: str = ""
    form: str = "libpq"
    database: str = "postgres"
    user: str = "postgres"
    password_file: str = ""
    trusted: str = ""

    def check(self) -> None:
        """Refuse what is no role, no format and no name."""
        if self.role and self.role not in ROLES:
            raise Refused(f"--role is {_either(ROLES)}, not {quoted(self.role)}.")
        if self.form not in FORMATS:
            raise Refused(f"--format is {_either(FORMATS)}, not {quoted(self.form)}.")
        for flag, name in (("database", self.database), ("user", self.user)):
            if not name.isprintable() or not 0 < len(name.encode()) <= NAME_LIMIT:
                raise Refused(
                    f"--{flag} is a name of 1 to {NAME_LIMIT} bytes, all printable, not "
                    f"{quoted(name)}."
                )


def lines(topology: Topology, wanted: Wanted | None = None) -> list[str]:
    """Return the connection strings that are wanted, the hosts in the topology's order.

    Without a role it is one for each node, then one for whichever is primary; as variables of the
    environment it is the last one only, since each would replace the one before.
    """
    wanted = wanted or Wanted()
    nodes = list(topology.nodes.values())
    write = _WRITERS[wanted.form]
    whole = write(nodes, wanted, wanted.role or "primary")
    if wanted.role or wanted.form == "env":
        return [whole]
    return [*(write([node], wanted, "") for node in nodes), whole]


def tunnels(topology: Topology, over: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a command for each remote host whose ports are for itself only: a way to them.

    `over` has the command that carries another one to a host, by the host's name.
    """
    hidden: dict[str, list[str]] = {}
    for node in topology.nodes.values():
        if node.host != LOCAL and only_here(_address(node)):
            hidden.setdefault(node.host, []).append(f"{node.port}:{_bracketed(node)}:{node.port}")
    return [
        shlex.join([over[host][0], "-N", *(f"-L{way}" for way in ways), *over[host][1:]])
        for host, ways in hidden.items()
    ]


def _either(words: Sequence[str] | Mapping[str, object]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


def _address(node: Node) -> str:
    return reachable(node.published_at)


def _bracketed(node: Node) -> str:
    address = _address(node)
    return f"[{address}]" if ":" in address else address


def _places(nodes: Sequence[Node]) -> str:
    """Return the hosts and ports of a URI; `%` begins an escape there, and an IPv6 scope."""
    return ",".join(f"{_bracketed(node).replace('%', '%25')}:{node.port}" for node in nodes)


# --- the forms ---


def _libpq(nodes: Sequence[Node], wanted: Wanted, role: str) -> str:
    values = {"target_session_attrs": ROLES[role][0]} if role else {}
    which = "&".join(f"{k}={quote(v)}" for k, v in (values | _tls(wanted)).items())
    user, database = quote(wanted.user, safe=""), quote(wanted.database, safe="")
    return f"postgresql://{user}@{_places(nodes)}/{database}{'?' if which else ''}{which}"


def _jdbc(nodes: Sequence[Node], wanted: Wanted, role: str) -> str:
    values = {"targetServerType": ROLES[role][1]} if role else {}
    values |= {k: v for k, v in _tls(wanted).items() if k.startswith("ssl")}
    which = "".join(f"&{k}={quote(v)}" for k, v in values.items())
    user, database = quote(wanted.user, safe=""), quote(wanted.database, safe="")
    return f"jdbc:postgresql://{_places(nodes)}/{database}?user={user}{which}"


def _values(nodes: Sequence[Node], wanted: Wanted, role: str) -> dict[str, str | None]:
    return {
        "host": ",".join(map(_address, nodes)),
        "port": ",".join(str(node.port) for node in nodes),
        "user": wanted.user,
        "dbname": wanted.database,
        "target_session_attrs": ROLES[role][0] if role else None,
        **_tls(wanted),
    }


def _tls(wanted: Wanted) -> dict[str, str]:
    """Return libpq's parameters for TLS; pgJDBC has the first two of the same name."""
    if not wanted.trusted:
        return {}
    return {
        "sslmode": "verify-full",
        "sslrootcert": wanted.trusted,
        "channel_binding": "require",
    }


def _psycopg(nodes: Sequence[Node], wanted: Wanted, role: str) -> str:
    """Return a line of Python: JSON's escapes are Python's as well."""
    text = conninfo(**_values(nodes, wanted, role))
    return f"psycopg.connect({json.dumps(text, ensure_ascii=False)})"


_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "channel_binding": "PGCHANNELBINDING",
}


def _env(nodes: Sequence[Node], wanted: Wanted, role: str) -> str:
    values = _values(nodes, wanted, role)
    said = [f"export {_VARIABLES[k]}={shlex.quote(v or '')}" for k, v in values.items()]
    if wanted.password_file:
        said.append(f'export PGPASSWORD="$(cat {shlex.quote(wanted.password_file)})"')
    return "\n".join(said)


_WRITERS: Mapping[str, Callable[[Sequence[Node], Wanted, str], str]] = dict(
    zip(FORMATS, (_libpq, _jdbc, _psycopg, _env), strict=True)
)
