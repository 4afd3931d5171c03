"""The hosts of a group side by side: who answers, with what, and in what they differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

from pgherd.config.values import volume_of
from pgherd.docker.models import GROUP_LABEL, HOME_LABEL
from pgherd.errors import Error
from pgherd.group.group import Group, Site
from pgherd.hosts.commands import Script, Tool, assignments
from pgherd.hosts.parallel import run_all

SKEW_SECONDS = 2.0  # by which two clocks may differ before it is told
LOOK_SECONDS = 30.0

_KB = re.compile("[0-9]{1,15}")

# `df` of the nearest directory that is there; -P is one line of POSIX columns, in KB.
_LOOK = """\\
docker version --format 'engine {{.Server.Version}} {{.Server.Os}}/{{.Server.Arch}}' || exit
for image in $images; do
  if docker image inspect "$image" >/dev/null 2>&1; then echo "image $image"; break; fi
done
docker ps --all --filter "label=$label" \\
  --format 'container {{.Names}} {{.State}} {{.Label "'"$home"'"}}'
[ -z "$volumes" ] || set -- "$@" "$(docker info --format '{{.DockerRootDir}}')"
for data; do
  while [ ! -d "$data" ]; do data=$(dirname -- "$data"); done
  df -Pk -- "$data" | awk 'NR == 2 { print "free", $4 }'
done
"""


@dataclass(frozen=True)
class HostReport:
    """What one host of the group is and has; only `name` and `fault` if it does not answer."""

    name: str
    nodes: tuple[str, ...]
    fault: str = ""
    engine: str = ""  # the Docker Engine's version
    platform: str = ""
    skew: float = 0.0  # seconds that its clock is ahead of this machine's
    doubt: float = 0.0  # and by how much that may be wrong
    free: int | None = None  # bytes, where its data directories are; the least of them
    image: str = ""  # the group's image, by the name that it has there; empty if it lacks it
    containers: tuple[tuple[str, str], ...] = ()  # the group's: name and state

    @property
    def ok(self) -> bool:
        """Whether it can be worked with."""
        return not self.fault


def survey(group: Group) -> list[HostReport]:
    """Look at every host of the group; one that does not answer has its fault in the report."""
    return run_all(lambda site: _report(group, site), list(group.sites.values()))


def _report(group: Group, site: Site) -> HostReport:
    names = tuple(node.name for node in site.nodes)
    try:
        about, seen = site.host.about(), _look(group, site)
    except Error as fault:
        return HostReport(site.name, names, fault.sentence)
    engine, _, platform = seen.get("engine", [""])[0].partition(" ")
    if not platform:
        return HostReport(site.name, names, f"The docker command of {site.name} says no version.")
    free = [kb for kb in seen.get("free", []) if _KB.fullmatch(kb)]
    containers = (line.split(" ", 2) for line in seen.get("container", []))
    return HostReport(
        name=site.name,
        nodes=names,
        engine=engine,
        platform=platform,
        skew=about.skew,
        doubt=about.doubt,
        free=min((int(kb) * 1024 for kb in free), default=None),
        image=seen.get("image", [""])[0],
        containers=tuple((c[0], c[1]) for c in containers if c[2:] == [site.host.home]),
    )


def _look(group: Group, site: Site) -> dict[str, list[str]]:
    """Return what the script printed, by the first word of each line."""
    places = [place for node in site.nodes for place in node.places.values()]
    directories = [place for place in places if not volume_of(place)]
    data = site.host.paths(*directories) if directories else []
    values = assignments(
        images=" ".join(group.image_names),
        label=f"{GROUP_LABEL}={group.name}",
        home=HOME_LABEL,
        volumes="yes" if len(directories) < len(places) else "",
    )
    script = Script((values + _LOOK,))
    command = Tool("sh")["-s", "--", data]
    result = site.engine.must(command, stdin=script, timeout=LOOK_SECONDS, reads=True)
    seen: dict[str, list[str]] = {}
    for line in result.out.split("\n"):
        kind, _, rest = line.partition(" ")
        seen.setdefault(kind, []).append(rest)
    return seen


# --- in what they differ ---


def tell_differences(group: Group) -> None:
    """Say where the hosts of a group differ in what may matter to it; one host differs from none.

    What makes replication impossible is refused elsewhere, by the image.
    """
    if len(group.sites) < 2 or group.hosts_told:  # noqa: PLR2004
        return
    group.hosts_told = True
    for sentence in differences([report for report in survey(group) if report.ok]):
        group.trace.note(sentence)


def differences(reports: list[HostReport]) -> Iterator[str]:
    """Yield a sentence for each two hosts that differ in clock, engine or architecture."""
    for one, other in combinations(reports, 2):
        yield from _clocks(one, other)
        for what, of in _COMPARED.items():
            if of(one) != of(other):
                yield f"hosts: {one.name} has {what} {of(one)}, and {other.name} {of(other)}"


_COMPARED: dict[str, Callable[[HostReport], str]] = {
    "Docker": lambda report: ".".join(re.findall(r"\d+", report.engine)[:2]),
    "architecture": lambda report: report.platform,
}


def _clocks(one: HostReport, other: HostReport) -> Iterator[str]:
    apart = abs(one.skew - other.skew)
    if apart - one.doubt - other.doubt > SKEW_SECONDS:
        yield (
            f"hosts: the clocks of {one.name} and {other.name} are {apart:.0f} s apart: lag in "
            "seconds and times in logs will mislead (let NTP set them)"
        )
