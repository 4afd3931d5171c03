"""Seeding standbys: steps 4, 5 and 7 to 10 of the tutorial, in an order that is safe."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pgherd.config.nodes import Node
from pgherd.config.validation import faults_between_hosts
from pgherd.config.values import DOCKER_NAME, LOCAL, NAME_RULE, VOLUME, volume_of
from pgherd.docker.models import Container, Image
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable, quoted
from pgherd.group import outside_data, preconditions
from pgherd.group import primary as leadership
from pgherd.group.group import Group, explain_no_primary
from pgherd.group.node_config import as_asked, base_settings, is_delayed
from pgherd.group.observation import Observation
from pgherd.group.outside_data import toml_key
from pgherd.group.platforms import tell_differences
from pgherd.group.primary import has_newer, is_primary_data
from pgherd.group.sync_state import streams, waits_for
from pgherd.hosts.commands import Script, Tool
from pgherd.hosts.parallel import run_all, run_each
from pgherd.operations import connect, copy, set_aside, start_stop
from pgherd.operations.image import ensure_image
from pgherd.operations.prepare import (
    connect_all,
    report_changes,
    run_container,
    serve,
    streaming_password,
    wait_serving,
)
from pgherd.operations.steps import first_standby
from pgherd.operations.sync import require_sync, set_names
from pgherd.postgres import scripts
from pgherd.postgres.conf import sql_literal
from pgherd.postgres.facts import Disk, Facts, Sender
from pgherd.postgres.instance import Instance

# --- how a standby is to be seeded, and the two servers that it concerns ---

METHODS = ("basebackup", "copy")
SLOWEST, FASTEST = 32, 1024 * 1024  # kB per second, of pg_basebackup


def _is_rate(text: str) -> bool:
    """Tell whether pg_basebackup takes a rate: 32 kB to 1 GB (pg_basebackup.c, parse_max_rate)."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([kM]?)", text)
    return bool(found and SLOWEST <= int(found[1]) * (1024 if found[2] == "M" else 1) <= FASTEST)


@dataclass(frozen=True)
class SeedOptions:
    """How a standby is to be seeded, as said on the command line."""

    method: str = "basebackup"
    source: str = ""  # the node to take the base backup from, where it is not the upstream
    rebuild: bool = False  # also where the standby streams already
    set_aside: bool = False  # also data that is not this group's
    allow_async: bool = False
    verify_backup: bool = True
    max_rate: str = ""
    spread_checkpoint: bool = False
    max_loss: float | None = None  # bytes of its own commits that `rejoin` may lose; None for 0
    confirm: Callable[[str], bool] = lambda _question: False

    def check(self) -> None:
        """Refuse what is no method and no rate."""
        if self.method not in METHODS:
            raise Refused(f"--method is {' or '.join(METHODS)}, not {quoted(self.method)}.")
        if self.max_rate and not _is_rate(self.max_rate):
            raise Refused(
                "--max-rate is kB per second, or like 32M, from 32 kB to 1 GB (1024M); not "
                f"{quoted(self.max_rate)}."
            )
        if self.source and self.method == "copy":
            raise Refused("--from goes with a base backup; --method copy stops the upstream.")

    def backup_options(self) -> list[str]:
        """Return the options of pg_basebackup for this."""
        checkpoint = "spread" if self.spread_checkpoint else "fast"
        rate = [f"--max-rate={self.max_rate}"] if self.max_rate else []
        return [f"--checkpoint={checkpoint}", *rate]


@dataclass(frozen=True)
class SeedPlan:
    """A standby to be, whom it is to follow, what was seen of both, and whose data it gets."""

    group: Group
    standby: Instance
    upstream: Instance
    image: Image
    seen: Observation
    source: Instance | None = None  # for the base backup; None: the upstream

    @property
    def mine(self) -> Facts | None:
        """What the standby's server says, if it runs."""
        return self.seen.nodes[self.standby.name].facts

    @property
    def theirs(self) -> Facts | None:
        """What the upstream's server says, if it runs."""
        return self.seen.nodes[self.upstream.name].facts

    @property
    def streams(self) -> bool:
        """Whether the standby streams from the upstream already, with the slot that is its own."""
        mine, theirs, node = self.mine, self.theirs, self.standby.node
        if not mine or not theirs or not mine.in_recovery:
            return False
        sender = theirs.sender(node.application_name)
        same = mine.system_identifier == theirs.system_identifier
        newer = mine.timeline > theirs.timeline
        streaming = bool(sender and sender.streaming)
        return same and not newer and streaming and mine.primary_slot == node.slot

    @property
    def container(self) -> Container | None:
        """The standby's container, if it has one."""
        return self.seen.nodes[self.standby.name].container

    @property
    def runs(self) -> bool:
        """Whether the standby's container runs, or is about to."""
        return bool(self.container and self.container.alive)

    def observe_upstream_again(self) -> SeedPlan:
        """Return it with what the upstream says now: after a try to follow that has the slot."""
        nodes, name = self.seen.nodes, self.upstream.name
        now = replace(nodes[name], facts=self.upstream.facts())
        return replace(self, seen=replace(self.seen, nodes={**nodes, name: now}))

    def note(self, text: str) -> None:
        """Announce an act on the standby."""
        self.group.trace.note(f"{self.standby.name}: {text}")


