"""The tables of a topology: hosts, group and nodes, frozen, every value checked by itself.

What contradicts another node is the business of `pgherd.config.validation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
)

from pgherd.config import values
from pgherd.config.sync_names import Sync
from pgherd.config.values import Setting, host_name, rule
from pgherd.errors import Refused

Name = Annotated[str, rule(values.DOCKER_NAME, values.NAME_RULE)]
Host = Annotated[str, AfterValidator(host_name)]
Address = Annotated[str, AfterValidator(values.node_address)]
FilePath = Annotated[str, AfterValidator(values.path)]


class Encryption(NamedTuple):
    """Whether connections are encrypted, and whether standbys show a certificate of their own."""

    on: bool = False
    client_certificates: bool = False


class Asked(BaseModel):
    """What the models of a topology share: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _sync(value: object) -> Sync | None:
    if isinstance(value, Sync) or value is None:
        return value
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")  # noqa: TRY004 (pydantic collects no TypeError)
    try:
        return Sync.parse(value) if value else None
    except Refused as error:
        raise ValueError(error.message) from None


class HostSettings(Asked):
    """Where the relative data paths of one SSH destination lie."""

    root: Annotated[str, AfterValidator(values.root)] = "~/pgherd"


class Group(Asked):
    """What all nodes share. `sync` is None for asynchronous replication.

    `tls` is None where nothing was said: `Topology.encryption` tells what that means.
    """

    name: Annotated[
        str,
        rule(
            r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}",
            "must be 1 to 63 characters, letters, digits, _ . and -,"
            " beginning with a letter or a digit",
        ),
    ]
    image: Annotated[str, rule(r"[a-zA-Z0-9][a-zA-Z0-9_.:/@-]{0,254}", "must be an image")] = (
        "postgres:17"
    )
    sync: Annotated[Sync | None, BeforeValidator(_sync)] = None
    strict: bool = False
    initdb: FilePath | None = None
    database: Annotated[str, AfterValidator(values.database)] = ""
    tls: bool | None = None
    tls_ca: FilePath | None = None
    tls_ca_key: FilePath | None = None
    tls_client_certificates: bool = False


class Node(Asked):
    """One server: where it runs, where it is reached, where its data lies, whom it follows.

    `tablespaces` tells, for each path in its container at which tablespaces may lie, the place on
    its host: a path, or a volume, as `data`.

    Who is primary *now* is not said here: PostgreSQL is asked for that.
    """

    name: Name
    host: Host = "local"
    port: Annotated[int, BeforeValidator(values.port)]
    listen: Annotated[str, AfterValidator(values.ip_address)] = "127.0.0.1"
    address: Address | None = None
    data: Annotated[str, AfterValidator(values.data)]
    upstream: str | None = None
    application_name: Annotated[str, AfterValidator(values.application_name)] = Field(
        default_factory=lambda known: str(known.get("name", ""))
    )
    settings: Annotated[
        Mapping[str, Setting],
        PlainValidator(values.settings),
        PlainSerializer(dict, return_type=dict),
    ] = Field(default_factory=lambda: MappingProxyType({}))
    tablespaces: Annotated[
        Mapping[str, str],
        PlainValidator(values.tablespaces),
        PlainSerializer(dict, return_type=dict),
    ] = Field(default_factory=lambda: MappingProxyType({}))

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def reached_at(self) -> str | None:
        """Where nodes on other hosts reach it, and where it comes from; None if nowhere."""
        return self.address or (self.listen if values.for_others(self.listen) else None)

    @property
    def published_at(self) -> str:
        """Where a client finds the port: a remote node that listens everywhere has an address."""
        everywhere = values.is_everywhere(self.listen) and self.host != "local"
        return self.address if everywhere and self.address else self.listen

    @property
    def place(self) -> str:
        """Where clients reach it, as it is shown: `127.0.0.1:5432`, `[::1]:5432 of box`."""
        address = values.reachable(self.published_at)
        there = f"[{address}]" if ":" in address else address
        far = self.host != "local" and values.only_here(address)
        return f"{there}:{self.port}{f' of {self.host}' if far else ''}"

    @property
    def volume(self) -> str | None:
        """The name of the Docker volume with the data; None where `data` is a path."""
        return values.volume_of(self.data)

    @property
    def places(self) -> dict[str, str]:
        """Where all of its data lies: for each path in its container, PGDATA first, the place."""
        return {values.PGDATA: self.data, **self.tablespaces}

    @property
    def slot(self) -> str:
        """The node's replication slot: PostgreSQL allows [a-z0-9_] and 63 characters (slot.c)."""
        return re.sub(r"[^a-z0-9_]", "_", self.application_name.lower())[: values.NAME_LIMIT]
