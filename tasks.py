"""The table of contents: each task loads the topology, calls one step, prints the result."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import Task, task

sys.path.insert(0, str(Path(__file__).parent / "scripts"))  # whatever Python invoke runs in

if TYPE_CHECKING:
    from pgherd.postgres.group import Group

NODE = {"node": "which node (default: the topology's first standby)"}


def _group(c: Context) -> Group:
    """Return the group of the topology asked for, with Invoke's --echo and --dry."""
    return _opened(bool(c.config.run.echo), bool(c.config.run.dry), c.config.pgherd.on)


@cache
def _opened(echo: bool, dry: bool, on: str) -> Group:
    """Return the same group to all tasks of one run: with --dry each counts on those before."""
    from pgherd import config
    from pgherd.errors import Refused
    from pgherd.postgres.group import Group
    from pgherd.shell import Trace

    if len(_places()) > bool(on):
        raise Refused(f"`on {_places()[-1]}` comes before all other tasks, and once.")
    return Group(config.load(on=on), Trace(echo=echo, dry=dry, on=on))


def _places() -> list[str]:
    """Return the hosts that the command line says by `on`, wherever it does."""
    tasks = ns.to_contexts()
    valued = {flag for known in tasks for flag, arg in known.flags.items() if arg.takes_value}
    words = sys.argv[1:]
    return [
        host
        for before, word, host in zip(["", *words], words, [*words[1:], ""], strict=False)
        if word == "on" and before not in valued
    ]


def told(body: Callable[..., None]) -> Callable[..., None]:
    """Have a task's faults told as sentences, never as a traceback; SIGTERM cleans up too."""

    @wraps(body)
    def run(*args: Any, **options: Any) -> None:
        from pgherd.errors import Error

        for sign in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, lambda number, _frame: sys.exit(128 + number))
        try:
            body(*args, **options)
            sys.stdout.flush()
        except Error as fault:
            fault.message = _placed(fault.sentence, args[0])
            raise
        except BrokenPipeError:  # | head has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as fault:
            raise Error(f"{fault.strerror}: {fault.filename or fault}") from None

    return run


def _placed(text: str, c: Context) -> str:
    """Return advice as it has to be typed for a group that `on` has placed."""
    from pgherd.shell import advice

    return advice(text, c.config.pgherd.on)


def _standby(group: Group, node: str) -> str:
    from pgherd.steps import tutorial

    return node or tutorial.first_standby(group).name


def _agreed(question: str, yes: bool) -> bool:
    """Ask on a terminal; without one, only the option says yes."""
    return yes or (sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() == "y")


# --- where ---


@task(positional=["host"], help={"host": "an SSH destination: box, ada@box, ada@box:2222"})
@told
def on(c: Context, host: str) -> None:
    """Place the group on another machine, for the tasks that follow: invoke on ada@box …."""
    from pgherd.errors import Refused

    if not host:
        raise Refused("`invoke on` needs a host, and was given an empty word: a variable not set?")
    if host in ns.task_names:
        raise Refused(f"`invoke on {host}`: {host} is a task, and before it comes a host.")
    if sys.argv[-2:] == ["on", host]:
        raise Refused(f"`invoke on {host}` wants the tasks for it: invoke on {host} hosts, say.")
    c.config.pgherd.on = host


@task(help={"json_": "print one JSON object"})
@told
def hosts(c: Context, json_: bool = False) -> None:
    """Look at each host of the topology: does it answer, its Docker, space, image, containers."""
    from pgherd import report
    from pgherd.errors import Unreachable
    from pgherd.steps.hosts import survey

    group = _group(c)
    found = survey(group)
    print(report.hosts_json(group.name, found) if json_ else report.hosts_text(found))
    if not all(host.ok for host in found):
        raise Unreachable("")


# --- the three ---


@task
@told
def setup_master(c: Context) -> None:
    """Run the primary on its own data and let standbys stream from it (steps 1 and 6)."""
    from pgherd.steps import master

    master.setup_master(_group(c))


