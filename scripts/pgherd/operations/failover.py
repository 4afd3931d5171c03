"""Failover: a standby takes the place of a primary that is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from pgherd.docker import models
from pgherd.docker.models import Image
from pgherd.errors import DeadlinePassed, Error, Refused, in_words
from pgherd.group import node_config, outside_data, preconditions, rejoin_method
from pgherd.group import primary as leadership
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import cleaning_up, run_all
from pgherd.operations import connect, fencing, followers, recovery, run_token, tls_transition
from pgherd.operations.data_loss import (
    DataLoss,
    choose_standby,
    estimate_loss,
    standbys_that_answer,
)
from pgherd.operations.fencing import Fenced
from pgherd.operations.followers import tell_unlogged
from pgherd.operations.image import ensure_image
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import Instance

# --- who was primary, and is lost: as the standbys that answer say, and the data of the others ---

FOLLOWED = ("shut down in recovery", "in archive recovery")  # states in control data of a standby


def find_lost_primary(group: Group, seen: Observation, image: Image) -> Instance | None:
    """Return the node that was primary: the one that the standbys which answer follow.

    Where several nodes do not answer, their data may tell otherwise: a standby may follow another
    one. Where they name none, it is the one whose data leads, or the only one that is down. None
    where every node answers, and is a standby: nothing is lost.

    Raises:
        Refused: none tells who it was, or several may have been primary.
    """
    running = standbys_that_answer(seen)
    if len(running) == len(group.instances):
        return None
    if voted := _followed_by_most(group, running):
        alone = len(group.instances) - len(running) == 1
        return voted if alone else _by_data(group, seen, image, voted)
    down = [n for n in group.instances if n not in running]
    if not running:
        return group.master
    if len(down) == 1:
        return group.instance(down[0])
    if leading := _leading(group, seen, image, _disks(group, seen, image)):
        return leading
    if group.master.name in down:
        return group.master
    raise Refused(
        f"Every node that answers is a standby, and none tells whether {', '.join(down)} was "
        "primary: `invoke start` brings all up, and then one can be chosen."
    )


def _followed_by_most(group: Group, running: dict[str, Facts]) -> Instance | None:
    """Return the node that does not run as a standby and that most standbys follow."""
    votes = _votes(group, running)
    # One that cascades names whom it follows, who may be a standby as well: it has no say
    # beside those that follow the primary itself.
    cascading = {n for n in votes if _cascades(group, n)}
    counted = Counter(votes[name] for name in votes.keys() - cascading or cascading)
    return group.instance(counted.most_common(1)[0][0]) if counted else None


def _votes(group: Group, running: dict[str, Facts]) -> dict[str, str]:
    """Return which node that does not run as a standby each standby is set to follow."""
    return {
        name: other
        for name, facts in running.items()
        for other, instance in group.instances.items()
        if other not in running
        and node_config.leads_to(facts.primary_conninfo, group.instance(name), instance)
    }


def _by_data(group: Group, seen: Observation, image: Image, voted: Instance) -> Instance:
    """Return the one that was primary of several that do not answer: the one voted, if it may be.

    Only a standby's standbys may answer, and vote for that. Fenced in the place of the primary, it
    would leave one that comes back.
    """
    running = standbys_that_answer(seen)
    disks = _disks(group, seen, image)
    lost = [i for i in group.instances.values() if i.name not in running]
    here = [i for i in lost if i.node.host not in group.away]
    direct = any(not _cascades(group, name) for name in _votes(group, running))
    if voted in _leads(running, disks) or (direct and voted not in disks):
        return voted
    if leading := _leading(group, seen, image, disks):
        return leading
    if direct or voted not in here or _was_marked(disks.get(voted, Disk())):
        return voted
    if away := [i for i in lost if i not in here]:  # none of these can be fenced
        return group.master if group.master in away else away[0]
    unknown = [i for i in here if i is not voted and seen.nodes[i.name].container]
    unknown = [i for i in unknown if _unreadable(disks.get(i, Disk()))]
    return _only(unknown) if unknown else voted


def _disks(group: Group, seen: Observation, image: Image) -> dict[Instance, Disk]:
    """Return what lies in the directories of the nodes that do not run as standbys."""
    running = standbys_that_answer(seen)
    lost = [i for i in group.instances.values() if i.name not in running]
    here = [i for i in lost if i.node.host not in group.away]
    full = [i for i in here if preconditions.data_state(i) == preconditions.FULL]
    return dict(zip(full, run_all(lambda i: i.disk(image), full), strict=True))


def _leads(running: dict[str, Facts], disks: dict[Instance, Disk]) -> list[Instance]:
    """Return those whose data is a primary's, and no older one than the standbys follow."""
    newest = max(f.timeline for f in running.values())
    systems = {f.system_identifier for f in running.values()}
    return [
        i
        for i, disk in disks.items()
        if leadership.is_primary_data(disk)
        and disk.system_identifier in systems
        and disk.timeline >= newest
    ]


