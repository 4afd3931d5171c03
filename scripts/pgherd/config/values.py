"""The rules for single values of a topology, and how faults are collected.

A rule takes one value and gives it back, or says in a sentence what it must be. Nothing here looks
at the disk, the network or Docker, and nothing compares two nodes: `pgherd.config.validation` does.
"""

from __future__ import annotations

import difflib
import ipaddress
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from pydantic import AfterValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from pgherd.errors import Refused, quoted

Setting = str | int | float | bool

VOLUME = "volume:"
LOCAL = "local"  # the name of this machine among hosts
_MUCH = 2**63
SETTING_LIMIT = 8000  # of name and value: ALTER SYSTEM and postgres -C have their buffers
PATH_LIMIT = 4000  # PATH_MAX of Linux is 4096, and we make names beside it
NAME_LIMIT = 63  # a DNS label, and PostgreSQL's NAMEDATALEN - 1

# What every node's container has, whatever its topology says.
PGDATA = "/var/lib/postgresql/data"  # of every major: 18's own default is another
PRIVATE = "/etc/pgherd"  # of the passfile and the keys, outside PGDATA: base backups copy that
# Where no tablespace can lie: the two above, and where one-shot containers have something.
_TAKEN = (PGDATA, PRIVATE, "/docker-entrypoint-initdb.d", "/aside", "/copy", "/from", "/up")
MOST_TABLESPACES = 5  # mounts of a node: a shell holds each by a file descriptor of one digit


class Fault(NamedTuple):
    """One sentence about the place `where` in the file; `given` is the value found there."""

    where: tuple[str, ...]
    sentence: str
    given: object = None


def collected(faults: Iterable[Fault], first: ValidationError | None = None) -> ValidationError:
    """Make one pydantic error of many faults, after those that `first` holds already."""
    details: list[InitErrorDetails] = []
    for known in first.errors(include_url=False) if first else []:
        if known["type"] == "default_factory_not_called":
            continue  # says only that another key of the table is faulty
        context = known.get("ctx", {})
        ours = known["type"] == "fault"
        kind = PydanticCustomError("fault", "{sentence}", context) if ours else known["type"]
        details.append(
            InitErrorDetails(type=kind, loc=known["loc"], input=known["input"], ctx=context)
        )
    for fault in faults:
        kind = PydanticCustomError("fault", "{sentence}", {"sentence": fault.sentence})
        details.append(InitErrorDetails(type=kind, loc=fault.where, input=fault.given))
    return ValidationError.from_exception_data("topology", details)


# What pgherd writes itself: a second author would break the group, so it is refused with a reason.
OWNED_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "primary_conninfo": "pgherd writes it, from the node's upstream",
        "primary_slot_name": "pgherd writes it, from the node's application_name",
        "synchronous_standby_names": "say it in group.sync",
        "port": "inside its container a server has 5432; the node's port is what is published",
        "listen_addresses": "the node's listen says where it is published",
        "data_directory": "the node's data says it",
        "config_file": "pgherd lays it into the data directory",
        "hba_file": "pgherd lays it into the data directory",
        "ident_file": "pgherd lays it into the data directory",
        "unix_socket_directories": "pgherd asks the server through the image's own socket",
        "include": "it would bring in settings that are not checked",
        "include_dir": "it would bring in settings that are not checked",
        "include_if_exists": "it would bring in settings that are not checked",
    }
)
# Any node may be primary tomorrow; a base backup takes two senders (pg_basebackup, -X stream).
LEAST_SETTINGS: Mapping[str, int] = MappingProxyType(
    {"max_wal_senders": 2, "max_replication_slots": 1}
)


OFF = r"0|f|fa|fal|fals|false|n|no|of|off"  # what PostgreSQL takes for that (bool.c)
NEEDS_ALTER_SYSTEM = (
    "pgherd sets synchronous_standby_names and primary_conninfo of running servers by ALTER SYSTEM"
)


