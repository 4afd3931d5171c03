"""What is asked for: one group, its nodes and the hosts they run on, all without contradiction.

>>> pair = Topology.model_validate({
...     "group": {"name": "pair", "sync": "s1"},
...     "nodes": {"pa": {"port": 1, "data": "a"}, "s1": {"port": 2, "data": "b", "upstream": "pa"}},
... })
>>> pair.primary.name, [node.name for node in pair.standbys]
('pa', ['s1'])

Files are read by `pgherd.config`. Who is primary now is no part of it: PostgreSQL knows that.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from pgherd.config.nodes import Asked, Encryption, Group, HostSettings, Node
from pgherd.config.sync_names import Sync
from pgherd.config.validation import Parts, contradictions
from pgherd.config.values import Fault, collected
from pgherd.errors import Refused, quoted

Model = TypeVar("Model", bound=Asked)

# Values for what is faulty, so that the rest of a node can be compared.
_STAND_IN = {"name": "node", "port": 1, "data": "data"}
_TABLES = ("nodes", "hosts")


class Topology(Asked):
    """The group as asked for. Building one raises pydantic's error with every fault there is.

    The validation context may hold `locate`, which makes a local data path absolute, `source`, the
    name of the file, and `placed_on`, the host that all of it was placed on by the operator's word
    in place of the file's. Compares equal whatever these are.
    """

    group: Group
    nodes: Annotated[
        Mapping[str, Node],
        AfterValidator(MappingProxyType),
        PlainSerializer(dict, return_type=dict[str, Node]),
    ]
    hosts: Mapping[str, HostSettings] = {}
    _source: str = ""
    _placed_on: str = ""

    @model_validator(mode="wrap")
    @classmethod
    def _report_all(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        """Add the faults between nodes to those within them, so that none hides another."""
        context, first = info.context or {}, None
        try:
            whole = handler(_with_names(data))
            parts = Parts(whole.group, whole.nodes, list(whole.nodes), whole.hosts)
        except ValidationError as error:
            first, parts = error, _salvaged(data)
        locate = context.get("locate", posixpath.normpath)
        faults = [*_misnamed(data), *contradictions(parts, locate)]
        if first or faults:
            raise collected(faults, first) from None
        return whole

    def model_post_init(self, context: Any, /) -> None:
        """Keep what is no key of the file."""
        self._source = (context or {}).get("source", "")
        self._placed_on = (context or {}).get("placed_on", "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(self.group.name)

    @property
    def source(self) -> str:
        """The file it was read from, as shown to the operator; empty if none."""
        return self._source

    @property
    def placed_on(self) -> str:
        """The host that the operator placed it on, other than the file says; empty if none."""
        return self._placed_on

    @property
    def hosts_used(self) -> tuple[str, ...]:
        """The hosts that have a node, that of the primary first."""
        nodes = (self.primary, *self.standbys)
        return tuple(dict.fromkeys(node.host for node in nodes))

    @property
    def encryption(self) -> Encryption:
        """Whether TLS is asked for: unless said, it is where the group spans hosts."""
        asked = self.group.tls
        on = len({node.host for node in self.nodes.values()}) > 1 if asked is None else asked
        return Encryption(on, on and self.group.tls_client_certificates)

    def root(self, host: str) -> str:
        """Return where the relative data paths of a remote host lie, as it was written."""
        return self.hosts.get(host, HostSettings()).root

    def node(self, name: str) -> Node:
        """Find a node by its name; raises Refused if there is none."""
        if name not in self.nodes:
            names = ", ".join(self.nodes)
            raise Refused(f"no node {quoted(name)} in group {self.group.name}: it has {names}")
        return self.nodes[name]

    @property
    def primary(self) -> Node:
        """The node that is asked to be primary at the start: the one without upstream."""
        return next(node for node in self.nodes.values() if node.upstream is None)

    @property
    def standbys(self) -> tuple[Node, ...]:
        """All other nodes, each after its upstream."""
        queue = [self.primary]
        for at in queue:
            queue += [node for node in self.nodes.values() if node.upstream == at.name]
        return tuple(queue[1:])

    def upstream_of(self, node: Node) -> Node | None:
        """Find the node that this one is asked to follow; None for the primary."""
        return None if node.upstream is None else self.node(node.upstream)

    def sync_for(self, primary: Node) -> Sync | None:
        """Say what `primary` waits for, if it is primary now: never for itself.

        Where its own name was asked for stands that of the node asked to be primary.
        """
        asked = self.primary
        if self.group.sync is None or primary.name == asked.name:
            return self.group.sync
        return self.group.sync.replaced(primary.application_name, asked.application_name)


def _with_names(data: object) -> object:
    """Give each node the name of its table."""
    if not isinstance(data, Mapping) or not isinstance(data.get("nodes"), Mapping):
        return data
    nodes = {
        name: {"name": name, **table} if isinstance(table, Mapping) else table
        for name, table in data["nodes"].items()
    }
    return {**data, "nodes": nodes}


def _misnamed(data: object) -> Iterator[Fault]:
    nodes = data.get("nodes") if isinstance(data, Mapping) else None
    for name, table in nodes.items() if isinstance(nodes, Mapping) else ():
        given = table.get("name", name) if isinstance(table, Mapping) else None
        given = table.name if isinstance(table, Node) else given
        if given not in (name, None):
            yield Fault(("nodes", str(name), "name"), "is the table's own name: leave this out")


def _salvaged(data: object) -> Parts:
    """Pick out of faulty data what is sound, so that the rest can still be compared."""
    named = _with_names(data)
    tables = named if isinstance(named, Mapping) else {}
    found = {key: table if isinstance(table := tables.get(key), Mapping) else {} for key in _TABLES}
    group, unsure = _sound(Group, tables.get("group"), {"name": "group"})
    nodes, hosts, doubts = {}, {}, set[tuple[str, str]]()
    for name, table in found["hosts"].items():
        if host := _sound(HostSettings, table, {})[0]:
            hosts[str(name)] = host
    for name, table in found["nodes"].items():
        node, doubtful = _sound(Node, table, _STAND_IN)
        doubts |= {(str(name), key) for key in doubtful}
        if node and "host" not in doubtful:
            nodes[str(name)] = node.model_copy(update={"name": str(name)})
    return Parts(
        group=None if "sync" in unsure else group,
        nodes=nodes,
        names=[str(name) for name in found["nodes"]],
        hosts=hosts,
        doubts=doubts,
        complete=len(nodes) == len(found["nodes"])
        and not {key for _, key in doubts} & {"application_name", "upstream"},
    )


def _sound(
    model: type[Model], table: object, stand_in: Mapping[str, object]
) -> tuple[Model | None, set[str]]:
    """Build a model from the sound keys of a table; tell which of its values are made up.

    An unknown key may be a misspelt one that is left out: what is like it counts as made up too.
    """
    fields = set(model.model_fields)
    if not isinstance(table, Mapping):
        return None, fields
    try:
        return model.model_validate(table), set()
    except ValidationError as error:
        bad = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
    made_up = bad & fields
    for key in bad - fields:
        made_up |= set(get_close_matches(key, sorted(fields - set(table))))
    if "name" in made_up and "application_name" not in table:
        made_up.add("application_name")  # its default
    sound = {key: value for key, value in table.items() if str(key) not in bad}
    return model.model_validate({**stand_in, **sound}), made_up
