"""New passwords for the group's two roles, while everything streams.

A role has one password, so that of the replication role and the passfiles cannot change in one
moment. Streams that are there go on: PostgreSQL asks for a password only where one connects. For
one that connects in between, a helper beside each standby waits for the role's new password and
lays the passfile then; it goes on by itself if this run is killed, and the standby, which tries
again every wal_retrieve_retry_interval, gets in.

New passwords lie in a directory of their own until all of this is done. Where a run was cut short,
the next one completes it with these, and makes no further ones.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pgherd.docker import Image
from pgherd.errors import DeadlinePassed, Error
from pgherd.host.together import side_by_side
from pgherd.postgres import conf, scripts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PRIVATE, Instance
from pgherd.postgres.observation import Observation
from pgherd.shell import Script, Secret
from pgherd.steps.private import check_private

STREAMING_ROLE = "replicator"
ARM_SECONDS = 120.0
SWAP_SECONDS = 60  # from the helper's begin to the role's new password
REPLAY_SECONDS = 30


@dataclass
class Rotation:
    """One run: whose passwords, on which servers.

    Attributes:
        streaming: the standbys that run, by whom they follow: their connection strings.
        resting: the other nodes that have a passfile: the primary, and those that are down.
    """

    group: Group
    seen: Observation
    primary: Instance
    image: Image
    streaming: dict[str, dict[str, str]] = field(default_factory=dict)
    resting: list[Instance] = field(default_factory=list)
    new: dict[str, Secret] = field(default_factory=dict)
    armed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    said: str = ""
    unarmed: bool = False  # a helper could not begin, and says why


def change(run: Rotation, new: dict[str, Secret], begun: str = "") -> None:
    """Put new passwords into use: the roles, each node's passfile, and last the files here."""
    what = f"new password{'s' * (len(new) > 1)} for {' and '.join(new)}"
    run.group.trace.note(f"{run.group.name}: {begun}{what}")
    run.new = new
    helped = _helped(run) if STREAMING_ROLE in run.new else []
    acts: list[Callable[[], None]] = [lambda name=name: _swap(run, name) for name in helped]  # type: ignore[misc]
    if run.group.trace.dry:  # one after the other: what waits comes after what it waits for
        for act in [lambda: _set(run), *acts]:
            act()
    else:
        acts.append(lambda: _set_once_armed(run, len(helped)))
        side_by_side(lambda act: act(), acts, workers=len(acts))  # they wait for each other
    if STREAMING_ROLE in run.new:
        unhelped = [run.group.instances[name] for name in run.streaming if name not in helped]
        side_by_side(lambda instance: _lay(run, instance), [*unhelped, *run.resting])
    side_by_side(lambda instance: _wait_replayed(run, instance), _prompt(run))
    for role in run.new:
        run.group.passwords.replaced(role)
    if STREAMING_ROLE in run.new:
        side_by_side(lambda instance: check_private(run.group, instance), _running(run))
    opened = re.findall(r"^open (\w+)$", run.said, re.MULTILINE)
    if opened:
        raise Error(
            f"The passwords are changed, and {run.primary.name} lets {' and '.join(opened)} in by "
            "the former one as well: a rule of its pg_hba.conf asks for none. `invoke audit` tells."
        )


def _helped(run: Rotation) -> list[str]:
    """Return the standbys that get a helper: all, if their hosts let so much go on at once.

    The helpers wait for the primary's change, which needs room on its host as well. One without a
    helper gets its passfile right after that.
    """
    found: list[str] = []
    for name, site in run.group.sites.items():
        theirs = [n for n in run.streaming if run.group.instances[n].node.host == name]
        own = int(run.primary.node.host == name)
        wanted = len(theirs) + own
        room = wanted if run.group.trace.dry or wanted < 2 else site.host.room(wanted)  # noqa: PLR2004
        found += theirs[: room - own]
        for left in theirs[room - own :]:
            run.group.trace.note(f"{left}: gets it last, as {name} allows few sessions at once")
    return found


