"""What a database keeps outside its data directory: tablespaces, and what is a link, as `pg_wal`.

Where the topology declares a place for it (`[nodes.X.tablespaces]`) it is carried by every act.
Anything else is gone with its container, and no copy has it: here it is told what that is, who has
to refuse, and the way out.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations

from pgherd.config.nodes import Node
from pgherd.config.values import VOLUME, no_place_inside, within
from pgherd.docker.models import Container, Image
from pgherd.errors import Refused
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.hosts.commands import Tool, assignments
from pgherd.hosts.parallel import run_all
from pgherd.postgres.conf import sql_literal
from pgherd.postgres.facts import Disk, Facts, Outside
from pgherd.postgres.instance import PGDATA, Instance

CODE = "data-outside"
_LIES = {
    "container": "in its container only",
    "memory": "in its container's memory (tmpfs), which is empty again after a stop",
    "mount": "in a mount that the topology does not declare",
}
Found = list[tuple[Instance, Outside]]


class NotThere(Refused):
    """A part of a node's data is not there, or would not be in its container; no server runs so.

    Attributes:
        why: the same in few words.
        leads: whether the data is a primary's.
    """

    def __init__(self, sentence: str, one: Outside, disk: Disk) -> None:
        super().__init__(sentence)
        self.why = f"{one.what} at {one.path} is not there"
        self.leads = not disk.standby_signal


# --- what there is ---


def astray(
    node: Node, outside: Iterable[Outside], container: Container | None = None
) -> list[Outside]:
    """Return what does not lie in a place that the topology declares and that its container has.

    A container that is not given is one that is to be made, and has what is declared.
    """
    mounted = None
    if container and not container.planned:
        mounted = [mount.target for mount in container.mounts]

    def lies_well(found: Outside) -> bool:
        declared = any(within(found.path, inside) for inside in node.tablespaces)
        if not declared or found.lies in {"container", "memory"}:
            return False
        return mounted is None or any(within(found.path, target) for target in mounted)

    return [found for found in outside if not lies_well(found)]


def lost(node: Node, disk: Disk) -> list[Outside]:
    """Return what a server on this data would not find, in a container that is made for it."""
    gone = [one for one in disk.outside if one.path in disk.gone]
    return list(dict.fromkeys([*gone, *astray(node, disk.outside)]))


def of_server(instance: Instance, node: NodeObservation) -> list[Outside]:
    """Return what a server that answers has astray."""
    return astray(instance.node, node.facts.outside, node.container) if node.facts else []


def of_container(
    group: Group, instance: Instance, container: Container, facts: Facts | None
) -> list[Outside]:
    """Return what is astray as a container has it: its server tells, or else its data."""
    if facts:
        return astray(instance.node, facts.outside, container)
    if container.planned or preconditions.data_state(instance) != preconditions.FULL:
        return []
    image = group.site(instance).find_image(group.image_names, [container])
    return astray(instance.node, instance.disk(image).outside, container) if image else []


# --- who has to refuse ---


def refuse_to_remove(
    group: Group,
    nodes: Sequence[tuple[Instance, Container | None, Facts | None]],
    seen: Observation,
) -> None:
    """Refuse to remove containers, or to move the data that they have, where all would not come.

    Raises:
        Refused: with what is where, and the way out.
    """
    there = [(i, c, f) for i, c, f in nodes if c and i.node.host not in group.away]
    for instance, container, _ in there:
        if not (container.planned or _has_data(container)):
            raise Refused(
                f"The container {instance.name} has no mount at {PGDATA}: its data is in it, and "
                f"gone with it. Copy that out first (`docker cp {instance.name}:{PGDATA} …`), then "
                f"`docker rm {instance.name}`."
            )
    told = run_all(lambda node: of_container(group, *node), there)
    found = [(node[0], one) for node, several in zip(there, told, strict=True) for one in several]
    if found:
        raise refusal(group, found, seen, "This would be gone with a container, or left behind")


def refuse_to_remove_all(group: Group, instances: Iterable[Instance], seen: Observation) -> None:
    """Do what `refuse_to_remove` does for nodes of the topology, as they were seen."""
    nodes = ((i, seen.nodes[i.name]) for i in instances)
    known = [
        (i, node.container, node.facts)
        for i, node in nodes
        if node.container and group.owns(node.container, i.node.host)
    ]
    refuse_to_remove(group, known, seen)


def refuse_to_move(
    group: Group, instance: Instance, seen: Observation, disk: Disk | None = None
) -> None:
    """Refuse to set aside the data that a node's container has, where all would not come along.

    What it has its server tells, or its data where that is down; without a container nothing that
    is left behind could be lost with it.
    """
    node = seen.nodes[instance.name]
    if node.container and (node.facts or disk):
        outside = node.facts.outside if node.facts else disk.outside if disk else ()
        if found := [(instance, one) for one in astray(instance.node, outside, node.container)]:
            raise refusal(group, found, seen, "This would be left behind")


def _has_data(container: Container) -> bool:
    return any(mount.target == PGDATA for mount in container.mounts)


def refuse_to_copy(group: Group, source: Instance, seen: Observation) -> None:
    """Refuse to copy a server's data that lies partly where no copy gets it."""
    if found := of_server(source, seen.nodes[source.name]):
        told = [(source, one) for one in found]
        raise refusal(group, told, seen, "A copy would lack this")


