"""One server: its container, its data directory, and the verbs of PostgreSQL on them.

A method here touches this server only; what concerns two is a step. The server's container never
carries a password and cannot make a database: `init` does, in a container that is gone after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from secrets import token_hex
from typing import Any

from plumbum.commands.base import BaseCommand

from pgherd.config import values as rules
from pgherd.config.nodes import Encryption, Node
from pgherd.config.values import volume_of, within
from pgherd.docker.engine import Engine, docker
from pgherd.docker.models import (
    GROUP_LABEL,
    HOME_LABEL,
    NODE_LABEL,
    SPEC_LABEL,
    Container,
    Image,
    Mount,
    label_options,
    no_volumes,
)
from pgherd.errors import DeadlinePassed, Error, Refused, stopped_meanwhile
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Result, Script, Tool, assignments
from pgherd.postgres import datadir, scripts
from pgherd.postgres.datadir import Places, ScriptFailed
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond

PGDATA, PRIVATE = rules.PGDATA, rules.PRIVATE
STOP_SECONDS = 600  # a fast shutdown waits for the standbys to receive everything
READY_SECONDS = 300  # crash recovery may have much to do
LOG_TAIL = 15
COUNT_SECONDS = 60.0  # for pg_waldump to read what two primaries wrote since they parted
TIMED_OUT = 75  # EX_TEMPFAIL, what our scripts exit with at a deadline
NAME_TAKEN = "is already in use by container"  # what Docker says where another has the name
# Which directories and volumes are there: for each two words a line, yes or no.
_THERE = """\\
while [ $# -gt 0 ]; do
  case $1 in volume) docker volume inspect "$2" >/dev/null 2>&1 ;; *) [ -d "$2" ] ;; esac &&
    echo yes || echo no
  shift 2