def _leading(
    group: Group, seen: Observation, image: Image, disks: dict[Instance, Disk]
) -> Instance | None:
    """Return the one that leads of those whose data is a primary's."""
    leading = _leads(standbys_that_answer(seen), disks)
    if len(leading) <= 1:
        return leading[0] if leading else None
    by_name = {i.name: disk for i, disk in disks.items()}
    system = disks[leading[0]].system_identifier
    return group.instance(leadership.contest(group, seen, image, by_name, system).name)


def _was_marked(disk: Disk) -> bool:
    """Tell whether data is a primary's that was marked as a standby to be."""
    return bool(disk.state) and disk.state not in FOLLOWED


def _unreadable(disk: Disk) -> bool:
    """Tell whether there is no data, or none that tells anything, and it was no copy to be."""
    return disk.system_identifier is None and not disk.unfinished


def _cascades(group: Group, name: str) -> bool:
    """Tell whether the topology has a node follow another one than its primary."""
    upstream = group.topology.upstream_of(group.instance(name).node)
    return upstream not in {None, group.topology.primary}


def _only(found: list[Instance]) -> Instance:
    if len(found) > 1:
        names = " and ".join(i.name for i in found)
        raise Refused(
            f"Any of {names} may have been primary, and none of them answers: `invoke start` "
            "brings back what can be. If none can, stop each for good (`docker update --restart "
            "no NAME`, `docker stop NAME`) and move its data away but of the one that was."
        )
    return found[0]


# --- standbys let go of a lost primary that cannot be stopped ---

# Its host does not answer here, but it may run and its standbys may still stream from it. What one
# of them confirms counts for commits there; after the promotion such a commit would be acknowledged
# and lost. The successor itself may stream on: what it confirms it has, and it ends with the
# promotion.

LET_GO_SECONDS = 60
CATCH_UP_SECONDS = 5  # for the successor to get from the lost primary what they have


@contextmanager
def detach_standbys(
    group: Group, former: Instance, successor: Instance, seen: Observation
) -> Iterator[Observation]:
    """Let the standbys that answer follow the successor; yield what is seen then.

    Where the block fails, they follow the lost primary again.

    Raises:
        DeadlinePassed: one of them still receives from the lost primary.
    """
    others = {
        instance: facts
        for name, facts in standbys_that_answer(seen).items()
        if (instance := group.instance(name)) is not successor
        and node_config.leads_to(facts.primary_conninfo, instance, former)
    }
    try:
        if others:
            wanted = group.topology.sync_for(successor.node)
            plan = followers.plan_upstreams(group, successor, seen)
            followers.prepare(group, successor, wanted, plan)
            have = run_all(lambda i: _let_go(group, i, successor), list(others))
            with suppress(DeadlinePassed):  # what it would lose then is weighed
                script = scripts.compose("has", positions=" ".join(have), seconds=CATCH_UP_SECONDS)
                successor.execute(script, CATCH_UP_SECONDS + 30.0)
        yield _observe_candidate_last(group, successor) if others else seen
    except BaseException:
        with cleaning_up():
            for instance, before in others.items():
                with suppress(Exception):
                    connect.as_before_again(group, instance, before)
        raise


