"""The live counterpart of a Topology: its servers, what they are right now, and who is primary."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import permutations

from pgherd import config
from pgherd.certificates import Certificates
from pgherd.docker import GROUP_LABEL, HELPER_LABEL, HOME_LABEL, Container, Image, docker
from pgherd.errors import Error, Refused, Unreachable
from pgherd.host import LOCAL, Host
from pgherd.host.local import LocalHost
from pgherd.host.open import open_host
from pgherd.host.together import side_by_side
from pgherd.passwords import Passwords
from pgherd.postgres import leading
from pgherd.postgres.facts import Facts, NoAnswer
from pgherd.postgres.headless import no_primary
from pgherd.postgres.history import Beyond
from pgherd.postgres.instance import Instance
from pgherd.postgres.leading import NOTHING, Known, Leader, Own
from pgherd.postgres.observation import Observation, Seen
from pgherd.postgres.site import Site
from pgherd.shell import Trace
from pgherd.topology import Topology


class Group:
    """The servers of one topology, on the hosts where they live."""

    def __init__(
        self, topology: Topology, trace: Trace, hosts: Mapping[str, Host] | None = None
    ) -> None:
        """Take the hosts from the topology, unless some are given; none is connected to yet."""
        self.topology = topology
        self.trace = trace
        self.name = topology.group.name
        self.network = f"pgherd-{self.name}"
        self.here: Host = LocalHost(trace)
        self.secrets = config.secrets_dir(self.name, topology.placed_on or LOCAL)
        self.passwords = Passwords(self.secrets, trace)
        self.certificates = Certificates(self.secrets, topology, trace, config.local_path)
        self.sites = {
            name: Site((hosts or {}).get(name) or self._host(name), topology, name)
            for name in topology.hosts_used
        }
        known = {n: i for site in self.sites.values() for n, i in site.instances.items()}
        self.instances = {name: known[name] for name in topology.nodes}
        self.image: Image | None = None  # once it is found
        self.image_told = False  # once in a run is enough
        self.hosts_told = False
        self.served: set[str] = set()  # whose rules and role are as they ought to be, in this run
        self.away: dict[str, str] = {}  # hosts that could not be reached, where that is tolerated
        self._tolerant = False
        self._locked = False

    def _host(self, name: str) -> Host:
        if name == LOCAL:
            return self.here
        return open_host(name, self.trace, self.topology.root(name), config.ssh_config())

    @property
    def over(self) -> dict[str, Sequence[str]]:
        """The command that carries another one to a host, by the host's name."""
        return {name: site.host.over for name, site in self.sites.items()}

    def there(self, host: str, command: str) -> str:
        """Return a shell command for a host as it is typed here."""
        over = self.over.get(host, ())
        return shlex.join([*over, command]) if over else command

    @property
    def present(self) -> list[Site]:
        """The hosts that answer, as far as is known: all of them, where none may be missing."""
        return [site for site in self.sites.values() if site.name not in self.away]

    def site(self, instance: Instance) -> Site:
        """Return the host that a node lives on."""
        return self.sites[instance.node.host]

    # --- who ---

    def instance(self, name: str) -> Instance:
        """Return a node's server.

        Raises:
            Refused: the topology has no such node.
        """
        return self.instances[self.topology.node(name).name]

    @property
    def master(self) -> Instance:
        """The node that the topology asks to be primary first; who is now, `observe` tells."""
        return self.instance(self.topology.primary.name)

    def upstream_of(self, instance: Instance, others: list[str], seen: Observation) -> Instance:
        """Return whom a node is to stream from now: the one asked for, or who took its place.

        Args:
            instance: the node that is to follow.
            others: the nodes that are primary now, itself left out.
            seen: the group as it was found.
        """
        asked = self.topology.upstream_of(instance.node)
        if asked is None or asked.name == self.topology.primary.name:
            facts = {n: f for n, f in seen.facts.items() if f.in_recovery or n in others}
            leads = self.leader(facts, seen.own)
            return self._only([leads.name] if leads else others, seen)
        return self.instance(asked.name)

    def primary(self, seen: Observation) -> Instance:
        """Return the node that is primary now; with `--dry`, the one that will be.

        Raises:
            Refused: there is none, or more than one.
        """
        return self._only(seen.primaries, seen)

    def leader(self, facts: Mapping[str, Facts], own: Own = NOTHING) -> Leader | None:
        """Return who leads of the nodes that are primary, and why; see `leading`.

        Args:
            facts: what the servers say that answer.
            own: what was counted that one has and another has not.
        """
        return leading.leader(leading.known_of(self.topology, facts), own, self.master.name)

    def _only(self, names: list[str], seen: Observation) -> Instance:
        if not names:
            names = [n for n in [self.master.name] if seen.nodes[n].planned]
        if len(names) == 1:
            return self.instance(names[0])
        if names:
            raise Refused(f"{self.several(seen)}.")
        raise Refused(no_primary(self, seen))

    def several(self, seen: Observation) -> str:
        """Say which nodes are primary at once, who leads, what each has, and the cure."""
        leads = self.leader(seen.facts, seen.own)
        name = leads.name if leads else ""
        known = leading.known_of(self.topology, seen.facts)
        others = [other for other in seen.primaries if other != name]
        told = [leading.told(known, seen.own, other, name) for other in others]
        cures = ", ".join(f"`invoke rejoin {other}`" for other in others)
        all_ = ", ".join(f"{n} (timeline {seen.facts[n].timeline})" for n in [name, *others])
        return (
            f"{len(others) + 1} nodes are primary at once: {all_}. {name} leads: "
            f"{leads.why if leads else ''}. {'. '.join(told)}. To keep what {name} has: {cures}"
        )

    # --- what is ---

    def observe(self, *, tolerant: bool = False) -> Observation:
        """Look at every container of the engines and ask every running server of the group.

        Args:
            tolerant: a host that cannot be reached is said and left out, as in a tolerant lock;
                its nodes count as silent. Else it is an error, since who is there may be primary.
        """
        if not tolerant and not self._tolerant:
            self.away.clear()
        sites, known = self.present, set(self.away)
        found = side_by_side(lambda site: self._look(site, tolerant or self._tolerant), sites)
        self._tell_away(known)
        seen = {name: node for nodes, _ in found for name, node in nodes.items()}
        engines: dict[str, Mapping[str, Container]] = {name: {} for name in self.sites}
        engines |= {site.name: those for site, (_, those) in zip(sites, found, strict=True)}
        for name, instance in self.instances.items():
            seen.setdefault(name, Seen(None, None, self.away.get(instance.node.host, "")))
        self.work_where(node.facts for node in seen.values())
        nodes = {name: seen[name] for name in self.instances}
        found_facts = {name: node.facts for name, node in nodes.items() if node.facts}
        return Observation(nodes, engines, self.count_own(found_facts))

    def count_own(self, facts: Mapping[str, Facts]) -> Own:
        """Count what each of several primaries of one system wrote since it left the others.

        Where that cannot be counted, as its WAL is gone, positions have to do. With one primary
        nothing is asked.
        """
        leads = [name for name, its in facts.items() if not its.in_recovery]
        pairs = [
            (name, other)
            for name, other in permutations(leads, 2)
            if facts[name].system_identifier == facts[other].system_identifier
        ]
        known = leading.known_of(self.topology, facts)
        found = side_by_side(lambda pair: self.count_one(known, *pair), pairs)
        return dict(zip(pairs, found, strict=True))

    def count_one(self, known: Mapping[str, Known], name: str, other: str) -> Beyond | None:
        """Count what a node that runs has and another has not; by positions where that fails."""
        mine, fork = known[name].history, known[name].history.fork(known[other].history)
        told = leading.beyond(known[name], known[other])
        if fork is None or told is None:
            return told
        try:
            counted = self.instances[name].written_since(mine.timeline, fork.lsn)
        except Error:
            return told
        if counted is None or fork.lsn:
            return counted or told
        return replace(told, last=counted.last)  # on one timeline nothing tells since when

    def _look(self, site: Site, tolerant: bool) -> tuple[dict[str, Seen], dict[str, Container]]:
        try:
            containers, answers = site.look()
        except Unreachable as fault:
            if not tolerant:
                raise
            self.away[site.name] = fault.sentence
            return {}, {}
        self._clear_helpers(site, containers)
        nodes = {
            n: self._seen(containers.get(n), answers.get(n), site.name) for n in site.instances
        }
        return nodes, containers

    def _tell_away(self, known: set[str]) -> None:
        """Say which hosts cannot be reached, but for those that are known to be; each once.

        Raises:
            Unreachable: it is all of them.
        """
        if not self.present:
            raise Unreachable("\n".join(dict.fromkeys(self.away.values())))
        for host, sentence in self.away.items():
            if host not in known:
                nodes = ", ".join(self.sites[host].instances)
                self.trace.note(f"{sentence}\n{nodes}: left out, since {host} cannot be reached")

    def work_where(self, found: Iterable[Facts | None]) -> None:
        """Work in the database where servers have answered: all nodes have the same ones."""
        databases = [facts.database for facts in found if facts]
        for instance in self.instances.values():
            instance.database = instance.database or next(iter(databases), "")

    def _seen(
        self, container: Container | None, answer: Facts | NoAnswer | None, host: str
    ) -> Seen:
        """Put together what was found of a node; only the group's own server has a say in it."""
        runs = container is not None and container.running and not container.planned
        if container is None or not runs or not self.owns(container, host):
            return Seen(container, None)
        if isinstance(answer, Facts):
            return Seen(container, answer)
        if answer is None or not answer.sentence:
            return Seen(container, None, f"{container.name} gave no answer.")
        return Seen(container, None, answer.sentence, answer.files)

    def owns(self, container: Container, host: str) -> bool:
        """Tell whether a container of that host is this group's, and not another checkout's."""
        mine = (self.name, self.sites[host].host.home)
        return (container.labels.get(GROUP_LABEL), container.labels.get(HOME_LABEL)) == mine

    @property
    def image_names(self) -> list[str]:
        """The image asked for, and the one that stands in for it where no registry answers."""
        asked = self.topology.group.image
        major = re.fullmatch(r"(?:docker\.io/)?(?:library/)?postgres:(\d+)(?:[.-].*)?", asked)
        return [asked, *([f"pgherd/postgres:{major[1]}"] if major else [])]

    # --- one run at a time ---

    @contextmanager
    def locked(self, *, tolerant: bool = False) -> Iterator[None]:
        """Keep a second run away from this group, on each of its hosts; see `Host.lease`.

        With `--dry` nothing is taken. While it is held, `observe` clears away what a run that was
        killed left at work.

        Args:
            tolerant: a host that cannot be reached is said, and left out until the lock is given
                back: for acts that need only the hosts that they touch.
        """
        self._tolerant = tolerant
        self.away.clear()
        with ExitStack() as held:
            if not self.trace.dry:
                self._lock_all(held)
                self._locked = True
            try:
                yield
            finally:
                self._locked = self._tolerant = False

    def _lock_all(self, held: ExitStack) -> None:
        held.enter_context(self.here.lease(self.secrets.name, self.name))
        for name, site in sorted(self.sites.items()):
            if name == LOCAL:
                continue
            try:
                held.enter_context(site.host.lease(self.name, self.name))
            except Unreachable as fault:
                if not self._tolerant:
                    raise
                self.away[name] = fault.sentence
        self._tell_away(set())

    def _clear_helpers(self, site: Site, containers: dict[str, Container]) -> None:
        """Remove what a killed run of ours left at work; the lock tells that it is gone itself."""
        for instance in site.instances.values():
            left = containers.get(instance.helper)
            ours = left and HELPER_LABEL in left.labels and self.owns(left, site.name)
            if left and ours and self._locked:
                self.trace.note(f"{left.name}: left behind by a run that was killed; removing it")
                instance.engine.run(docker["rm", "--force", "--volumes", left.name])
                del containers[left.name]