def refuse_nested(source: Instance, seen: Observation) -> None:
    """Refuse a base backup of tablespaces that lie in each other: pg_basebackup cannot do it."""
    facts = seen.nodes[source.name].facts
    for one, other in permutations(facts.outside if facts else (), 2):
        if within(one.path, other.path):
            raise Refused(
                f"{one.what} of {source.name}, at {one.path}, lies within {other.what}, at "
                f"{other.path}: pg_basebackup takes no such two (the second is not empty then). "
                "--method copy does; or drop one, and create it beside the other."
            )


def refuse_to_stop(group: Group, instances: Iterable[Instance], seen: Observation) -> None:
    """Refuse to stop servers that have something in memory that a stop empties."""
    all_of = [(i, one) for i in instances for one in of_server(i, seen.nodes[i.name])]
    if found := [(i, one) for i, one in all_of if one.lies == "memory"]:
        raise refusal(group, found, seen, "This would be gone with a stop")


def refuse_to_change(group: Group, instances: Iterable[Instance], seen: Observation) -> None:
    """Refuse another primary, where what is astray would be lacking, or is lost by a stop."""
    found = [(i, one) for i in instances for one in of_server(i, seen.nodes[i.name])]
    if found:
        raise refusal(group, found, seen, "The new primary would lack this")


def tell_lacking(successor: Instance, seen: Observation) -> None:
    """Say what a standby may lack that takes the place of a lost primary: nobody waits for that."""
    for one in of_server(successor, seen.nodes[successor.name]):
        successor.host.trace.note(
            f"{successor.name}: {one.what} at {one.path} may lack files, since it is in no place "
            "that is declared: `invoke status` tells what helps"
        )


def refuse_to_start(
    group: Group, instance: Instance, disk: Disk, container: Container | None, image: Image
) -> None:
    """Refuse to run a server on data of which a part is not there, or is in a container to be gone.

    Raises:
        Refused: with what is where, and the way out.
    """
    stays = container and (
        container.planned or preconditions.check_spec(instance, container, image)
    )
    if gone := [o for o in disk.outside if o.path in disk.gone]:
        raise NotThere(_gone(instance, gone), gone[0], disk)
    found = astray(instance.node, disk.outside, container if stays else None)
    if container and not stays:
        found = list(dict.fromkeys([*found, *astray(instance.node, disk.outside, container)]))
    if stays and container:  # as it was made, it may have more than mounts
        found = [one for one in found if not _in_layer(instance, container, one.path)]
    if not found:
        return
    has_it = container and not stays and _in_layer(instance, container, found[0].path)
    sentence = _not_there(group, instance, found, container if has_it else None)
    if has_it:  # nothing is gone yet, and leaving the node out would say so
        raise Refused(sentence)
    raise NotThere(sentence, found[0], disk)


