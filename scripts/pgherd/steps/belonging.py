"""Whether what lies in a node's data directory is a database that the group may run."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Refused
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance


def check_group_of_data(group: Group, instance: Instance, disk: Disk) -> None:
    """Refuse data of a group that has, or had, another name: its role would get a new password."""
    if disk.ours or not disk.settings or group.passwords.known("replicator"):
        return
    beside = group.secrets.parent
    others = sorted(p.name for p in beside.glob("*") if p.is_dir()) if beside.is_dir() else []
    raise Refused(
        f"The data of {instance.name} was made by a group of pgherd whose passwords are not here: "
        f"{group.secrets} has none. Give the group its former name in {group.topology.source}; or "
        f"bring its passwords along, `mv {beside / 'FORMER-NAME'} {group.secrets}` (there are "
        f"{', '.join(others) or 'none'}). If they are lost, write a new one, one line, into "
        f"{group.passwords.path('replicator')}."
    )


def check_major(instance: Instance, disk: Disk, image: Image) -> None:
    """Refuse a directory that is no database, or one of another major version than the image."""
    major = image.env.get("PG_MAJOR")
    where = f"{instance.name}: {instance.node.data}"
    if disk.pg_version is None:
        raise Refused(
            f"{where} is not empty and has no PostgreSQL database in it. "
            "Empty it or move it away, or choose another `data`."
        )
    if major and disk.pg_version != major:
        raise Refused(
            f"{where} is a database of PostgreSQL {disk.pg_version}, and the image {image.ref} has "
            f"{major}. Ask for an image of {disk.pg_version}, or choose another `data`."
        )
