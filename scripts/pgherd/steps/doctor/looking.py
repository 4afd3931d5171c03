"""One look at each host and one at each node of a group, put together as what is checked."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from pgherd.docker import Container, Engine, Mount
from pgherd.errors import Error, Refused
from pgherd.host import LOCAL, About
from pgherd.host.together import each_by_itself, side_by_side
from pgherd.postgres import health
from pgherd.postgres.facts import Disk
from pgherd.postgres.group import Group
from pgherd.postgres.health import Health
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.postgres.occupancy import holders, holders_of_each
from pgherd.postgres.site import Site
from pgherd.shell import Script, Tool, assignments
from pgherd.steps.doctor import standing
from pgherd.steps.doctor.case import GroupCase, HostCase, NodeCase, PlaceCase
from pgherd.steps.doctor.finding import PROBLEM, Checkup, Finding
from pgherd.steps.doctor.sheet import HostSheet, PathSheet

LOOK_SECONDS = 60.0
SECRETS = (".password", ".key", ".pem")
VOLUMES = "(volumes)"  # in place of a path: where Docker keeps them


@dataclass(frozen=True)
class Looked:
    """What a look at a host brought, before its engine's containers are known."""

    sheet: HostSheet
    about: About
    private: dict[str, PathSheet]  # of each node, what is beside its data


# --- looking ---


@cache
def _script() -> str:
    return resources.files(__package__).joinpath("sh", "host.sh").read_text(encoding="utf-8")


def hosts(group: Group, checkup: Checkup) -> dict[str, Looked]:
    """Look at the hosts; one that cannot be reached is found, and left out of all that follows."""
    sites = list(group.sites.values())
    group.away.clear()
    answers = each_by_itself(lambda site: _look(group, site), sites)
    found = {}
    for site, answer in zip(sites, answers, strict=True):
        checkup.checks += 1
        if isinstance(answer, Looked):
            found[site.name] = answer
            if answer.sheet.docker:
                continue
            group.away[site.name] = f"The Docker Engine does not answer (host {site.name})."
        elif isinstance(answer, Refused):
            raise answer
        else:
            group.away[site.name] = answer.sentence
            checkup.away.append(site.name)
            text = f"{site.name} cannot be reached: {answer.sentence}"
            cure = "`invoke hosts`"
            checkup.findings.append(
                Finding("host-unreachable", PROBLEM, text, cure, host=site.name)
            )
    return found


def _look(group: Group, site: Site) -> Looked:
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    paths = [place.source for place in places if not place.volume]
    private = {node.name: site.places(node.name).private for node in site.nodes}
    values = assignments(
        images=" ".join(group.image_names),
        group=group.name,
        home=site.host.home,
        initdb=next((site.places(node.name).initdb or "" for node in site.nodes), ""),
        volumes="yes" if len(paths) < len(places) else "",
    )
    asked = [*paths, *private.values()]
    result = site.engine.run(
        Tool("sh")["-s", "--", asked],
        stdin=Script((values + _script(),)),
        timeout=LOOK_SECONDS,
        reads=True,
    )
    sheet = HostSheet.parse(result.out, [*asked, VOLUMES], site.name)
    beside = dict(zip(private, sheet.paths[len(paths) :], strict=False))
    return Looked(sheet, site.host.about(), beside)


def observed(group: Group, looked: dict[str, Looked]) -> Observation | None:
    """Look at the containers and servers of the hosts whose engines answer; None if none does."""
    if not any(found.sheet.docker for found in looked.values()):
        return None
    return group.observe(tolerant=True)


# --- putting together ---


def group_case(group: Group, looked: dict[str, Looked], seen: Observation | None) -> GroupCase:
    """Put together what was seen; each node is asked what ails it, side by side."""
    images = {name for name, found in looked.items() if found.sheet.image}
    if looked and not images and LOCAL not in group.sites and _image_here(group):
        images = {LOCAL}
    troubled = standing.troubled(group, seen) if seen else set()

    def put_together(name: str) -> HostCase:
        site, found = group.sites[name], looked[name]
        return HostCase(
            name=name,
            sheet=found.sheet,
            about=found.about,
            nodes=tuple(_nodes(group, site, found, seen, troubled)),
            network=group.network,
            image_names=tuple(group.image_names),
            image_elsewhere=bool(images - {name}),
            initdb=next((site.places(n.name).initdb for n in site.nodes), None),
        )

    hosts = side_by_side(put_together, list(looked))
    leader = standing.leader(group, seen) if seen else None
    return GroupCase(tuple(hosts), leader, tuple(_secrets(group)))


