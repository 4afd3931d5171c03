"""The private directory of a node: its passfile and, with TLS, its key and certificates."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Error
from pgherd.postgres import scripts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PRIVATE, Instance
from pgherd.shell import Script
from pgherd.steps.tls import laid

ROLE, SUPERUSER = ROLES = "replicator", "postgres"
REPLACED = "replaced "  # what sh/in-force.sh says, and of which role


def streaming_password(group: Group, *, asked: bool = False) -> Script:
    """Return the fragment that sets $password, by which standbys stream.

    Where a change of passwords was cut short, the new one is set beside it: no passfile that has
    that gets the former one again. If a server is to be `asked`, it tells whether the role has it
    already: see `hear`.
    """
    found = scripts.password("password", group.passwords.of(ROLE))
    if new := group.passwords.replacing().get(ROLE):
        found += scripts.password("replacing", new)
        if asked:
            found += scripts.fragment("in-force")
    return found


def hear(group: Group, out: str) -> None:
    """Go by the new password from here on, where a server said that the role has it."""
    for line in out.splitlines():
        if line in {REPLACED + role for role in ROLES}:
            group.passwords.taken(line.removeprefix(REPLACED))


def ask_superuser(group: Group, instance: Instance) -> None:
    """Where a change of passwords was cut short, ask a server if `postgres` has the new one."""
    if new := group.passwords.replacing().get(SUPERUSER):
        known = scripts.password("password", group.passwords.of(SUPERUSER))
        asked = known + scripts.password("replacing", new) + scripts.fragment("in-force")
        hear(group, instance.execute(scripts.compose(asked, whose=SUPERUSER), reads=True))


def private_fragment(group: Group, instance: Instance) -> Script:
    """Return the fragment that lays the passfile, and key and certificates with TLS."""
    passfile = streaming_password(group) + scripts.fragment("passfile")
    return passfile + laid.fragment(group, instance)


def lay_private(
    group: Group, instance: Instance, image: Image, what: str = "passfile", *, runs: bool = True
) -> None:
    """Lay the private files anew, `what` above all: the server has their directory read-only.

    It reads the passfile at each try to connect, its certificate at a reload. One that runs is
    asked whether they have reached it; one that does not has them when it starts.
    """
    group.trace.note(f"{instance.name}: brought up to date: {what}")
    private = [mount for mount in instance.mounts() if mount.target == PRIVATE]
    instance.offline(image, scripts.compose(private_fragment(group, instance)), mounts=private)
    if runs:
        check_private(group, instance)


def check_private(group: Group, instance: Instance) -> None:
    """See that a server has the private directory in which its files have just been laid.

    A bind mount is of the directory that was there when the container was started.

    Raises:
        Error: the directory was put in the place of that since then.
    """
    if instance.host.trace.dry:
        return
    certificates = laid.current(group, instance)
    look = scripts.compose(streaming_password(group), "passfile-current", *certificates)
    if "stale" in instance.execute(look, reads=True):
        raise Error(
            f"{instance.name} runs with another directory at {PRIVATE} than "
            f"{instance.places.private}, which has taken the place of that since it was started: "
            "what is laid there does not reach it. `invoke stop`, then `invoke start`."
        )