def meant(word: str, known: Iterable[str]) -> str:
    """Suggest what a misspelt word may stand for, as the end of a sentence."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def rule(pattern: str, sentence: str) -> AfterValidator:
    """Make a validator that takes text only if it matches the pattern as a whole."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(sentence)
        return text

    return AfterValidator(check)


# Docker wants two characters at least for a container or a volume (moby, daemon/names/names.go).
DOCKER_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}"
NAME_RULE = (
    "must be 2 to 63 characters, letters, digits, _ . and -, beginning with a letter or a digit"
)


def ip_address(text: str) -> str:
    """Take an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("must be an IP address of its host, like 127.0.0.1 or 0.0.0.0") from None
    return text


def node_address(text: str) -> str:
    """Take a host name or an IP address that leads to one host."""
    if not re.fullmatch(r"[a-zA-Z0-9:][a-zA-Z0-9_.:%-]{0,252}", text):
        raise ValueError("must be one host name or IP address, without port")
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        try:
            found = ipaddress.ip_address(text)
        except ValueError:
            raise ValueError("must be one host name or IP address, without port") from None
        if found.is_unspecified:
            raise ValueError("must be the address of one host")
    return text


def for_others(address: str) -> bool:
    """Tell whether other hosts can be given a publish address: no loopback, nor all addresses."""
    ip = ipaddress.ip_address(address)
    return not (ip.is_loopback or ip.is_unspecified)


def is_everywhere(address: str) -> bool:
    """Tell whether a publish address stands for all addresses of its host."""
    return ipaddress.ip_address(address).is_unspecified


def reachable(address: str) -> str:
    """Return the address to connect to on a host for one that is published on there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104


def only_here(address: str) -> bool:
    """Tell whether a publish address, or a name, leads nowhere but to its own host."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def application_name(text: str) -> str:
    """Take a name that a standby can have and that `group.sync` can mean."""
    # PostgreSQL replaces other characters by ? or \xNN and cuts what is longer (NAMEDATALEN).
    if not re.fullmatch(r"[\x20-\x7e]{1,63}", text):
        raise ValueError("must be 1 to 63 printable ASCII characters (PostgreSQL alters others)")
    if text == "*":
        raise ValueError("cannot be *, which means every standby in group.sync")
    if text.lower() == "pgherd-basebackup":
        raise ValueError("is the name that base backups have")
    return text


def database(text: str) -> str:
    """Take a database to work in."""
    if not text.isprintable() or len(text.encode()) > NAME_LIMIT:
        raise ValueError(f"must be the name of a database, at most {NAME_LIMIT} bytes")
    if text in {"template0", "template1"}:
        raise ValueError("cannot be a template: a session there keeps others from making databases")
    return text


def path(text: str) -> str:
    """Take a path."""
    if not text.isprintable() or not 0 < len(text.encode()) <= PATH_LIMIT:
        raise ValueError("must be a path")
    return text


def root(text: str) -> str:
    """Take a directory where relative paths of a host lie."""
    if text != "~" and not re.match("(/|~/).", text):
        raise ValueError("must begin with / or ~/")
    return path(text)


def data(text: str) -> str:
    """Take a path, or ``volume:`` and the name of a Docker volume."""
    if not text.isprintable() or not text.strip():
        raise ValueError("must be a path or volume:NAME, without control characters")
    if len(text.encode()) > PATH_LIMIT:
        raise ValueError(f"must be a path of at most {PATH_LIMIT} bytes")
    if text.startswith(VOLUME) and not re.fullmatch(DOCKER_NAME, text.removeprefix(VOLUME)):
        raise ValueError(f"the volume's name {NAME_RULE}")
    if text.startswith("~") and not text.startswith("~/"):
        raise ValueError("must begin with ~/ for the home directory")
    if text.rstrip("/") in {"", ".", "..", "~"}:
        raise ValueError("must be a directory of the node's own")
    if text.startswith("/") and (reason := no_place(posixpath.normpath(text))):
        raise ValueError(f"must be a directory of the node's own: {text} {reason}")
    return text


def volume_of(place: str) -> str | None:
    """Return the name of the Docker volume that a place is; None where it is a path."""
    return place.removeprefix(VOLUME) if place.startswith(VOLUME) else None


def within(path: str, directory: str) -> bool:
    """Tell whether a path is a directory, or lies in it, as far as their text tells."""
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


def tablespaces(value: object) -> Mapping[str, str]:
    """Check where tablespaces lie: a path inside of the container, and its place on the host.

    Raises one fault for each bad one.
    """
    if not isinstance(value, Mapping):
        raise ValueError("must be a table")  # noqa: TRY004 (pydantic collects no TypeError)
    inside = [str(path) for path in value]
    found = [Fault((path,), f) for path in inside if (f := no_place_inside(path, inside))]
    for path, place in value.items():
        try:
            fault = "" if isinstance(place, str) and data(place) else "must be text in quotes"
        except ValueError as error:
            fault = str(error)
        found += [Fault((str(path),), fault, place)] if fault else []
    if len(inside) > MOST_TABLESPACES:
        more = "several tablespaces may lie in one of them"
        found.append(Fault((), f"are {len(inside)}, and may be {MOST_TABLESPACES}: {more}"))
    if found:
        raise collected(found)
    return MappingProxyType(dict(value))


def no_place_inside(path: str, others: Iterable[str] = ()) -> str:
    """Say why tablespaces cannot lie at this path of a container, or nothing."""
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+", path) or posixpath.normpath(path) != path:
        return (
            'is no path inside of a container, like "/srv/fast": absolute, of letters, digits, '
            "_ . and -"
        )
    for taken in _TAKEN:
        if within(path, taken) or within(taken, path) or path.startswith(f"{taken}."):
            return f"cannot be {path} inside of the container: there is {taken}"
    if (reason := no_place(path)) and "system" in reason:
        return f"cannot be {path} inside of the container: it {reason}"
    for other in others:
        if other != path and within(path, other):
            return f"lies within {other}, which is a place of its own"
    return ""


def port(value: object) -> int:
    """Take a TCP port: 0, which would mean any, is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:  # noqa: PLR2004
        return value
    raise ValueError("must be a whole number from 1 to 65535")


