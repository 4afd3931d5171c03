"""The table of contents: each task loads the topology, calls one step, prints the result."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import Task, task

sys.path.insert(0, str(Path(__file__).parent / "scripts"))  # whatever Python invoke runs in

import care
import chores
from numbered import step
from pgherd.tasking import (
    NODE,
    NamesOrAll,
    answered,
    confirm,
    open_group,
    qualify,
    register_tasks,
    report_errors,
    split_names,
    until_ctrl_c,
)
from printing import came, looked, streamed

# --- where ---


@task(positional=["host"], help={"host": "an SSH destination: box, ada@box, ada@box:2222"})
@report_errors
def on(c: Context, host: str) -> None:
    """Place the group on another machine, for the tasks that follow: invoke on ada@box …."""
    from pgherd.config.loader import requested_host
    from pgherd.errors import Refused

    if not host:
        raise Refused("`invoke on` needs a host, and was given an empty word: a variable not set?")
    if host in ns.task_names:
        raise Refused(f"`invoke on {host}`: {host} is a task, and before it comes a host.")
    requested_host(host, "")
    if sys.argv[-2:] == ["on", host]:
        raise Refused(f"`invoke on {host}` wants the tasks for it: invoke on {host} hosts, say.")
    c.config.pgherd.on = host


@task(help={"json_": "print one JSON object"})
@report_errors
def hosts(c: Context, json_: bool = False) -> None:
    """Look at each host of the topology: does it answer, its Docker, space, image, containers."""
    from pgherd.group.platforms import survey
    from pgherd.report import findings as report

    group = open_group(c)
    found = survey(group)
    text = report.hosts_json(group.name, found) if json_ else report.hosts_text(found)
    looked(c, text, away=not all(host.ok for host in found))


# --- the three ---

SEEDING = {  # what a standby is seeded with, be it one or many at once
    "from": "take the base backup from this node, and not from the upstream",
    "set-aside": "also set aside data that is not this group's",
    "allow-async": "let commits go on without it, where it is the one they wait for",
    "no-verify-backup": "do not check the base backup against its manifest",
    "max-rate": "limit of a base backup per second, as pg_basebackup takes it: 32M",
    "spread-checkpoint": "do not hurry the checkpoint",
}


@task
@report_errors
def setup_master(c: Context) -> None:
    """Run the primary on its own data and let standbys stream from it (steps 1 and 6)."""
    from pgherd.operations import setup as master

    master.setup_master(open_group(c))


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
    from pgherd.operations import seed as standby
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
    standby.seed_standby(group, standby.choose_standby(group, node, asked), asked)


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
    from pgherd.operations import seed as standby
    from pgherd.operations.seed import SeedOptions

    asked = SeedOptions(
        source=from_,
        set_aside=set_aside,
        allow_async=allow_async,
        verify_backup=not no_verify_backup,
        max_rate=max_rate,
        spread_checkpoint=spread_checkpoint,
    )
    standby.add_standbys(open_group(c), split_names(names), asked, every=all)


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
    from pgherd.operations import remove as removal

    removal.remove_standbys(open_group(c), split_names(names), allow_async=allow_async)


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
    from pgherd.errors import Refused
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
        looked(c, qualify(sync_text(step.state(open_group(c))), c))


@task(help={"json_": "print one JSON object", "tap": "print the Test Anything Protocol"})
@report_errors
def verify(c: Context, json_: bool = False, tap: bool = False) -> None:
    """Prove it as a client: a row is seen on the standby, a write is refused (steps 11 and 12)."""
    _prove(c, json_=json_, tap=tap)


def _prove(c: Context, *, json_: bool = False, tap: bool = False, acted: bool = False) -> None:
    from pgherd.checks.verify import as_script
    from pgherd.checks.verify import verify as run
    from pgherd.report import findings as report

    shown, group = report.verdict(json_=json_, tap=tap), open_group(c)
    if group.trace.dry:
        group.trace.shell(as_script(group))
        return
    verdict = run(group)
    looked(c, qualify(shown(verdict), c), ok=verdict.ok, acted=acted)


@task
@report_errors
def demo(c: Context) -> None:
    """Do the three in one run and show what there is then."""
    setup_master(c)
    seed_standby(c)
    _prove(c, acted=True)
    from pgherd.report import findings as report

    group = open_group(c)
    password, trusted = group.passwords.path("postgres"), group.certificates.for_clients
    looked(c, report.summary(group.topology, password, trusted, group.over), acted=True)


# --- looking ---


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
        looked(c, qualify(shown(found), c), ok=found.ok)
        return
    redraws = sys.stdout.isatty() and not json_
    with until_ctrl_c():
        for found in step.watch(group, pause):
            streamed(report.redraw(qualify(shown(found), c), clear=redraws))


@task(default=True)
@report_errors
def steps(c: Context) -> None:
    """List the tutorial's twelve steps: what each does, its line there, whether it is done."""
    from pgherd.operations import steps as tutorial
    from pgherd.report import findings as report

    looked(c, report.steps_text(tutorial.look(open_group(c))))


