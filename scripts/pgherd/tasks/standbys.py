"""Tasks for more standbys than one: add them, remove them, say whom commits wait for."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.errors import Refused
from pgherd.tasks.common import (
    SEEDING,
    NamesOrAll,
    open_group,
    print_report,
    qualify,
    report_errors,
    split_names,
)


@task(
    klass=NamesOrAll,
    positional=["names"],
    help={
        "names": "one or several, as s2,s3,s4; each a table of the topology file",
        "all": "every standby of the topology that does not stream yet",
        **SEEDING,
    },
)
@report_errors
def add_standby(  # noqa: PLR0913, PLR0917
    c: Context,
    names: str,
    all: bool = False,  # noqa: A002 (the flag's name)
    from_: str = "",
    set_aside: bool = False,
    allow_async: bool = False,
    no_verify_backup: bool = False,
    max_rate: str = "",
    spread_checkpoint: bool = False,
) -> None:
    """Add standbys side by side, each after its upstream: what seed-standby does, for many."""
    from pgherd.operations import seed
    from pgherd.operations.seed import SeedOptions

    asked = SeedOptions(
        source=from_,
        set_aside=set_aside,
        allow_async=allow_async,
        verify_backup=not no_verify_backup,
        max_rate=max_rate,
        spread_checkpoint=spread_checkpoint,
    )
    seed.add_standbys(open_group(c), split_names(names), asked, every=all)


@task(
    positional=["names"],
    help={
        "names": "one or several, as s2,s3,s4",
        "allow-async": "also where commits then wait for no standby, and strict = true",
    },
)
@report_errors
def remove_standby(c: Context, names: str, allow_async: bool = False) -> None:
    """Take standbys out of the group: its commits, its slots, its containers; the data is kept."""
    from pgherd.operations import remove

    remove.remove_standbys(open_group(c), split_names(names), allow_async=allow_async)


@task(
    help={
        "mode": 'whom commits wait for from now on: "ANY 1 (standby1, standby2)"',
        "off": "let commits wait for nobody, and those that wait go on",
        "yes": "with --off: also where the topology says strict = true",
    }
)
@report_errors
def sync(c: Context, mode: str | None = None, off: bool = False, yes: bool = False) -> None:
    """Show whom commits wait for, or change it on the primary at once."""
    from pgherd.operations import sync as step
    from pgherd.report.changes import sync_text

    if mode == "":
        raise Refused(
            "--mode is empty (a variable not set?): `invoke sync --off` waits for nobody."
        )
    if mode and off:
        raise Refused("--mode and --off contradict each other.")
    if mode:
        step.require_mode(open_group(c), mode)
    elif off:
        step.release(open_group(c), yes=yes)
    else:
        print_report(c, qualify(sync_text(step.state(open_group(c))), c))