done
"""

_SINCE_CHECKPOINT = """\
start=$(LC_ALL=C pg_controldata "$PGDATA" | sed -n "s/^Latest checkpoint's REDO location: *//p")
from=$start
"""


class Instance:
    """The server of one node, running or not."""

    def __init__(
        self, group: str, node: Node, engine: Engine, places: Callable[[], Places]
    ) -> None:
        self.group = group
        self.node = node
        self.engine = engine
        self._find_places = places
        self.encryption = Encryption()  # as the topology asks
        self.further_deadlines: dict[str, str] = {}  # of sessions, that not every major knows
        self.database = ""  # where sessions of ours are, once that is known or asked for

    @cached_property
    def places(self) -> Places:
        """Where its things are; the host may be asked for that."""
        return self._find_places()

    @property
    def name(self) -> str:
        """The node's name, which is also its container's and its address for its neighbours."""
        return self.node.name

    @property
    def host(self) -> Host:
        """The machine that it lives on."""
        return self.engine.host

    @property
    def helper(self) -> str:
        """The name of the container that works on this node's files while the server is down."""
        return f"pgherd-{self.group}-{self.name}"

    def labels(self) -> dict[str, str]:
        """Return the labels that tell whose a container is."""
        return {GROUP_LABEL: self.group, HOME_LABEL: self.places.home}

    # --- the container ---

    def container(self) -> Container | None:
        """Return this node's container, or None; a foreign one of that name counts as well."""
        return self.engine.containers().get(self.name)

    def run_options(self, image: Image) -> list[str]:
        """Return the options of `docker run` for the server, without name and image."""
        listen = f"[{self.node.listen}]" if ":" in self.node.listen else self.node.listen
        data, private = self.mounts()
        mounts = [data, replace(private, readonly=True), *self.tablespace_mounts()]
        options = ["--hostname", self.name, "--network", self.places.network]
        options += ["--publish", f"{listen}:{self.node.port}:5432"]
        options += ["--restart", "unless-stopped", "--stop-timeout", str(STOP_SECONDS)]
        options += ["--shm-size", "256m", "--env", f"PGDATA={PGDATA}"]
        # A standby that looks up a primary that is gone cannot be promoted before it gives up.
        options += ["--dns-opt", "timeout:1", "--dns-opt", "attempts:1"]
        options += [word for m in mounts for word in ("--mount", m.option())]
        return [*no_volumes(image, options), *options]

    def spec(self, image: Image) -> str:
        """Return a hash of all that the container is made of, to see when another is asked for."""
        image = image.at(self.host.name)
        text = "\0".join([image.id, *self.run_options(image)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def run_server(self, image: Image) -> None:
        """Make and start the server's container. Does not wait until it serves.

        Raises:
            Error: Docker refused; a container that could not start is removed again.
        """
        image = image.at(self.host.name)
        spec, options = self.spec(image), self.run_options(image)
        labels = {**self.labels(), NODE_LABEL: self.name, SPEC_LABEL: spec}
        command = docker[
            "run", "--detach", "--name", self.name,
            *label_options(labels), *options, "--entrypoint", "sh", image.ref,
            *datadir.server_words(image, self.node.tablespaces),
        ]  # fmt: skip
        result = self.engine.run(command)
        if not result.ok:
            if NAME_TAKEN not in result.err:
                self.engine.run(docker["rm", "--force", "--volumes", self.name])
            raise Error(f"{self.name} could not be started: {result.complaint()}")
        self.engine.plan(self.name, self._as_planned(image, labels))

    def _as_planned(self, image: Image, labels: dict[str, str]) -> Container:
        return Container(
            "", self.name, "running", 0, image.ref, image.id, labels, tuple(self.all_mounts()),
            ((self.node.listen, self.node.port),), "", planned=True,
        )  # fmt: skip

    def log_tail(self, lines: int = LOG_TAIL, *, since_start: bool = False) -> str:
        """Return the last lines of the server's log, indented; of its last start if so asked."""
        since = ["--since", c.started_at] if since_start and (c := self.container()) else []
        command = docker["logs", "--tail", str(lines), *since, self.name]
        result = self.engine.run(command, reads=True)
        return "\n".join(f"  | {t}" for t in (result.out + result.err).splitlines()[-lines:])

    # --- scripts inside ---

    def execute(self, script: Script, timeout: float = 60.0, *, reads: bool = False) -> str:
        """Run a script in the server's container as its user; return what it printed.

        Raises:
            DeadlinePassed: the script's own wait ended; the message has the log's tail.
            Error: it failed.
        """
        run, command = self.engine.run, self.inside("sh", "-s")
        result = run(command, stdin=script, timeout=timeout, reads=reads)
        if not result.ok and not reads:  # a look stops nothing
            datadir.refuse_if_locked(self)
        if datadir.has_ended(result):
            raise stopped_meanwhile(self.name, self.host.name, self.log_tail(), self.node.data)
        return self._checked(result)

    def inside(self, *words: str) -> BaseCommand:
        """Return the command that runs words in the server's container, as its user."""
        where = self._where()
        return docker["exec", "--interactive", "--user", "postgres", *where, self.name, list(words)]

    def _where(self) -> list[str]:
        """Return the option of docker that tells a script the database; unsaid, it finds one."""
        known = self.database not in {"", "postgres"}
        return ["--env", f"PGHERD_DATABASE={self.database}"] if known else []

    def offline(
        self,
        image: Image,
        script: Script,
        *,
        network: bool = False,
        mounts: Sequence[Mount] | None = None,
        readonly: bool = False,
        **options: Any,
    ) -> str:
        """Run a script as root in a container of its own on this node's files; return its output.

        Whoever calls has seen that no server runs on them. `mounts` stand in place of all of the
        node's directories, or of the two that a container has which only looks.

        Raises:
            ScriptFailed: with the script's exit code.
        """
        if mounts is None and not readonly:
            self.make_tablespaces()
            mounts = self.all_mounts()
        chosen = self.mounts(readonly) if mounts is None else mounts
        words = ["--network", self.places.network if network else "none"]
        words += ["--env", f"PGDATA={PGDATA}", *self._where(), *label_options(self.labels())]
        words += [word for mount in chosen for word in ("--mount", mount.option())]
        places = [mount for mount in chosen if mount.target in self.node.tablespaces]
        if any(mount.target == PGDATA and not mount.readonly for mount in chosen):
            own = scripts.fragment("own") if places else ""
            script = Script((scripts.fragment("hold") + own,)) + script
        if places:
            head = assignments(tablespaces=" ".join(mount.target for mount in places))
            script = Script((head,)) + script
        # One that only looks may do so beside another run, and keeps nobody from working.
        name = f"{self.helper}-look-{token_hex(4)}" if readonly else self.helper
        result = self.engine.once(name, image, words, script, **options)
        return self._checked(result, chosen)

    def mounts(self, readonly: bool = False) -> list[Mount]:
        """Return the node's data and private directories, as a container has them."""
        volume = self.node.volume
        data = Mount(volume or self.places.data, PGDATA, volume is not None, readonly)
        return [data, Mount(self.places.private, PRIVATE, readonly=readonly)]

    def tablespace_mounts(self, readonly: bool = False) -> list[Mount]:
        """Return the places of the node's tablespaces, as a container has them."""
        found = []
        for inside, place in self.node.tablespaces.items():
            volume = volume_of(place)
            source = volume or self.places.tablespaces[inside]
            found.append(Mount(source, inside, volume is not None, readonly))
        return found

    def data_mounts(self, readonly: bool = False) -> list[Mount]:
        """Return all that is the node's data: its data directory first, then its tablespaces."""
        return [self.mounts(readonly)[0], *self.tablespace_mounts(readonly)]

    def all_mounts(self) -> list[Mount]:
        """Return all of the node's directories, as a container has them that works on them."""
        return [*self.mounts(), *self.tablespace_mounts()]

    def make_tablespaces(self) -> None:
        """Make the places of the node's tablespaces where they are not there yet.

        Raises:
            Refused: one cannot be made.
        """
        for mount in self.tablespace_mounts():
            if mount.volume:  # it says nothing where it is there
                label = f"{GROUP_LABEL}={self.group}"
                self.engine.must(docker["volume", "create", "--label", label, mount.source])
        directories = [mount.source for mount in self.tablespace_mounts() if not mount.volume]
        if directories:
            result = self.host.run(Tool("mkdir")["-p", "--", directories])
            if not result.ok:
                raise Refused(f"{self.name}: a directory cannot be made: {result.err.strip()}")

    def there(self, mounts: Sequence[Mount]) -> list[Mount]:
        """Return those of some mounts whose directory or volume is there."""
        if not mounts:
            return []
        words = [word for m in mounts for word in ("volume" if m.volume else "path", m.source)]
        said = self.engine.run(Tool("sh")["-s", "--", words], stdin=Script((_THERE,)), reads=True)
        return [m for m, there in zip(mounts, said.out.split(), strict=False) if there == "yes"]

    def _checked(self, result: Result, mounts: Sequence[Mount] = ()) -> str:
        if result.code == TIMED_OUT:
            raise DeadlinePassed(f"{self.name} did not get there in time.\n{self.log_tail()}")
        if result.code == datadir.HELD and datadir.SENTENCE in result.err:
            raise datadir.describe_holder(self, mounts)
        if not result.ok:
            raise ScriptFailed(self.name, result, self.node.data)
        return result.out

    # --- what is ---

    def facts(self) -> Facts:
        """Ask the running server what it is.

        Raises:
            Error: it does not answer.
        """
        return Facts.parse(self.query(scripts.sql("facts")))

    def written_since(self, timeline: int, start: str | None) -> Beyond | None:
        """Count what the running server has in its WAL of a timeline after a position.

        Without one it is what it wrote since its last checkpoint began. None where nothing is
        found, as where that WAL is not there any more.

        Raises:
            Error: it does not answer, or that takes too long.
        """
        values = {"from": start, "start": start} if start else {}
        pieces = ["beyond"] if start else [_SINCE_CHECKPOINT, "beyond"]
        script = scripts.compose(*pieces, timeline=timeline, **values)
        return Beyond.read(self.execute(script, COUNT_SECONDS, reads=True), start or "0/0")

    def query(self, text: str, timeout: float = 60.0) -> str:
        """Run SQL that changes nothing, as superuser on the socket; return psql's bare output."""
        return self.psql(text, timeout, reads=True)

    def psql(self, text: str, timeout: float = 60.0, *, reads: bool = False) -> str:
        """Run SQL from stdin, as superuser on the socket; stop at the first error."""
        return self.execute(scripts.compose(scripts.statements(text)), timeout, reads=reads)

    def disk(self, image: Image, *, data: bool = True) -> Disk:
        """Look at the data directory of a server that is down, and at our marks beside it.

        Without `data` only at the marks: where a directory is not there, nothing is made of it.
        """
        there = self.host.run(Tool("test")["-d", self.places.private], reads=True).ok
        mounts = self.mounts(readonly=True)
        chosen = [mounts[0]] * data + [mounts[1]] * there
        if not chosen:
            return Disk()
        places = self.there(self.tablespace_mounts(readonly=True)) if data else []
        said = self.offline(
            image, scripts.compose("examine"), mounts=[*chosen, *places], reads=True
        )
        return self.with_tablespaces(Disk.parse(said), places)

    def with_tablespaces(self, disk: Disk, there: Sequence[Mount]) -> Disk:
        """Return what lies in the data directory, with what tablespaces lack whose place is gone.

        `there` are the places that were there.
        """
        away = self.node.tablespaces.keys() - {mount.target for mount in there}
        gone = [o.path for o in disk.outside if any(within(o.path, inside) for inside in away)]
        return replace(disk, gone=(*disk.gone, *gone), unready=disk.unready or bool(away))

    def wait_ready(self, seconds: int = READY_SECONDS) -> None:
        """Wait until the server answers over TCP."""
        self.execute(scripts.compose("ready", seconds=seconds), seconds + 30.0)
