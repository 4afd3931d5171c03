"""Is it what `sql/facts.sql` answers? Something else may have printed into a command's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgherd.postgres.conf import lsn_to_int

_KINDS: dict[type, tuple[str, ...]] = {
    bool: ("in_recovery", "replay_paused", "marked", "hba_lets_replicator_in"),
    int: ("version_num", "timeline", "apply_delay", "conflicts"),
    str: (
        "system_identifier", "history", "sync_names", "primary_conninfo", "primary_slot",
    ),
}  # fmt: skip
# What stands in each row of these, and which of that are numbers.
_ROWS = {
    "slots": ({"name", "active", "restart", "wal_status"}, {"retained", "left"}),
    "sync_waiters": ({"pid", "since", "query"}, {"seconds"}),
    "clients": ({"pid", "user", "application_name", "state"}, {"transaction"}),
    "holders": ({"pid", "user", "application_name", "state", "query"}, {"seconds"}),
    "tablespaces": ({"name", "path", "lies", "databases"}, set()),
}


def check(answer: Mapping[str, Any]) -> None:
    """Raise ValueError, TypeError or KeyError for what cannot be worked with."""
    for kind, name, value in _plain(answer):
        if type(value) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
    for lsn in _lsns(answer):
        lsn_to_int("0/0" if lsn is None else lsn)
    for name in ("slots", "sync_waiters", "clients"):
        _check_rows(name, answer[name])
    for part in (answer["receiver"], answer["replicator"]):
        dict(part or {})
    float(answer["replayed_age"] or 0)
    _check_waits(answer)


def _check_rows(name: str, rows: Any) -> None:
    keys, numbers = _ROWS[name]
    for row in rows:
        if missing := (keys | numbers) - row.keys():
            raise ValueError(f"a row of {name} lacks {', '.join(sorted(missing))}")
        [float(row[key] or 0) for key in numbers]


def _check_waits(answer: Mapping[str, Any]) -> None:
    """Look at what a switchover may have to wait for, where that is told."""
    if last := answer.get("checkpoint"):
        lsn_to_int(last["redo"])
        float(last["seconds"])
    if held := answer.get("held"):
        _check_rows("holders", held["holders"])
        [str(held["by"]), float(held["seconds"] or 0)]
    if archiver := answer.get("archiver"):
        [int(archiver["files"]), bool(archiver["always"])]
        [float(archiver["seconds"]), float(archiver["fails"] or 0)]
    int(answer.get("prepared") or 0)


def _plain(answer: Mapping[str, Any]) -> Iterator[tuple[type, str, object]]:
    """Yield each value that has to be of a certain kind: that, its name, itself."""
    for kind, names in _KINDS.items():
        yield from ((kind, name, answer[name]) for name in names)
    yield from ((str, "a word of restart_due", word) for word in answer["restart_due"])
    for row in answer["tablespaces"]:
        yield from (
            (str, f"the {key} of a tablespace", row[key]) for key in ("name", "path", "lies")
        )
        yield from ((str, "a database", database["name"]) for database in row["databases"])
        yield from ((bool, "a default", database["default"]) for database in row["databases"])
    for value in dict(answer.get("written") or {}).values():
        yield str, "the value of a setting", value or ""
    for name in ("database", "read_only", "no_alter_system"):
        yield str, name, answer.get(name) or ""
    for sender in answer["senders"]:
        for key in ("application_name", "state", "backend_start"):
            yield str, key, sender[key]


def _lsns(answer: Mapping[str, Any]) -> Iterator[Any]:
    yield answer["lsn"]
    yield answer["received"]
    for sender in answer["senders"]:
        yield from (sender.get(key) for key in ("sent", "write", "flush", "replay"))
        float(sender.get("connected") or 0)