# --- whom a standby is to follow now, and which standbys have to be there before which others ---


def refuse_away(group: Group, instance: Instance) -> None:
    """Refuse to work with a node whose host cannot be reached."""
    if instance.node.host in group.away:
        raise Unreachable(group.away[instance.node.host])


def upstream_of(
    group: Group, standby: Instance, seen: Observation, asked: SeedOptions, image: Image
) -> Instance:
    """Return whom to seed from; refuse where the node itself is the one that leads.

    Where no other node is primary, the data of those that are down tells who leads.
    """
    others = [name for name in seen.primaries if name != standby.name]
    own = seen.nodes[standby.name].facts
    alone = own if own and not own.in_recovery and not others else None
    if alone and (alone.senders or alone.timeline > 1 or standby is group.master):
        raise is_primary(group, standby)
    upstream = None if others else _by_data(group, standby, seen, asked, image)
    if upstream is None:
        upstream = group.upstream_of(standby, others, seen)
        there = seen.nodes[upstream.name]
        # A database of its own, as step 2 makes it, is of another system.
        other = there.facts and alone and there.facts.system_identifier != alone.system_identifier
        if alone and not other and not there.planned:
            raise is_primary(group, standby)
    refuse_away(group, upstream)
    return upstream


def _by_data(
    group: Group, standby: Instance, seen: Observation, asked: SeedOptions, image: Image
) -> Instance | None:
    """Return a node that is down whose files are to be copied; None where one that serves will do.

    Raises:
        Refused: who leads is down and has to be started first, or is the node itself.
    """
    planned = any(node.planned for node in seen.nodes.values())
    leading = "" if planned else leadership.leader_down(group, seen, image, but=standby.name)
    if leading == standby.name and not asked.set_aside:
        raise Refused(f"The data of {standby.name} is the primary's: `invoke start` runs it.")
    leading = leading if leading != standby.name else ""
    source = leading or group.master.name
    there = leading or seen.nodes[source].container
    if asked.method == "copy" and there and source != standby.name:
        # An earlier copy may have been killed while its source was stopped.
        return group.instance(source)
    asked_for = group.topology.upstream_of(standby.node)
    if leading and asked_for in {None, group.topology.primary}:
        raise Refused(f"{leading}, which leads, is down: `invoke start`.")
    if standby is group.master and not planned:
        if any(node.container for name, node in seen.nodes.items() if name != standby.name):
            raise Refused(explain_no_primary(group, seen))
        raise Refused(
            f"{standby.name} is to be the primary, and no other node is: `invoke setup-master`."
        )
    return None


def is_primary(group: Group, standby: Instance) -> Refused:
    """Return the refusal of a node that is the only primary."""
    back = f" `invoke switchover --to {group.master.name}` swaps them back."
    return Refused(
        f"{standby.name} is the primary now: it cannot be seeded."
        f"{back if standby is not group.master else ''}"
    )


def levels(
    group: Group,
    nodes: list[Instance],
    upstreams: dict[str, Instance],
    seen: Observation,
    asked: SeedOptions,
) -> list[list[Instance]]:
    """Return the nodes in lists, each of those whose upstreams are there or in an earlier list.

    Raises:
        Refused: an upstream does not serve, and is none of the nodes.
    """
    for node in nodes:
        if upstreams[node.name].name not in upstreams:
            _refuse_upstream(group, node, upstreams[node.name], seen, asked)
    found: dict[int, list[Instance]] = {}
    for node in nodes:
        depth, at = 0, upstreams[node.name]
        while at.name in upstreams:
            depth, at = depth + 1, upstreams[at.name]
            if depth > len(nodes):
                raise Refused(
                    f"{node.name} and {at.name} would each be copied from the other: name one of "
                    "them; `invoke status` tells which leads."
                )
        found.setdefault(depth, []).append(node)
    return [found[depth] for depth in sorted(found)]


def _refuse_upstream(
    group: Group, node: Instance, upstream: Instance, seen: Observation, asked: SeedOptions
) -> None:
    """Refuse an upstream that does not serve, or is a primary beside the one that leads.

    One may be down whose files are to be copied.
    """
    there = seen.nodes[upstream.name]
    others = [name for name in seen.primaries if name != node.name]
    # A database of its own, which is to be replaced, has no say in who leads.
    system = there.facts.system_identifier if there.facts else None
    facts = {
        name: its
        for name, its in seen.facts.items()
        if name != node.name or its.system_identifier == system
    }
    leads = group.leader(facts, seen.own)
    if upstream.name in others and leads and leads.name != upstream.name:
        raise Refused(f"{group.several(seen)}.")
    if asked.method == "copy" or there.planned:
        return
    if there.facts is None:
        silence = f" ({there.silence})" if there.silence else ""
        raise Refused(
            f"{upstream.name}, which {node.name} is to follow, does not serve{silence}: `invoke "
            f"start`, or `invoke add-standby {upstream.name},{node.name}` seeds both."
        )


# --- the lines that a topology file lacks for a further standby, ready to paste ---

_TRIED = 1000  # ports


