"""Taking back what an old primary wrote and the new one has not: pg_rewind."""

from __future__ import annotations

from pgherd.docker import Image
from pgherd.errors import Error
from pgherd.postgres import scripts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.shell import Script
from pgherd.steps import connect
from pgherd.steps.hba import hba_values
from pgherd.steps.node import make_directories
from pgherd.steps.private import ask_superuser, private_fragment

PASSFILE = "/run/rewind.passfile"  # in the container that rewinds, and gone with it


def rewind(
    group: Group, instance: Instance, primary: Instance, upstream: Instance, image: Image
) -> None:
    """Rewind a node that is down to where it parted from the primary; make it a standby.

    It connects as superuser, with the password on stdin: pg_rewind reads any file of the primary,
    which the replication role may not. Whoever calls keeps a copy: cut short, this leaves no
    database.

    Raises:
        Error: pg_rewind cannot do it, and what it says; the data is not to be used any more.
    """
    group.trace.note(f"{instance.name}: rewinding it to where it parted from {primary.name}")
    primary.execute(scripts.compose("checkpoint"), 300.0)  # 15 and older compare control data
    ask_superuser(group, primary)
    pieces: list[str | Script] = [
        private_fragment(group, instance),
        scripts.password("superuser_password", group.passwords.of("postgres")),
        "export PGPASSFILE=/run/rewind.passfile\n",
        "rewind",
        "hba",
        connect.fragments(instance, upstream),
        "mark-standby",
        "seeded",
    ]
    source = connect.conninfo(
        instance,
        primary,
        "pgherd-rewind",
        user="postgres",
        dbname=primary.database or "postgres",
        passfile=PASSFILE,
    )
    script = scripts.compose(*pieces, source=source, **hba_values(instance))
    make_directories(group, instance)
    instance.engine.make_network(group.network, group.name)
    instance.offline(image, script, network=True, timeout=None, on_line=lambda _line: None)


def reason(fault: Error) -> str:
    """Return pg_rewind's own words of why it could not."""
    said = [line for line in fault.sentence.splitlines() if "pg_rewind: error" in line]
    return said[-1].partition("error: ")[2] if said else fault.sentence.splitlines()[-1].strip(" |")
