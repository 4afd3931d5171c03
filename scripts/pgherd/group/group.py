"""The group: the servers of one topology, live; and each of its hosts."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import permutations

from pgherd.config import loader
from pgherd.config.topology import Topology
from pgherd.config.values import LOCAL, PGDATA, volume_of
from pgherd.docker.engine import Engine, docker
from pgherd.docker.models import GROUP_LABEL, HELPER_LABEL, HOME_LABEL, Container, Image
from pgherd.errors import DeadlinePassed, Error, Refused, Unreachable
from pgherd.group.observation import NodeObservation, Observation
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Tool, Trace
from pgherd.hosts.local import LocalHost
from pgherd.hosts.open import open_host
from pgherd.hosts.parallel import run_all
from pgherd.postgres import leadership, scripts
from pgherd.postgres.datadir import Places, no_login
from pgherd.postgres.facts import Facts, NoAnswer, read_links
from pgherd.postgres.history import Beyond
from pgherd.postgres.instance import Instance
from pgherd.postgres.leadership import NOTHING, Known, Leader, Own
from pgherd.security.authority import Certificates
from pgherd.security.passwords import Passwords

# --- one host of a group: its machine, its engine, and what the group has there ---

LOOK_SECONDS = 30.0
_ANSWER = re.compile(r"^== (\S+) (\d+|stderr)$\n?", re.MULTILINE)


class Site:
    """One host of a group, with its engine and the instances that live there."""

    def __init__(self, host: Host, topology: Topology, name: str) -> None:
        self.host = host
        self.name = name
        self.engine = Engine(host, topology.group.name)
        self.topology = topology
        self.nodes = [node for node in topology.nodes.values() if node.host == name]
        self.instances = {
            node.name: Instance(
                topology.group.name, node, self.engine, partial(self.places, node.name)
            )
            for node in self.nodes
        }
        for instance in self.instances.values():
            instance.encryption = topology.encryption
            instance.database = topology.group.database
        self._places: dict[str, Places] = {}
        self._asking = threading.Lock()

    @property
    def private(self) -> str:
        """The directory on this host that holds what its nodes have outside their data."""
        return f"{self.host.home}/secrets/{self.topology.group.name}"

    def places(self, name: str) -> Places:
        """Return where a node's things are; the first call asks the host, for all of its nodes."""
        with self._asking:
            if not self._places:
                self._places = self._find_places()
        return self._places[name]

    def _find_places(self) -> dict[str, Places]:
        group = self.topology.group
        named = [
            (node.name, inside, place)
            for node in self.nodes
            for inside, place in node.places.items()
            if not volume_of(place)
        ]
        asked = [place for _, _, place in named]
        asked += [f"{self.private}/{node.name}" for node in self.nodes]
        asked += [group.initdb] if group.initdb else []
        found = iter(self.host.paths(*asked))
        paths = {(name, inside): next(found) for name, inside, _ in named}
        private = {node.name: next(found) for node in self.nodes}
        initdb = next(found) if group.initdb else None
        return {
            node.name: Places(
                data=paths.get((node.name, PGDATA), ""),
                tablespaces={at: paths.get((node.name, at), "") for at in node.tablespaces},
                private=private[node.name],
                network=f"pgherd-{group.name}",
                home=self.host.home,
                initdb=initdb,
                neighbours=len(self.nodes) > 1,
                elsewhere=_elsewhere(self.topology, self.name),
            )
            for node in self.nodes
        }

    def look(self) -> tuple[dict[str, Container], dict[str, Facts | NoAnswer]]:
        """Return every container of the engine, and what the group's running servers say.

        It is one round trip, however many there are. Where a server does not answer, there is why
        in place of its facts.
        """
        group = self.topology.group
        script = scripts.look(group.name, self.host.home, group.database)
        try:
            result = self.engine.run(
                Tool("sh")["-s"], stdin=script, timeout=LOOK_SECONDS, reads=True
            )
        except DeadlinePassed:  # one that stands still holds up the others: ask each by itself
            containers = self.engine.containers_one_by_one()
            asked = [i for i in self.instances.values() if i.name in containers]
            answers = run_all(lambda i: _ask(i, containers[i.name]), asked)
            return containers, {i.name: a for i, a in zip(asked, answers, strict=True)}
        records, _, answered = result.out.partition("== ANSWERS\n")
        if not result.ok and not records.strip():
            raise Error(f"A docker command failed: {result.complaint()}")
        return self.engine.counted(records), read_answers(answered, group.database)

    def find_image(self, names: list[str], used: Iterable[Container] = ()) -> Image | None:
        """Return the image that these containers have, else the first of `names` that is here."""
        ids = [c.image_id for c in used if c.image_ref in names or c.image_ref == c.image_id]
        found = self.engine.image(*names)
        if ids and (found is None or found.id != ids[0]):  # the tag has moved on
            found = self.engine.image(ids[0])
        return found