def refuse_unknown(group: Group, names: Sequence[str]) -> None:
    """Refuse names that are no node of the topology, and say the lines that would make them so.

    The new nodes are on the primary's host, follow it, listen as it does, and have the next port
    there that nobody has now; their data lies beside that of the others.
    """
    unknown = [name for name in dict.fromkeys(names) if name not in group.topology.nodes]
    if not unknown:
        return
    for name in unknown:
        if not re.fullmatch(DOCKER_NAME, name):
            raise Refused(f"{quoted(name)} is no name for a node: it {NAME_RULE}.")
    taken = _ports(group, group.master)
    tables = []
    for name in unknown:
        port = _next_port(group, taken)
        taken.add(port)
        tables.append(_table(group.topology.primary, name, port))
    one = len(unknown) == 1
    raise Refused(
        f"{', '.join(unknown)} {'is no node' if one else 'are no nodes'} of {group.name}. Put this "
        f"at the end of {group.topology.source or 'the topology file'}, then this again:\n\n"
        + "\n".join(tables)
    )


def _table(model: Node, name: str, port: int) -> str:
    """Write a node's table as TOML; JSON's strings and numbers are TOML's as well."""
    keys: dict[str, object] = {
        "host": model.host,
        "port": port,
        "data": _place(model.data, model.name, name, name if model.volume else f"{name}_data"),
    }
    if model.listen != "127.0.0.1":
        keys["listen"] = model.listen
    if model.address:
        keys["address"] = model.address
    keys["upstream"] = model.name
    key = toml_key(name)
    places = {
        inside: _place(place, model.name, name, f"{name}_{posixpath.basename(inside)}")
        for inside, place in model.tablespaces.items()
    }
    tables = [f"[nodes.{key}]", *_lines(keys), ""]
    return "\n".join(
        [*tables, *([f"[nodes.{key}.tablespaces]", *_lines(places), ""] * bool(places))]
    )


def _lines(keys: Mapping[str, object]) -> list[str]:
    return [
        f"{toml_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()
    ]


def _place(of: str, model: str, name: str, otherwise: str) -> str:
    """Return a directory or volume named as the primary's is, with the new node's name."""
    if volume := volume_of(of):
        return f"{VOLUME}{volume.replace(model, name) if model in volume else otherwise}"
    directory, base = posixpath.split(of)
    return posixpath.join(directory, base.replace(model, name) if model in base else otherwise)


def _ports(group: Group, beside: Instance) -> set[int]:
    """Return the ports of that host that are asked for, published or listened on."""
    node = beside.node
    ports = {other.port for other in group.topology.nodes.values() if other.host == node.host}
    for container in beside.engine.containers().values():
        ports |= {port for _, port in container.ports}
    said = beside.host.run(
        Tool("sh")["-c", "ss -Hltn 2>/dev/null || lsof -nP -iTCP -sTCP:LISTEN 2>/dev/null || :"],
        reads=True,
    ).out
    return ports | {int(port) for port in re.findall(r":([0-9]{1,5})\s", said)}


def _next_port(group: Group, taken: set[int]) -> int:
    host = group.topology.primary.host
    last = max(node.port for node in group.topology.nodes.values() if node.host == host)
    free = (port for port in range(last + 1, min(last + _TRIED, 65536)) if port not in taken)
    port = next(free, None)
    if port is None:
        where = "this machine" if host == LOCAL else host
        raise Refused(f"No port above {last} is free on {where}: choose one for the new node.")
    return port


# --- A base backup from another node than the upstream (`--from`) ---

SOURCE_SECONDS = 300  # for the source to replay what the slot begins with


def choose_source(
    group: Group, standby: Instance, upstream: Instance, seen: Observation, name: str
) -> Instance | None:
    """Return the node to take the base backup from; None where it is the upstream itself.

    Raises:
        Refused: it does not serve, is of another system or history, or cannot be reached.
    """
    if not name or name == upstream.name:
        return None
    source = group.instance(name)
    if source is standby:
        raise Refused(f"--from {name}: {name} is the one to be seeded.")
    node = seen.nodes[name]
    if not node.facts and not node.planned:
        why = f"{name} does not answer: {node.silence}" if node.silence else f"{name} does not run"
        raise Refused(f"--from {name}: {why}.".replace("..", "."))
    if standby.node.host != source.node.host:
        for fault in faults_between_hosts(standby.node, source.node):
            raise Refused(f"--from {name}: {'.'.join(map(str, fault.where))} {fault.sentence}.")
    theirs = seen.nodes[upstream.name].facts
    if node.facts and theirs:
        _refuse_other_history(source, node.facts, upstream, theirs)
    return source


def _refuse_other_history(source: Instance, mine: Facts, upstream: Instance, theirs: Facts) -> None:
    for what, one, other in (
        ("system", mine.system_identifier, theirs.system_identifier),
        ("timeline", mine.timeline, theirs.timeline),
    ):
        if one != other:
            raise Refused(
                f"--from {source.name}: it is of {what} {one}, and {upstream.name} of {other}: "
                "what is copied from it could not follow."
            )


