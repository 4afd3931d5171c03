"""Laying an upstream's data into a standby's directory: steps 4 and 5 of the tutorial."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pgherd.docker.models import Image
from pgherd.errors import Refused
from pgherd.group import node_config, outside_data
from pgherd.group.group import Group
from pgherd.group.node_config import hba_values
from pgherd.group.observation import Observation
from pgherd.group.sync_state import read_sync
from pgherd.hosts.commands import Script, Trace
from pgherd.hosts.parallel import cleaning_up
from pgherd.operations import connect, start_stop
from pgherd.operations.prepare import make_directories, private_fragment
from pgherd.postgres import datadir, scripts
from pgherd.postgres.datadir import COPIED, COPIED_TABLESPACES, ScriptFailed
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import STOP_SECONDS, Instance

NOT_EMPTY, NOT_CLEAN, LINKS = 65, 70, 71  # exit codes of begin and sh/copy.sh
PROGRESS_SECONDS = 2.0
# Of the base backup: under the standby's own name it would be acknowledged as that standby.
BACKUP_NAME = "pgherd-basebackup"


# --- step 5 ---


def base_backup(
    group: Group,
    instance: Instance,
    origin: Instance,
    image: Image,
    options: Sequence[str],
    *,
    verify: bool = True,
    rest: Sequence[str] = (),
) -> None:
    """Step 5, `basebackup`: copy a running server over the network, and check the copy.

    `origin` is the upstream or, with `--from`, another node that has the same history. `rest` are
    fragments of later steps that go into the same container.

    Raises:
        Refused: the directory is not empty.
        Error: pg_basebackup or pg_verifybackup failed; a second try clears what it left.
    """
    group.trace.note(f"{instance.name}: base backup from {origin.name}")
    pieces: list[str | Script] = [private_fragment(group, instance), "begin-copy", "base-backup"]
    script = scripts.compose(
        *pieces,
        *(["verify-backup"] * verify),
        "hba",  # what came is the upstream's, which may be on another host
        *rest,
        "seeded",
        conninfo=node_config.conninfo(instance, origin, BACKUP_NAME),
        options=" ".join(options),
        **hba_values(instance),
    )
    make_directories(group, instance)
    instance.engine.make_network(group.network, group.name)
    _run(group, instance, image, script, network=True)


def slot_options(instance: Instance, upstream: Instance, facts: Facts | None) -> list[str]:
    """Return the options for the slot: made by the base backup, or used again from an earlier try.

    With a slot, pg_basebackup reports what it has flushed, and counts as a standby for `*` in
    synchronous_standby_names (receivelog.c): there the slot is made before and only keeps the WAL.
    """
    sync = read_sync(facts.sync_names) if facts else None
    if sync and sync.matches(BACKUP_NAME):
        connect.ensure_slot(instance, upstream)
        return []
    slot = facts.slot(instance.node.slot) if facts else None
    if slot and slot["wal_status"] == "lost":
        connect.ensure_slot(instance, upstream)
    return [f"--slot={instance.node.slot}", *(["--create-slot"] if slot is None else [])]


def check_copy(
    standby: Instance,
    upstream: Instance,
    seen: Observation,
    trace: Trace,
    confirm: Callable[[str], bool],
) -> None:
    """Ask before a live master is stopped for its files, where clients are connected."""
    _refuse_other_host(standby, upstream)
    facts = seen.nodes[upstream.name].facts
    if facts is None:
        return
    clients = [c for c in facts.clients if not str(c["application_name"]).startswith("pgherd")]
    trace.note(f"{upstream.name}: will be stopped while its files are copied")
    if clients and not confirm(
        f"{len(clients)} clients are connected to {upstream.name}. Stop it?"
    ):
        raise Refused(
            f"{len(clients)} clients are connected to {upstream.name}, and the method copy stops "
            "it: say --yes, or use --method basebackup, which does not."
        )


def _refuse_other_host(standby: Instance, upstream: Instance) -> None:
    if upstream.node.host != standby.node.host:
        raise Refused(
            f"{standby.name} is on {standby.node.host} and {upstream.name} on "
            f"{upstream.node.host}: --method copy takes the files of a stopped master, which would "
            "go through this machine. basebackup goes from server to server, and stops nobody."
        )


def refuse_links(upstream: Instance, disk: Disk) -> None:
    """Refuse to copy data that lies partly where the topology declares no place for it."""
    for one in outside_data.astray(upstream.node, disk.outside):
        raise Refused(
            f"The data of {upstream.name} cannot be copied: {one.what} is at {one.path}, outside "
            f"its data directory. `docker start {upstream.name}`; then this again tells the way "
            "out."
        )


def copy_data(
    group: Group,
    instance: Instance,
    upstream: Instance,
    image: Image,
    rest: Sequence[str] = (),
) -> None:
    """Step 5, `copy`: the files of an upstream on the same host that was stopped cleanly.

    Raises:
        Refused: the upstream's data is not that of a clean stop, or lies partly elsewhere.
    """
    _refuse_other_host(instance, upstream)
    group.trace.note(f"{instance.name}: copying the files of {upstream.name}")
    pieces: list[str | Script] = [private_fragment(group, instance), "begin-copy", "copy", *rest]
    data, *others = upstream.data_mounts(readonly=True)
    sources = [replace(data, target=COPIED)]
    sources += [replace(mount, target=f"{COPIED_TABLESPACES}{mount.target}") for mount in others]
    make_directories(group, instance)
    script = scripts.compose(*pieces, "seeded")
    try:
        _run(group, instance, image, script, mounts=[*instance.all_mounts(), *sources])
    except ScriptFailed as failed:
        if failed.exit_code in {NOT_CLEAN, LINKS}:
            raise Refused(f"The data of {upstream.name} cannot be copied: {failed.said}.") from None
        raise


def _run(group: Group, instance: Instance, image: Image, script: Script, **options: Any) -> None:
    last = 0.0

    def progress(line: str) -> None:
        nonlocal last
        if "kB (" in line and (time.monotonic() - last > PROGRESS_SECONDS or "(100%)" in line):
            last = time.monotonic()
            group.trace.note(f"{instance.name}: {line.strip()}")

    try:
        instance.offline(image, script, on_line=progress, timeout=None, **options)
    except ScriptFailed as failed:
        if failed.exit_code == NOT_EMPTY:
            where = instance.node.data
            raise Refused(
                f"{instance.name}: {where} is not empty ({failed.said.strip()}): "
                f"`invoke step.set-aside --node {instance.name}` first."
            ) from None
        raise


def copy_from_running(
    group: Group, instance: Instance, upstream: Instance, image: Image, rest: Sequence[str]
) -> None:
    """Stop the upstream, copy, and start it again, whatever came of the copy."""
    container = upstream.container()
    runs, stopping = bool(container and container.alive), False
    try:
        if runs:
            connect.ensure_slot(instance, upstream)
            stopping = True
            start_stop.stop_instances(group, [upstream])
            stopping = False
        copy_data(group, instance, upstream, image, rest)
    finally:
        with cleaning_up():
            _start_again(group, upstream, stopping=stopping)
    if not runs:
        connect.ensure_slot(instance, upstream)


def _start_again(group: Group, upstream: Instance, *, stopping: bool) -> None:
    """Start the upstream unless it runs.

    One that somebody started meanwhile was kept off its data: the engine tries that again and
    again, each time later. One that was cut short while `stopping` is still on its way down.
    """
    there = upstream.container()
    if there and there.alive and stopping:
        upstream.engine.stop(there, STOP_SECONDS)
        there = upstream.container()
    kept_off = there and there.alive and datadir.SENTENCE in upstream.log_tail(3)
    if there is None or (there.running and not kept_off):
        return
    if kept_off:
        with suppress(Refused):  # its try failed as well, so that it was stopped
            upstream.wait_ready()
            return
    upstream.engine.start(there)
    group.trace.note(f"{upstream.name}: started again")
    upstream.wait_ready()