def _observe_candidate_last(group: Group, successor: Instance) -> Observation:
    """Look again, at the successor last: what the others have from it by then, it has too."""
    seen = group.observe()
    if group.trace.dry:
        return seen
    node = replace(seen.nodes[successor.name], facts=successor.facts())
    return Observation({**seen.nodes, successor.name: node}, seen.engines)


def _let_go(group: Group, standby: Instance, successor: Instance) -> str:
    group.trace.note(f"{standby.name}: lets go of the lost primary, follows {successor.name}")
    pieces = ("receiver", "follow", "let-go")
    said = connect.run_following(group, standby, successor, *pieces, seconds=LET_GO_SECONDS)
    return said.rpartition("has ")[2].strip()


# --- the lost primary is kept from taking writes ---

# Where its host answers, it is fenced. Where it does not, the standbys let go of it (`parting`),
# and what that risks has to be taken on.


@dataclass(frozen=True)
class Fence:
    """Who is to take over, what is seen of the group by then, and what the fence has found."""

    successor: Instance
    seen: Observation
    fenced: Fenced | None = None


@contextmanager
def fence_primary(
    group: Group,
    former: Instance | None,
    name: str,
    seen: Observation,
    image: Image,
    skip_fencing: bool,
) -> Iterator[Fence]:
    """Keep the lost primary off, and take the turn on the standby that is to be primary.

    It is the one of that `name`, else the one that has most. `skip_fencing` takes on that a lost
    primary may still run. Where the block fails, all of this is undone.

    Raises:
        Refused: nobody can take over, or it may still run.
    """
    successor = choose_standby(group, name, seen, former, image)
    if former is None:
        with _undo_on_fault(group, None, image, []):
            _take_turn(group, successor, seen)
            yield Fence(successor, seen)
    elif former.node.host in group.away:
        _refuse_without_fence(former, successor, skip_fencing)
        with (
            detach_standbys(group, former, successor, seen) as then,
            _undo_on_fault(group, None, image, []),
        ):
            _take_turn(group, successor, then)
            yield Fence(successor, then)
    else:
        _refuse_serving(group, former, seen)
        there = seen.nodes[former.name].container
        ran = bool(there and there.alive)
        found = [Fenced(Disk(), None, ran, stopping=True)]
        with _undo_on_fault(group, former, image, found):
            fencing.stop_and_fence(group, former, there)
            found.append(Fenced(Disk(), None, ran))
            kept = _fence(group, former, name, seen if not ran else group.observe(), image, found)
            _refuse_taken_over(group, former, kept.successor, found[-1], skip_fencing)
            yield kept