def wait_for_slot(pair: SeedPlan, source: Instance) -> None:
    """Make the standby's slot on the upstream, and wait until the source has replayed its begin.

    A base backup ends, and streaming begins, at or after what its source has replayed when it
    starts: from there on the slot keeps the WAL, so that none is missing between the two.

    Raises:
        DeadlinePassed: the source does not get there: it may be far behind, or delayed.
    """
    slot = pair.standby.node.slot
    out = pair.upstream.execute(scripts.compose("slot", "slot-begin", slots=slot, slot=slot))
    begin = out.strip() or (pair.theirs.lsn if pair.theirs else None) or "0/0"  # with --dry
    script = scripts.compose("replayed", position=begin, seconds=SOURCE_SECONDS)
    try:
        source.execute(script, SOURCE_SECONDS + 30.0)
    except DeadlinePassed as fault:
        raise DeadlinePassed(
            f"{source.name} has not replayed {begin} after {SOURCE_SECONDS} s, where the slot of "
            f"{pair.standby.name} on {pair.upstream.name} begins: is it far behind, or delayed? "
            f"Without --from the base backup is {pair.upstream.name}'s.\n{fault.sentence}"
        ) from None


# --- A stopped primary whose files are to be copied ---

CLEAN = "shut down"  # of a primary; a standby's is another


def check(pair: SeedPlan, asked: SeedOptions) -> None:
    """Refuse an upstream whose files cannot be copied, before the node is touched for them.

    One that serves as a primary is stopped in order for the copy, and then it is known to be well.
    """
    upstream, there = pair.upstream, pair.seen.nodes[pair.upstream.name]
    if pair.theirs and pair.theirs.in_recovery:
        raise _a_standby(upstream)
    if pair.theirs or (there.container and there.container.planned):
        return
    if there.container and there.container.alive:
        raise Refused(
            f"{upstream.name} runs and does not answer, so it cannot be stopped for a copy: "
            f"`invoke logs --node {upstream.name}`, then this again.\n{there.silence}"
        )
    disk = preconditions.data_of(upstream, pair.image)
    _check_own(pair, asked, disk)
    copy.refuse_links(upstream, disk)
    if disk.standby_signal:
        raise _a_standby(upstream)
    if not is_primary_data(disk) or disk.state != CLEAN:
        state = f"its control data says '{disk.state}'" if disk.state else "there is no database"
        raise Refused(
            f"The data of {upstream.name} cannot be copied: {state}, not '{CLEAN}'. `invoke "
            "setup-master` runs it; then this again."
        )


def _check_own(pair: SeedPlan, asked: SeedOptions, theirs: Disk) -> None:
    """Refuse to set aside what led after the stopped upstream did, or may lead now."""
    standby, mine = pair.standby, pair.mine
    own = Disk() if mine else preconditions.data_of(standby, pair.image)
    if (mine or own).system_identifier != theirs.system_identifier or own.unfinished:
        return
    if mine and not mine.in_recovery:
        raise is_primary(pair.group, standby)
    # On one timeline: a copy that was not marked yet has nothing of its own, until it has run.
    leading = is_primary_data(own) and (pair.runs or own.position > theirs.position)
    if pair.runs and leading:
        silence = pair.seen.nodes[standby.name].silence
        raise Refused(f"{standby.name} runs, does not answer, and may be the primary.\n{silence}")
    timeline = (mine or own).timeline
    if not asked.set_aside and (leading or timeline > theirs.timeline):
        raise Refused(
            f"{has_newer(standby.name, timeline, pair.upstream.name, theirs.timeline)}. `invoke "
            "start` runs the one that leads, and names the other with its cure. --set-aside puts "
            f"what {standby.name} has aside instead."
        )


def _a_standby(upstream: Instance) -> Refused:
    return Refused(
        f"{upstream.name} is a standby, and --method copy takes the files of a primary that is "
        "stopped in order: `invoke status` tells who leads; without --method copy it goes from "
        "server to server."
    )


# --- what is refused before a standby is seeded, while nothing is stopped or moved yet ---