@task(help={"json_": "print one JSON object"})
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
    looked(c, text, ok=found.same, away=bool(found.away))


@task
@report_errors
def apply(c: Context) -> None:
    """Bring the settings, rules and certificates of what runs to what the topology asks."""
    from pgherd.checks.diff import compare
    from pgherd.operations import apply as operation
    from pgherd.report import findings as report

    group = open_group(c)
    operation.apply(group)
    if not group.trace.dry and not (left := compare(group)).same:
        came(c, qualify("What apply does not do:\n" + report.diff_text(left), c))


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
    from pgherd.operations import show as looking

    with until_ctrl_c() if follow else nullcontext():
        looking.logs(open_group(c), node, tail=looking.lines(tail), follow=follow, show=streamed)


@task(help={"node": "which node (default: the primary)", "command": "SQL to run instead"})
@report_errors
def psql(c: Context, node: str = "", command: str = "") -> None:
    """Open psql in a node's container, as superuser."""
    from pgherd.operations import show as looking

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    sys.exit(looking.psql(open_group(c), node, command, terminal=terminal))


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
    looked(c, "\n".join(uris.lines(group.topology, wanted)))


# --- living with it ---


@task
@report_errors
def stop(c: Context) -> None:
    """Stop the servers in order, the primary first (step 3)."""
    from pgherd.operations import start_stop as lifecycle

    lifecycle.stop(open_group(c))


@task
@report_errors
def start(c: Context) -> None:
    """Start the servers as what their data says they are, and wait for them (step 9)."""
    from pgherd.operations import start_stop as lifecycle

    lifecycle.start(open_group(c))


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
    confirm = confirm or answered(f"This takes {group.name} away. Type its name to go on: ")
    return teardown.purge(group, confirm=confirm, delete=delete_data)


@task
@report_errors
def image(c: Context) -> None:
    """Make the image of the topology present: pull it, or build it where no registry answers."""
    from pgherd.operations import image as step

    group = open_group(c)
    print(step.ensure_image(group).ref)


# --- another primary ---


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
    came(
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
    came(c, changes.failover_text(found))


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


for shared, name in ((stop, "stop"), (start, "start"), (logs, "logs"), (verify, "check")):
    step.add_task(cast("Task[Any]", shared), name=name)


ns = Collection(
    on, hosts, setup_master, seed_standby, add_standby, remove_standby, sync, verify, demo, status,
    diff, apply, steps, logs, psql, uri, stop, start, down, switchover, failover, rejoin, image,
    care.doctor, care.audit, care.rotate_passwords, care.tls, care.backups, care.restore,
    chores.test, chores.bench, chores.torture, step, chores.rig,
)  # fmt: skip
ns.configure({"pgherd": {"on": ""}})
register_tasks(ns)
