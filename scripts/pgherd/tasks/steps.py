"""The tutorial's twelve steps: `invoke steps` lists them, and each is a task by itself."""

from __future__ import annotations

from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from pgherd.tasks import living, looking, setup
from pgherd.tasks.common import NODE, open_group, print_report, report_errors


@task(default=True)
@report_errors
def steps(c: Context) -> None:
    """List the tutorial's twelve steps: what each does, its line there, whether it is done."""
    from pgherd.operations import steps as tutorial
    from pgherd.report import findings

    print_report(c, findings.steps_text(tutorial.look(open_group(c))))


def _step(name: str, doc: str, *, of_node: bool = False) -> Any:
    """Make the task of one step, which has a node to work on or works on the group."""

    def on_group(c: Context) -> None:
        from pgherd.operations import steps as tutorial

        getattr(tutorial, name)(open_group(c))

    def on_node(c: Context, node: str = "") -> None:
        from pgherd.operations import steps as tutorial

        group = open_group(c)
        getattr(tutorial, name)(group, node or tutorial.first_standby(group).name)

    body = on_node if of_node else on_group
    body.__doc__ = doc
    return task(report_errors(body), help=NODE if of_node else {})


TWELVE = {
    "run-master": _step("run_master", "1. Run the master on its own data directory."),
    "run-standby": _step(
        "run_standby", "2. Run the standby-to-be with a database of its own.", of_node=True
    ),
    "stop": living.stop,  # 3
    "set-aside": _step("set_aside", "4. Set the standby's own data aside.", of_node=True),
    "copy-data": _step("copy_data", "5. Copy the files of the stopped master.", of_node=True),
    "base-backup": _step(
        "base_backup", "5. Or take a base backup from the running master.", of_node=True
    ),
    "allow-replication": _step("allow_replication", "6. Make the replication role and let it in."),
    "connect-standby": _step(
        "connect_standby", "7. Tell the standby whom to follow.", of_node=True
    ),
    "mark-standby": _step(
        "mark_standby", "8. Mark it as a standby, so that it is read-only.", of_node=True
    ),
    "start": living.start,  # 9
    "require-sync": _step(
        "require_sync", "10. Make the master wait for the standby, once it streams."
    ),
    "logs": looking.logs,  # 11
    "check": setup.verify,  # 12
}
step = Collection("step")
for name, body in TWELVE.items():
    step.add_task(body, name=name)