@task(  # each parameter is a flag
    help={
        **NODE,
        "method": "basebackup (over the network, from the running master) or copy (its files)",
        "reseed": "seed anew even if it streams already",
        "set-aside": "also set aside data that is not this group's",
        "async-meanwhile": "let commits go on without it, where it is the one they wait for",
        "no-verify-backup": "do not check the base backup against its manifest",
        "max-rate": "limit of the base backup per second, as pg_basebackup takes it: 32M",
        "spread-checkpoint": "do not hurry the master's checkpoint",
        "yes": "stop the master for --method copy although clients are connected",
    }
)
@told
def seed_standby(  # noqa: PLR0913, PLR0917
    c: Context,
    node: str = "",
    method: str = "basebackup",
    reseed: bool = False,
    set_aside: bool = False,
    async_meanwhile: bool = False,
    no_verify_backup: bool = False,
    max_rate: str = "",
    spread_checkpoint: bool = False,
    yes: bool = False,
) -> None:
    """Lay the master's data into a standby that streams, and wait for it (steps 4, 5, 7 to 10)."""
    from pgherd.steps import standby
    from pgherd.steps.asked import Asked

    asked = Asked(
        method=method,
        reseed=reseed,
        set_aside=set_aside,
        async_meanwhile=async_meanwhile,
        verify_backup=not no_verify_backup,
        max_rate=max_rate,
        spread_checkpoint=spread_checkpoint,
        confirm=lambda question: _agreed(question, yes),
    )
    group = _group(c)
    standby.seed_standby(group, standby.chosen(group, node, asked), asked)


@task(help={"json_": "print one JSON object", "tap": "print the Test Anything Protocol"})
@told
def verify(c: Context, json_: bool = False, tap: bool = False) -> None:
    """Prove it as a client: a row is seen on the standby, a write is refused (steps 11 and 12)."""
    from pgherd import report
    from pgherd.errors import Error
    from pgherd.verify import as_script
    from pgherd.verify import verify as run

    group = _group(c)
    if group.trace.dry:
        group.trace.shell(as_script(group))
        return
    verdict = run(group)
    shown = report.verdict_json if json_ else report.verdict_tap if tap else report.verdict_text
    print(_placed(shown(verdict), c))
    if not verdict.ok:
        raise Error("")


@task
@told
def demo(c: Context) -> None:
    """Do the three in one run and show what there is then."""
    setup_master(c)
    seed_standby(c)
    verify(c)
    from pgherd import report

    group = _group(c)
    text = report.summary(group.topology, group.passwords.path("postgres"), group.over)
    (group.trace.note if group.trace.dry else print)(text)


# --- looking ---


@task(default=True)
@told
def steps(c: Context) -> None:
    """List the tutorial's twelve steps: what each does, its line there, whether it is done."""
    from pgherd import report
    from pgherd.steps import tutorial

    print(report.steps_text(tutorial.look(_group(c))))


@task(help={"node": "which node (default: all)", "follow": "go on until Ctrl-C"})
@told
def logs(c: Context, node: str = "", follow: bool = False, tail: str = "50") -> None:
    """Show the last lines of the servers' logs."""
    from pgherd.errors import Refused
    from pgherd.steps import looking

    if not tail.isdecimal():
        raise Refused(f"--tail is a number of lines, not {tail!r}.")
    looking.logs(_group(c), node, tail=int(tail), follow=follow, show=print)


@task(help={"node": "which node (default: the primary)", "command": "SQL to run instead"})
@told
def psql(c: Context, node: str = "", command: str = "") -> None:
    """Open psql in a node's container, as superuser."""
    from pgherd.steps import looking

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    sys.exit(looking.psql(_group(c), node, command, terminal=terminal))


@task
@told
def uri(c: Context) -> None:
    """Print the connection strings, one a line: each node's, then the one with all of them."""
    from pgherd import report

    group = _group(c)
    for tunnel in report.tunnels(group.topology, group.over):
        group.trace.note(f"to be reached from this machine: {tunnel}")
    print("\n".join(report.uris(group.topology)))


# --- living with it ---


