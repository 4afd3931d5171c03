"""A lost primary is kept from taking writes beside the next one, before that is promoted.

Where its host answers, it is fenced. Where it does not, the standbys let go of it (`parting`), and
what that risks has to be taken on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pgherd.docker import Image
from pgherd.errors import Refused, in_words
from pgherd.host.scope import cleaning_up
from pgherd.host.together import side_by_side
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import connect
from pgherd.steps.change import fence, turn
from pgherd.steps.change.fence import Fenced
from pgherd.steps.change.losing import Loss, chosen, standbys_that_answer
from pgherd.steps.change.parting import parted
from pgherd.steps.change.succession import tell_unlogged


@dataclass(frozen=True)
class Kept:
    """Who is to take over, what is seen of the group by then, and what the fence has found."""

    successor: Instance
    seen: Observation
    fenced: Fenced | None = None


@contextmanager
def kept_off(
    group: Group,
    former: Instance | None,
    name: str,
    seen: Observation,
    image: Image,
    unfenced: bool,
) -> Iterator[Kept]:
    """Keep the lost primary off, and take the turn on the standby that is to be primary.

    It is the one of that `name`, else the one that has most. `unfenced` takes on that a lost
    primary may still run. Where the block fails, all of this is undone.

    Raises:
        Refused: nobody can take over, or it may still run.
    """
    successor = chosen(group, name, seen, former, image)
    if former is None:
        with _undone(group, None, image, []):
            _take_turn(group, successor, seen)
            yield Kept(successor, seen)
    elif former.node.host in group.away:
        _refuse_unfenced(former, successor, unfenced)
        with parted(group, former, successor, seen) as then, _undone(group, None, image, []):
            _take_turn(group, successor, then)
            yield Kept(successor, then)
    else:
        _refuse_serving(group, former, seen)
        there = seen.nodes[former.name].container
        ran = bool(there and there.alive)
        found = [Fenced(Disk(), None, ran, stopping=True)]
        with _undone(group, former, image, found):
            fence.stop(group, former, there)
            found.append(Fenced(Disk(), None, ran))
            kept = _fenced(group, former, name, seen if not ran else group.observe(), image, found)
            _refuse_taken_over(group, former, kept.successor, found[-1], unfenced)
            yield kept


@contextmanager
def _undone(
    group: Group, former: Instance | None, image: Image, found: list[Fenced]
) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with cleaning_up():
            _undo(group, former, image, found)
        raise


def _undo(group: Group, former: Instance | None, image: Image, found: list[Fenced]) -> None:
    """Take back what was done; what cannot be taken back is said, and the first fault is told."""
    with suppress(Exception):  # nobody is promoted after this, whatever waits for its turn
        turn.settled(group, group.observe())
    if former is None:
        return
    try:
        fence.lift(group, former, image, found[-1])
    except Exception as fault:  # noqa: BLE001 (the first fault is on its way already)
        group.trace.note(f"{former.name}: stays as it is now, fenced if it was: {in_words(fault)}")


def _fenced(
    group: Group,
    former: Instance,
    name: str,
    seen: Observation,
    image: Image,
    found: list[Fenced],
) -> Kept:
    """Mark the data of a lost primary that is stopped, and take the turn on the standby meanwhile.

    `seen` is from after it was stopped: until then it acknowledged, and they received from it.
    """
    successor = chosen(group, name, seen, former, image)
    mine = standbys_that_answer(seen)[successor.name]

    def mark() -> None:
        ran = found[-1].ran
        found.append(Fenced(Disk(), None, ran, marking=True))
        found.append(fence.mark(group, former, image, mine, ran=ran))

    acts: list[Callable[[], None]] = [mark, lambda: _take_turn(group, successor, seen)]
    side_by_side(lambda act: act(), acts)
    return Kept(successor, seen, found[-1])


def _take_turn(group: Group, successor: Instance, seen: Observation) -> None:
    """Take the turn there; with `strict` its commits wait for standbys from the first one on."""
    wanted = group.topology.sync_for(successor.node)
    names = wanted.render() if wanted and group.topology.group.strict else ""
    facts = standbys_that_answer(seen).get(successor.name)
    first = [] if facts and facts.sync_names == names else ["first-names", "reload"]
    if first and facts and facts.by_files:
        first = [_set_without_login(names)]
    values = {"names": conf.sql_literal(names), "turn": turn.OURS}
    script = scripts.compose("take-turn", *first, "unlogged", **values)
    tell_unlogged(successor, successor.execute(script, turn.WAIT_SECONDS))


def _set_without_login(names: str) -> str:
    """Return the fragment that does by the file, and a signal, what ALTER SYSTEM would do."""
    setting = "synchronous_standby_names"
    line = f"{setting} = {conf.quote_value(names)}\n"
    return (
        scripts.auto_conf((setting,), line) + 'kill -HUP "$(head -n 1 "$PGDATA/postmaster.pid")"\n'
    )


# --- what it risks ---


def _refuse_serving(group: Group, former: Instance, seen: Observation) -> None:
    """Refuse to fence a primary that gives us no answer, and seems to serve others all the same.

    Its server has answered, though with a fault, or takes connections, though none of ours (too
    many clients, say), or a standby still receives from it, and not from another standby. One that
    is paused, or whose standbys have lost it, is lost.
    """
    node = seen.nodes[former.name]
    if node.container is None or node.container.status != "running":
        return
    receives = [
        name
        for name, facts in standbys_that_answer(seen).items()
        if facts.receiver
        and facts.receiver["status"] == "streaming"
        and not _cascades(group, group.instance(name), facts, former)
    ]
    serves = node.files is not None and not node.files.in_recovery
    if serves or "FATAL" in node.silence or receives:
        also = f", and {receives[0]} streams from it" if receives else ""
        raise Refused(
            f"{former.name} runs{also}: it may serve others, though not us: {node.silence}\nIf it "
            f"is to go, `docker stop {former.name}` first; then this again."
        )


def _cascades(group: Group, instance: Instance, facts: Facts, former: Instance) -> bool:
    """Tell whether a standby follows another node than the one that was primary."""
    others = [i for i in group.instances.values() if i not in {instance, former}]
    return any(connect.leads_to(facts.primary_conninfo, instance, other) for other in others)


def _refuse_unfenced(former: Instance, successor: Instance, unfenced: bool) -> None:
    """Refuse where the lost primary cannot be stopped, unless it may be so; say what it risks."""
    if not unfenced:
        raise Refused(
            f"{former.name} cannot be fenced, as {former.node.host} cannot be reached: it may "
            "still run, and clients that reach it may write what will be lost. See to it that it "
            "is off, or cut from its clients; then "
            f"`invoke failover --to {successor.name} --unfenced`."
        )


def _refuse_taken_over(
    group: Group, former: Instance, successor: Instance, fenced: Fenced, unfenced: bool
) -> None:
    """Refuse where a switchover was under way, and a standby that is away may have taken over."""
    others = [i for i in group.instances.values() if i.node.host in group.away and i is not former]
    if fenced.disk.standby_signal and others and not unfenced:
        names = " and ".join(i.name for i in others)
        raise Refused(
            f"A switchover from {former.name} was cut short, and {names}, whose host cannot be "
            "reached, may be primary by now. If it is not, or is off: `invoke failover --to "
            f"{successor.name} --unfenced`."
        )


def tell_unfenced(group: Group, former: Instance, loss: Loss) -> None:
    """Say what a lost primary that nobody could stop may do from now on."""
    held = "where it waits for standbys its commits hang, as none that answers follows it any more"
    may = held if loss.assumed else "what it acknowledges will be lost"
    group.trace.note(
        f"{former.name}: not fenced, and may still run; {may}. `invoke rejoin {former.name}` "
        "fences it when it is back"
    )
