"""Docker's nouns as frozen dataclasses: what `docker inspect` tells, and what `--mount` takes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pgherd.errors import Error, quoted

T = TypeVar("T")

GROUP_LABEL = "pgherd.group"
HOME_LABEL = "pgherd.home"  # whose group: the data/ of the checkout that made it
NODE_LABEL = "pgherd.node"
SPEC_LABEL = "pgherd.spec"  # a hash of the arguments that the container was made with
HELPER_LABEL = "pgherd.helper"

# What `docker ps --format` prints of a container, on a line.
LISTED = (
    '{"id":{{json .ID}},"names":{{json .Names}},"image":{{json .Image}},"state":{{json .State}},'
    '"ports":{{json .Ports}},"mounts":{{json .Mounts}},"labels":{'
    + ",".join(
        f'"{label}":{{{{json (.Label "{label}")}}}}'
        for label in (GROUP_LABEL, HOME_LABEL, NODE_LABEL, SPEC_LABEL, HELPER_LABEL)
    )
    + "}}"
)

# What of an image's configuration decides how its containers behave.
_CONFIGURATION = ("Entrypoint", "Cmd", "User", "WorkingDir", "StopSignal")


@dataclass(frozen=True)
class Mount:
    """A bind mount (`source` is an absolute path) or a named volume (`source` is its name)."""

    source: str
    target: str
    volume: bool = False
    readonly: bool = False

    def option(self) -> str:
        """Return the value of `--mount`: one CSV record, so that any path may stand in it."""
        fields = [f"type={'volume' if self.volume else 'bind'}", f"source={self.source}"]
        fields += [f"target={self.target}"] + ["readonly"] * self.readonly
        record = io.StringIO()
        csv.writer(record, lineterminator="").writerow(fields)
        return record.getvalue()


@dataclass(frozen=True)
class Image:
    """An image on one engine or, where `elsewhere` tells of them, the same image on several.

    Attributes:
        ref: the name by which it is used.
        id: its id on the engine that it was asked of. Stores of different kinds have different ids
            for the same image.
        volumes: those that it declares.
        env: the variables that it sets.
        entrypoint: the program that it runs a container's command with.
        contents: a hash of its layers and its configuration, the same on every engine.
        platform: "linux/amd64".
        size: bytes.
        digest: "postgres@sha256:…", by which a registry knows it; empty for one built here.
        elsewhere: its ref and id on engines of other hosts, by the host's name.
    """

    ref: str
    id: str
    volumes: tuple[str, ...]
    env: Mapping[str, str]
    contents: str = ""
    platform: str = ""
    size: int = 0
    digest: str = ""
    elsewhere: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()

    def at(self, host: str) -> Image:
        """Return it as the engine of that host knows it."""
        ref, known = self.elsewhere.get(host, (self.ref, self.id))
        return replace(self, ref=ref, id=known)


@dataclass(frozen=True)
class Container:
    """A container as `docker inspect` tells it or, where it is `listed`, only `docker ps`.

    Of a listed one no ports are known unless it runs, and of the mounts no more than what they may
    be the mounts of: see `_listed_mounts`.
    """

    id: str
    name: str
    status: str  # created, running, paused, restarting, removing, exited, dead
    exit_code: int
    image_ref: str
    image_id: str
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...]
    ports: tuple[tuple[str, int], ...]  # published: address and port
    started_at: str
    restart: str = ""  # its restart policy: no, always, unless-stopped, on-failure
    networks: tuple[str, ...] | None = None  # by name; of a running one those that reach it
    restarts: int = 0  # how often the engine has started it again, since somebody did
    command: tuple[str, ...] = ()  # what it runs, its entrypoint first
    planned: bool = False  # with --dry: it will be so once the printed script has run
    listed: bool = False
    silent: bool = False  # it is listed, and an inspect of it does not answer

    @property
    def running(self) -> bool:
        """Whether its process runs (a paused one holds its files as well)."""
        return self.status in {"running", "paused"}

    def is_off(self, network: str) -> bool:
        """Tell whether it is not on a network on which it ought to be."""
        return not self.planned and self.networks is not None and network not in self.networks

    @property
    def alive(self) -> bool:
        """Whether it runs or Docker is about to start it again."""
        return self.running or self.status == "restarting"


@dataclass(frozen=True)
class Network:
    """A network as `docker inspect` tells it: its labels, and the containers on it by name."""

    labels: Mapping[str, str]
    containers: tuple[str, ...]


def label_options(labels: dict[str, str]) -> list[str]:
    """Return labels as options of `docker run`."""
    return [word for item in labels.items() for word in ("--label", "=".join(item))]


def no_volumes(image: Image, options: Sequence[str]) -> list[str]:
    """Cover every volume that the image declares and no mount of ours does.

    Docker would make an anonymous volume for each (18 declares the parent of PGDATA) and leave
    it behind; an empty tmpfs costs nothing and is gone with the container.
    """
    covered = {f.removeprefix("target=") for o in options for f in o.split(",")}
    bare = [volume for volume in image.volumes if volume not in covered]
    return [w for v in bare for w in ("--mount", f"type=tmpfs,target={v},tmpfs-mode=1777")]


def records(text: str, host: str) -> list[dict[str, Any]]:
    """Read what `docker inspect` printed on a host; nothing means that there is none.

    Raises:
        Error: it is something else.
    """
    try:
        found = json.loads(text or "[]")
    except (ValueError, RecursionError):
        raise no_record(host, text) from None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise no_record(host, text)
    return list(found)


def no_record(host: str, text: object) -> Error:
    """Return the error for an answer that cannot be Docker's."""
    return Error(
        f"The docker command of {host} answers what is no record: {quoted(str(text)[:200])}. Is it "
        "Docker's own, and does nothing print into its output?"
    )


