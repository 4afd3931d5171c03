"""How a look ends: what it found is printed, and its exit status tells whether all is well."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgherd.errors import Error, Unreachable
from pgherd.hosts.commands import Trace
from pgherd.tasks import common


def looking(monkeypatch: pytest.MonkeyPatch, *, dry: bool = False) -> Any:
    """Return a context whose group is looked at."""
    group = SimpleNamespace(trace=Trace(dry=dry))
    monkeypatch.setattr(common, "open_group", lambda _: group)
    return cast("Any", None)


def test_what_is_well_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common.print_report(looking(monkeypatch), "all is well")
    assert capsys.readouterr().out == "all is well\n"


@pytest.mark.parametrize(
    ("ok", "away", "status"), [(False, False, 1), (True, True, 3), (False, True, 3)]
)
def test_what_is_not_is_printed_and_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ok: bool,
    away: bool,
    status: int,
) -> None:
    with pytest.raises(Error) as caught:
        common.print_report(looking(monkeypatch), "see to it", ok=ok, unreachable=away)
    assert (caught.value.code, isinstance(caught.value, Unreachable)) == (status, away)
    assert capsys.readouterr().out == "see to it\n"


def test_with_dry_it_is_a_comment_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common.print_report(looking(monkeypatch, dry=True), "two\nlines", ok=False, unreachable=True)
    assert capsys.readouterr().out.splitlines()[-2:] == ["# two", "# lines"]
