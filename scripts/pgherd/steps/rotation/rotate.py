"""`invoke rotate-passwords`: what is there, what is refused, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgherd import config
from pgherd.errors import Refused
from pgherd.postgres import conf
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.headless import paused
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.shell import Secret, Tool
from pgherd.steps.image import ensure_image
from pgherd.steps.rotation.swap import STREAMING_ROLE, Rotation, change

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
        run = _prepared(group, group.observe())
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
    return config.password_asked(role) not in {"", left[role].value}


# --- what is there ---


def _prepared(group: Group, seen: Observation) -> Rotation:
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