def check_seed(pair: SeedPlan, asked: SeedOptions) -> None:
    """Refuse before anything is stopped or moved."""
    major = pair.image.env.get("PG_MAJOR")
    if pair.theirs and major and str(pair.theirs.version_num // 10000) != major:
        raise Refused(
            f"{pair.upstream.name} runs PostgreSQL {pair.theirs.version_num // 10000}, and the "
            f"image {pair.image.ref} has {major}: a standby needs the same."
        )
    preconditions.check_data_unused(pair.standby, pair.seen)
    if not pair.runs:
        preconditions.check_port(pair.standby, pair.seen)
    outside_data.refuse_to_copy(pair.group, pair.source or pair.upstream, pair.seen)
    if asked.method != "copy":
        outside_data.refuse_nested(pair.source or pair.upstream, pair.seen)
    _check_places(pair, asked)
    _check_silent(pair, asked)
    _check_sync(pair, asked)
    _check_data(pair, asked)
    if preconditions.data_state(pair.standby) == preconditions.FULL:
        set_aside.refuse_unmovable(pair.standby)
    if asked.method == "copy":
        check(pair, asked)
        copy.check_copy(pair.standby, pair.upstream, pair.seen, pair.group.trace, asked.confirm)


def _check_places(pair: SeedPlan, asked: SeedOptions) -> None:
    """Refuse places for tablespaces that have something, where there is no data it may be of."""
    if asked.set_aside or preconditions.data_state(pair.standby) == preconditions.FULL:
        return
    for place in set_aside.not_known(pair.standby, pair.image):
        raise Refused(
            f"{pair.standby.name}: {place.source}, for tablespaces at {place.target}, is not "
            "empty, and nobody knows of what it is. --set-aside moves it aside first, whatever it "
            "is."
        )


def primaries_that_wait(pair: SeedPlan) -> list[str]:
    """Return the primaries whose commits would wait for ever if this standby went away."""
    name = pair.standby.node.application_name
    return [
        primary
        for primary in pair.seen.primaries
        if (facts := pair.seen.nodes[primary].facts) and waits_for(facts, name)
    ]


def _check_silent(pair: SeedPlan, asked: SeedOptions) -> None:
    """Refuse to seed anew one that streams and only lets nobody in: a new copy mends nothing."""
    silence, name = pair.seen.nodes[pair.standby.name].silence, pair.standby.node.application_name
    if silence and pair.theirs and streams(pair.theirs, name) and not asked.rebuild:
        raise Refused(
            f"{pair.standby.name} streams from {pair.upstream.name}, and cannot be asked. "
            f"{silence}\n--rebuild sets its data aside and seeds it anew all the same."
        )


def _check_sync(pair: SeedPlan, asked: SeedOptions) -> None:
    """Refuse to take away the standby that every commit waits for, unless it may be so."""
    names = primaries_that_wait(pair)
    if names and pair.group.topology.group.strict and asked.allow_async:
        raise Refused("--allow-async contradicts strict = true in the topology.")
    if names and not asked.allow_async:
        raise Refused(
            f"{pair.standby.name} is the synchronous standby: while it is seeded every commit "
            f"on {names[0]} would wait. --allow-async lets them run on without it."
        )


def _check_newer(pair: SeedPlan, asked: SeedOptions, position: tuple[int, int] | None) -> None:
    """Refuse to set aside a history that is newer than the upstream's: it was promoted since."""
    theirs, name = pair.theirs, pair.standby.name
    if theirs and position and position[0] > theirs.timeline and not asked.set_aside:
        raise Refused(
            f"{has_newer(name, position[0], pair.upstream.name, theirs.timeline)}. `invoke rejoin "
            f"{name}` tells what it has that {pair.upstream.name} has not, and how to keep it. "
            "--set-aside puts it aside, whatever it is."
        )


def _check_primary(pair: SeedPlan, mine: Facts) -> None:
    """Refuse to stop a primary beside the upstream, but for one that nobody ever used as one.

    That is one of another system, as step 2 makes it: it has no standby, and was never promoted.
    """
    name, theirs = pair.standby.name, pair.theirs
    if theirs is None or mine.in_recovery:
        return
    if mine.system_identifier == theirs.system_identifier:
        raise Refused(f"{pair.group.several(pair.seen)}.")
    if mine.senders or mine.timeline > 1:
        raise Refused(
            f"{name} is the primary of another system ({mine.system_identifier}, and "
            f"{pair.upstream.name} is {theirs.system_identifier}), which has a standby or was "
            "promoted once. --set-aside moves it aside first, whatever it is."
        )


def _check_data(pair: SeedPlan, asked: SeedOptions) -> None:
    """Refuse to set aside what this group did not make, or what is newer, unless asked to.

    Ours is what our container had, what has this system's identifier, and what our mark tells.
    """
    if preconditions.data_state(pair.standby) != preconditions.FULL:
        return
    planned = pair.runs and pair.container and pair.container.planned
    looked = not (pair.mine or planned)
    disk = pair.standby.disk(pair.image) if looked else Disk()  # also of one that does not answer
    outside_data.refuse_to_move(pair.group, pair.standby, pair.seen, disk)
    if asked.set_aside:
        return
    if pair.mine:
        same = pair.theirs and pair.mine.system_identifier == pair.theirs.system_identifier
        _check_newer(pair, asked, pair.mine.position if same else None)
        _check_primary(pair, pair.mine)
        return
    if pair.theirs and disk.system_identifier == pair.theirs.system_identifier:
        _check_newer(pair, asked, disk.position)
    if pair.container or disk.empty or disk.unfinished or disk.ours:
        return
    way_out = "--set-aside moves it aside first, whatever it is."
    try:
        preconditions.check_major(pair.standby, disk, pair.image)
    except Refused as fault:
        raise Refused(f"{fault.sentence}\n{way_out}") from None
    system = pair.theirs.system_identifier if pair.theirs else None
    if disk.system_identifier != system:
        raise Refused(
            f"{pair.standby.name}: {pair.standby.node.data} holds a database of another system "
            f"({disk.system_identifier}, and {pair.upstream.name} is {system}).\n{way_out}"
        )


# --- A standby that is there already ---

FOLLOW_SECONDS = 20  # for a standby to stream again before its log is looked at
HOPELESS_LINES = 40
# What a standby's log says, again and again, when its upstream has no WAL for it any more.
HOPELESS = (
    r"has already been removed|is not in this server's history|is not a child of this server|"
    r"forked off current database system|"
    r"can no longer (?:get changes from|access) replication slot|"
    r"system identifier differs|is not a child of database system timeline"
)
# What it says when it has a history that its upstream lacks: it may be the one to keep.
NEWER = r"is behind recovery timeline|ahead of the WAL flush position"


# How a node stands to its upstream.
STREAMS, FOLLOWS, NEW = "streams", "follows", "new"


def will_follow(pair: SeedPlan) -> str:
    """Tell, by looking only, whether a node streams already, may be made to, or wants a new copy.

    Raises:
        Refused: it runs with other options than are asked for, or somebody else has its data.
    """
    if pair.runs and pair.container:
        preconditions.check_spec(pair.standby, pair.container, pair.image)
    if pair.theirs is None:
        return NEW
    if pair.streams and pair.mine and as_asked(pair.standby, pair.mine):
        return STREAMS
    if pair.mine:
        same = pair.mine.system_identifier == pair.theirs.system_identifier
        # one that has a newer timeline is refused before anything is set aside
        older = pair.mine.timeline <= pair.theirs.timeline
        return FOLLOWS if same and older and pair.mine.in_recovery else NEW
    if pair.runs or preconditions.data_state(pair.standby) != preconditions.FULL:
        return NEW
    preconditions.check_data_unused(pair.standby, pair.seen)
    disk = pair.standby.disk(pair.image)
    outside_data.refuse_to_move(pair.group, pair.standby, pair.seen, disk)
    usable = disk.standby_signal and not disk.unfinished and disk.timeline <= pair.theirs.timeline
    usable = usable and not outside_data.lost(pair.standby.node, disk)
    same = disk.system_identifier == pair.theirs.system_identifier
    return FOLLOWS if usable and same else NEW


def following(pair: SeedPlan, stands: str) -> Facts | None:
    """Return the upstream's facts if the node streams from it already or can be made to.

    `stands` is what `prospect` tells; the upstream lets it in already.
    """
    if stands == STREAMS:
        pair.note(f"already streams from {pair.upstream.name}")
        wait_serving(pair.group, pair.standby)
        return pair.theirs
    return make_follow(pair) if stands == FOLLOWS else None


def make_follow(pair: SeedPlan) -> Facts | None:
    """Connect a standby of this system and see whether it streams; None if it does not."""
    connect.ensure_slot(pair.standby, pair.upstream)
    if pair.runs:
        connect.connect_running(pair.group, pair.standby, pair.upstream, pair.image)
    else:
        connect.connect_stopped(pair.group, pair.standby, pair.upstream, pair.image)
        run_container(pair.group, pair.standby, pair.image, pair.container)
    if hopeless := _why_never(pair):
        pair.note(f"it cannot follow any more, so it is seeded anew: {hopeless}")
        start_stop.stop_instances(pair.group, [pair.standby], clean=False)
        made = pair.standby.container()
        if made and pair.container is None:
            pair.standby.engine.remove(made)
        return None
    facts = connect.wait_streaming(pair.standby, pair.upstream, connect.STREAMING_SECONDS)
    wait_serving(pair.group, pair.standby)
    pair.note(f"streams from {pair.upstream.name}")
    _drop_former_slot(pair)
    if facts or pair.theirs is None:
        return facts
    # With --dry: once the printed script has run, it streams.
    planned = Sender(pair.standby.node.application_name, "streaming", "", None, None, None, "")
    return replace(pair.theirs, senders=(*pair.theirs.senders, planned))


def allow_standby(group: Group, upstream: Instance, facts: Facts | None) -> None:
    """Have a node that serves let standbys in, while there is nothing set aside yet.

    Its rules name the addresses of the other hosts, which may be new; and the password in the file
    has to be the role's. On a standby only the rules are seen to: the role comes from the primary,
    and a standby takes no write. `facts` is what the node says; None with `--dry`. Not for two at
    once on one node.
    """
    if upstream.name in group.served:
        return
    pieces: list[str | Script] = []
    if not (facts and facts.in_recovery):
        pieces = [streaming_password(group, asked=True), "role"]
    elif group.passwords.replacing():  # what it takes is asked, no more
        pieces = [streaming_password(group, asked=True)]
    report_changes(upstream, serve(group, upstream, *pieces))
    group.served.add(upstream.name)


def _drop_former_slot(pair: SeedPlan) -> None:
    """Drop the slot that the node had under another application name: it would only keep WAL."""
    former = pair.mine.primary_slot if pair.mine else ""
    if former and former not in {node.slot for node in pair.group.topology.nodes.values()}:
        pair.group.trace.note(f"{pair.upstream.name}: dropping the slot {former}, used no more")
        pair.upstream.psql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "  # noqa: S608
            f"WHERE slot_name = {sql_literal(former)} AND NOT active;\n"
        )


