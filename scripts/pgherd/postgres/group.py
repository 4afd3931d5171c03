"""The live counterpart of a Topology: its servers, what they are right now, and who is primary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pgherd import config
from pgherd.docker import GROUP_LABEL, HELPER_LABEL, HOME_LABEL, Container, Image, docker
from pgherd.errors import Refused
from pgherd.host import LOCAL, Host
from pgherd.host.local import LocalHost
from pgherd.host.open import open_host
from pgherd.host.together import side_by_side
from pgherd.passwords import Passwords
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance
from pgherd.postgres.site import Site
from pgherd.shell import Trace
from pgherd.topology import Topology


@dataclass(frozen=True)
class Seen:
    """One node as it was found: its container, and what its server says if it answers."""

    container: Container | None
    facts: Facts | None
    silence: str = ""  # why a running server did not answer

    @property
    def planned(self) -> bool:
        """With `--dry`: it will run once the printed script has, so that it cannot be asked."""
        return bool(self.container and self.container.planned and self.container.alive)


@dataclass(frozen=True)
class Observation:
    """The group at one moment. Roles are those that PostgreSQL tells, never those asked for.

    Attributes:
        nodes: what was found of each node, by its name.
        engines: every container of each host's engine by its name, other people's too.
    """

    nodes: Mapping[str, Seen]
    engines: Mapping[str, Mapping[str, Container]]

    @property
    def primaries(self) -> list[str]:
        """The nodes that are not in recovery: one, if all is well."""
        return [n for n, seen in self.nodes.items() if seen.facts and not seen.facts.in_recovery]

    def beside(self, instance: Instance) -> Mapping[str, Container]:
        """Return the containers of the engine that the instance lives on, by name."""
        return self.engines[instance.node.host]


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
        self.sites = {
            name: Site((hosts or {}).get(name) or self._host(name), topology, name)
            for name in topology.hosts_used
        }
        known = {n: i for site in self.sites.values() for n, i in site.instances.items()}
        self.instances = {name: known[name] for name in topology.nodes}
        self.image: Image | None = None  # once it is found
        self.image_told = False  # once in a run is enough
        self.hosts_told = False
        self._locked = False

    def _host(self, name: str) -> Host:
        if name == LOCAL:
            return self.here
        return open_host(name, self.trace, self.topology.root(name), config.ssh_config())

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
            return self._only(others, seen)
        return self.instance(asked.name)

    def primary(self, seen: Observation) -> Instance:
        """Return the node that is primary now; with `--dry`, the one that will be.

        Raises:
            Refused: there is none, or more than one.
        """
        return self._only(seen.primaries, seen)

    def _only(self, names: list[str], seen: Observation) -> Instance:
        if not names:
            names = [n for n in [self.master.name] if seen.nodes[n].planned]
        if len(names) == 1:
            return self.instance(names[0])
        if names:
            raise Refused(
                f"Two nodes are primary at once: {' and '.join(names)}. Stop the wrong one."
            )
        raise Refused(self._no_primary(seen))

    def _no_primary(self, seen: Observation) -> str:
        master = self.master
        container = seen.nodes[master.name].container
        if container is None:
            return f"{master.name} does not run yet: `invoke setup-master` makes it."
        if silence := seen.nodes[master.name].silence:
            return f"{master.name} does not answer: {silence}"
        facts = seen.nodes[master.name].facts
        if facts and facts.in_recovery:
            return (
                f"No node of {self.name} is primary: all are standbys. If {master.name} has the "
                "newest data, make it primary: "
                f'`invoke psql --node {master.name} --command "SELECT pg_promote()"`.'
            )
        state = f"{master.name} is {container.status}"
        return f"No node of {self.name} is primary ({state}): `invoke start`."

    # --- what is ---

    def observe(self) -> Observation:
        """Look at every container of the engines and ask every running server of the group."""
        sites = list(self.sites.values())
        found = side_by_side(self._look, sites)
        seen = {name: node for nodes, _ in found for name, node in nodes.items()}
        engines = {site.name: those for site, (_, those) in zip(sites, found, strict=True)}
        return Observation({name: seen[name] for name in self.instances}, engines)

    def _look(self, site: Site) -> tuple[dict[str, Seen], dict[str, Container]]:
        containers, answers = site.look()
        self._clear_helpers(list(site.instances.values()), containers)
        return {
            n: self._seen(containers.get(n), answers.get(n)) for n in site.instances
        }, containers

    def _seen(self, container: Container | None, answer: Facts | str | None) -> Seen:
        """Put together what was found of a node; only the group's own server has a say in it."""
        runs = container is not None and container.running and not container.planned
        if container is None or not runs or not self.owns(container):
            return Seen(container, None)
        if isinstance(answer, Facts):
            return Seen(container, answer)
        return Seen(container, None, answer or f"{container.name} gave no answer.")

    def owns(self, container: Container) -> bool:
        """Tell whether a container is this group's, by its labels, and not another checkout's."""
        homes = {site.host.home for site in self.sites.values()}
        labels = container.labels
        return labels.get(GROUP_LABEL) == self.name and labels.get(HOME_LABEL) in homes

    @property
    def image_names(self) -> list[str]:
        """The image asked for, and the one that stands in for it where no registry answers."""
        asked = self.topology.group.image
        major = re.fullmatch(r"(?:docker\.io/)?(?:library/)?postgres:(\d+)(?:[.-].*)?", asked)
        return [asked, *([f"pgherd/postgres:{major[1]}"] if major else [])]

    # --- one run at a time ---

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run away from this group, on each of its hosts; see `Host.lease`.

        With `--dry` nothing is taken. While it is held, `observe` clears away what a run that was
        killed left at work.
        """
        if self.trace.dry:
            yield
            return
        hosts = {LOCAL: self.here} | {name: site.host for name, site in self.sites.items()}
        with ExitStack() as held:
            for name in sorted(hosts):
                held.enter_context(hosts[name].lease(self.name, self.name))
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def _clear_helpers(self, ours: list[Instance], containers: dict[str, Container]) -> None:
        """Remove what a killed run of ours left at work; the lock tells that it is gone itself."""
        for instance in ours:
            left = containers.get(instance.helper)
            if left and HELPER_LABEL in left.labels and self.owns(left) and self._locked:
                self.trace.note(f"{left.name}: left behind by a run that was killed; removing it")
                instance.engine.run(docker["rm", "--force", "--volumes", left.name])
                del containers[left.name]