def _elsewhere(topology: Topology, here: str) -> tuple[str, ...]:
    """Return the addresses of the nodes on other hosts, each once."""
    others = (node.reached_at for node in topology.nodes.values() if node.host != here)
    return tuple(dict.fromkeys(address for address in others if address))


def _ask(instance: Instance, container: Container) -> Facts | NoAnswer:
    if container.silent:
        return NoAnswer(f"`docker inspect {container.name}` does not answer.")
    try:
        return instance.facts()
    except Error as fault:
        return NoAnswer(fault.sentence)


def read_answers(text: str, database: str = "") -> dict[str, Facts | NoAnswer]:
    """Read what `sh/look.sh` prints of each server: name and exit status, then its words."""
    parts = _ANSWER.split(text)
    records = list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))
    also = {name: said.strip() for name, code, said in records if code == "stderr"}
    found: dict[str, Facts | NoAnswer] = {}
    for name, code, said in records:
        if code == "stderr":
            continue
        try:  # a warning beside an answer is no fault
            found[name] = _facts(said) if code == "0" else _silent(name, also, said, database)
        except Error as fault:
            found[name] = NoAnswer(fault.sentence)
    return found


def _facts(said: str) -> Facts:
    """Read a server's answer, with the links of its data directory before it."""
    begins = re.search(r"^\{", said, re.MULTILINE)
    at = begins.start() if begins else 0
    return replace(Facts.parse(said[at:]), links=tuple(read_links(said[:at])))


def _silent(name: str, also: Mapping[str, str], said: str, database: str) -> NoAnswer:
    words = also.get(name) or said.strip()
    sentence = no_login(name, words, said, database) or f"On {name}: {words}"
    try:
        return NoAnswer(sentence, Facts.of_files(said))
    except Error:  # so little is known then
        return NoAnswer(sentence)


# --- where no node of a group is primary: why that may be, and what to do ---


def explain_no_primary(group: Group, seen: Observation) -> str:
    """Return the sentence for a group where no node is primary, with the cure.

    It goes by whoever may be: one that does not answer, else one that is down, else one that is not
    there; where all answer, all are standbys.
    """
    unknown = {name: node for name, node in seen.nodes.items() if node.facts is None}
    standbys, first = len(unknown) < len(seen.nodes), group.master.name
    for name in unknown:
        if is_paused(seen, name):
            return f"{name} is paused, and may be the primary: `{unpause(group, name)}`."
    if silent := [name for name, node in unknown.items() if node.silence]:
        name = first if first in silent else silent[0]
        lost = "; if it is lost, `invoke failover`" if standbys else ""
        return (
            f"{name} does not answer, and may be the primary: `invoke logs --node {name}` tells "
            f"why{lost}. {unknown[name].silence}"
        )
    if not unknown:
        return (
            f"No node of {group.name} is primary, all are standbys: `invoke failover` makes the "
            "one that has most the primary."
        )
    down = {n: s.container.status for n, s in unknown.items() if s.container}
    lost = "; if it is lost, `invoke failover`" if standbys else ""
    if standbys and not down:
        down = dict.fromkeys(unknown, "not there")
    if down:
        states = ", ".join(f"{name} is {status}" for name, status in down.items())
        return f"No node of {group.name} is primary ({states}): `invoke start`{lost}."
    return (
        f"{first} does not run yet: `invoke setup-master` makes it; or `invoke start`, if it has "
        "data, as after `invoke down`."
    )


