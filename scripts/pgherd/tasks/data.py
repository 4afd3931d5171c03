"""Tasks for data that other tasks have set aside: list it, put it back, delete it."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from pgherd.tasks.common import JSON, open_group, print_report, qualify, report_errors

NAME = {"name": "of a copy, or its path, as `invoke aside.list` shows it; HOST:NAME on one host"}


@task(name="list", help=JSON)
@report_errors
def aside_list(c: Context, json_: bool = False) -> None:
    """List what tasks have set aside: data directories, volumes, passwords, unfinished copies."""
    from pgherd.operations import restore
    from pgherd.report import aside as report

    found = restore.survey(open_group(c))
    text = report.as_json(found) if json_ else qualify(report.as_text(found), c)
    print_report(c, text, unreachable=bool(found.away))


@task(
    name="restore",
    positional=["name"],
    help={
        **NAME,
        "foreign": "also if it is of another system or another major version than the group",
    },
)
@report_errors
def aside_restore(c: Context, name: str, foreign: bool = False) -> None:
    """Put back what was set aside; what is there now is set aside in its place."""
    from pgherd.operations import restore

    restore.restore(open_group(c), name, foreign=foreign)


@task(name="delete", positional=["name"], help={**NAME, "confirm": "the same name again"})
@report_errors
def aside_delete(c: Context, name: str, confirm: str = "") -> None:
    """Delete for good one thing that was set aside; its name is to be said twice."""
    from pgherd.operations import restore

    restore.delete(open_group(c), name, confirm=confirm)


aside = Collection("aside", aside_list, aside_restore, aside_delete)