def settings(value: object) -> Mapping[str, Setting]:
    """Check a table of settings and make it read-only; raises one fault for each bad one."""
    if not isinstance(value, Mapping):
        raise ValueError("must be a table")  # noqa: TRY004 (pydantic collects no TypeError)
    found = [
        Fault((str(n),), fault, given) for n, given in value.items() if (fault := _bad(n, given))
    ]
    lower = [str(name).lower() for name in value]
    found += [
        Fault((str(name),), "stands twice: PostgreSQL does not tell its letters' case apart")
        for at, name in enumerate(value)
        if lower[at] in lower[:at]
    ]
    if found:
        raise collected(found)
    return MappingProxyType(dict(value))


def _bad(name: object, value: object) -> str:
    """Say what is wrong with one setting, or nothing."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.]*", name):
        return "is no name of a PostgreSQL setting"
    if reason := OWNED_SETTINGS.get(name.lower()):
        return f"cannot be set here: {reason}"
    # PostgreSQL's numbers are C ints and doubles; Python cannot even print every greater one.
    if not isinstance(value, Setting) or (
        isinstance(value, int | float) and not abs(value) < _MUCH
    ):
        return "must be text, a number, true or false"
    if isinstance(value, str) and re.search(r"[\x00\r\n]", value):
        return "must be one line"
    if len(name) + len(str(value)) > SETTING_LIMIT:
        return f"must be at most {SETTING_LIMIT} characters"
    return _too_little(name.lower(), str(value).strip().lower())


def _too_little(name: str, value: str) -> str:
    """Say why a server with this setting could not be primary and standby in turn, or nothing."""
    if name == "wal_level" and value == "minimal":
        return "cannot be minimal: standbys need replica or logical"
    off = re.fullmatch(OFF, value)
    if name == "hot_standby" and off:
        return "cannot be off: a standby that answers no queries cannot be checked"
    if name == "allow_alter_system" and off:
        return f"cannot be off: {NEEDS_ALTER_SYSTEM}"
    least = LEAST_SETTINGS.get(name)  # of others -1 is often the word for "never"
    number = re.fullmatch(r"[+-]?[0-9]+", value)
    if least is not None and number and int(value.lstrip("+0")[:9] or "0") < least:
        return f"must be {least} or more"
    return ""


# --- SSH destinations, as an operator writes them: taken apart, and nothing is asked for them ---

FORMS = "an alias of ssh_config, ada@box, ada@box:2222 or [2001:db8::1]:2222"
MOST = 65535  # the highest port
LONGEST = 320  # characters: a name of the DNS has 253 at most

# OpenSSH refuses most of these as well: a shell may come to read them (ProxyCommand, Match exec).
_NO_HOST = re.compile(r"^-|[\s\x00-\x1f\x7f\[\]/@,'\"`$\\;&<>|(){}]|^$")
_NO_USER = re.compile(r"^-|[\s\x00-\x1f\x7f\[\]/:'\"`$;&<>|(){}]")


@dataclass(frozen=True)
class Destination:
    """Where `ssh` is to go: a host or an alias of ssh_config, and what was said beside it."""

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read an alias, `ada@box`, `ada@box:2222` or `[2001:db8::1]:2222`.

        Without brackets an IPv6 address has no port, as with ssh. Jump hosts may have `ssh://`
        before all that in ssh_config.

        Raises:
            Refused: it is none of these.
        """
        user, at, rest = text.removeprefix("ssh://").rpartition("@")
        host, port = _host_and_port(rest)
        if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= MOST):
            raise Refused(f"{quoted(text)}: the port of an SSH destination is from 1 to {MOST}.")
        faulty = _NO_HOST.search(host) or _NO_USER.search(user) or (at and not user)
        faulty = faulty or len(text) > LONGEST or not text.isprintable()
        if faulty or (":" in host and not _is_address(host)):
            raise Refused(f"{quoted(text)} is no SSH destination: write {FORMS}.")
        return cls(host, user, int(port) if port is not None else None)

    def argv(self, *options: str) -> list[str]:
        """Return the arguments of `ssh` for it."""
        port = ["-p", str(self.port)] if self.port is not None else []
        return [*options, *port, f"{self.user}@{self.host}" if self.user else self.host]


