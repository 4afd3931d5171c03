"""The other standbys let go of a lost primary that cannot be stopped, before one is promoted.

Its host does not answer here, but it may run and its standbys may still stream from it. What one of
them confirms counts for commits there; after the promotion such a commit would be acknowledged and
lost. The successor itself may stream on: what it confirms it has, and it ends with the promotion.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pgherd.errors import DeadlinePassed
from pgherd.host.scope import cleaning_up
from pgherd.host.together import side_by_side
from pgherd.postgres import scripts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import connect
from pgherd.steps.change import succession
from pgherd.steps.change.losing import standbys_that_answer

LET_GO_SECONDS = 60
CATCH_UP_SECONDS = 5  # for the successor to get from the lost primary what they have


@contextmanager
def parted(
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
        and connect.leads_to(facts.primary_conninfo, instance, former)
    }
    try:
        if others:
            wanted = group.topology.sync_for(successor.node)
            plan = succession.upstreams(group, successor, seen)
            succession.prepare(group, successor, wanted, plan)
            have = side_by_side(lambda i: _let_go(group, i, successor), list(others))
            with suppress(DeadlinePassed):  # what it would lose then is weighed
                script = scripts.compose("has", positions=" ".join(have), seconds=CATCH_UP_SECONDS)
                successor.execute(script, CATCH_UP_SECONDS + 30.0)
        yield _seen_last(group, successor) if others else seen
    except BaseException:
        with cleaning_up():
            for instance, before in others.items():
                with suppress(Exception):
                    connect.as_before_again(group, instance, before)
        raise


def _seen_last(group: Group, successor: Instance) -> Observation:
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
