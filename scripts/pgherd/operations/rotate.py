"""`invoke rotate-passwords`: new passwords for the group's two roles, while everything streams.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pgherd.config import loader
from pgherd.docker.models import Image
from pgherd.errors import DeadlinePassed, Error, Refused
from pgherd.group.group import Group, paused
from pgherd.group.observation import Observation
from pgherd.hosts.commands import Script, Secret, Tool
from pgherd.hosts.parallel import run_all
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import check_private
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import PRIVATE, Instance

# --- the moment of the change ---

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
    helped = _with_helper(run) if STREAMING_ROLE in run.new else []
    acts: list[Callable[[], None]] = [lambda name=name: _swap(run, name) for name in helped]  # type: ignore[misc]
    if run.group.trace.dry:  # one after the other: what waits comes after what it waits for
        for act in [lambda: _set(run), *acts]:
            act()
    else:
        acts.append(lambda: _set_once_armed(run, len(helped)))
        run_all(lambda act: act(), acts, workers=len(acts))  # they wait for each other
    if STREAMING_ROLE in run.new:
        unhelped = [run.group.instances[name] for name in run.streaming if name not in helped]
        run_all(lambda instance: _lay(run, instance), [*unhelped, *run.resting])
    run_all(lambda instance: _wait_replayed(run, instance), _prompt(run))
    for role in run.new:
        run.group.passwords.replaced(role)
    if STREAMING_ROLE in run.new:
        run_all(lambda instance: check_private(run.group, instance), _running(run))
    opened = re.findall(r"^open (\w+)$", run.said, re.MULTILINE)
    if opened:
        raise Error(
            f"The passwords are changed, and {run.primary.name} lets {' and '.join(opened)} in by "
            "the former one as well: a rule of its pg_hba.conf asks for none. `invoke audit` tells."
        )


def _with_helper(run: Rotation) -> list[str]:
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


# --- `invoke rotate-passwords`: what is there, what is refused, and what came of it ---

ROLES = (STREAMING_ROLE, "postgres")


@dataclass(frozen=True)
class Rotated:
    """What was done.

    Attributes:
        roles: whose password is new.
        completed: whether a run that was cut short was completed.
        unbroken: the standbys whose stream was there before and is still the same.
        reconnected: those whose stream is another one.
        late: delayed standbys, where the former password opens until they have replayed this.
    """

    roles: tuple[str, ...]
    completed: bool
    unbroken: tuple[str, ...]
    reconnected: tuple[str, ...]
    late: tuple[str, ...]


def rotate(group: Group, role: str = "") -> Rotated:
    """Give both roles new passwords, or one of them; nothing stops, and no stream breaks.

    The superuser's applications need the new one from then on; connections that are there stay.

    Raises:
        Refused: no such role, no primary, a node that runs does not answer.
        Unreachable: a host of the group does not answer. In both cases nothing was changed.
        DeadlinePassed: a standby could not be told; this again completes it.
        Error: the new password was not taken, or the former one still opens.
    """
    if role and role not in ROLES:
        raise Refused(f"--role is {' or '.join(sorted(ROLES))}, not {role!r}.")
    asked = [role] if role else list(ROLES)
    with group.locked():
        for each in ROLES:
            group.passwords.former(each)  # one that cannot be read is told before anything else
        run = _prepare(group, group.observe())
        left = group.passwords.replacing()
        further = [r for r in asked if _wants_further(r, left, named=bool(role))]
        if left:
            change(run, left, "completing what was cut short, ")
        if further:
            change(run, group.passwords.replace(further))
        return _result(run, [*left, *further], completed=bool(left))


def _wants_further(role: str, left: Mapping[str, Secret], *, named: bool) -> bool:
    """Tell whether a role is to have a new password after what was cut short is completed.

    The same command again completes it, and no more; another may ask for another role, or, by the
    environment, for another password.
    """
    if role not in left:
        return named or not left
    return loader.password_asked(role) not in {"", left[role].value}


# --- what is there ---


def _prepare(group: Group, seen: Observation) -> Rotation:
    primary = group.primary(seen)
    run = Rotation(group, seen, primary, ensure_image(group, seen))
    for name, instance in group.instances.items():
        node = seen.nodes[name]
        if node.container and node.container.running and not node.facts and not node.planned:
            if node.silence and (told := paused(group, seen, name)):
                raise Refused(f"{told}.")
            raise Refused(
                f"{name} runs and does not answer: {node.silence or 'it is not of this group'}. "
                "Whom it follows, and by what, is not known: `invoke status`."
            )
        connection = _connection(node.facts)
        if connection and instance is not primary:
            run.streaming[name] = connection
        elif instance is primary or _has_passfile(instance):
            run.resting.append(instance)
    _refuse_late_upstream(run)
    return run


def _connection(facts: Facts | None) -> dict[str, str]:
    """Return how a standby that runs connects, if by the role for that."""
    found = conf.read_conninfo(facts.primary_conninfo) if facts and facts.in_recovery else {}
    return found if found.get("user") == STREAMING_ROLE else {}


def _has_passfile(instance: Instance) -> bool:
    there = Tool("test")["-d", instance.places.private]
    return instance.host.run(there, reads=True).ok


def _refuse_late_upstream(run: Rotation) -> None:
    """Refuse where a standby follows one that learns of the new password late, or not at all."""
    for name, connection in run.streaming.items():
        upstream = next((u for u in run.group.instances.values() if _is_at(u, connection)), None)
        facts = run.seen.nodes[upstream.name].facts if upstream else None
        if upstream and not facts and not run.group.trace.dry:
            raise Refused(
                f"{name} follows {upstream.name}, which is down: whether the new password lets it "
                f"in could not be seen. `invoke start` first, or `invoke rejoin {name}`."
            )
        if upstream and facts and facts.apply_delay:
            raise Refused(
                f"{name} follows {upstream.name}, which replays {facts.apply_delay / 1000:.0f} s "
                f"late: it would ask for the former password until then. Let {name} follow the "
                f"primary (`upstream` in the topology, `invoke seed-standby --node {name}`)."
            )


def _is_at(instance: Instance, connection: dict[str, str]) -> bool:
    host, port = connection.get("host", ""), connection.get("port", "5432")
    node = instance.node
    return host == instance.name or (host, port) == (node.reached_at or node.listen, str(node.port))


# --- what came of it ---


def _result(run: Rotation, roles: list[str], *, completed: bool) -> Rotated:
    before = run.seen.nodes[run.primary.name].facts
    after = before if run.group.trace.dry else run.primary.facts()
    former = {s.application_name: s.backend_start for s in (before.senders if before else ())}
    now = {s.application_name: s.backend_start for s in (after.senders if after else ())}
    late = [name for name in run.streaming if (f := run.seen.nodes[name].facts) and f.apply_delay]
    return Rotated(
        tuple(roles),
        completed,
        tuple(name for name in former if former[name] == now.get(name)),
        tuple(name for name in former if former[name] != now.get(name)),
        tuple(late),
    )
