"""Every task, by chapter, in the order in which a reader needs them: the table of contents."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.collection import Collection

sys.path.insert(0, str(Path(__file__).parent / "scripts"))  # whatever Python invoke runs in

from pgherd.tasks import (
    data,
    develop,
    hosts,
    living,
    looking,
    primary,
    security,
    setup,
    standbys,
    steps,
)
from pgherd.tasks.common import register_tasks

ns = Collection(
    #
    # Set up a pair, and prove it
    setup.setup_master,
    setup.seed_standby,
    setup.verify,
    setup.demo,  # the three in one
    setup.image,
    #
    # The tutorial, step by step
    steps.steps,
    steps.step,  # step.run-master, step.run-standby …
    #
    # Look at it
    looking.status,
    looking.show,
    looking.diff,
    looking.doctor,
    looking.logs,
    looking.psql,
    looking.uri,
    #
    # Live with it
    living.start,
    living.stop,
    living.apply,  # what the topology asks for now
    living.down,
    #
    # More standbys
    standbys.add_standby,
    standbys.remove_standby,
    standbys.sync,
    #
    # Another primary
    primary.switchover,
    primary.failover,
    primary.rejoin,
    #
    # Data that was set aside
    data.aside,  # aside.list, aside.restore, aside.delete
    #
    # Who may come in
    security.audit,
    security.rotate_passwords,
    security.tls,
    #
    # On other machines
    hosts.on,
    hosts.hosts,
    #
    # Work on pgherd itself
    develop.test,
    develop.bench,
    develop.torture,  # torture.kills, torture.faults, torture.soak
    develop.rig,  # rig.up, rig.down
)
ns.configure({"pgherd": {"on": ""}})
register_tasks(ns)