def _why_slow(pair: SeedPlan) -> str:
    """Return why a delayed standby is slow to connect: PostgreSQL does so between two records."""
    name = pair.standby.name
    return (
        f"{name} does not stream from {pair.upstream.name} yet: it is delayed, and connects only "
        "when it has replayed what it has received before. `invoke verify` tells when; or `invoke "
        f"seed-standby --node {name} --rebuild` gives it a new copy."
    )


def _why_never(pair: SeedPlan) -> str:
    """Wait a moment for the standby to stream; return why it never will, if it says so.

    One that is merely far behind, or still replays what it has, is no reason for a new copy; nor
    is an upstream that stops, or a host that is lost.
    """
    if pair.group.trace.dry:
        return ""
    try:
        connect.wait_streaming(pair.standby, pair.upstream, FOLLOW_SECONDS)
    except DeadlinePassed as fault:
        if is_delayed(pair.standby):
            raise DeadlinePassed(_why_slow(pair)) from fault
        tail = pair.standby.log_tail(HOPELESS_LINES, since_start=True)
    except connect.Ended as fault:
        return fault.sentence
    else:
        return ""
    if newer := re.search(rf".*(?:{NEWER}).*", tail):
        raise Refused(
            f"{pair.standby.name} has WAL that {pair.upstream.name} has not and cannot follow it "
            f"({newer[0].strip(' |')}). `invoke rejoin {pair.standby.name}` tells what it is, and "
            "brings it back; if it may be lost, --rebuild sets it aside and seeds anew."
        )
    return next((line.strip(" |") for line in tail.splitlines() if re.search(HOPELESS, line)), "")


