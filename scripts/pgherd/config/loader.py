"""What is asked for is read here, and nowhere else: topology file, conf/, INVOKE_ variables."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pgherd.config.nodes import Group, HostSettings, Node
from pgherd.config.topology import Topology
from pgherd.config.values import LOCAL, VOLUME, Fault, collected, host_name, meant
from pgherd.errors import SHOWN, Refused, escaped, quoted

# --- the faults of a topology file in words: a line each, with its place in the file ---

_FAULTS = 50  # shown of one file
_LONGEST = 600  # characters of a sentence
_KEYS = {
    "group": list(Group.model_fields),
    "nodes": [key for key in Node.model_fields if key != "name"],  # that is the table's
    "hosts": list(HostSettings.model_fields),
}
# pydantic's error types (https://docs.pydantic.dev/latest/errors/validation_errors/) that the
# models of a topology can raise by themselves; the rules have sentences of their own.
_SENTENCES = {
    "missing": "missing",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}


def describe_faults(source: str, error: ValidationError) -> str:
    """Write every fault on a line of its own, in the words of the file."""
    lines = list(dict.fromkeys(map(_describe_fault, error.errors(include_url=False))))
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    more = [f"and {len(lines) - _FAULTS} more"] if len(lines) > _FAULTS else []
    return "\n  ".join([f"{source}: {count}:", *lines[:_FAULTS], *more])


def _describe_fault(fault: ErrorDetails) -> str:
    where, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        sentence = _unknown(where)
    elif kind == "fault":
        sentence = context["sentence"]
    else:
        sentence = str(context.get("error", "")) or _SENTENCES.get(kind, "cannot be understood")
    if sentence.startswith("must ") and (kind != "fault" or fault["input"] is not None):
        sentence += f", not {_quote_value(fault['input'])}"
    if where[0] == "nodes" and where[2:] == ("name",) and kind == "value_error":
        where = where[:2]  # the name is the table's
    # Names of other tables stand in it as they are in the file.
    told = sentence if len(sentence) <= _LONGEST else f"{sentence[:_LONGEST]}…"
    return f"{_dotted(where)}: {escaped(told)}"


def _unknown(where: tuple[int | str, ...]) -> str:
    """Say that a key is unknown, and which one may be meant."""
    known = _KEYS[str(where[0])] if len(where) > 1 else list(Topology.model_fields)
    hint = meant(str(where[-1]), known) or f" (known are {', '.join(known)})"
    return f"unknown key{hint}"


def _dotted(where: Iterable[int | str]) -> str:
    """Write a path as TOML does: a key of other characters stands in quotes."""
    keys = map(str, where)
    return ".".join(
        key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _quote_value(key) for key in keys
    )


def _quote_value(value: object) -> str:
    """Write a value as TOML does, shortened, in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        short = value if len(value) <= SHOWN else value[:SHOWN] + "…"
        return escaped(json.dumps(short, ensure_ascii=False))
    if isinstance(value, int) and value.bit_length() > 64:  # noqa: PLR2004
        return "so long a number"  # Python refuses to print the longest
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list) else "a date or time"


# --- A whole group on one host that its file does not name: `invoke on HOST`, or INVOKE_HOST ---

HOST_VARIABLE = "INVOKE_HOST"


def requested_host(on: str, variable: str) -> str:
    """Return the host that the operator places the group on; empty if none was said.

    Raises:
        Refused: the task and the variable say different ones, or what is no host.
    """
    for said, name in ((on, "`invoke on`"), (variable, HOST_VARIABLE)):
        try:
            host_name(said or LOCAL)
        except ValueError as fault:
            raise Refused(f"{name} {fault}, not {quoted(said)}.") from None
    if on and variable and on != variable:
        raise Refused(
            f"`invoke on {on}` and {HOST_VARIABLE}={variable} contradict each other: leave one out."
        )
    return on or variable


