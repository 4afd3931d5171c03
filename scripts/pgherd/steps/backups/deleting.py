"""Deleting one thing that was set aside, when told so twice; never anything else."""

from __future__ import annotations

from pgherd.docker import Mount
from pgherd.errors import Error, Refused
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PGDATA, Instance
from pgherd.shell import Script, Tool
from pgherd.steps.aside import clear_copies, entry
from pgherd.steps.backups import spared
from pgherd.steps.backups.copies import (
    SECRETS,
    VOLUME,
    Copy,
    found_by,
    nothing_by,
    survey,
)
from pgherd.steps.image import ensure_image


def delete(group: Group, name: str, *, confirm: str) -> None:
    """Delete what was set aside by that name.

    Raises:
        Refused: `confirm` is not the same name, nothing of the group is set aside by it, or a
            container has it, or it is a node's data by now.
    """
    if not name or name != confirm:
        raise Refused(
            "Not confirmed: deleting wants the name twice, `invoke backups --delete NAME --confirm "
            "NAME`. Nothing was changed."
        )
    with group.locked(tolerant=True):
        kept = survey(group)
        copy = found_by(kept, name)
        # Of a group that `on` has placed elsewhere only the passwords are here.
        if copy is None or (copy.host not in group.sites and copy.kind != SECRETS):
            raise nothing_by(kept, name)
        group.trace.note(f"{copy.name}: deleting it ({copy.path} of {copy.host})")
        _delete(group, copy)


def _delete(group: Group, copy: Copy) -> None:
    if copy.host not in group.sites:  # the passwords of a group that `on` has placed elsewhere
        gone = group.here.run(Tool("rm")["-r", "--", copy.path])
        if not gone.ok:
            raise Error(f"{copy.path} could not be deleted: {gone.err.strip()}")
        return
    seen = group.observe()
    instance = _anybody(group, copy)
    site = group.sites[copy.host]
    copies = [Mount(copy.path, PGDATA, copy.kind == VOLUME)]
    copies += [Mount(c.path, inside, c.kind == VOLUME) for inside, c in copy.tablespaces.items()]
    for one in copies:
        spared.refuse_to_delete(site, instance, one.source, volume=one.volume)
    clear_copies(instance, ensure_image(group, seen), copies)
    for one in copies:
        text = entry(instance.host, one.source, f"deleted, {copy.why or 'set aside'}")
        instance.host.run(Tool("sh")["-s"], stdin=Script((text,)))


def _anybody(group: Group, copy: Copy) -> Instance:
    """Return a node on the host of a copy, its own if there is one: to work there."""
    there = group.sites[copy.host].instances
    return there.get(copy.node) or next(iter(there.values()))