# --- seeding standbys: steps 4, 5 and 7 to 10 of the tutorial, in an order that is safe ---

# One procedure serves one standby and many: what concerns the group is done once, the standbys of
# one level side by side, and a cascaded one after its upstream.


def choose_standby(group: Group, name: str, asked: SeedOptions) -> str:
    """Return the node that is meant: the one named, else the topology's first standby.

    Raises:
        Refused: none was named of several, and one that streams may be seeded anew.
    """
    if name:
        return name
    first, *others = [first_standby(group).name, *(n.name for n in group.topology.standbys[1:])]
    if others and asked.rebuild:
        raise Refused(f"Which standby? Say --node {first} or {others[0]}.")
    if others:
        group.trace.note(f"{first} is meant; for {', '.join(others)} say --node")
    return first


def seed_standby(group: Group, name: str, asked: SeedOptions) -> None:
    """Make a node a standby that streams, and synchronous where the topology asks for that.

    Raises:
        Refused: the node is primary now, its upstream does not serve, or its directory holds
            what is not ours to set aside.
    """
    seed_standbys(group, [name], asked)


def add_standbys(group: Group, names: list[str], asked: SeedOptions, *, every: bool) -> None:
    """Make the named nodes standbys that stream, or every one that the topology asks for.

    Raises:
        Refused: a name is no node of the topology; the sentence has the lines that it lacks.
    """
    if every == bool(names):
        raise Refused("Which standbys? Say their names, as s2,s3, or --all: one of the two.")
    refuse_unknown(group, names)
    seed_standbys(group, names, asked)


def seed_standbys(group: Group, names: Sequence[str], asked: SeedOptions) -> None:
    """Make nodes standbys that stream; all that the topology asks for where none is named.

    What can be refused beforehand is, and then nothing is changed. After that a standby that fails
    stops none but those that are to follow it: the others are as they were asked for, and so much
    less is to be done when the task is run again.

    Raises:
        Error: the fault of the first that failed, once the others have come to their end.
    """
    asked.check()
    nodes = [group.instance(name) for name in dict.fromkeys(names)]
    base_settings()  # what cannot be used is refused before anything is done
    with group.locked(tolerant=True):
        seen = group.observe()
        nodes = nodes or _all(group, seen)
        for standby in nodes:
            refuse_away(group, standby)
        tell_differences(group)
        for standby in nodes:
            preconditions.check_name(group, standby, seen)
        preconditions.check_passwords(group, seen)
        preconditions.check_alter_system(group, seen)
        image = ensure_image(group, seen)
        connect_all(group, seen)
        _Seeding(group, asked, image, seen).run(nodes)


def _all(group: Group, seen: Observation) -> list[Instance]:
    """Return the topology's standbys, but for one that is primary now."""
    first_standby(group)
    return [group.instance(n.name) for n in group.topology.standbys if n.name not in seen.primaries]


