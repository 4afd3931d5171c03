"""The doctor's round: one look at each host and node, then every check on what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgherd.docker import HELPER_LABEL, Image
from pgherd.postgres.group import Group
from pgherd.postgres.observation import Observation
from pgherd.steps.doctor import (
    between,
    engine,
    files,
    looking,
    machine,
    networks,
    places,
    said,
    servers,
    space,
    standing,
)
from pgherd.steps.doctor.case import GroupCase
from pgherd.steps.doctor.finding import WARNING, Checkup, Finding

HOST_CHECKS = (*engine.CHECKS, *machine.HOST_CHECKS, *places.HOST_CHECKS)
ENGINE_CHECKS = (*engine.FURTHER, *networks.HOST_CHECKS)
NODE_CHECKS = (
    *networks.NODE_CHECKS, *places.NODE_CHECKS, *space.NODE_CHECKS, *files.NODE_CHECKS,
    *servers.NODE_CHECKS, *said.NODE_CHECKS,
)  # fmt: skip
GROUP_CHECKS = (*machine.GROUP_CHECKS, *space.GROUP_CHECKS, *between.GROUP_CHECKS)


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
    looked = looking.hosts(group, checkup)
    seen = looking.observed(group, looked)
    case = looking.group_case(group, looked, seen)
    for host in case.hosts:
        checkup.check(host, HOST_CHECKS)
        if host.answers:
            checkup.check(host, ENGINE_CHECKS)
        else:
            checkup.away.append(host.name)
        for node in host.nodes:
            checkup.check(node, NODE_CHECKS)
            for place in node.places:
                checkup.check(place, places.PLACE_CHECKS)
    checkup.check(case, GROUP_CHECKS)
    if seen:
        checkup.check((group, seen, case), (standing.warnings, _helpers))
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
