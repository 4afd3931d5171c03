"""Tasks that look at a group and change nothing, and that let one look by oneself."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial

from invoke.context import Context
from invoke.tasks import task

from pgherd.errors import Refused
from pgherd.tasks.common import JSON, open_group, print_report, print_stream, qualify, report_errors
from pgherd.tasks.process import until_ctrl_c


@task(
    help={
        "watch": "look again and again, until Ctrl-C",
        "json_": "print one JSON object; with --watch, one a line",
        "interval": "seconds between two looks (default: 2)",
    }
)
@report_errors
def status(c: Context, watch: bool = False, json_: bool = False, interval: str = "2") -> None:
    """Look once: each node's role, whom it follows, how far behind it is, and what hurts."""
    from pgherd.checks import status as step
    from pgherd.report import status as report

    group, pause = open_group(c), step.pause(interval)
    shown = partial(report.status_json, compact=watch) if json_ else report.status_text
    if not watch:
        found = step.look(group)
        print_report(c, qualify(shown(found), c), ok=found.ok)
        return
    redraws = sys.stdout.isatty() and not json_
    with until_ctrl_c():
        for found in step.watch(group, pause):
            print_stream(report.redraw(qualify(shown(found), c), clear=redraws))


@task(
    help={
        "name": "hba, conf, conninfo, signal, slots, sync or log-settings",
        "node": "which node (default: all)",
    }
    | JSON
)
@report_errors
def show(c: Context, name: str, node: str = "", json_: bool = False) -> None:
    """Show what the tutorial opens in an editor, with its path, or asks by SQL."""
    from pgherd.operations import show as operation

    group = open_group(c)
    found = operation.show(group, name, node)
    print_report(c, operation.shown_json(group, found) if json_ else operation.shown_text(found))


@task(help=JSON)
@report_errors
def diff(c: Context, json_: bool = False) -> None:
    """Compare what the topology asks for with what there is, and name what closes each gap."""
    from pgherd.checks.diff import compare
    from pgherd.report import findings as report

    group = open_group(c)
    found = compare(group)
    text = (
        report.diff_json(found, c.config.pgherd.on)
        if json_
        else qualify(report.diff_text(found), c)
    )
    print_report(c, text, ok=found.same, unreachable=bool(found.away))


@task(
    help={
        **JSON,
        "fix": "do what can safely be done about it, and look again",
        "delete_parts": "with --fix: also delete copies that killed runs left unfinished",
    }
)
@report_errors
def doctor(c: Context, json_: bool = False, fix: bool = False, delete_parts: bool = False) -> None:
    """Look for what ails the group, or will when it is made: each with its cure."""
    from pgherd.checks.doctor import examine
    from pgherd.fix import apply_fixes
    from pgherd.report import findings as report

    if delete_parts and not fix:
        raise Refused(
            "--delete-parts goes with --fix: nothing is deleted without being told twice."
        )
    group = open_group(c)
    found = (apply_fixes(group, delete_parts=delete_parts) if fix else examine(group)).checkup
    text = report.doctor_json(found) if json_ else report.doctor_text(found)
    print_report(c, qualify(text, c), ok=found.ok, unreachable=bool(found.away), acted=fix)


@task(
    help={
        "node": "which node (default: all)",
        "follow": "go on until Ctrl-C",
        "tail": "how many lines (default: 50)",
    }
)
@report_errors
def logs(c: Context, node: str = "", follow: bool = False, tail: str = "50") -> None:
    """Show the last lines of the servers' logs."""
    from pgherd.operations import show

    with until_ctrl_c() if follow else nullcontext():
        show.logs(open_group(c), node, tail=show.lines(tail), follow=follow, show=print_stream)


@task(
    help={
        "node": "which node (default: the primary)",
        "command": "SQL to run instead",
        "database": "the database (default: the topology's group.database, else postgres)",
        "user": "the role that logs in (default: postgres, the superuser)",
        "tuples_only": "print the rows alone, without head and count, as psql's option does",
    }
)
@report_errors
def psql(
    c: Context,
    node: str = "",
    command: str = "",
    database: str | None = None,
    user: str = "postgres",
    tuples_only: bool = False,
) -> None:
    """Open psql in a node's container, as superuser if not told otherwise."""
    from pgherd.operations import show

    options = show.PsqlOptions(command, database, user, tuples_only)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    sys.exit(show.psql(open_group(c), node, options, terminal=terminal))


@task(
    help={
        "role": "primary, standby (else the primary) or any; without it also each node's own",
        "format_": "libpq, jdbc, psycopg or env (default: libpq)",
        "database": "the database (default: the topology's group.database, else postgres)",
        "user": "the role that logs in (default: postgres)",
    }
)
@report_errors
def uri(
    c: Context,
    role: str = "",
    format_: str = "libpq",
    database: str | None = None,
    user: str = "postgres",
) -> None:
    """Print the connection strings, one a line: each node's, then the one with all of them."""
    from pgherd.report import uris

    group = open_group(c)
    password = group.passwords.path("postgres") if user == "postgres" else ""
    if database is None:
        database = group.topology.group.database or "postgres"
    wanted = uris.Wanted(role, format_, database, user, password, group.certificates.for_clients)
    wanted.check()
    for tunnel in uris.tunnels(group.topology, group.over):
        group.trace.note(f"to be reached from this machine: {tunnel}")
    print_report(c, "\n".join(uris.lines(group.topology, wanted)))
