"""From an empty folder to a proven synchronous standby: the main job, on every major version."""

from __future__ import annotations

from conftest import Herd


def test_three_tasks_end_in_a_passed_verify(pair: Herd) -> None:
    checks = pair.checks()
    assert [name for name, _ in checks] == [
        "standby-up", "in-recovery", "same-system", "streaming", "sync", "replay",
        "row-seen", "write-refused", "clean",
    ]  # fmt: skip
    assert all(check["ok"] for check in checks.values())