def _set_once_armed(run: Rotation, helpers: int) -> None:
    for _ in range(helpers):
        if not run.armed.acquire(timeout=ARM_SECONDS):
            raise DeadlinePassed(
                f"The helper beside a standby did not begin within {ARM_SECONDS:.0f} s. "
                "Nothing was changed."
            )
    if not run.unarmed:
        _set(run)


def _set(run: Rotation) -> None:
    """Change the roles on the primary."""
    pieces: list[Script | str] = ["rotate"]
    for role, new in run.new.items():
        former = run.group.passwords.former(role)
        pieces += [scripts.password("new", new)]
        pieces += [scripts.password("former", former) if former.value else "former=\n"]
        pieces += [f'rotate {role} "$new" "$former"\n']
    run.said = run.primary.execute(scripts.compose(*pieces, "written"))
    names = " and ".join(run.new)
    run.group.trace.note(f"{run.primary.name}: {names} {'has' if len(run.new) == 1 else 'have'} it")


def _swap(run: Rotation, name: str) -> None:
    """Beside a standby that streams: lay its passfile as soon as the role has its new password."""
    instance, former = run.group.instances[name], run.group.passwords.former(STREAMING_ROLE)

    def listen(line: str) -> None:
        if line == "armed":
            run.armed.release()

    begins = {**run.streaming[name], "application_name": "pgherd", "replication": "true"}
    script = scripts.compose(
        scripts.password("former", former) if former.value else "former=\n",
        scripts.password("password", run.new[STREAMING_ROLE]),
        "swap-passfile",
        "passfile",
        seconds=SWAP_SECONDS,
        at=begins.get("host", "its upstream"),
        by_former=conf.conninfo(**begins | {"passfile": "/run/former.passfile"}),
        by_new=conf.conninfo(**begins | {"passfile": "/run/new.passfile"}),
    )
    try:
        seconds = SWAP_SECONDS + ARM_SECONDS
        _offline(run, instance, script, network=True, on_line=listen, timeout=seconds)
    except BaseException:
        run.unarmed = True  # of no account any more once all were armed
        run.armed.release()
        raise
    run.group.trace.note(f"{name}: its passfile has it, and lets it in")


def _lay(run: Rotation, instance: Instance) -> None:
    """Lay the passfile of a node that does not stream now, and may tomorrow."""
    _offline(run, instance, scripts.compose(_password(run), "passfile"))
    run.group.trace.note(f"{instance.name}: its passfile has it")


def _password(run: Rotation) -> Script:
    return scripts.password("password", run.new[STREAMING_ROLE])


def _offline(run: Rotation, instance: Instance, script: Script, **options: object) -> None:
    private = [mount for mount in instance.mounts() if mount.target == PRIVATE]
    instance.offline(run.image, script, mounts=private, **options)  # type: ignore[arg-type]


def _running(run: Rotation) -> list[Instance]:
    return [i for name, i in run.group.instances.items() if run.seen.nodes[name].facts]


def _prompt(run: Rotation) -> list[Instance]:
    """Return the standbys that answer and are not late on purpose."""
    nodes = {name: run.seen.nodes[name].facts for name in run.group.instances}
    return [
        run.group.instances[name]
        for name, facts in nodes.items()
        if facts and facts.in_recovery and not facts.apply_delay and not facts.replay_paused
    ]


def _wait_replayed(run: Rotation, instance: Instance) -> None:
    """Wait until a standby has replayed the change: until then it opens by the former password."""
    written = re.search(r"^written (\S+)$", run.said, re.MULTILINE)
    position = written[1] if written else "0/0"
    script = scripts.compose("replayed", position=position, seconds=REPLAY_SECONDS)
    try:
        instance.execute(script, REPLAY_SECONDS + 30.0)
    except DeadlinePassed:
        run.group.trace.note(
            f"{instance.name}: has not replayed it after {REPLAY_SECONDS} s, and opens by the "
            "former password until it has (`invoke status`)"
        )
