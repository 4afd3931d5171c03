"""Connecting a standby to its upstream: steps 7 and 8, and the wait until it streams."""

from __future__ import annotations

from pgherd.docker.models import Container, Image
from pgherd.errors import DeadlinePassed, Error
from pgherd.group.group import Group
from pgherd.group.node_config import DELAY, conninfo, is_delayed
from pgherd.hosts.commands import Script
from pgherd.operations import prepare, set_aside
from pgherd.operations.prepare import (
    bring_passfile,
    lay_private,
    make_private,
    private_fragment,
    settings_fragment,
    with_certificates,
)
from pgherd.postgres import conf, datadir, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance

STREAMING_SECONDS = 300
SAID_EVERY = 15  # seconds
GLANCE_SECONDS = 5  # after so long without streaming, see whether the standby still runs
SECURED = "AND pid IN (SELECT pid FROM pg_stat_ssl WHERE ssl)"
UNARCHIVED = "unarchived | sed 's/^/unarchived /'\n"
# Settings that a copy brings along and that are another node's: whom it followed, and above all
# the standbys that its commits would wait for after a promotion.
INHERITED = (
    "primary_conninfo", "primary_slot_name", "synchronous_standby_names",
    "recovery_target[a-z_]*", DELAY,
)  # fmt: skip


class Ended(Error):
    """A standby ended by itself: not its upstream, not the way there, nobody who stopped it."""


def fragments(instance: Instance, upstream: Instance, *, new: bool = False) -> str:
    """Return step 7 as a fragment for a server that is down.

    Where its data is a new copy, nothing in it is older than the delay that may be asked for: that
    begins once it streams (sh/delay.sh), since it is connected only when all on disk is replayed.
    """
    lines = (
        f"primary_conninfo = {conf.quote_value(conninfo(instance, upstream))}\n"
        f"primary_slot_name = {conf.quote_value(instance.node.slot)}\n"
        # Said, not only left out: it may stand in the upstream's postgresql.conf as well.
        "synchronous_standby_names = ''\n"
    )
    if new and is_delayed(instance):
        lines += f"{DELAY} = 0\n"
    return settings_fragment(instance) + scripts.auto_conf(INHERITED, lines)


def as_before() -> str:
    """Return the fragment that makes a node that is down follow nobody, as a primary does.

    For whom its commits wait stays as it is.
    """
    return scripts.auto_conf(tuple(n for n in INHERITED if "names" not in n), "")


def connect_stopped(
    group: Group, instance: Instance, upstream: Instance, image: Image, *, mark: bool = True
) -> None:
    """Steps 7 and 8 on a server that is down: whom it follows, and that it is a standby.

    Without `mark` it is step 7 only.
    """
    note = f"{instance.name}: connecting it to {upstream.name}"
    group.trace.note(f"{note}, marked as a standby" if mark else note)
    make_private(instance)
    pieces: list[str | Script] = [private_fragment(group, instance), fragments(instance, upstream)]
    pieces += ["mark-standby", UNARCHIVED] * mark
    said = instance.offline(image, scripts.compose(*pieces))
    set_aside.keep_unarchived(group, instance, image, set_aside.read_unarchived(said))


def mark_standby(group: Group, instance: Instance, image: Image) -> None:
    """Step 8 by itself: the empty file standby.signal, which makes the server a standby."""
    group.trace.note(f"{instance.name}: marking it as a standby (standby.signal)")
    instance.offline(image, scripts.compose("mark-standby"))


def connect_running(group: Group, instance: Instance, upstream: Instance, image: Image) -> None:
    """Step 7 on a standby that runs: PostgreSQL takes the change at a reload."""
    lay_private(group, instance, image)
    group.trace.note(f"{instance.name}: connecting it to {upstream.name}")
    instance.execute(scripts.compose("follow", **following_values(instance, upstream)))


def follow(group: Group, instance: Instance, upstream: Instance) -> None:
    """Give a standby that runs another upstream, which serves as the topology asks.

    Its passfile lets it in already, unless a change of passwords was cut short; what it needs for
    TLS is laid first where that is not there.
    """
    group.trace.note(f"{instance.name}: connecting it to {upstream.name}")
    run_following(group, instance, upstream, "follow")


def run_following(
    group: Group, instance: Instance, upstream: Instance, *pieces: str, seconds: int = 30
) -> str:
    """Run a script that has a standby follow another upstream, with what it needs to get in."""
    bring_passfile(group, instance)
    wanted = [*prepare.current(group, instance), *pieces]
    values = following_values(instance, upstream)
    script = scripts.compose(*wanted, seconds=seconds, **values)
    return with_certificates(group, instance, lambda: instance.execute(script, seconds + 30.0))


def as_before_again(group: Group, instance: Instance, before: Facts) -> None:
    """Have a standby that runs follow whom it followed, just as it did."""
    values = {"conninfo": before.primary_conninfo, "slot": before.primary_slot}
    quoted = {name: conf.sql_literal(value) for name, value in values.items()}
    instance.execute(scripts.compose("follow", **quoted))
    group.trace.note(f"{instance.name}: follows whom it followed before")


def following_values(instance: Instance, upstream: Instance) -> dict[str, str]:
    """Return the variables of the scripts that set by SQL whom a node follows."""
    return {
        "conninfo": conf.sql_literal(conninfo(instance, upstream)),
        "slot": conf.sql_literal(instance.node.slot),
    }


def ensure_slot(instance: Instance, upstream: Instance) -> None:
    """Make the node's slot on its upstream; one that lost its WAL is made anew."""
    upstream.execute(scripts.compose("slot", slots=instance.node.slot))


def wait_streaming(instance: Instance, upstream: Instance, seconds: int) -> Facts | None:
    """Wait until the standby streams and has all that its upstream had when the wait began.

    Returns:
        What the upstream says then, or None with `--dry`.

    Raises:
        DeadlinePassed: not within so many seconds; with what both servers say of it.
        Ended: the standby ended by itself.
        Error: somebody stopped it, or its upstream cannot be asked.
    """
    if instance.host.trace.dry:
        _wait(instance, upstream, seconds)
        return None
    for waited in range(0, seconds, GLANCE_SECONDS):
        if waited and waited % SAID_EVERY == 0:
            note = f"{instance.name}: not streaming yet after {waited} s of {seconds}"
            instance.host.trace.note(note)
        try:
            out = _wait(instance, upstream, min(GLANCE_SECONDS, seconds - waited))
            return Facts.parse(out)
        except DeadlinePassed:
            container = instance.container()
            if container is None or not container.running:
                datadir.refuse_if_locked(instance)
                raise _not_running(instance, container) from None
    rows = upstream.query("SELECT * FROM pg_stat_replication \\gx\n").rstrip() or "no rows"
    raise DeadlinePassed(
        f"{instance.name} does not stream from {upstream.name} after {seconds} s.\n"
        f"pg_stat_replication of {upstream.name}: {rows}\n"
        f"log of {instance.name}:\n{instance.log_tail()}"
    )


def _not_running(instance: Instance, container: Container | None) -> Error:
    sentence = f"{instance.name} does not run.\n{instance.log_tail()}"
    stopped = container is None or container.exit_code in {0, datadir.KILLED}
    return Error(sentence) if stopped else Ended(sentence)


def _wait(instance: Instance, upstream: Instance, seconds: int) -> str:
    script = scripts.compose(
        "streaming",
        scripts.query("facts"),
        seconds=seconds,
        standby=conf.sql_literal(instance.node.application_name),
        secured=SECURED if instance.encryption.on else "",
    )
    return upstream.execute(script, seconds + 30.0)
