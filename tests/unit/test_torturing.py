"""`invoke torture` says that all passed only of what it tried, and the soak judges what it saw."""

from __future__ import annotations

import argparse
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import soak
import torture
from changes import CHANGES
from conftest import Herd
from killing import Command, Run, When
from rack import Rack
from torture import Asked, Tally
from trial import Trial

NAME = "down"
KILLED, ENDED = -signal.SIGKILL, 0
NOBODY = Herd("t000000", Path("/nowhere"), {}, {})


def asked(*, passed: int = 0, at: tuple[int, When] | None = None) -> Asked:
    done = {("17", NAME, number, "before") for number in range(1, passed + 1)}
    return Asked([NAME], "17", 0, at, math.inf, cast("Any", done))


class Racked:
    """A rack whose task has two commands, a look and then an act."""

    def __init__(self, code: int, fault: Exception | None = None) -> None:
        self.trial = Trial(NOBODY, CHANGES["failover of a pair"])
        self.code, self.fault = code, fault

    def count(self) -> list[Command]:
        """Return its commands."""
        return [Command("ps --all"), Command("rm c", ("rm",))]

    def cut_short(self, number: int, when: When) -> None:
        """Kill it there."""
        del when
        if self.fault:
            raise self.fault
        self.trial.last = Run(self.code, "", self.count()[:number])


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torture, "RECORD", tmp_path / "record")
    return tmp_path / "record"


def racked(monkeypatch: pytest.MonkeyPatch, code: int, fault: Exception | None = None) -> None:
    @contextmanager
    def rack(*_: object) -> Iterator[Rack]:
        yield cast("Rack", Racked(code, fault))

    monkeypatch.setattr(torture, "rack", rack)


def test_what_was_killed_everywhere_has_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], record: Path
) -> None:
    racked(monkeypatch, KILLED)
    assert torture.torture(asked(), 1)
    assert "4 points tried, all passed" in capsys.readouterr().out
    assert len(record.read_text().splitlines()) == 4


def test_what_was_not_reached_is_neither_passed_nor_on_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], record: Path
) -> None:
    racked(monkeypatch, ENDED)
    assert not torture.torture(asked(), 1)
    assert "4 points tried, 4 not reached, nothing is shown by it" in capsys.readouterr().out
    assert not record.exists()


@pytest.mark.parametrize("fault", [KeyError("x"), IndexError(), AssertionError("not sound")])
def test_whatever_happens_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception
) -> None:
    racked(monkeypatch, KILLED, fault)
    assert not torture.torture(asked(), 1)
    assert "4 points tried, 4 failed" in capsys.readouterr().out
    monkeypatch.setattr(torture, "rack", lambda *_: (_ for _ in ()).throw(fault))
    assert not torture.torture(asked(), 1)
    assert "0 points tried, 1 failed" in capsys.readouterr().out


def test_a_task_that_was_lost_is_no_success() -> None:
    assert not torture._summed(asked(), {})
    assert not torture._summed(asked(), {NAME: Tally(commands=2)})
    late = Asked([NAME, "setup-master"], "17", 0, None, 0.0, set())  # the time is over
    assert torture._summed(late, {NAME: Tally(2, tried=1, left=3)})
    assert not torture._summed(late, {})


def test_with_all_on_record_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture._summed(asked(passed=2), {NAME: Tally(commands=2)})
    assert "0 points tried, all passed before" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["12:foo", "12", "x:after", "0:after", ":after", "-1:after"])
def test_a_point_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="12:after"):
        torture._point(text)
    assert torture._point("12:after") == (12, "after")


def test_the_soak_expects_no_refused_password() -> None:
    lost = 'psql: error: connection to server at "127.0.0.1", port 1 failed: Connection refused'
    wrong = (
        'pgbench: error: connection to server at "127.0.0.1", port 1 failed: FATAL:  '
        'password authentication failed for user "postgres"'
    )
    assert soak.EXPECTED.search(lost)
    assert not soak.EXPECTED.search(wrong)


def sample(megabytes: float) -> soak.Sample:
    return soak.Sample({"primary": megabytes}, {"primary": 10})


def test_growth_is_judged_by_three_minutes_or_more() -> None:
    assert soak._grown([sample(100)] * 2) is None
    assert soak._grown([sample(100)] * 3) == []
    assert soak._grown([sample(100), sample(100), sample(200)]) == ["primary: memory 100 to 200 MB"]
