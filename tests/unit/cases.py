"""Stand-ins for what the doctor's checks are made on: a host, a node, a server that are well."""

from __future__ import annotations

from typing import Any

from fakes import container, facts
from fakes import image as some_image

from pgherd.checks.base import Finding
from pgherd.checks.collect import GroupCase, HostCase, HostSheet, NodeCase, PathSheet
from pgherd.config.nodes import Node
from pgherd.docker.models import Mount
from pgherd.hosts.base import About
from pgherd.postgres.health import Health, Server

GB = 10**9
INFO: dict[str, Any] = {  # of `docker info`, what is looked at
    "ServerVersion": "20.10.24+dfsg1",
    "Architecture": "x86_64",
    "Driver": "overlay2",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "DockerRootDir": "/var/lib/docker",
    "IPv4Forwarding": True,
    "MemTotal": 25276510208,
}
BYTES = {
    "shared_buffers": 134217728,
    "work_mem": 4194304,
    "maintenance_work_mem": 67108864,
    "max_wal_size": 1073741824,
    "max_slot_wal_keep_size": 10737418240,
}
SETTINGS = {
    "archive_mode": "off",
    "dynamic_shared_memory_type": "posix",
    "fsync": "on",
    "full_page_writes": "on",
    "hash_mem_multiplier": "2",
    "max_connections": "100",
    "max_locks_per_transaction": "64",
    "max_parallel_workers_per_gather": "2",
    "max_prepared_transactions": "0",
    "max_wal_senders": "40",
    "max_worker_processes": "8",
    "wal_level": "replica",
    "wal_retrieve_retry_interval": "100",
}
CONNINFO = "host=pa user=replicator application_name=s1"


def server(settings: dict[str, str] | None = None, **changes: Any) -> Server:
    """A server that is well; `settings` are those that differ."""
    known: dict[str, Any] = {
        "bytes": BYTES,
        "settings": SETTINGS | (settings or {}),
        "databases": 23018705,
        "wal": 50331648,
        "libc": "2.36",
        "oldest": 15,
        "clients": 1,
        "senders": 1,
    }
    return Server(**known | changes)


def health(of: Server | None = None, **changes: Any) -> Health:
    """What a healthy node's container tells."""
    known: dict[str, Any] = {
        "server": of or server(),
        "inode": 7,
        "owner": "postgres",
        "mode": "700",
        "passfile": "postgres 600",
        "ahead": -30,
        "shm": (268435456, 1085440),
        "files": 20000,
    }
    return Health(**known | changes)


def path(where: str = "/d/pa", **changes: Any) -> PathSheet:
    """A data directory with a server on it."""
    known: dict[str, Any] = {
        "up": where, "state": "full", "inode": 7, "mode": "700", "writable": True,
        "user": "1000:1000", "free": 80 * GB, "total": 260 * GB, "inodes": 10**7, "mount": "/",
    }  # fmt: skip
    return PathSheet(where, **known | changes)


def sheet(docker: dict[str, Any] | None = None, **changes: Any) -> HostSheet:
    """A host that is well; `docker` is what differs in `docker info`."""
    known: dict[str, Any] = {
        "system": "Linux x86_64",
        "docker": INFO | (docker or {}),
        "client": "28.2.2",
        "endpoint": "unix:///var/run/docker.sock",
        "image": some_image(),
    }
    return HostSheet(**known | changes)


def asked(name: str = "pa", **changes: Any) -> Node:
    """A node as the topology has it."""
    known = {"name": name, "port": 5432, "data": f"/d/{name}"}
    return Node.model_validate(known | changes)


def node(name: str = "pa", **changes: Any) -> NodeCase:
    """A primary that runs and is well."""
    mount = Mount(f"/d/{name}", "/var/lib/postgresql/data")
    known: dict[str, Any] = {
        "node": asked(name),
        "sheet": sheet(),
        "path": path(f"/d/{name}"),
        "container": container(name, mounts=(mount,)),
        "owned": True,
        "facts": facts(hba_lets_replicator_in=True),
        "health": health(),
        "streams": True,
        "image_major": "17",
    }
    return NodeCase(**known | changes)


def absent(name: str = "pa", **changes: Any) -> NodeCase:
    """A node of which nothing is there yet."""
    nowhere = path(f"/d/{name}", state="absent", up="/d", inode=None, mode="")
    known: dict[str, Any] = {
        "path": nowhere, "container": None, "owned": False, "facts": None, "health": None,
        "streams": False,
    }  # fmt: skip
    return node(name, **known | changes)


def host(*nodes: NodeCase, name: str = "local", **changes: Any) -> HostCase:
    """A host that is well."""
    known: dict[str, Any] = {
        "sheet": sheet(),
        "about": About("Linux x86_64"),
        "nodes": nodes,
        "network": "pgherd-g",
        "image_names": ("postgres:17", "pgherd/postgres:17"),
    }
    return HostCase(name, **known | changes)


def group(*nodes: NodeCase, **changes: Any) -> GroupCase:
    """A group on this machine whose first node is primary."""
    known: dict[str, Any] = {"hosts": (host(*nodes),), "primary": nodes[0].name if nodes else None}
    return GroupCase(**known | changes)


def told(findings: object) -> dict[str, Finding]:
    """Return findings by their code."""
    return {finding.code: finding for finding in findings}  # type: ignore[attr-defined]
