"""The numbered steps of the tutorial, each a task by itself."""

from __future__ import annotations

from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from pgherd.tasking import NODE, open_group, report_errors, standby_of


def _step(name: str, doc: str, *, of_node: bool = False) -> Any:
    """Make the task of one step, which has a node to work on or works on the group."""

    def on_group(c: Context) -> None:
        from pgherd.operations import steps as single

        getattr(single, name)(open_group(c))

    def on_node(c: Context, node: str = "") -> None:
        from pgherd.operations import steps as single

        getattr(single, name)(group := open_group(c), standby_of(group, node))

    body = on_node if of_node else on_group
    body.__doc__ = doc
    return task(report_errors(body), name=name.replace("_", "-"), help=NODE if of_node else {})


step = Collection(
    "step",
    _step("run_master", "1. Run the master on its own data directory."),
    _step("run_standby", "2. Run the standby-to-be with a database of its own.", of_node=True),
    _step("set_aside", "4. Set the standby's own data aside.", of_node=True),
    _step("copy_data", "5. Copy the files of the stopped master.", of_node=True),
    _step("base_backup", "5. Or take a base backup from the running master.", of_node=True),
    _step("allow_replication", "6. Make the replication role and let it in."),
    _step("connect_standby", "7. Tell the standby whom to follow.", of_node=True),
    _step("mark_standby", "8. Mark it as a standby, so that it is read-only.", of_node=True),
    _step("require_sync", "10. Make the master wait for the standby, once it streams."),
)
