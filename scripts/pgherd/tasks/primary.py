"""Tasks that make another node the primary, and bring the old one back."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.tasks.common import open_group, print_result, report_errors


@task(
    help={
        "to": "the standby that is to be primary",
        "timeout": "seconds that others are waited for: consumers, archiver, queries (default: 30)",
        "force": "end what would have to be waited for",
    }
)
@report_errors
def switchover(c: Context, to: str = "", timeout: str = "", force: bool = False) -> None:
    """Make a standby the primary while all is well: nothing is lost, and the old one follows."""
    from pgherd.operations import switchover as step
    from pgherd.report import changes

    seconds = step.waiting(timeout)
    print_result(
        c, changes.switchover_text(step.switchover(open_group(c), to, seconds=seconds, force=force))
    )


@task(
    help={
        "to": "the standby that is to be primary (default: the one that has most)",
        "max-loss": 'bytes of WAL that may be lost, or "any" (default: 0 if synchronous, else any)',
        "skip_fencing": "also where the lost primary's host cannot be reached",
    }
)
@report_errors
def failover(c: Context, to: str = "", max_loss: str = "", skip_fencing: bool = False) -> None:
    """Fence a primary that is lost, and make a standby the primary in its place."""
    from pgherd.operations import failover as step
    from pgherd.operations.data_loss import read_limit
    from pgherd.report import changes

    found = step.failover(
        open_group(c), to, max_loss=read_limit(max_loss), skip_fencing=skip_fencing
    )
    print_result(c, changes.failover_text(found))


@task(
    positional=["name"],
    help={
        "name": "the node",
        "max-loss": 'bytes of its own commits that may be lost, or "any" (default: 0)',
    },
)
@report_errors
def rejoin(c: Context, name: str, max_loss: str = "") -> None:
    """Bring an old primary or a stray standby back: as it is, rewound, or with a new copy."""
    from pgherd.operations import rejoin as step
    from pgherd.operations.data_loss import read_limit
    from pgherd.operations.seed import SeedOptions

    asked = SeedOptions(max_loss=read_limit(max_loss), allow_async=True)
    step.rejoin(open_group(c), name, asked)
