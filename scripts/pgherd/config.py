"""Files and environment: the only reader of conf/ and of the INVOKE_ variables.

`load` makes a Topology of a TOML file, or refuses it with every fault there is, each with its path
in the file:

    conf/pair.toml: 2 faults:
      group.imgae: unknown key (did you mean image?)
      nodes.pstandby.port: must be a whole number from 1 to 65535, not "54x"
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pgherd import placement
from pgherd.errors import Refused
from pgherd.node import Group, HostSettings, Node
from pgherd.rules import VOLUME, meant
from pgherd.topology import Topology

ROOT = Path(__file__).resolve().parents[2]  # where tasks.py is
VARIABLE = "INVOKE_TOPOLOGY"
SSH_CONFIG_VARIABLE = "INVOKE_SSH_CONFIG"
_DEFAULT = ROOT / "conf" / "pair.toml"
_SHOWN = 60  # characters of a faulty value

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
    host = placement.asked_host(on, variables.get(placement.VARIABLE, ""))
    if path is not None:
        found, text = _read([path], "give another file")
    elif asked:
        found, text = _read([Path.cwd() / asked, ROOT / asked], f"correct {VARIABLE}")
    else:
        found, text = _read([_DEFAULT], f"restore it, or name another file by {VARIABLE}")
    source = _shown_path(found)
    tables = _parsed(text, source)
    try:
        asked_for = placement.placed(tables, host) if host else tables
        moved = host if asked_for != tables else ""
        context = {"source": source, "locate": local_path, "placed_on": moved}
        return Topology.model_validate(asked_for, context=context)
    except ValidationError as error:
        raise Refused(_faults(source, error)) from None


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


def secrets_dir(group_name: str, host: str = "local") -> Path:
    """Say where the secrets of a group lie; one placed on another host by `on` has its own.

    It makes no directory. Raises Refused for names that would lead elsewhere.
    """
    name = group_name if host == "local" else f"{group_name}@{host}"
    if re.search(r"[/\x00]", name) or name in {"", ".", ".."}:
        raise Refused(f"{name!r} cannot name a directory of secrets")
    return ROOT / "data" / "secrets" / name


def _read(candidates: list[Path], cure: str) -> tuple[Path, str]:
    """Read the first file that exists."""
    path = candidates[0]
    for path in candidates:
        shown = _shown_path(path)
        try:
            return path, path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            continue
        except IsADirectoryError:
            raise Refused(f"{shown} is a directory, not a file: {cure}") from None
        except UnicodeDecodeError as error:
            raise Refused(f"{shown} is not UTF-8 text (byte {error.start}): save it so") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is not valid"
            raise Refused(f"{shown} cannot be read ({reason}): {cure}") from None
    places = " and no ".join(_shown_path(path) for path in dict.fromkeys(candidates))
    raise Refused(f"there is no {places}: {cure}")


def _shown_path(path: Path) -> str:
    """Name a file as the operator would: from the project if it lies there."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _parsed(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise Refused(f"{source} is nested too deeply to be a topology") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{source} is not valid TOML: {error}; correct it there") from None
    except ValueError:  # Python's limit on the digits of a number
        raise Refused(f"{source} is not valid TOML: it has a number too long to read") from None


def _faults(source: str, error: ValidationError) -> str:
    """Write every fault on a line of its own, in the words of the file."""
    lines = list(dict.fromkeys(map(_line, error.errors(include_url=False))))
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    return "\n  ".join([f"{source}: {count}:", *lines])


def _line(fault: ErrorDetails) -> str:
    where, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        sentence = _unknown(where)
    elif kind == "fault":
        sentence = context["sentence"]
    else:
        sentence = str(context.get("error", "")) or _SENTENCES.get(kind, "cannot be understood")
    if sentence.startswith("must ") and (kind != "fault" or fault["input"] is not None):
        sentence += f", not {_shown(fault['input'])}"
    if where[0] == "nodes" and where[2:] == ("name",) and kind == "value_error":
        where = where[:2]  # the name is the table's
    return f"{_dotted(where)}: {sentence}"


def _unknown(where: tuple[int | str, ...]) -> str:
    """Say that a key is unknown, and which one may be meant."""
    known = _KEYS[str(where[0])] if len(where) > 1 else list(Topology.model_fields)
    hint = meant(str(where[-1]), known) or f" (known are {', '.join(known)})"
    return f"unknown key{hint}"


def _dotted(where: Iterable[int | str]) -> str:
    """Write a path as TOML does: a key of other characters stands in quotes."""
    keys = map(str, where)
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _shown(key) for key in keys)


def _shown(value: object) -> str:
    """Write a value as TOML does, shortened, in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        short = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
        return json.dumps(short, ensure_ascii=False)
    if isinstance(value, int) and value.bit_length() > 64:  # noqa: PLR2004
        return "so long a number"  # Python refuses to print the longest
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list) else "a date or time"
