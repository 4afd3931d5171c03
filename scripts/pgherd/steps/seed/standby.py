"""Seeding standbys: steps 4, 5 and 7 to 10 of the tutorial, in an order that is safe.

One procedure serves one standby and many: what concerns the group is done once, the standbys of
one level side by side, and a cascaded one after its upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pgherd.docker import Image
from pgherd.errors import Error, Refused
from pgherd.host.together import each_by_itself, side_by_side
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import aside, connect, guards, lifecycle
from pgherd.steps.hosts import tell_differences
from pgherd.steps.image import ensure_image
from pgherd.steps.node import (
    base_settings,
    connect_all,
    delayed,
    run_container,
    wait_serving,
)
from pgherd.steps.seed import seeding, source
from pgherd.steps.seed.asked import Asked, Pair
from pgherd.steps.seed.following import NEW, STREAMS, following, let_in, prospect
from pgherd.steps.seed.levels import levels, refuse_away, upstream_of
from pgherd.steps.seed.proposal import refuse_unknown
from pgherd.steps.seed.refusals import check_seed, waiting
from pgherd.steps.sync import require_sync, set_names
from pgherd.steps.tutorial import first_standby


def chosen(group: Group, name: str, asked: Asked) -> str:
    """Return the node that is meant: the one named, else the topology's first standby.

    Raises:
        Refused: none was named of several, and one that streams may be seeded anew.
    """
    if name:
        return name
    first, *others = [first_standby(group).name, *(n.name for n in group.topology.standbys[1:])]
    if others and asked.reseed:
        raise Refused(f"Which standby? Say --node {first} or {others[0]}.")
    if others:
        group.trace.note(f"{first} is meant; for {', '.join(others)} say --node")
    return first


def seed_standby(group: Group, name: str, asked: Asked) -> None:
    """Make a node a standby that streams, and synchronous where the topology asks for that.

    Raises:
        Refused: the node is primary now, its upstream does not serve, or its directory holds
            what is not ours to set aside.
    """
    seed_standbys(group, [name], asked)


def add_standbys(group: Group, names: list[str], asked: Asked, *, every: bool) -> None:
    """Make the named nodes standbys that stream, or every one that the topology asks for.

    Raises:
        Refused: a name is no node of the topology; the sentence has the lines that it lacks.
    """
    if every == bool(names):
        raise Refused("Which standbys? Say their names, as s2,s3, or --all: one of the two.")
    refuse_unknown(group, names)
    seed_standbys(group, names, asked)


def seed_standbys(group: Group, names: Sequence[str], asked: Asked) -> None:
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
            guards.check_name(group, standby, seen)
        guards.check_passwords(group, seen)
        guards.check_alter_system(group, seen)
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
    asked: Asked
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
        side_by_side(lambda node: self._look(node, upstreams), nodes)
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
        pair = Pair(self.group, node, upstream, self.image, self.seen)
        self.stands[node.name] = NEW if self.asked.reseed else prospect(pair)
        if self.stands[node.name] == NEW:
            check_seed(self._pair(node, upstream), self.asked)

    def _pair(self, node: Instance, upstream: Instance) -> Pair:
        """Return what is to be done now; a node that has the data already gets no other source."""
        other = None
        if self.stands[node.name] == NEW:
            other = source.chosen(self.group, node, upstream, self.seen, self.asked.source)
        if other:
            refuse_away(self.group, other)
        return Pair(self.group, node, upstream, self.image, self.seen, other)

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
                self.stands[pair.standby.name] = prospect(pair)
            if self.stands[pair.standby.name] != STREAMS:
                self._let_in(pair)
        results = each_by_itself(self._one, pairs)
        for node, result in zip(these, results, strict=True):
            if isinstance(result, Error):
                self._fail(node, result, several=len(upstreams) > 1)
            else:
                self.done[node.name] = result

    def _fail(self, node: Instance, fault: Error, *, several: bool) -> None:
        if several:
            self.group.trace.note(f"{node.name}: failed: {fault.sentence}")
        self.failed[node.name] = fault

    def _let_in(self, pair: Pair) -> None:
        """Not side by side: several have the same upstream."""
        for other in [pair.upstream, *([pair.source] if pair.source else [])]:
            if facts := self.seen.nodes[other.name].facts:
                let_in(self.group, other, facts)

    def _one(self, pair: Pair) -> Facts | None:
        """Let a standby follow that can, seed one that cannot; return what its upstream says."""
        stands = self.stands[pair.standby.name]
        facts = following(pair, stands)
        if facts is None:
            if stands != NEW:
                pair = pair.asked_again()
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


def seed(pair: Pair, asked: Asked) -> Facts | None:
    """Stop what runs, set aside what lies there, copy, connect, mark, start, wait."""
    group, standby, upstream, image = pair.group, pair.standby, pair.upstream, pair.image
    for primary in waiting(pair):
        group.trace.note(f"{primary}: asynchronous until {standby.name} streams again")
        set_names(group.instance(primary), "", 0)
    if pair.runs:
        lifecycle.stop_instances(group, [standby], clean=False)
    aside.set_aside(group, standby, image, why="seeded anew")
    rest = [connect.fragments(standby, upstream, new=True), "mark-standby"]
    if asked.method == "copy":
        seeding.copy_from_running(group, standby, upstream, image, rest)
    else:
        slot: list[str] = []
        if pair.source:
            source.wait_for_slot(pair, pair.source)
        else:
            slot = seeding.slot_options(standby, upstream, pair.theirs)
        options = [*slot, *asked.backup_options()]
        origin = pair.source or upstream
        verify = asked.verify_backup
        seeding.base_backup(group, standby, origin, image, options, verify=verify, rest=rest)
    run_container(group, standby, image, pair.container)
    facts = connect.wait_streaming(standby, upstream, connect.STREAMING_SECONDS)
    if delayed(standby):
        wait_serving(group, standby)
    else:
        standby.wait_ready()
    pair.note(f"streams from {upstream.name}")
    return facts