def place_on(data: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return a topology's tables with every node on `host`.

    Raises:
        ValidationError: the file puts a node on another host.
    """
    nodes = data.get("nodes")
    if not isinstance(nodes, Mapping):
        return dict(data)
    if faults := list(_elsewhere(nodes, host)):
        raise collected(faults)
    moved = {
        name: {**table, "host": host} if isinstance(table, Mapping) else table
        for name, table in nodes.items()
    }
    return {**data, "nodes": moved}


def _elsewhere(nodes: Mapping[str, Any], host: str) -> Iterator[Fault]:
    """Find the nodes that the file itself places; "local" is its word for no place in particular.

    Where one node is placed elsewhere than the rest, "local" has a meaning, and stays as well.
    """
    said = {
        str(name): table.get("host", LOCAL)
        for name, table in nodes.items()
        if isinstance(table, Mapping) and isinstance(table.get("host", LOCAL), str)
    }
    if set(said.values()) in ({LOCAL}, {host}):
        return
    for name, there in said.items():
        if there != host:
            sentence = (
                f'is "{there}" here, and `invoke on` or {HOST_VARIABLE} says "{host}": a group '
                "that the file places is not placed otherwise; leave that out, or copy the file"
            )
            yield Fault(("nodes", name, "host"), sentence)


# --- files and environment: the only reader of conf/ and INVOKE_ variables ---

# `load` makes a Topology of a TOML file, or refuses it with every fault there is, each with its
# path in the file:
#
#     conf/pair.toml: 2 faults:
#       group.imgae: unknown key (did you mean image?)
#       nodes.pstandby.port: must be a whole number from 1 to 65535, not "54x"

ROOT = Path(__file__).resolve().parents[3]  # where tasks.py is
VARIABLE = "INVOKE_TOPOLOGY"
SSH_CONFIG_VARIABLE = "INVOKE_SSH_CONFIG"
_DEFAULT = ROOT / "conf" / "pair.toml"
_LONG_PATH = 300  # characters
_LARGEST = 1_000_000  # bytes: far more than a topology has


def load(
    path: Path | None = None, environ: Mapping[str, str] | None = None, on: str = ""
) -> Topology:
    """Read the topology: of `path`, else of INVOKE_TOPOLOGY, else of conf/pair.toml.

    A relative INVOKE_TOPOLOGY is looked for in the current directory, then in the project. Its
    `source` is the file's name as shown to the operator. `on`, or INVOKE_HOST, is the host to place
    the nodes on for which the file says none or "local". Raises Refused, and nothing else, for
    whatever is wrong with the file; it does not look at hosts, images or data directories.
    """
    variables = os.environ if environ is None else environ
    asked = variables.get(VARIABLE, "")
    host = requested_host(on, variables.get(HOST_VARIABLE, ""))
    if path is not None:
        found, text = _read([path], "give another file")
    elif asked:
        found, text = _read([Path.cwd() / asked, ROOT / asked], f"correct {VARIABLE}")
    else:
        found, text = _read([_DEFAULT], f"restore it, or name another file by {VARIABLE}")
    source = _shown_path(found)
    tables = _parsed(text, source)
    try:
        asked_for = place_on(tables, host) if host else tables
        moved = host if asked_for != tables else ""
        context = {"source": source, "locate": local_path, "placed_on": moved}
        return Topology.model_validate(asked_for, context=context)
    except ValidationError as error:
        raise Refused(describe_faults(source, error)) from None


def ssh_config() -> str | None:
    """Return the file to be read in place of the user's ssh_config, if INVOKE_SSH_CONFIG says one.

    Raises:
        Refused: it cannot be read.
    """
    asked = os.environ.get(SSH_CONFIG_VARIABLE, "")
    if not asked:
        return None
    path, _text = _read([Path.cwd() / asked], f"correct {SSH_CONFIG_VARIABLE}")
    return str(path)


def password_variable(role: str) -> str:
    """Return the name of the variable that says a role's password where one is to be made."""
    return f"INVOKE_{role.upper()}_PASSWORD"


def password_asked(role: str) -> str:
    """Return the password that the environment says for a role; empty if it says none.

    Raises:
        Refused: it is more than one line, or no UTF-8 text.
    """
    value = os.environ.get(password_variable(role), "")
    if "\n" in value or "\r" in value or not value.isprintable():
        raise Refused(f"{password_variable(role)} must be one line of UTF-8 text, the password.")
    return value


def forget_libpq_variables() -> None:
    """Take libpq's variables out of this process: PGHOSTADDR would lead to another server.

    What is connected to, and how, is said in the topology and nowhere else.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def local_path(data: str) -> Path:
    """Make a data path of this machine absolute: ~ is the home, other paths begin at the project.

    Links are not followed. Raises Refused for a named volume and for an unknown home directory.
    """
    if data.startswith(VOLUME):
        raise Refused(f"{data} is a Docker volume: it has no path on this machine")
    try:
        return Path(os.path.normpath(ROOT / Path(data).expanduser()))
    except RuntimeError:
        raise Refused(f"no home directory is known for {data}: write the path in full") from None


def conf_file(name: str) -> str:
    """Read a file of conf/, such as postgresql.conf. Raises Refused if it cannot be read."""
    return _read([ROOT / "conf" / name], "restore it")[1]


def texts(topology: str) -> dict[str, str]:
    """Return the texts of a topology file, as its `source` has it, and of conf/, where they are."""
    names = [topology, "conf/postgresql.conf", "conf/pg_hba.conf"]
    paths = {name: ROOT / name for name in names if name and (ROOT / name).is_file()}
    return {name: path.read_text("utf-8", "replace") for name, path in paths.items()}


def secrets_dir(group_name: str, host: str = "local") -> Path:
    """Say where the secrets of a group lie; one placed on another host by `on` has its own.

    It makes no directory. Raises Refused for names that would lead elsewhere.
    """
    name = group_name if host == "local" else f"{group_name}@{host}"
    if re.search(r"[/\x00]", name) or name in {"", ".", ".."}:
        raise Refused(f"{quoted(name)} cannot name a directory of secrets")
    return ROOT / "data" / "secrets" / name


def _read(candidates: list[Path], cure: str) -> tuple[Path, str]:
    """Read the first file that exists."""
    path = candidates[0]
    for path in candidates:
        shown = _shown_path(path)
        try:
            return path, _bytes(path).decode("utf-8-sig")
        except FileNotFoundError:
            continue
        except IsADirectoryError as fault:
            raise Refused(f"{shown} is {fault.strerror}, not a file: {cure}") from None
        except UnicodeDecodeError as error:
            raise Refused(f"{shown} is not UTF-8 text (byte {error.start}): save it so") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is not valid"
            raise Refused(f"{shown} cannot be read ({reason}): {cure}") from None
    places = " and no ".join(_shown_path(path) for path in dict.fromkeys(candidates))
    raise Refused(f"there is no {places}: {cure}")


def _bytes(path: Path) -> bytes:
    """Read a file; a pipe of the shell (`<(…)`) too, but nothing else that may never end.

    Raises:
        IsADirectoryError: it is a directory, a device or the like; `strerror` says what.
        OSError: it cannot be read, or is too large to be a file of ours.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a directory")
    pipe = stat.S_ISFIFO(mode) and path.parent == Path("/dev/fd")
    if not (stat.S_ISREG(mode) or pipe):
        raise IsADirectoryError(errno.EISDIR, "a device or a pipe")
    with path.open("rb") as file:
        found = file.read(_LARGEST + 1)
    if len(found) > _LARGEST:
        raise OSError(errno.EFBIG, f"more than {_LARGEST} bytes")
    return found


def _shown_path(path: Path) -> str:
    """Name a file as the operator would: from the project if it lies there."""
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    return escaped(shown if len(shown) <= _LONG_PATH else f"{shown[:_LONG_PATH]}…")


def _parsed(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise Refused(f"{source} is nested too deeply to be a topology") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{source} is not valid TOML: {error}; correct it there") from None
    except ValueError:  # Python's limit on the digits of a number
        raise Refused(f"{source} is not valid TOML: it has a number too long to read") from None