@task
@told
def stop(c: Context) -> None:
    """Stop the servers in order, the primary first (step 3)."""
    from pgherd.steps import lifecycle

    lifecycle.stop(_group(c))


@task
@told
def start(c: Context) -> None:
    """Start the servers as what their data says they are, and wait for them (step 9)."""
    from pgherd.steps import lifecycle

    lifecycle.start(_group(c))


@task(
    help={
        "purge": "also set the data and the passwords aside",
        "confirm": "the group's name, in place of typing it",
        "delete-data": "with --purge: delete them instead of setting them aside",
    }
)
@told
def down(c: Context, purge: bool = False, confirm: str = "", delete_data: bool = False) -> None:
    """Remove the containers and the network; the data stays."""
    from pgherd.steps import teardown

    group = _group(c)
    if not purge:
        return teardown.down(group, delete=delete_data)
    if not confirm and sys.stdin.isatty():
        confirm = input(f"This takes {group.name} away. Type its name to go on: ").strip()
    return teardown.purge(group, confirm=confirm, delete=delete_data)


@task
@told
def image(c: Context) -> None:
    """Make the image of the topology present: pull it, or build it where no registry answers."""
    from pgherd.steps import image as step

    group = _group(c)
    print(step.ensure_image(group).ref)


# --- the tutorial's steps, each by itself ---


def _step(name: str, doc: str, *, of_node: bool = False) -> Any:
    """Make the task of one step, which has a node to work on or works on the group."""

    def on_group(c: Context) -> None:
        from pgherd.steps import single

        getattr(single, name)(_group(c))

    def on_node(c: Context, node: str = "") -> None:
        from pgherd.steps import single

        getattr(single, name)(group := _group(c), _standby(group, node))

    body = on_node if of_node else on_group
    body.__doc__ = doc
    return task(told(body), name=name.replace("_", "-"), help=NODE if of_node else {})


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
for known, name in ((stop, "stop"), (start, "start"), (logs, "logs"), (verify, "check")):
    step.add_task(cast("Task[Any]", known), name=name)


# --- for those who work on pgherd ---


@task(help={"unit": "only the tests that need no engine", "options": "for pytest"})
def test(c: Context, unit: bool = False, options: str = "") -> None:  # noqa: ARG001, PT028
    """Run the tests; those on real servers need a Docker Engine and make their own groups."""
    # The servers' tests mostly wait: three files at once, each with groups of its own.
    where = ["tests/unit"] if unit else ["--numprocesses=3", "--dist=loadfile"]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits it ignored
    words = [sys.executable, "-m", "pytest", *where, *shlex.split(options)]
    os.execv(words[0], words)  # noqa: S606 (it is to take this process's place)


@task(help={"rounds": "of each way, alternating", "remote": "over SSH against the local engine"})
def bench(c: Context, rounds: int = 5, remote: bool = False) -> None:  # noqa: ARG001
    """Measure the three tasks against the same work by hand, as a ratio."""
    script = Path(__file__).parent / "benchmarks" / ("remote.py" if remote else "bench.py")
    os.execv(sys.executable, [sys.executable, str(script), str(rounds)])  # noqa: S606


@task(name="up", help={"hosts": "how many, from 1 to 8"})
def rig_up(c: Context, hosts: int = 3) -> None:  # noqa: ARG001
    """Make further Docker hosts on this machine, to try pgherd on; root on Linux only."""
    _rig("up", "--hosts", str(hosts))


@task(name="down")
def rig_down(c: Context) -> None:  # noqa: ARG001
    """Take those hosts away, with all that is on them."""
    _rig("down")


def _rig(*words: str) -> None:
    script = str(Path(__file__).parent / "tests" / "rig" / "people.py")
    os.execv(sys.executable, [sys.executable, script, *words])  # noqa: S606


rig = Collection("rig", rig_up, rig_down)
ns = Collection(
    on, hosts, setup_master, seed_standby, verify, demo, steps, logs, psql, uri, stop, start, down,
    image, test, bench, step, rig,
)  # fmt: skip
ns.configure({"pgherd": {"on": ""}})