def _image_here(group: Group) -> bool:
    """Tell whether this machine has the image, from where it would go to the hosts."""
    try:
        return Engine(group.here).image(*group.image_names) is not None
    except Error:  # an engine here is not needed
        return False


def _secrets(group: Group) -> Iterator[tuple[str, int]]:
    for path in sorted(group.secrets.glob("*")):
        if path.suffix in SECRETS and path.is_file():
            yield str(path), stat.S_IMODE(path.stat().st_mode)


def _nodes(
    group: Group, site: Site, found: Looked, seen: Observation | None, troubled: set[str]
) -> list[NodeCase]:
    """Return the nodes of a host as they were seen, each having been asked what ails it."""
    beside = dict(seen.engines[site.name]) if seen and found.sheet.docker else {}
    held = _held(site, found, [c for c in beside.values() if c.alive])
    image = found.sheet.image
    paths = {path.path: path for path in found.sheet.paths}
    cases = []
    for node in site.nodes:
        there = seen.nodes[node.name] if seen else None
        container = there.container if there else None
        owned = bool(container and not container.planned and group.owns(container, site.name))
        data, *others = site.instances[node.name].data_mounts()
        path = paths[VOLUMES if data.volume else data.source]
        users = held.get(data.source, [])
        cases.append(
            NodeCase(
                node=node,
                sheet=found.sheet,
                path=path,
                container=container,
                owned=owned,
                facts=there.facts if there else None,
                beside=beside,
                used=_used(node.name, users),
                busy=_busy(path, held),
                streams=bool(there and there.facts) and node.name not in troubled,
                image_major=image.env.get("PG_MAJOR", "") if image else "",
                alone=len(group.instances) == 1,
                tablespaces=tuple(
                    PlaceCase(
                        inside=place.target,
                        place=node.tablespaces[place.target],
                        path=paths[VOLUMES if place.volume else place.source],
                        used=_used(node.name, held.get(place.source, [])),
                        busy=_busy(paths.get(place.source), held),
                    )
                    for place in others
                ),
            )
        )
    return side_by_side(lambda case: _asked(site.instances[case.name], case, found), cases)


_Held = dict[str, list[tuple[Container, Mount]]]


def _used(name: str, users: Sequence[tuple[Container, Mount]]) -> tuple[tuple[str, str], ...]:
    return tuple((mount.source, c.name) for c, mount in users if c.name != name)


def _busy(path: PathSheet | None, held: _Held) -> frozenset[str]:
    return frozenset(part for part in (path.parts if path else ()) if held.get(part))


def _held(site: Site, found: Looked, alive: Sequence[Container]) -> _Held:
    """Return which of these containers have each data directory, volume, and unfinished copy."""
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    data = {place.source for place in places if not place.volume}
    sheets = [sheet for sheet in found.sheet.paths if sheet.path in data]
    paths = [path for sheet in sheets for path in (sheet.path, *sheet.parts)]
    held = dict(zip(paths, holders_of_each(site.engine, paths, alive), strict=True))
    for volume in (place.source for place in places if place.volume):
        held[volume] = holders(site.engine, volume, alive, volume=True)
    return held


def _asked(instance: Instance, case: NodeCase, found: Looked) -> NodeCase:
    """Ask a node what ails it: its server, or a container that looks at what lies there."""
    try:
        if case.owned and case.facts:
            told = instance.execute(health.of_running(), reads=True)
            return replace(case, health=Health.parse(told))
        full = case.path.state == "full" and not case.node.volume
        image = found.sheet.image
        if case.runs or image is None or not (full or (case.owned and case.node.volume)):
            return case
        mounts = instance.mounts(readonly=True)
        if found.private[case.name].state == "absent":
            mounts = mounts[:1]
        there = instance.there(instance.tablespace_mounts(readonly=True))
        told = instance.offline(
            image, health.of_stopped(), mounts=[*mounts, *there], readonly=True, reads=True
        )
        disk = instance.with_tablespaces(Disk.parse(told), there)
        return replace(case, health=Health.parse(told), disk=disk)
    except Error as fault:
        return replace(case, silence=fault.sentence)