@contextmanager
def _undo_on_fault(
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
        run_token.cancel_pending_promotions(group, group.observe())
    if former is None:
        return
    try:
        fencing.lift_fence(group, former, image, found[-1])
    except Exception as fault:  # noqa: BLE001 (the first fault is on its way already)
        group.trace.note(f"{former.name}: stays as it is now, fenced if it was: {in_words(fault)}")


def _fence(
    group: Group,
    former: Instance,
    name: str,
    seen: Observation,
    image: Image,
    found: list[Fenced],
) -> Fence:
    """Mark the data of a lost primary that is stopped, and take the turn on the standby meanwhile.

    `seen` is from after it was stopped: until then it acknowledged, and they received from it.
    """
    successor = choose_standby(group, name, seen, former, image)
    mine = standbys_that_answer(seen)[successor.name]

    def mark() -> None:
        ran = found[-1].ran
        found.append(Fenced(Disk(), None, ran, marking=True))
        found.append(fencing.mark_as_standby(group, former, image, mine, ran=ran))

    acts: list[Callable[[], None]] = [mark, lambda: _take_turn(group, successor, seen)]
    run_all(lambda act: act(), acts)
    return Fence(successor, seen, found[-1])


def _take_turn(group: Group, successor: Instance, seen: Observation) -> None:
    """Take the turn there; with `strict` its commits wait for standbys from the first one on."""
    wanted = group.topology.sync_for(successor.node)
    names = wanted.render() if wanted and group.topology.group.strict else ""
    facts = standbys_that_answer(seen).get(successor.name)
    first = [] if facts and facts.sync_names == names else ["first-names", "reload"]
    if first and facts and facts.by_files:
        first = [_set_without_login(names)]
    values = {"names": conf.sql_literal(names), "turn": run_token.RUN_TOKEN}
    script = scripts.compose("take-turn", *first, "unlogged", **values)
    tell_unlogged(successor, successor.execute(script, run_token.WAIT_SECONDS))


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
        and not _cascades_from_away(group, group.instance(name), facts, former)
    ]
    serves = node.files is not None and not node.files.in_recovery
    if serves or "FATAL" in node.silence or receives:
        also = f", and {receives[0]} streams from it" if receives else ""
        raise Refused(
            f"{former.name} runs{also}: it may serve others, though not us: {node.silence}\nIf it "
            f"is to go, `docker stop {former.name}` first; then this again."
        )


def _cascades_from_away(group: Group, instance: Instance, facts: Facts, former: Instance) -> bool:
    """Tell whether a standby follows another node than the one that was primary."""
    others = [i for i in group.instances.values() if i not in {instance, former}]
    return any(node_config.leads_to(facts.primary_conninfo, instance, other) for other in others)


def _refuse_without_fence(former: Instance, successor: Instance, skip_fencing: bool) -> None:
    """Refuse where the lost primary cannot be stopped, unless it may be so; say what it risks."""
    if not skip_fencing:
        raise Refused(
            f"{former.name} cannot be fenced, as {former.node.host} cannot be reached: it may "
            "still run, and clients that reach it may write what will be lost. See to it that it "
            "is off, or cut from its clients; then "
            f"`invoke failover --to {successor.name} --skip-fencing`."
        )


def _refuse_taken_over(
    group: Group, former: Instance, successor: Instance, fenced: Fenced, skip_fencing: bool
) -> None:
    """Refuse where a switchover was under way, and a standby that is away may have taken over."""
    others = [i for i in group.instances.values() if i.node.host in group.away and i is not former]
    if fenced.disk.standby_signal and others and not skip_fencing:
        names = " and ".join(i.name for i in others)
        raise Refused(
            f"A switchover from {former.name} was cut short, and {names}, whose host cannot be "
            "reached, may be primary by now. If it is not, or is off: `invoke failover --to "
            f"{successor.name} --skip-fencing`."
        )


def report_missing_fence(group: Group, former: Instance, loss: DataLoss) -> None:
    """Say what a lost primary that nobody could stop may do from now on."""
    held = "where it waits for standbys its commits hang, as none that answers follows it any more"
    may = held if loss.assumed else "what it acknowledges will be lost"
    group.trace.note(
        f"{former.name}: not fenced, and may still run; {may}. `invoke rejoin {former.name}` "
        "fences it when it is back"
    )


# --- A standby takes the place of a primary that is lost ---

# 1. find who was primary, and the standby that has most of it
# 2. fence the lost one: stopped, never started by the engine, its data marked as a standby's; where
#    its host is away and that may be so, let its standbys let go of it instead. Meanwhile take the
#    turn on the standby, so that nothing of an earlier run goes on there (`turn`)
# 3. tell what would be lost, and refuse more than may be
# 4. promote
# 5. let the others follow, and commits wait for them again where enough stream
#
# What was lost comes back by `invoke rejoin`.


