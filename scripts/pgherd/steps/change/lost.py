"""Who was primary, and is lost: as those standbys say that answer, and the data of the others."""

from __future__ import annotations

from collections import Counter

from pgherd.docker import Image
from pgherd.errors import Refused
from pgherd.host.together import side_by_side
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance
from pgherd.postgres.observation import Observation
from pgherd.steps import connect, guards, leaders
from pgherd.steps.change.losing import standbys_that_answer

FOLLOWED = ("shut down in recovery", "in archive recovery")  # states in control data of a standby


def lost_primary(group: Group, seen: Observation, image: Image) -> Instance | None:
    """Return the node that was primary: the one that the standbys which answer follow.

    Where several nodes do not answer, their data may tell otherwise: a standby may follow another
    one. Where they name none, it is the one whose data leads, or the only one that is down. None
    where every node answers, and is a standby: nothing is lost.

    Raises:
        Refused: none tells who it was, or several may have been primary.
    """
    running = standbys_that_answer(seen)
    if len(running) == len(group.instances):
        return None
    if voted := _voted(group, running):
        alone = len(group.instances) - len(running) == 1
        return voted if alone else _by_data(group, seen, image, voted)
    down = [n for n in group.instances if n not in running]
    if not running:
        return group.master
    if len(down) == 1:
        return group.instance(down[0])
    if leading := _leading(group, seen, image, _disks(group, seen, image)):
        return leading
    if group.master.name in down:
        return group.master
    raise Refused(
        f"Every node that answers is a standby, and none tells whether {', '.join(down)} was "
        "primary: `invoke start` brings all up, and then one can be chosen."
    )


def _voted(group: Group, running: dict[str, Facts]) -> Instance | None:
    """Return the node that does not run as a standby and that most standbys follow."""
    votes = _votes(group, running)
    # One that cascades names whom it follows, who may be a standby as well: it has no say
    # beside those that follow the primary itself.
    cascading = {n for n in votes if _cascades(group, n)}
    counted = Counter(votes[name] for name in votes.keys() - cascading or cascading)
    return group.instance(counted.most_common(1)[0][0]) if counted else None


def _votes(group: Group, running: dict[str, Facts]) -> dict[str, str]:
    """Return which node that does not run as a standby each standby is set to follow."""
    return {
        name: other
        for name, facts in running.items()
        for other, instance in group.instances.items()
        if other not in running
        and connect.leads_to(facts.primary_conninfo, group.instance(name), instance)
    }


def _by_data(group: Group, seen: Observation, image: Image, voted: Instance) -> Instance:
    """Return the one that was primary of several that do not answer: the one voted, if it may be.

    Only a standby's standbys may answer, and vote for that. Fenced in the place of the primary, it
    would leave one that comes back.
    """
    running = standbys_that_answer(seen)
    disks = _disks(group, seen, image)
    lost = [i for i in group.instances.values() if i.name not in running]
    here = [i for i in lost if i.node.host not in group.away]
    direct = any(not _cascades(group, name) for name in _votes(group, running))
    if voted in _leads(running, disks) or (direct and voted not in disks):
        return voted
    if leading := _leading(group, seen, image, disks):
        return leading
    if direct or voted not in here or _was_marked(disks.get(voted, Disk())):
        return voted
    if away := [i for i in lost if i not in here]:  # none of these can be fenced
        return group.master if group.master in away else away[0]
    unknown = [i for i in here if i is not voted and seen.nodes[i.name].container]
    unknown = [i for i in unknown if _unreadable(disks.get(i, Disk()))]
    return _only(unknown) if unknown else voted


def _disks(group: Group, seen: Observation, image: Image) -> dict[Instance, Disk]:
    """Return what lies in the directories of the nodes that do not run as standbys."""
    running = standbys_that_answer(seen)
    lost = [i for i in group.instances.values() if i.name not in running]
    here = [i for i in lost if i.node.host not in group.away]
    full = [i for i in here if guards.data_state(i) == guards.FULL]
    return dict(zip(full, side_by_side(lambda i: i.disk(image), full), strict=True))


def _leads(running: dict[str, Facts], disks: dict[Instance, Disk]) -> list[Instance]:
    """Return those whose data is a primary's, and no older one than the standbys follow."""
    newest = max(f.timeline for f in running.values())
    systems = {f.system_identifier for f in running.values()}
    return [
        i
        for i, disk in disks.items()
        if leaders.leads(disk) and disk.system_identifier in systems and disk.timeline >= newest
    ]


def _leading(
    group: Group, seen: Observation, image: Image, disks: dict[Instance, Disk]
) -> Instance | None:
    """Return the one that leads of those whose data is a primary's."""
    leading = _leads(standbys_that_answer(seen), disks)
    if len(leading) <= 1:
        return leading[0] if leading else None
    by_name = {i.name: disk for i, disk in disks.items()}
    system = disks[leading[0]].system_identifier
    return group.instance(leaders.contest(group, seen, image, by_name, system).name)


def _was_marked(disk: Disk) -> bool:
    """Tell whether data is a primary's that was marked as a standby to be."""
    return bool(disk.state) and disk.state not in FOLLOWED


def _unreadable(disk: Disk) -> bool:
    """Tell whether there is no data, or none that tells anything, and it was no copy to be."""
    return disk.system_identifier is None and not disk.unfinished


def _cascades(group: Group, name: str) -> bool:
    """Tell whether the topology has a node follow another one than its primary."""
    upstream = group.topology.upstream_of(group.instance(name).node)
    return upstream not in {None, group.topology.primary}


def _only(found: list[Instance]) -> Instance:
    if len(found) > 1:
        names = " and ".join(i.name for i in found)
        raise Refused(
            f"Any of {names} may have been primary, and none of them answers: `invoke start` "
            "brings back what can be. If none can, stop each for good (`docker update --restart "
            "no NAME`, `docker stop NAME`) and move its data away but of the one that was."
        )
    return found[0]
