"""Where the things of a node are on its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Places:
    """Where a node's things are on its host, and who is around.

    Attributes:
        data: the data directory, absolute; empty where a named volume holds the data.
        private: the directory for what is no data: the passfile.
        network: the name of the group's network there.
        home: where pgherd keeps its own things there; it tells whose a container is.
        initdb: the directory with the user's scripts for a new database.
        neighbours: whether other nodes of the group live on the same host.
        elsewhere: the addresses of the nodes that live on other hosts.
        tablespaces: for each path in its container where tablespaces may lie, the directory,
            absolute; empty where a named volume has them.
    """

    data: str
    private: str
    network: str
    home: str
    initdb: str | None = None
    neighbours: bool = True
    elsewhere: tuple[str, ...] = ()
    tablespaces: Mapping[str, str] = field(default_factory=dict)