@dataclass(frozen=True)
class FailedOver:
    """What came of a failover: who is primary, who was, what is lost, how long it took."""

    primary: str
    former: str | None
    loss: DataLoss
    seconds: float


def failover(
    group: Group, name: str, *, max_loss: float | None = None, skip_fencing: bool = False
) -> FailedOver | None:
    """Make a standby the primary in place of one that is lost; None where one is already.

    Args:
        group: the group.
        name: the standby; empty for the one that has most.
        max_loss: bytes of WAL that may be lost, infinity for any, also where nobody can tell how
            many; None: 0 where the group is synchronous, else any.
        skip_fencing: also where the lost primary's host cannot be reached: it may still serve.

    Raises:
        Refused: a primary serves, no standby answers, the old primary cannot be fenced, or more
            would be lost than may be; nothing was changed.
    """
    begun = time.monotonic()
    if name:
        group.instance(name)  # refuses one that is none before it stands in any advice
    with group.locked(tolerant=True):
        seen = run_token.cancel_pending_promotions(group, group.observe())
        preconditions.check_alter_system(group, seen)
        image = ensure_image(group, seen)
        if seen.primaries:
            _finish_failover(group, name, seen, image)
            return None
        former = find_lost_primary(group, seen, image)
        with ExitStack() as to_the_end:
            with fence_primary(group, former, name, seen, image, skip_fencing) as kept:
                _tell_by_files(kept.successor, kept.seen)
                outside_data.tell_lacking(kept.successor, kept.seen)
                loss = estimate_loss(group, former, kept.successor, kept.seen, kept.fenced)
                loss.refuse_above(max_loss, former, kept.successor)
                group.trace.note(f"{former.name if former else group.name}: {loss.sentence}")
                if former and former.node.host in group.away:
                    report_missing_fence(group, former, loss)
                to_the_end.enter_context(cleaning_up())  # from here on nothing can be undone
            successor = kept.successor
            group.trace.note(f"{successor.name}: promoting it")
            recovery.promote(successor)
            took = time.monotonic() - begun
            group.trace.note(f"{successor.name}: is primary now")
            _set_up(group, successor, kept.seen)
            return FailedOver(successor.name, former.name if former else None, loss, took)


def _tell_by_files(successor: Instance, seen: Observation) -> None:
    node = seen.nodes[successor.name]
    if node.files and not node.facts:
        note = f"{successor.name}: nobody can log in, so its files are gone by. {node.silence}"
        successor.host.trace.note(note)


def _set_up(group: Group, successor: Instance, seen: Observation) -> None:
    """Do what follows the promotion; leave it where nobody can log in, before as after it.

    Who is primary is settled by then, and applications may get in where we do not.
    """
    try:
        _others_follow(group, successor, seen)
    except Error as fault:
        node = seen.nodes[successor.name]
        if node.facts or not node.files:
            raise
        why = fault.sentence.splitlines()[0]
        group.trace.note(
            f"{successor.name}: nobody can log in to make it ready for standbys: `invoke failover` "
            f"does that once somebody can. {why}"
        )


def _finish_failover(group: Group, name: str, seen: Observation, image: Image) -> None:
    """Finish what a failover that was cut short left undone, where a primary serves.

    Raises:
        Refused: nothing was left undone, or another node serves than the one that was named.
    """
    primary = group.primary(seen)
    facts = seen.nodes[primary.name].facts
    plan = followers.plan_upstreams(group, primary, seen)
    stray = [
        i
        for i, upstream in plan.items()
        if leadership.is_running(seen.nodes[i.name]) and not followers.follows(i, upstream, seen)
    ]
    disks = {i.name: disk for i in plan if (disk := _primary_data_of(group, i, seen, image))}
    fenced = [i for i in plan if models.is_fenced(seen.nodes[i.name].container)]
    if name != primary.name and (name or not stray + list(disks) + fenced):
        change = f" `invoke switchover --to {name}` changes it and loses nothing." if name else ""
        raise Refused(f"{primary.name} serves as primary: there is nothing to fail over.{change}")
    found = _contest(group, primary, facts, seen, image, disks) if facts else None
    group.trace.note(f"{primary.name}: serves as primary")
    if found and facts:
        for down in disks:
            _keep_down(group, group.instance(down), image, seen, found, facts)
    _others_follow(group, primary, seen)


