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
    there = sorted(p.name for p in beside.glob("*") if p.is_dir()) if beside.is_dir() else []
    aside = [name for name in there if name.startswith(f"{group.secrets.name}_bk_")]
    others = [name for name in there if name not in {*aside, group.secrets.name}]
    back = f" `invoke restore {aside[-1]}` brings back what was set aside." if aside else ""
    raise Refused(
        f"The data of {instance.name} was made by a group of pgherd whose passwords are not here: "
        f"{group.secrets} has none.{back} Give the group its former name in "
        f"{group.topology.source}; or bring its passwords along, `mv {beside / 'FORMER-NAME'} "
        f"{group.secrets}` (there are {', '.join(others) or 'none'}). If they are lost, write a "
        f"new one, one line, into {group.passwords.path('replicator')}."
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