def _in_layer(instance: Instance, container: Container, path: str) -> bool:
    """Tell whether a stopped container has something at a path, other than what is mounted."""
    script = 'docker cp "$name:$path" - 2>/dev/null | head -c 512 | wc -c\n'
    values = assignments(name=container.name, path=path)
    said = instance.engine.run(Tool("sh")["-c", values + script], reads=True, timeout=120.0)
    return said.out.strip() not in {"", "0"}


# --- in words ---


def problem(
    group: Group,
    name: str,
    found: Sequence[Outside],
    facts: Mapping[str, Facts],
    leader: str | None,
) -> str:
    """Return what is astray of a node that runs, in a sentence, with what helps.

    The primary's tablespaces are its standbys' too, and so is the way out.
    """
    instance = group.instance(name)
    told = "; ".join(f"{one.what} is at {one.path}, {_where(instance, one)}" for one in found)
    told = f"{name} has data that no copy gets, and that is gone with its container: {told}."
    if leader and leader != name and _of_primary(facts[leader], found):
        return f"{told} What helps is told of {leader}"
    known = facts[leader or name]
    lines = _help(group, [(instance, one) for one in found], leader or name, known)
    return " ".join([told, *(line.strip() for line in lines)])


def _where(instance: Instance, one: Outside) -> str:
    if one.lies == "mount" and any(within(one.path, i) for i in instance.node.tablespaces):
        return "in a mount that is another one than the topology declares"
    return _LIES.get(one.lies, "where its container has no mount of the topology's")


def refusal(group: Group, found: Found, seen: Observation, head: str) -> Refused:
    """Return the refusal of what is astray, with the way out."""
    lines = [f"{head}: it lies outside the data directory."]
    lines += [f"  {i.name}: {one.what} is at {one.path}, {_where(i, one)}" for i, one in found]
    leader = seen.primaries[0] if len(seen.primaries) == 1 else None
    led = seen.nodes[leader].facts if leader else None
    return Refused("\n".join([*lines, *_help(group, found, leader, led)]))


def _of_primary(facts: Facts, found: Iterable[Outside]) -> list[Outside]:
    """Return the tablespaces that a primary has of these, as it tells of them."""
    paths = {one.path for one in found}
    return [one for one in facts.outside if one.path in paths and one.tablespace]


def _help(group: Group, found: Found, leader: str | None, led: Facts | None) -> Iterator[str]:
    """Yield the lines that tell how to carry on, each command between backquotes."""
    for instance, one in found:
        if one.linked:
            yield (
                f"Stop {instance.name} (`docker stop {instance.name}`), and put {one.what} in "
                f"place of its link into {instance.node.data}."
            )
    tablespaces = [(i, one) for i, one in found if not one.linked]
    if tablespaces and leader and led:
        if theirs := _of_primary(led, (one for _, one in tablespaces)):
            yield from _way_out(group, theirs, leader, led)
            return
        remove = f"docker rm --force {' '.join(dict.fromkeys(i.name for i, _ in tablespaces))}"
        yield (
            f"{leader}, the primary, has it no more. If what is there may be lost: `{remove}`, "
            "then this again."
        )
    elif tablespaces:
        yield (
            "What helps wants the primary to run: `invoke start`, or `docker start "
            f"{tablespaces[0][0].name}`; then this again."
        )


def _way_out(group: Group, found: Sequence[Outside], leader: str, led: Facts) -> Iterator[str]:
    """Yield how tablespaces come into a place that is declared."""
    yield "To keep what is in it, move it into the data directory:"
    for one in found:
        yield from (f"  `{command}`" for command in _emptied(group, one, leader, led))
    node = group.topology.node(leader)
    places = {one: _inside(node, one) for one in found}
    new = [p for p in places.values() if not any(within(p, i) for i in node.tablespaces)]
    if new:
        yield "To have it again, declare a place for it on every node, in the topology:"
        yield from (f"  {line}" for line in declared(group, new))
    yield "and then:" if new else "To have it again, in the place that is declared:"
    yield "  `invoke down start`"
    for one, path in places.items():
        yield f"  `{_psql(f'CREATE TABLESPACE {one.tablespace} LOCATION {sql_literal(path)}')}`"