def host_name(text: str) -> str:
    """Take what can name a host in a topology: "local", or a destination; ssh:// stays out."""
    try:
        Destination.parse(text)
    except Refused:
        text = "/"
    if "/" in text:
        raise ValueError(f'must be "local" or an SSH destination ({FORMS})')
    return text


def _host_and_port(text: str) -> tuple[str, str | None]:
    if found := re.fullmatch(r"\[([^\[\]]+)\](?::([^:]*))?", text):
        return found[1], found[2]
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None  # several colons and no brackets: an IPv6 address


def _is_address(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


# --- which directories are no place for a server's data, whatever lies in them ---

# What a system lives in (hier(7)), with all that is in it but what is the administrator's own;
# and the places where everybody has something.
_SYSTEM = frozenset(["bin", "boot", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "usr"])
_OWN = ("/usr/local/", "/run/media/")
_SHARED = frozenset({
    "/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr/local", "/var",  # noqa: S108
    "/var/lib", "/var/lib/postgresql", "/var/log", "/var/tmp",  # noqa: S108
    "/Users", "/Volumes", "/private",
})  # fmt: skip
_ENGINE = ("/var/lib/docker/", "/var/lib/containerd/", "/var/lib/containers/")


def no_place(path: str) -> str:
    """Say why an absolute, normal path is no place for data; empty if it is one."""
    first = path.strip("/").partition("/")[0]
    if first.removesuffix("64").removesuffix("32") in _SYSTEM and not path.startswith(_OWN):
        return f"is the system's (/{first})"
    if path in _SHARED:
        return "is not one node's alone"
    return "is the container engine's" if f"{path}/".startswith(_ENGINE) else ""
