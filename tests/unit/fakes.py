"""Stand-ins for what unit tests must not touch: a host that runs nothing, facts, containers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pgherd.config import loader
from pgherd.config.topology import Topology
from pgherd.docker.models import Container, Image, Mount
from pgherd.errors import Error
from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation, Observation
from pgherd.hosts.base import NOTHING, About, OnLine, Stdin
from pgherd.hosts.commands import Output, Result, Script, Trace, argv_of
from pgherd.postgres import datadir
from pgherd.postgres.facts import Facts, Sender

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand


ROOT = Path(__file__).parents[2]
SYSTEM = "7438000000000000001"
OURS = {"pgherd.group": "g", "pgherd.home": str(loader.ROOT / "data")}  # the labels of group `g`


@dataclass(frozen=True)
class Said:
    """What a command answers: output, complaint, exit code."""

    out: str = ""
    err: str = ""
    code: int = 0


@dataclass(frozen=True)
class Call:
    """A command that was run: its arguments, what it read, how long it might take."""

    argv: tuple[str, ...]
    stdin: str
    timeout: float | None
    reads: bool


class FakeHost:
    """A host that runs nothing: it records commands, and answers only those that are planned.

    A plan's key is the beginning of a command line; the longest that fits answers. A list answers
    one by one, an error is raised.
    """

    name = "local"
    home = str(loader.ROOT / "data")
    over: tuple[str, ...] = ()

    def __init__(
        self, plan: Mapping[str, Said | Error | list[Said]] | None = None, *, dry: bool = False
    ) -> None:
        self.trace = Trace(dry=dry)
        self.plan = {tuple(shlex.split(words)): answer for words, answer in (plan or {}).items()}
        self.calls: list[Call] = []

    def paths(self, *data: str) -> list[str]:
        """Return the paths as they are."""
        return list(data)

    def reach(self, address: str, port: int) -> tuple[str, int]:
        """Return where it is anyway."""
        return address, port

    def lease(self, name: str, what: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Hold nothing."""
        return nullcontext()

    def room(self, wanted: int) -> int:
        """Have room for all."""
        return wanted

    def about(self) -> About:
        """A Linux machine whose clock is right."""
        return About("Linux x86_64")

    def chunks(self, command: BaseCommand) -> Output:
        """Run like any other command; yield what it said in one piece."""

        def pieces() -> Generator[bytes, None, None]:
            yield self.run(command, reads=True).out.encode()

        return Output(shlex.join(argv_of(command)), pieces())

    def interactive(self, command: BaseCommand) -> int:
        """Run like any other command; return its exit code."""
        return self.run(command).code

    def run(
        self,
        command: BaseCommand,
        *,
        stdin: Stdin = NOTHING,
        timeout: float | None = 60.0,
        on_line: OnLine | None = None,
        reads: bool = False,
    ) -> Result:
        """Record the command and give the planned answer."""
        argv = tuple(argv_of(command))
        shown = stdin if isinstance(stdin, Script) else NOTHING
        if not self.trace.wants(list(argv), shown, reads=reads):
            return Result(argv, self.name, 0, "", "")
        text = stdin.text() if isinstance(stdin, Script) else b"".join(stdin).decode()
        self.calls.append(Call(argv, text, timeout, reads))
        fitting = [words for words in self.plan if argv[: len(words)] == words]
        assert fitting, f"unplanned command: {shlex.join(argv)}"
        answer = self.plan[max(fitting, key=len)]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Error):
            raise answer
        for line in answer.out.splitlines() if on_line else ():
            cast("OnLine", on_line)(line)
        return Result(argv, self.name, answer.code, answer.out, answer.err)

    @property
    def ran(self) -> list[str]:
        """The command lines that were run."""
        return [shlex.join(call.argv) for call in self.calls]


def image(ref: str = "postgres:17", *volumes: str, major: str = "17") -> Image:
    """An image, by default one that declares no volume."""
    return Image(ref, "sha256:17", volumes, {"PG_MAJOR": major})