def read(kind: Callable[[Mapping[str, Any]], T], record: Mapping[str, Any], host: str) -> T:
    """Read one record that `docker inspect` printed on a host, as a container or an image.

    Raises:
        Error: it lacks what every such record has.
    """
    try:
        return kind(record)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise no_record(host, record) from None


def read_image(raw: Mapping[str, Any]) -> Image:
    """Read one record of `docker image inspect`; by its id, until somebody calls it otherwise."""
    config = raw["Config"]
    known = {key: config.get(key) or None for key in _CONFIGURATION}
    known |= {key: sorted(config.get(key) or ()) for key in ("Env", "Volumes", "ExposedPorts")}
    parts = [(raw.get("RootFS") or {}).get("Layers"), known]
    text = json.dumps(parts, sort_keys=True)
    return Image(
        ref=raw["Id"],
        id=raw["Id"],
        volumes=tuple(config.get("Volumes") or {}),
        env=dict(item.partition("=")[::2] for item in config.get("Env") or []),
        contents=hashlib.sha256(text.encode()).hexdigest(),
        platform=f"{raw.get('Os', '')}/{raw.get('Architecture', '')}",
        size=raw.get("Size") or 0,
        digest=next(iter(raw.get("RepoDigests") or []), ""),
        entrypoint=tuple(config.get("Entrypoint") or ()),
    )


def read_network(raw: Mapping[str, Any]) -> Network:
    """Read one record of `docker network inspect`."""
    attached = (raw.get("Containers") or {}).values()
    labels = dict(raw.get("Labels") or {})
    return Network(labels, tuple(sorted(str(container["Name"]) for container in attached)))


def read_container(raw: Mapping[str, Any]) -> Container:
    """Read one record of `docker container inspect`."""
    state, config = raw["State"], raw["Config"]
    bindings = (raw.get("HostConfig") or {}).get("PortBindings") or {}
    return Container(
        id=raw["Id"],
        name=raw["Name"].lstrip("/"),
        status=state["Status"],
        exit_code=state["ExitCode"],
        image_ref=config["Image"],
        image_id=raw["Image"],
        labels=config.get("Labels") or {},
        mounts=tuple(_mount(m) for m in raw["Mounts"] if m["Type"] in {"bind", "volume"}),
        ports=tuple(
            (binding.get("HostIp") or "0.0.0.0", port)  # noqa: S104
            for published in bindings.values()
            for binding in published or []
            for port in _port_range(binding["HostPort"])
        ),
        started_at=state["StartedAt"],
        restart=((raw.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no",
        networks=_networks(raw, state["Status"]),
        restarts=int(raw.get("RestartCount") or 0),
        command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
    )


def _networks(raw: Mapping[str, Any], status: str) -> tuple[str, ...] | None:
    """Return the networks that a container is on; None where that is not told."""
    found = (raw.get("NetworkSettings") or {}).get("Networks")
    if found is None:
        return None
    runs = status in {"running", "paused"}
    return tuple(name for name, its in found.items() if not runs or (its or {}).get("EndpointID"))


def listed_containers(text: str, host: str) -> list[Container]:
    """Read what `docker ps` printed on a host in the format `LISTED`.

    Raises:
        Error: it is something else.
    """
    try:
        found = [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError):
        raise no_record(host, text) from None
    return [read(_listed, record, host) for record in found]


def _listed(raw: Mapping[str, Any]) -> Container:
    labels = {key: str(value) for key, value in raw["labels"].items() if value}
    # `other/alias` is a name by which a linked container knows it.
    names = [name for name in raw["names"].split(",") if "/" not in name]
    return Container(
        id=raw["id"],
        name=names[0],
        status=raw["state"],
        exit_code=0,
        image_ref=raw["image"],
        image_id="",
        labels=labels,
        mounts=tuple(_listed_mounts(raw["mounts"])),
        ports=tuple(
            (address.strip("[]"), port)
            for address, first, last in _PUBLISHED.findall(raw["ports"])
            for port in _port_range(f"{first}{last}")
        ),
        started_at="",
        listed=True,
    )


_PUBLISHED = re.compile(r"(\S+):([0-9]+)(-[0-9]+)?->")


def _listed_mounts(text: str) -> Iterator[Mount]:
    """Yield what a list with commas may be the mounts of: a path may have commas in it as well."""
    words = text.split(",")
    for at, word in enumerate(words):
        if word.startswith("/"):
            yield from (Mount(",".join(words[at:end]), "") for end in range(at + 1, len(words) + 1))
        elif word:
            yield Mount(word, "", volume=True)


def _port_range(text: str) -> range:
    """Return the host ports of a binding: `8000`, `8000-8010`, or empty for any free one."""
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text or "0")
    if not found:
        raise ValueError(f"{quoted(text)} is no port")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def _mount(raw: Mapping[str, Any]) -> Mount:
    volume = raw["Type"] == "volume"
    return Mount(raw["Name" if volume else "Source"], raw["Destination"], volume, not raw["RW"])


NEVER, ALWAYS = "no", "unless-stopped"  # restart policies


def is_fenced(container: Container | None) -> bool:
    """Tell whether the engine is not to start it again."""
    return bool(container and container.restart == NEVER)
