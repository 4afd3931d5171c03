"""Tasks for the data that others have set aside: list it, put it back, delete it."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.tasks.common import JSON, open_group, print_report, qualify, report_errors


@task(
    help={
        **JSON,
        "delete": "delete this one, by its name or path; say it in --confirm as well",
        "confirm": "the same name again",
    }
)
@report_errors
def backups(c: Context, json_: bool = False, delete: str = "", confirm: str = "") -> None:
    """List what tasks have set aside: data directories, volumes, passwords, unfinished copies."""
    from pgherd.operations import restore as copies
    from pgherd.operations import restore as deleting
    from pgherd.report import aside as report

    group = open_group(c)
    if delete or confirm:
        deleting.delete(group, delete, confirm=confirm)
        return
    found = copies.survey(group)
    text = report.as_json(found) if json_ else qualify(report.as_text(found), c)
    print_report(c, text, unreachable=bool(found.away))


@task(
    positional=["name"],
    help={
        "name": "of a copy, or its path, as `invoke backups` shows it; HOST:NAME on one host",
        "foreign": "also if it is of another system or another major version than the group",
    },
)
@report_errors
def restore(c: Context, name: str, foreign: bool = False) -> None:
    """Put back what was set aside; what is there now is set aside in its place."""
    from pgherd.operations import restore as restoring

    restoring.restore(open_group(c), name, foreign=foreign)
