"""The three tasks that make a pair and prove it, and what they begin with."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.tasks.common import (
    JSON,
    NODE,
    SEEDING,
    confirm,
    open_group,
    print_report,
    qualify,
    report_errors,
)


@task
@report_errors
def image(c: Context) -> None:
    """Make the image of the topology present: pull it, or build it where no registry answers."""
    from pgherd.operations import image as step

    group = open_group(c)
    print(step.ensure_image(group).ref)


@task
@report_errors
def setup_master(c: Context) -> None:
    """Run the primary on its own data and let standbys stream from it (steps 1 and 6)."""
    from pgherd.operations import setup

    setup.setup_master(open_group(c))


@task(  # each parameter is a flag
    help={
        **NODE,
        **SEEDING,
        "method": "basebackup (over the network, from the running master) or copy (its files)",
        "rebuild": "seed anew even if it streams already",
        "yes": "stop the master for --method copy although clients are connected",
    }
)
@report_errors
def seed_standby(  # noqa: PLR0913, PLR0917
    c: Context,
    node: str = "",
    method: str = "basebackup",
    rebuild: bool = False,
    set_aside: bool = False,
    allow_async: bool = False,
    no_verify_backup: bool = False,
    max_rate: str = "",
    spread_checkpoint: bool = False,
    from_: str = "",
    yes: bool = False,
) -> None:
    """Lay the master's data into a standby that streams, and wait for it (steps 4, 5, 7 to 10)."""
    from pgherd.operations import seed
    from pgherd.operations.seed import SeedOptions

    asked = SeedOptions(
        method=method,
        rebuild=rebuild,
        set_aside=set_aside,
        allow_async=allow_async,
        verify_backup=not no_verify_backup,
        max_rate=max_rate,
        spread_checkpoint=spread_checkpoint,
        source=from_,
        confirm=lambda question: confirm(question, yes),
    )
    group = open_group(c)
    seed.seed_standby(group, seed.choose_standby(group, node, asked), asked)


@task(help={**JSON, "tap": "print the Test Anything Protocol"})
@report_errors
def verify(c: Context, json_: bool = False, tap: bool = False) -> None:
    """Prove it as a client: a row is seen on the standby, a write is refused (steps 11 and 12)."""
    _prove(c, json_=json_, tap=tap)


def _prove(c: Context, *, json_: bool = False, tap: bool = False, acted: bool = False) -> None:
    from pgherd.checks.verify import as_script
    from pgherd.checks.verify import verify as run
    from pgherd.report import findings

    shown, group = findings.verdict(json_=json_, tap=tap), open_group(c)
    if group.trace.dry:
        group.trace.shell(as_script(group))
        return
    verdict = run(group)
    print_report(c, qualify(shown(verdict), c), ok=verdict.ok, acted=acted)


@task
@report_errors
def demo(c: Context) -> None:
    """Do the three in one run and show what there is then."""
    setup_master(c)
    seed_standby(c)
    _prove(c, acted=True)
    from pgherd.report import findings

    group = open_group(c)
    password, trusted = group.passwords.path("postgres"), group.certificates.for_clients
    print_report(c, findings.summary(group.topology, password, trusted, group.over), acted=True)
