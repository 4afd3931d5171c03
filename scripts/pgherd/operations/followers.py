"""Another node becomes primary: who follows whom then, and for whom its commits wait."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgherd.config.sync_names import Sync
from pgherd.group import node_config
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.group.sync_state import counting, in_words, read_sync
from pgherd.hosts.commands import assignments
from pgherd.hosts.parallel import run_all
from pgherd.operations import connect
from pgherd.operations.prepare import lay_stale, report_changes, serve, streaming_password
from pgherd.operations.run_token import RUN_TOKEN
from pgherd.operations.sync import set_names
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import READY_SECONDS, Instance

Upstreams = Mapping[Instance, Instance]  # whom each of some nodes follows


def plan_upstreams(group: Group, primary: Instance, seen: Observation) -> Upstreams:
    """Return whom each other node is to follow where `primary` is the primary."""
    others = [i for i in group.instances.values() if i is not primary]
    return {i: upstream_under(group, i, primary, seen) for i in others}


def downwards(plan: Upstreams) -> list[Instance]:
    """Return the nodes of a plan, each after the one that it follows."""

    def depth(instance: Instance) -> int:
        return 1 + depth(plan[instance]) if plan.get(instance) in plan else 0

    return sorted(plan, key=depth)


def upstream_under(
    group: Group, instance: Instance, primary: Instance, seen: Observation
) -> Instance:
    """Return whom a node is to follow: its upstream, or the primary while that does not serve."""
    asked = group.upstream_of(instance, [primary.name], seen)
    node = seen.nodes[asked.name]
    return asked if node.facts or node.planned else primary


def follows(instance: Instance, upstream: Instance, seen: Observation) -> bool:
    """Tell whether a node that runs is set to stream from that upstream, by its own slot."""
    facts = seen.nodes[instance.name].facts
    info = node_config.conninfo(instance, upstream)
    return bool(
        facts
        and facts.in_recovery
        and (facts.primary_conninfo, facts.primary_slot) == (info, instance.node.slot)
    )


def sync_after(group: Group, former: Instance, primary: Instance, names: str) -> Sync | None:
    """Return whom commits on the new primary ought to wait for, by whom they waited for before.

    Where that was what the topology asks, or nobody, it is as the topology asks: a change of
    primary leaves a blank list until enough standbys stream, so that one says nothing of a wish.
    Another list that the operator has set goes on, with the former primary in place of the new.
    """
    live = read_sync(names)
    if live is None or live == group.topology.sync_for(former.node):
        return group.topology.sync_for(primary.node)
    return live.replaced(primary.node.application_name, former.node.application_name)


def prepare(
    group: Group,
    successor: Instance,
    wanted: Sync | None,
    plan: Upstreams,
    *,
    promoted: bool = False,
    seconds: int = READY_SECONDS,
) -> None:
    """Make a standby ready to be the primary: rules, passfile, and slots for those that follow it.

    None for those that cascade: a slot that nobody uses keeps WAL.

    With `strict` its commits wait for `wanted` from the first one on; else for nobody, until
    enough standbys stream. From here on it is promoted in the turn of this run only. Where it is
    `promoted` already, for whom its commits wait stays as it is.
    """
    names = wanted.render() if wanted and group.topology.group.strict else ""
    slots = [i.node.slot for i, upstream in plan.items() if upstream is successor]
    values = assignments(slots=" ".join(slots), names=conf.sql_literal(names), turn=RUN_TOKEN)
    before = [] if promoted else ["take-turn", "first-names", "unlogged"]
    secret = streaming_password(group, asked=True)
    before += ["slot", "passfile-current"]
    out = serve(group, successor, secret, values, *before, seconds=seconds)
    report_changes(successor, out)
    tell_unlogged(successor, out)
    lay_stale(group, successor, out)


def tell_unlogged(successor: Instance, out: str) -> None:
    """Say how many unlogged tables a promotion empties, where sh/unlogged.sh has told of any."""
    found = re.search(r"^unlogged ([0-9]+) ([0-9]+) (\+?)$", out, re.MULTILINE)
    if not found:
        return
    tables, databases, more = int(found[1]), int(found[2]), found[3]
    what = f"{tables} unlogged table{'s' * (tables != 1)}"
    where = f" in {databases} databases" if databases > 1 else ""
    if more:
        what, where = (f"{what}{where} or more", "") if tables else ("unlogged tables", "")
    successor.host.trace.note(
        f"{successor.name}: {what}{where} will be empty once it is primary: no standby has the "
        "rows of unlogged tables. `ALTER TABLE … SET LOGGED` keeps them the next time"
    )


def wait_for_followers(
    group: Group, primary: Instance, followers: Upstreams, wanted: Sync | None
) -> bool:
    """Wait until these nodes stream from their upstreams; have commits wait for whom is wanted.

    Returns:
        False where too few stream for that.
    """
    run_all(lambda pair: _streams(group, *pair), list(followers.items()))
    facts = None if group.trace.dry else primary.facts()
    names = wanted.render() if wanted else ""
    if wanted and (found := _count_streaming(primary, followers, wanted, facts)) < wanted.count:
        waits = facts and facts.sync_names
        require = "asynchronous; `invoke step.require-sync` once enough do"
        meanwhile = "commits wait until enough do" if waits else require
        group.trace.note(
            f"{primary.name}: {names}, and {found} of these standbys stream: {meanwhile}"
        )
        return False
    if facts is None or facts.sync_names != names:
        group.trace.note(f"{primary.name}: {in_words(names)}")
        set_names(primary, names, wanted.count if wanted else 0)
    return True


def _count_streaming(
    primary: Instance, followers: Upstreams, wanted: Sync, facts: Facts | None
) -> int:
    """Return how many stream that commits may wait for; with --dry, how many will."""
    if facts:
        return counting(wanted, facts)
    direct = [i.node.application_name for i, upstream in followers.items() if upstream is primary]
    return sum(map(wanted.matches, direct))


def tidy(group: Group, standby: Instance, all_upstreams: Upstreams) -> None:
    """Drop the slots that a standby has for nodes that follow another one."""
    strangers = [i.node.slot for i in group.instances.values() if all_upstreams.get(i) != standby]
    standby.execute(scripts.compose("tidy", strangers=" ".join(strangers)))


def _streams(group: Group, standby: Instance, upstream: Instance) -> None:
    connect.wait_streaming(standby, upstream, connect.STREAMING_SECONDS)
    group.trace.note(f"{standby.name}: streams from {upstream.name}")