def is_paused(seen: Observation, name: str) -> bool:
    """Tell whether a node's container is paused: it holds its connections, and answers nothing."""
    container = seen.nodes[name].container
    return bool(container and container.status == "paused")


def unpause(group: Group, name: str) -> str:
    """Return the command that lets a paused container go on, as it is typed here."""
    return group.there(group.topology.node(name).host, f"docker unpause {name}")


def paused(group: Group, seen: Observation, name: str) -> str:
    """Say of a node that is paused what to do, without the full stop; empty if it is not."""
    if not is_paused(seen, name):
        return ""
    return f"{name} is paused and answers nobody: `{unpause(group, name)}`"


# --- the group: the servers of one topology ---


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
        self.secrets = loader.secrets_dir(self.name, topology.placed_on or LOCAL)
        self.passwords = Passwords(self.secrets, trace)
        self.certificates = Certificates(self.secrets, topology, trace, loader.local_path)
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
        return open_host(name, self.trace, self.topology.root(name), loader.ssh_config())

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
        return leadership.leader(leadership.known_of(self.topology, facts), own, self.master.name)

    def _only(self, names: list[str], seen: Observation) -> Instance:
        if not names:
            names = [n for n in [self.master.name] if seen.nodes[n].planned]
        if len(names) == 1:
            return self.instance(names[0])
        if names:
            raise Refused(f"{self.several(seen)}.")
        raise Refused(explain_no_primary(self, seen))

    def several(self, seen: Observation) -> str:
        """Say which nodes are primary at once, who leads, what each has, and the cure."""
        leads = self.leader(seen.facts, seen.own)
        name = leads.name if leads else ""
        known = leadership.known_of(self.topology, seen.facts)
        others = [other for other in seen.primaries if other != name]
        told = [leadership.describe_difference(known, seen.own, other, name) for other in others]
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
        found = run_all(lambda site: self._look(site, tolerant or self._tolerant), sites)
        self._tell_away(known)
        seen = {name: node for nodes, _ in found for name, node in nodes.items()}
        engines: dict[str, Mapping[str, Container]] = {name: {} for name in self.sites}
        engines |= {site.name: those for site, (_, those) in zip(sites, found, strict=True)}
        for name, instance in self.instances.items():
            seen.setdefault(
                name, NodeObservation(None, None, self.away.get(instance.node.host, ""))
            )
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
        known = leadership.known_of(self.topology, facts)
        found = run_all(lambda pair: self.count_one(known, *pair), pairs)
        return dict(zip(pairs, found, strict=True))

    def count_one(self, known: Mapping[str, Known], name: str, other: str) -> Beyond | None:
        """Count what a node that runs has and another has not; by positions where that fails."""
        mine, fork = known[name].history, known[name].history.fork(known[other].history)
        told = leadership.beyond(known[name], known[other])
        if fork is None or told is None:
            return told
        try:
            counted = self.instances[name].written_since(mine.timeline, fork.lsn)
        except Error:
            return told
        if counted is None or fork.lsn:
            return counted or told
        return replace(told, last=counted.last)  # on one timeline nothing tells since when

    def _look(
        self, site: Site, tolerant: bool
    ) -> tuple[dict[str, NodeObservation], dict[str, Container]]:
        try:
            containers, answers = site.look()
        except Unreachable as fault:
            if not tolerant:
                raise
            self.away[site.name] = fault.sentence
            return {}, {}
        self._clear_helpers(site, containers)
        nodes = {
            n: self._observe_node(containers.get(n), answers.get(n), site.name)
            for n in site.instances
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

    def _observe_node(
        self, container: Container | None, answer: Facts | NoAnswer | None, host: str
    ) -> NodeObservation:
        """Put together what was found of a node; only the group's own server has a say in it."""
        runs = container is not None and container.running and not container.planned
        if container is None or not runs or not self.owns(container, host):
            return NodeObservation(container, None)
        if isinstance(answer, Facts):
            return NodeObservation(container, answer)
        if answer is None or not answer.sentence:
            return NodeObservation(container, None, f"{container.name} gave no answer.")
        return NodeObservation(container, None, answer.sentence, answer.files)

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
