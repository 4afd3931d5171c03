"""Whose turn it is on a server: what an earlier run left at work there gives up, or ends first.

A run that is killed leaves what it began in a server's container, and that may come to its end
much later, or only then begin. So what may not happen behind a later run's back (a promotion, the
mark of a primary that is to be stopped) is done only in the turn of the run that asked for it:
`sh/in-turn.sh`. Taking the turn (`sh/take-turn.sh`) ends all that, and what the server is then, it
stays.
"""

from __future__ import annotations

from secrets import token_hex

from pgherd.docker.engine import docker
from pgherd.errors import DeadlinePassed, Error
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.hosts.parallel import run_all
from pgherd.postgres import scripts
from pgherd.postgres.instance import Instance

RUN_TOKEN = token_hex(8)  # what tells this run from others
WAIT_SECONDS = 120.0
PATIENCE = 90  # seconds for a promotion that was asked for to come to its end
GLANCE_SECONDS = 10.0  # for Docker to list a container
PROMOTING_SECONDS = 3600  # a promotion that was asked for cannot be taken back: its end is awaited


def cancel_pending_promotion(instance: Instance, seconds: int = PATIENCE) -> None:
    """End what waits for its turn on a server, so that what it is now, it stays.

    Raises:
        DeadlinePassed: a promotion that was asked for does not come to its end, or no answer comes.
    """
    try:
        script = scripts.compose("take-turn", turn="", patience=seconds)
        instance.execute(script, seconds * WAIT_SECONDS / PATIENCE)
    except DeadlinePassed as fault:
        raise promotion_goes_on(instance, fault) from None


def promotion_goes_on(instance: Instance, fault: DeadlinePassed) -> DeadlinePassed:
    """Return the error for a promotion that nobody waits for any more, and that goes on."""
    return DeadlinePassed(
        f"{instance.name}: the promotion that it was asked for takes long, and cannot be taken "
        f"back: it goes on for up to {PROMOTING_SECONDS} s. Once `invoke status` shows "
        f"{instance.name} as the primary, this again does the rest.\n{fault.sentence}"
    )


def cancel_pending_promotions(group: Group, seen: Observation) -> Observation:
    """Call off what is prepared for a promotion anywhere, and look again if there was any.

    It may be of an earlier run, or of this one where it has refused to go on.
    """
    waiting = [
        group.instance(name)
        for name, node in seen.nodes.items()
        if (facts := node.facts or node.files) and facts.in_recovery and facts.turn
    ]
    if not waiting or group.trace.dry:
        return seen
    for instance in waiting:
        group.trace.note(f"{instance.name}: what was prepared for a promotion is called off")
    run_all(cancel_pending_promotion, waiting)
    return group.observe()


def paused(instance: Instance) -> str:
    """Say of a server that does not answer that its container is paused; empty if it is not.

    Docker can list a container that it cannot look into.
    """
    words = ["ps", "--filter", f"name=^/?{instance.name}$", "--format", "{{.Status}}"]
    try:
        out = instance.engine.run(docker[words], timeout=GLANCE_SECONDS, reads=True).out
    except Error:
        return ""
    return f": its container is paused (`docker unpause {instance.name}`)" * ("(Paused)" in out)