def container(name: str, **changes: Any) -> Container:
    """A running container of the group `g` with its data, without ports."""
    given: dict[str, Any] = {
        "id": f"id-{name}",
        "name": name,
        "status": "running",
        "exit_code": 0,
        "image_ref": "postgres:17",
        "image_id": "sha256:17",
        "labels": OURS,
        "mounts": (bind(f"/d/{name}"),),
        "ports": (),
        "started_at": "2026-01-01T00:00:00Z",
        "restart": "unless-stopped",
        "command": ("sh", "-c", f"echo '{datadir.SENTENCE}'", "sh", "postgres"),
    }
    return Container(**given | changes)


def listed(name: str, **changes: Any) -> str:
    """What `docker ps` says of a running container that has nothing special, a line."""
    given: dict[str, Any] = {
        "id": f"id-{name}", "names": name, "image": "postgres:17", "state": "running", "ports": "",
        "mounts": "", "labels": {},
    }  # fmt: skip
    return f"{json.dumps(given | changes)}\n"


def bind(source: str) -> Mount:
    """A bind mount for a server's data."""
    return Mount(source, "/var/lib/postgresql/data")


def sender(name: str, **changes: Any) -> Sender:
    """A standby that streams and is synchronous."""
    given: dict[str, Any] = {
        "application_name": name,
        "state": "streaming",
        "sync_state": "sync",
        "sent": "0/3000000",
        "flush": "0/3000000",
        "replay": "0/3000000",
        "backend_start": "2026-01-01",
    }
    return Sender(**given | changes)


ANSWER: dict[str, Any] = {  # what sql/facts.sql returns on a lone primary
    "in_recovery": False,
    "system_identifier": SYSTEM,
    "version_num": 170002,
    "timeline": 1,
    "lsn": "0/3000000",
    "history": "",
    "received": None,
    "replay_paused": False,
    "replayed_age": None,
    "apply_delay": 0,
    "marked": False,
    "settings": None,
    "restart_due": [],
    "conflicts": 0,
    "sync_names": "",
    "primary_conninfo": "",
    "primary_slot": "",
    "receiver": None,
    "senders": [],
    "slots": [],
    "sync_waiters": [],
    "clients": [],
    "tablespaces": [],
    "replicator": None,
    "hba_lets_replicator_in": False,
}


def facts(*senders: Sender, **changes: Any) -> Facts:
    """What a primary says of itself, with these standbys."""
    return Facts(**{**Facts.of(ANSWER).__dict__, "senders": senders, **changes})


def standby_facts(**changes: Any) -> Facts:
    """What a standby says of itself that streams."""
    return facts(**{"in_recovery": True, "receiver": {"status": "streaming"}, **changes})


def topology(*standbys: str, sync: str = "", tls: Any = None, **nodes: dict[str, Any]) -> Topology:
    """A group `g` with the primary `pa` and these standbys of it; `nodes` changes their keys."""
    tables: dict[str, dict[str, Any]] = {"pa": {"port": 5432, "data": "/d/pa"}}
    for number, name in enumerate(standbys, 5433):
        tables[name] = {"port": number, "data": f"/d/{name}", "upstream": "pa"}
    for name, keys in nodes.items():
        tables[name] |= keys
    asked = {"name": "g", "sync": sync, "tls": tls}
    return Topology.model_validate({"group": asked, "nodes": tables})


def group(asked: Topology, host: FakeHost | None = None) -> Group:
    """A group whose servers live on a fake host."""
    fake = host or FakeHost()
    made = Group(asked, fake.trace, dict.fromkeys(asked.hosts_used, fake))
    made.here = fake
    return made


def observation(**nodes: Facts | None) -> Observation:
    """A moment in which these nodes run; one without facts does not answer."""
    containers = {name: container(name) for name in nodes}
    seen = {name: NodeObservation(containers[name], found) for name, found in nodes.items()}
    return Observation(seen, {"local": containers})
