"""Results as text, JSON and TAP, to the letter."""

from __future__ import annotations

import json

import pytest
from fakes import topology

from pgherd.checks.verify import CheckResult, Verdict
from pgherd.errors import Refused
from pgherd.operations.steps import STEPS, Step
from pgherd.report import findings, uris
from pgherd.report.text import table

ANY = "0.0.0.0"  # noqa: S104

PASSED = Verdict(
    "g",
    [
        CheckResult("standby-up", "s1", ok=True, evidence="127.0.0.1:5433 answers"),
        CheckResult("sync", "standby2", ok=True, evidence="sync_state is sync"),
    ],
    1.2345,
    {"pa": ["is now a synchronous standby"], "s1": []},
)
FAILED = Verdict(
    "g",
    [
        CheckResult("standby-up", "s1", False, "no answer:\nrefused", "`invoke start`"),
        CheckResult("sync", "s1", False, "not tried: standby-up failed"),
        CheckResult("clean", "s1", True, "ü"),
    ],
    0.04,
)


def test_a_verdict_is_written_in_one_way() -> None:
    assert findings.verdict(json_=True, tap=False) is findings.verdict_json
    assert findings.verdict(json_=False, tap=True) is findings.verdict_tap
    assert findings.verdict(json_=False, tap=False) is findings.verdict_text
    with pytest.raises(Refused, match="--json and --tap contradict each other"):
        findings.verdict(json_=True, tap=True)


def test_text_of_a_passed_verify() -> None:
    assert findings.verdict_text(PASSED) == (
        "ok  standby-up  s1        127.0.0.1:5433 answers\n"
        "ok  sync        standby2  sync_state is sync\n"
        "log of pa:\n"
        "  is now a synchronous standby\n"
        "verify of g: passed (1.2 s)"
    )


def test_text_of_a_failed_verify() -> None:
    text = findings.verdict_text(FAILED)
    assert text.startswith("FAIL  standby-up  s1  no answer:")
    assert (
        "\n      cure: `invoke start`\nFAIL  sync        s1  not tried: standby-up failed\n" in text
    )
    assert text.endswith("\nok    clean       s1  ü\nverify of g: FAILED: 2 of 3 checks (0.0 s)")


def test_json() -> None:
    assert json.loads(findings.verdict_json(PASSED)) == {
        "group": "g",
        "ok": True,
        "seconds": 1.234,
        "checks": [
            {"name": "standby-up", "node": "s1", "ok": True, "evidence": "127.0.0.1:5433 answers",
             "cure": ""},
            {"name": "sync", "node": "standby2", "ok": True, "evidence": "sync_state is sync",
             "cure": ""},
        ],
    }  # fmt: skip
    failed = json.loads(findings.verdict_json(FAILED))
    assert failed["ok"] is False
    assert failed["checks"][0]["cure"] == "`invoke start`"


def test_tap() -> None:
    assert findings.verdict_tap(FAILED).splitlines() == [
        "TAP version 13",
        "1..3",
        "not ok 1 - standby-up s1",
        "# no answer:",
        "# refused",
        "# cure: `invoke start`",
        "not ok 2 - sync s1",
        "# not tried: standby-up failed",
        "ok 3 - clean s1",
        "# ü",
    ]


def test_a_verdict_without_checks_is_no_proof() -> None:
    nothing = Verdict("g", [], 0.0)
    assert nothing.ok is False
    assert findings.verdict_text(nothing) == "verify of g: FAILED: 0 of 0 checks (0.0 s)"
    assert findings.verdict_tap(nothing) == "TAP version 13\n1..0"


def test_table() -> None:
    assert table([("a", 1, ""), ("bcd", 22, "x")]) == "a    1\nbcd  22  x"
    assert table([]) == ""


@pytest.mark.parametrize(
    ("standbys", "places"),
    [
        ((), ["127.0.0.1:5432"]),
        (("s1",), ["127.0.0.1:5432", "127.0.0.1:5433"]),
        (("s1", "s2"), ["127.0.0.1:5432", "127.0.0.1:5433", "127.0.0.1:5434"]),
    ],
)
def test_uris(standbys: tuple[str, ...], places: list[str]) -> None:
    *single, whichever = uris.lines(topology(*standbys))
    assert single == [f"postgresql://postgres@{place}/postgres" for place in places]
    assert whichever == (
        f"postgresql://postgres@{','.join(places)}/postgres?target_session_attrs=read-write"
    )


@pytest.mark.parametrize(
    ("listen", "place"),
    [("::1", "[::1]"), ("::", "[::1]"), (ANY, "127.0.0.1"), ("10.0.0.5", "10.0.0.5")],
)
def test_uri_of_another_address(listen: str, place: str) -> None:
    uri = uris.lines(topology(pa={"listen": listen}))[0]
    assert uri == f"postgresql://postgres@{place}:5432/postgres"


def test_steps() -> None:
    steps = [Step(1, "run-master", "run it", "docker run", "yes"), Step(12, "check", "x", "y", "")]
    assert findings.steps_text(steps).splitlines() == [
        "    step        what it does  done",
        "1   run-master  run it        yes",
        "      instead of: docker run",
        "12  check       x",
        "      instead of: y",
        "Each is a task: invoke step.run-master, and so on.",
    ]
    assert [step.number for step in STEPS] == list(range(1, 13))


def test_summary() -> None:
    lines = findings.summary(topology("s1"), "/it's/p", "", {}).splitlines()
    assert lines[1:5] == [
        "pa  primary        postgresql://postgres@127.0.0.1:5432/postgres",
        "s1  standby of pa  postgresql://postgres@127.0.0.1:5433/postgres",
        (
            "whichever is primary: postgresql://postgres@127.0.0.1:5432,127.0.0.1:5433/postgres"
            "?target_session_attrs=read-write"
        ),
        "the password: export PGPASSWORD=\"$(cat '/it'\"'\"'s/p')\"",
    ]
    assert "  invoke psql --node s1                    one on the standby" in "\n".join(lines)
    assert "invoke psql --node pa" in findings.summary(topology(), "/p", "", {})
