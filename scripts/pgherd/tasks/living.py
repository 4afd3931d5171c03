"""Tasks of a group's every day: start it, stop it, bring it to its topology, take it away."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.tasks.common import ask, open_group, print_result, report_errors


@task
@report_errors
def start(c: Context) -> None:
    """Start the servers as what their data says they are, and wait for them (step 9)."""
    from pgherd.operations import start_stop

    start_stop.start(open_group(c))


@task
@report_errors
def stop(c: Context) -> None:
    """Stop the servers in order, the primary first (step 3)."""
    from pgherd.operations import start_stop

    start_stop.stop(open_group(c))


@task
@report_errors
def apply(c: Context) -> None:
    """Bring the settings, rules and certificates of what runs to what the topology asks."""
    from pgherd.checks.diff import compare
    from pgherd.operations import apply as operation
    from pgherd.report import findings

    group = open_group(c)
    operation.apply(group)
    if not group.trace.dry and not (left := compare(group)).same:
        print_result(c, "What apply does not do:\n" + findings.diff_text(left))


@task(
    help={
        "purge": "also set the data and the passwords aside",
        "confirm": "the group's name, in place of typing it",
        "delete-data": "with --purge: delete them instead of setting them aside",
    }
)
@report_errors
def down(c: Context, purge: bool = False, confirm: str = "", delete_data: bool = False) -> None:
    """Remove the containers and the network; the data stays."""
    from pgherd.operations import teardown

    group = open_group(c)
    if not purge:
        return teardown.down(group, delete=delete_data)
    confirm = confirm or ask(f"This takes {group.name} away. Type its name to go on: ")
    return teardown.purge(group, confirm=confirm, delete=delete_data)
