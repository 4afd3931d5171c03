"""The faults of a topology file in words: a line each, with its place in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pgherd.errors import SHOWN, escaped
from pgherd.node import Group, HostSettings, Node
from pgherd.rules import meant
from pgherd.topology import Topology

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


def told(source: str, error: ValidationError) -> str:
    """Write every fault on a line of its own, in the words of the file."""
    lines = list(dict.fromkeys(map(_line, error.errors(include_url=False))))
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    more = [f"and {len(lines) - _FAULTS} more"] if len(lines) > _FAULTS else []
    return "\n  ".join([f"{source}: {count}:", *lines[:_FAULTS], *more])


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
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _shown(key) for key in keys)


def _shown(value: object) -> str:
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
