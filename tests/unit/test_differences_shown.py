"""Differences as they are printed: as text, and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from pgherd.checks.containers import Difference
from pgherd.checks.diff import Comparison, Note
from pgherd.report import findings

FOUND = Comparison(
    "g",
    (
        Difference("state", "s1", "it runs", "it does not answer:\nno", "invoke start"),
        Difference("sync", "pa-1", "a", "b", "docker unpause pa"),
    ),
    (Note("s1 is primary now, and pa in the topology", "invoke switchover --to pa"),),
    {},
)


def test_text() -> None:
    assert findings.diff_text(FOUND).splitlines() == [
        "s1    asked  it runs",
        "      found  it does not answer: no",
        "      cure   `invoke start`",
        "pa-1  asked  a",
        "      found  b",
        "      cure   `docker unpause pa`",
        f"note: {FOUND.notes[0].sentence}: `invoke switchover --to pa` swaps them back",
        "diff of g: 2 differences",
    ]  # fmt: skip
    assert findings.diff_text(replace(FOUND, notes=(), differences=FOUND.differences[:1])).endswith(
        "diff of g: 1 difference"
    )


def test_json() -> None:
    told = json.loads(findings.diff_json(FOUND, "ada@box"))
    assert (told["group"], told["same"], told["unreachable"]) == ("g", False, {})
    assert told["differences"][0] == {
        "what": "state", "node": "s1", "asked": "it runs", "found": "it does not answer:\nno",
        "command": "invoke on ada@box start",
    }  # fmt: skip
    assert told["differences"][1]["command"] == "docker unpause pa"
    assert told["notes"][0]["command"] == "invoke on ada@box switchover --to pa"
    assert json.loads(findings.diff_json(Comparison("g", (), (), {})))["same"] is True