def _contest(
    group: Group,
    primary: Instance,
    facts: Facts,
    seen: Observation,
    image: Image,
    disks: dict[str, Disk],
) -> leadership.Contest:
    """Return what is known of the primary that serves and of those that would be one.

    Raises:
        Refused: it is not the one that leads, but one of the others, or a standby.
    """
    found = leadership.contest(group, seen, image, disks, facts.system_identifier)
    if found.name == primary.name:
        return found
    if found.name in disks:
        raise Refused(leadership.serves_instead(group, found, primary.name))
    stop = group.there(primary.node.host, f"docker stop {primary.name}")
    raise Refused(
        f"{primary.name} serves as primary, and is not the one to keep. "
        f"{found.describe(primary.name)}. What clients write on {primary.name} makes it worse: "
        f"`{stop}`, then `invoke failover`, and `invoke rejoin {primary.name}`."
    )


def _keep_down(
    group: Group,
    instance: Instance,
    image: Image,
    seen: Observation,
    found: leadership.Contest,
    facts: Facts,
) -> None:
    """Keep a node that is down from coming back as a primary beside the one that serves.

    One that has commits of its own is not marked: whether these may be lost, `rejoin` asks.
    """
    fencing.stop_and_fence(group, instance, seen.nodes[instance.name].container)
    own = found.own.get((instance.name, found.name))
    if own and own.commits != 0:
        group.trace.note(f"{found.describe(instance.name)}: `invoke rejoin {instance.name}`")
    else:
        fencing.mark_as_standby(group, instance, image, facts)


def _primary_data_of(
    group: Group, instance: Instance, seen: Observation, image: Image
) -> Disk | None:
    """Return the data of a node that is down and would come back as a primary."""
    if leadership.is_running(seen.nodes[instance.name]) or instance.node.host in group.away:
        return None
    disk = preconditions.data_of(instance, image)
    return disk if leadership.is_primary_data(disk) else None


def _others_follow(group: Group, primary: Instance, seen: Observation) -> None:
    """Let the standbys that run follow the new primary; what is lost is left to `rejoin`."""
    wanted = group.topology.sync_for(primary.node)
    plan = followers.plan_upstreams(group, primary, seen)
    followers.prepare(group, primary, wanted, plan, promoted=True)
    answering = [n for n, facts in standbys_that_answer(seen).items() if not facts.by_files]
    running = {i: plan[i] for i in followers.downwards(plan) if i.name in answering}
    theirs = None if group.trace.dry else primary.facts()
    for instance, upstream in list(running.items()):
        mine = seen.nodes[instance.name].facts
        if mine and theirs and not rejoin_method.can_follow(mine, theirs):
            group.trace.note(
                f"{instance.name}: has WAL that {primary.name} has not: `invoke rejoin "
                f"{instance.name}` brings it back"
            )
            del running[instance]
        elif upstream is not primary and upstream not in running:
            group.trace.note(
                f"{instance.name}: follows {upstream.name}, which is not back yet: `invoke "
                f"rejoin {upstream.name}` brings both back"
            )
            del running[instance]
        elif not followers.follows(instance, upstream, seen):
            if upstream is not primary:  # that one is prepared
                tls_transition.apply_tls(group, upstream, seen.nodes[upstream.name].facts)
            connect.follow(group, instance, upstream)
    followers.wait_for_followers(group, primary, running, wanted)
    run_all(lambda i: followers.tidy(group, i, plan), list(running))
