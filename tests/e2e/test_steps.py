"""The tutorial, step by step: each by its own task."""

from __future__ import annotations

from typing import Any

import pytest
from asking import until
from conftest import MakeHerd, docker, majors
from test_pair import TASKS, done


@pytest.mark.parametrize("major", majors("17"))
def test_the_twelve_steps_by_hand(make_herd: MakeHerd, major: str) -> None:
    herd = make_herd(major)
    said: dict[str, Any] = {}
    for task in TASKS:
        said[task] = herd.invoke(f"step.{task}")
    assert [task for task, state in done(herd).items() if state == "no"] == ["stop"]
    aside = [path.name for path in herd.directory.iterdir() if "_bk_" in path.name]
    assert [name.partition("_bk_")[0] for name in aside] == ["standby_data"]
    assert "started streaming WAL from primary" in said["logs"].stdout
    assert f"verify of {herd.name}: passed" in said["check"].stdout
    assert all(check["ok"] for check in herd.checks().values())


@pytest.mark.long
def test_a_copy_that_is_not_marked_does_not_start(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("step.run-master", "step.stop", "step.copy-data")
    said = herd.invoke("step.start", code=2).stderr
    assert "not marked as a standby" in said
    assert "step.mark-standby" in said
    assert docker("ps", "--all", "--quiet", "--filter", f"name={herd.container('standby')}") == ""
    herd.invoke("step.allow-replication", "step.connect-standby", "step.mark-standby", "step.start")
    assert until(lambda: herd.sql("master", "SELECT state FROM pg_stat_replication") == "streaming")
    herd.invoke("step.require-sync", "step.check")


def test_sync_is_not_required_while_nobody_streams(make_herd: MakeHerd) -> None:
    herd = make_herd("17")
    herd.invoke("setup-master")
    said = herd.invoke("step.require-sync", code=2).stderr
    assert "needs 1 standby that streams, and 0 do" in said
    assert herd.sql("master", "SHOW synchronous_standby_names") == ""
    herd.sql("master", "CREATE TABLE commits_at_once ()")