def _inside(node: Node, one: Outside) -> str:
    """Return where a tablespace may lie in a container: where it is, if that can be declared."""
    if not no_place_inside(one.path, node.tablespaces):
        return one.path
    return f"/srv/{re.sub('[^A-Za-z0-9_-]', '_', one.tablespace)}"


def _emptied(group: Group, one: Outside, leader: str, facts: Facts) -> Iterator[str]:
    """Yield the commands that move everything out of a tablespace, and drop it."""
    for database, default in one.databases:
        here = database == facts.database  # where `invoke psql` is
        if default:
            sql = f"ALTER DATABASE {_quoted(database)} SET TABLESPACE pg_default"
            yield _psql_in(group, leader, "template1", sql) if here else _psql(sql)
            continue
        sql = "; ".join(
            f"ALTER {kind} ALL IN TABLESPACE {one.tablespace} SET TABLESPACE pg_default"
            for kind in ("TABLE", "INDEX", "MATERIALIZED VIEW")
        )
        yield _psql(sql) if here else _psql_in(group, leader, database, sql)
    yield _psql(f"DROP TABLESPACE {one.tablespace}")


def _psql(sql: str) -> str:
    """Return the command that runs SQL on the primary, as it is typed."""
    return f"invoke psql --command {_word(sql)}"


def _psql_in(group: Group, leader: str, database: str, sql: str) -> str:
    """Return the command that runs SQL in another database of a node, as it is typed."""
    words = ["docker", "exec", "--user", "postgres", leader, "psql", "--dbname", database]
    command = f"{shlex.join(words)} --command {_word(sql)}"
    return group.there(group.instance(leader).node.host, command)


def _word(text: str) -> str:
    """Quote a word for a shell as people do: in double quotes, where nothing in it is special."""
    return shlex.quote(text) if any(c in text for c in '"$`\\!') else f'"{text}"'


def _quoted(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def declared(group: Group, paths: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a topology that declare places for these paths, on every node."""
    for node in group.topology.nodes.values():
        yield f"[nodes.{toml_key(node.name)}.tablespaces]"
        for path in paths:
            yield f"{json.dumps(path)} = {json.dumps(_proposed(node, path), ensure_ascii=False)}"


def toml_key(name: str) -> str:
    """Write a name as a key of TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _proposed(node: Node, path: str) -> str:
    """Return a place for a tablespace, named as the node's data is."""
    end = posixpath.basename(path)
    if node.volume:
        return f"{VOLUME}{node.volume}_{end}"
    return posixpath.join(posixpath.dirname(node.data), f"{node.name}_{end}")


def _not_there(
    group: Group, instance: Instance, found: Sequence[Outside], container: Container | None
) -> str:
    """Say what a container to be made would not have."""
    name = instance.name
    told = "; ".join(f"{one.what} is at {one.path}" for one in found)
    head = (
        f"{name} has data outside its data directory, which its container would not have: {told}."
    )
    if container:
        return (
            f"{head} The container that is there has it, and is another than the topology asks "
            f"for. `docker start {name}` runs it as it is; then `invoke status` tells the way out."
        )
    ways = [
        f"Put {one.what} in place of its link into {instance.node.data}, then this again."
        for one in found
        if one.linked
    ]
    if paths := [one.path for one in found if not no_place_inside(one.path)]:
        lines = "\n".join(f"  {line}" for line in declared(group, paths))
        ways.append(
            "Whatever directory of the host has it, declare that in the topology, and a place for "
            f"it on every node, then this again:\n{lines}"
        )
    return "\nOr: ".join([f"{head}\n{ways[0]}", *ways[1:]]) if ways else head


def _gone(instance: Instance, found: Sequence[Outside]) -> str:
    places = instance.node.places
    told = "; ".join(f"{one.what} at {one.path}" for one in found)
    inside = next(at for at in instance.node.tablespaces if within(found[0].path, at))
    anew = "put it back (a copy set aside, a mount that is missing?)"
    if instance.node.upstream:
        anew += f", or seed it anew: `invoke seed-standby --node {instance.name} --rebuild`"
    return (
        f"{instance.name}: {told} is gone: {places[inside]} has no such thing. No server is run "
        f"without it: {anew}."
    )