@dataclass
class _Seeding:
    """One run: what was seen, and what came of each standby."""

    group: Group
    asked: SeedOptions
    image: Image
    seen: Observation
    stands: dict[str, str] = field(default_factory=dict)  # how each stands to its upstream
    done: dict[str, Facts | None] = field(default_factory=dict)  # what their upstreams say then
    failed: dict[str, Error] = field(default_factory=dict)

    def run(self, nodes: list[Instance]) -> None:
        """Seed them level by level, then see to step 10 and to what failed."""
        seen, asked = self.seen, self.asked
        upstreams = {n.name: upstream_of(self.group, n, seen, asked, self.image) for n in nodes}
        plan = levels(self.group, nodes, upstreams, seen, asked)
        run_all(lambda node: self._look(node, upstreams), nodes)
        for number, level in enumerate(plan):
            if number:
                self.seen = self.group.observe()
            self._level(level, upstreams)
        if self.done:
            self._require_sync(upstreams)
        self._raise()

    def _look(self, node: Instance, upstreams: dict[str, Instance]) -> None:
        """See how a node stands; where it is to be seeded, refuse what can be seen beforehand."""
        upstream = upstreams[node.name]
        while upstream.name in upstreams:  # it comes in this run: all have the data of one
            upstream = upstreams[upstream.name]
        pair = SeedPlan(self.group, node, upstream, self.image, self.seen)
        self.stands[node.name] = NEW if self.asked.rebuild else will_follow(pair)
        if self.stands[node.name] == NEW:
            check_seed(self._pair(node, upstream), self.asked)

    def _pair(self, node: Instance, upstream: Instance) -> SeedPlan:
        """Return what is to be done now; a node that has the data already gets no other source."""
        other = None
        if self.stands[node.name] == NEW:
            other = choose_source(self.group, node, upstream, self.seen, self.asked.source)
        if other:
            refuse_away(self.group, other)
        return SeedPlan(self.group, node, upstream, self.image, self.seen, other)

    def _level(self, nodes: list[Instance], upstreams: dict[str, Instance]) -> None:
        for node in nodes:
            if upstreams[node.name].name in self.failed:
                sentence = (
                    f"{node.name} was left: {upstreams[node.name].name}, its upstream, failed."
                )
                self._fail(node, Error(sentence), several=True)
        these = [node for node in nodes if node.name not in self.failed]
        pairs = [self._pair(node, upstreams[node.name]) for node in these]
        for pair in pairs:
            if pair.upstream.name in upstreams and self.stands[pair.standby.name] != NEW:
                self.stands[pair.standby.name] = will_follow(pair)
            if self.stands[pair.standby.name] != STREAMS:
                self._let_in(pair)
        results = run_each(self._one, pairs)
        for node, result in zip(these, results, strict=True):
            if isinstance(result, Error):
                self._fail(node, result, several=len(upstreams) > 1)
            else:
                self.done[node.name] = result

    def _fail(self, node: Instance, fault: Error, *, several: bool) -> None:
        if several:
            self.group.trace.note(f"{node.name}: failed: {fault.sentence}")
        self.failed[node.name] = fault

    def _let_in(self, pair: SeedPlan) -> None:
        """Not side by side: several have the same upstream."""
        for other in [pair.upstream, *([pair.source] if pair.source else [])]:
            if facts := self.seen.nodes[other.name].facts:
                allow_standby(self.group, other, facts)

    def _one(self, pair: SeedPlan) -> Facts | None:
        """Let a standby follow that can, seed one that cannot; return what its upstream says."""
        stands = self.stands[pair.standby.name]
        facts = following(pair, stands)
        if facts is None:
            if stands != NEW:
                pair = pair.observe_upstream_again()
                check_seed(pair, self.asked)
            facts = seed(pair, self.asked)
        return facts

    def _require_sync(self, upstreams: dict[str, Instance]) -> None:
        """Step 10 on the primary, once, by what it says after the standbys stream."""
        told = list(self.done.values())
        primaries = [facts for facts in told if facts is None or not facts.in_recovery]
        upstream = upstreams[next(iter(self.done))]
        theirs = self.seen.nodes[upstream.name].facts
        if len(told) == len(primaries) == 1 and not (theirs and theirs.in_recovery):
            require_sync(self.group, upstream, told[0], defer=True)
            return
        primary, found = self._leader()
        if self.group.trace.dry and found:  # once the printed script has run, all of them stream
            senders = {s.application_name: s for f in primaries if f for s in f.senders}
            found = None if None in told else replace(found, senders=tuple(senders.values()))
        require_sync(self.group, primary, found, defer=True)

    def _leader(self) -> tuple[Instance, Facts | None]:
        """Return the primary and what it says now; who was seeded is it no more."""
        known = [name for name in self.seen.primaries if name not in self.done]
        if len(known) == 1:
            primary = self.group.instance(known[0])
            return primary, primary.facts()
        seen = self.group.observe()
        primary = self.group.primary(seen)
        return primary, seen.nodes[primary.name].facts

    def _raise(self) -> None:
        """Raise the first fault; it is no refusal any more where others were seeded."""
        for fault in self.failed.values():
            if self.done and isinstance(fault, Refused):
                raise Error(fault.sentence)
            raise fault


def seed(pair: SeedPlan, asked: SeedOptions) -> Facts | None:
    """Stop what runs, set aside what lies there, copy, connect, mark, start, wait."""
    group, standby, upstream, image = pair.group, pair.standby, pair.upstream, pair.image
    for primary in primaries_that_wait(pair):
        group.trace.note(f"{primary}: asynchronous until {standby.name} streams again")
        set_names(group.instance(primary), "", 0)
    if pair.runs:
        start_stop.stop_instances(group, [standby], clean=False)
    set_aside.set_data_aside(group, standby, image, why="seeded anew")
    rest = [connect.fragments(standby, upstream, new=True), "mark-standby"]
    if asked.method == "copy":
        copy.copy_from_running(group, standby, upstream, image, rest)
    else:
        slot: list[str] = []
        if pair.source:
            wait_for_slot(pair, pair.source)
        else:
            slot = copy.slot_options(standby, upstream, pair.theirs)
        options = [*slot, *asked.backup_options()]
        origin = pair.source or upstream
        verify = asked.verify_backup
        copy.base_backup(group, standby, origin, image, options, verify=verify, rest=rest)
    run_container(group, standby, image, pair.container)
    facts = connect.wait_streaming(standby, upstream, connect.STREAMING_SECONDS)
    if is_delayed(standby):
        wait_serving(group, standby)
    else:
        standby.wait_ready()
    pair.note(f"streams from {upstream.name}")
    return facts
