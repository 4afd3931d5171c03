"""The doctor's round: one look at each host and node, then every check on what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgherd.checks import collect, hosts, logs, networks, servers, storage
from pgherd.checks.base import WARNING, Checkup, Finding
from pgherd.checks.collect import GroupCase
from pgherd.docker.models import HELPER_LABEL, Image
from pgherd.group.group import Group
from pgherd.group.observation import Observation

HOST_CHECKS = (*hosts.CHECKS, *hosts.HOST_CHECKS, *storage.HOST_CHECKS)
ENGINE_CHECKS = (*hosts.FURTHER, *networks.HOST_CHECKS)
NODE_CHECKS = (
    *networks.NODE_CHECKS, *storage.MOVED_CHECKS, *storage.SPACE_CHECKS, *storage.FILE_CHECKS,
    *servers.NODE_CHECKS, *logs.NODE_CHECKS,
)  # fmt: skip
GROUP_CHECKS = (*hosts.GROUP_CHECKS, *storage.GROUP_CHECKS, *servers.GROUP_CHECKS)


@dataclass(frozen=True)
class Examination:
    """What was found, and on what: a fix needs both."""

    checkup: Checkup
    case: GroupCase

    def image(self, host: str) -> Image | None:
        """Return the group's image as it is on a host."""
        return next((h.sheet.image for h in self.case.hosts if h.name == host), None)


def examine(group: Group) -> Examination:
    """Look at every host and node side by side, and check all there is to check; changes nothing.

    A host that does not answer is a finding, and what is on it is left out.

    Raises:
        Refused: the topology names what no host can have, as another user's home directory.
    """
    checkup = Checkup(group.name)
    looked = collect.hosts(group, checkup)
    seen = collect.observed(group, looked)
    case = collect.group_case(group, looked, seen)
    for host in case.hosts:
        checkup.check(host, HOST_CHECKS)
        if host.answers:
            checkup.check(host, ENGINE_CHECKS)
        else:
            checkup.away.append(host.name)
        for node in host.nodes:
            checkup.check(node, NODE_CHECKS)
            for place in node.places:
                checkup.check(place, storage.PLACE_CHECKS)
    checkup.check(case, GROUP_CHECKS)
    if seen:
        checkup.check((group, seen, case), (collect.warnings, _helpers))
    return Examination(checkup, case)


def _helpers(subject: tuple[Group, Observation, GroupCase]) -> Iterator[Finding]:
    """Yield containers of ours that worked on files, have ended, and were left behind."""
    group, seen, _ = subject
    for host, containers in seen.engines.items():
        for found in containers.values():
            if HELPER_LABEL in found.labels and group.owns(found, host) and not found.alive:
                text = f"The container {found.name} was left behind by a run that was killed"
                cure = "`invoke doctor --fix` removes it"
                yield Finding(
                    "helper-left", WARNING, text, cure, host=host, target=found.name, fixable=True
                )
