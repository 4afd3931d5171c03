"""Connections as an application makes them: to the published port, with a password."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import psycopg

from pgherd.client import Connection, connect, cut
from pgherd.config import loader
from pgherd.errors import DeadlinePassed, Unreachable
from pgherd.group.group import Group
from pgherd.hosts.parallel import run_all
from pgherd.postgres import scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance

NAME = "pgherd verify"
STARTING_SECONDS = 5.0
UNTRUSTED = "certificate verify failed"  # of libpq, by OpenSSL's words
SHOW_CERTIFICATES = "`invoke tls` shows what it has, `invoke diff` what mends it"
WATCH_SECONDS = 180.0  # longer than all single waits of a verify that goes badly


@dataclass(frozen=True)
class Client:
    """One node through its published port.

    Attributes:
        instance: the node.
        connection: None where it does not answer.
        fault: why not.
        away: not even its host can be reached.
        further: makes another connection, that begins as any application's does.
    """

    instance: Instance
    connection: Connection | None
    fault: str = ""
    away: bool = False
    further: Callable[[], Connection] | None = None

    def ask(self, query: str, *values: object) -> object:
        """Return the first column of the first row; None if there is no row."""
        row = self.live.execute(query.encode(), values or None).fetchone()
        return row[0] if row else None

    @property
    def live(self) -> Connection:
        """The connection.

        Raises:
            Unreachable: the node did not answer.
        """
        if self.connection is None:
            raise Unreachable(self.fault)
        return self.connection

    def connect_application(self) -> Connection:
        """Make another connection, which begins with the settings that any application gets.

        Raises:
            psycopg.OperationalError: it gets none.
        """
        if self.further is None:
            raise Unreachable(self.fault)
        return self.further()

    def facts(self) -> Facts:
        """Return what the server says of itself."""
        answer = self.ask(scripts.sql("facts"))
        if not isinstance(answer, dict):
            raise Unreachable(f"{self.instance.name} gave no answer")
        return Facts.of(answer)


@contextmanager
def connect_all(group: Group) -> Iterator[dict[str, Client]]:
    """Connect to every node of the group at once; one that does not answer has its fault said.

    After `WATCH_SECONDS` in all the connections are cut, so that a server that stands still (a
    paused container, a stalled disk) holds up nobody: `statement_timeout` is the server's own.

    Raises:
        DeadlinePassed: the connections were cut.
        Unreachable: none of the hosts can be reached.
    """
    loader.forget_libpq_variables()
    with ExitStack() as stack:
        made = run_all(lambda i: _attempt(group, i), list(group.instances.values()))
        if made and all(client.away for client in made):
            raise Unreachable(made[0].fault)
        live = [client.connection for client in made if client.connection]
        for connection in live:
            stack.callback(connection.close)

        def further(instance: Instance) -> Connection:
            connection = connect(group, instance, NAME, as_application=True, shown=True)
            live.append(connection)
            stack.callback(connection.close)
            return connection

        clients = {c.instance.name: replace(c, further=partial(further, c.instance)) for c in made}
        late = threading.Event()
        watch = threading.Timer(WATCH_SECONDS, _cut, [live, late])
        watch.daemon = True
        watch.start()
        stack.callback(watch.cancel)
        try:
            yield clients
        except psycopg.Error as fault:
            if late.is_set():
                raise DeadlinePassed(
                    f"verify took more than {WATCH_SECONDS:g} s: {fault}"
                ) from None
            raise Unreachable(f"verify was cut short: {fault}") from None


def _attempt(group: Group, instance: Instance) -> Client:
    """Connect; a server that is just starting gets a moment."""
    try:
        instance.host.reach(instance.node.published_at, instance.node.port)
    except Unreachable as fault:
        return Client(instance, None, fault.sentence, away=True)
    if group.passwords.known("postgres") is None:
        missing = group.passwords.path("postgres")
        return Client(instance, None, f"{missing} is missing: write the role's password there")
    end = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            return Client(instance, connect(group, instance, NAME, shown=True))
        except psycopg.OperationalError as fault:
            # Servers say "the database system is starting up", "… not yet accepting connections".
            if "the database system is" not in str(fault) or time.monotonic() > end:
                return Client(instance, None, _sentence(group, instance, str(fault)))
        time.sleep(0.1)


def _cut(connections: list[Connection], late: threading.Event) -> None:
    late.set()
    for connection in connections:
        cut(connection)


def _sentence(group: Group, instance: Instance, said: str) -> str:
    if UNTRUSTED in said:  # libpq has these words for one that has expired as well
        return (
            f"{instance.node.place} shows a certificate that is not by the authority in "
            f"{group.certificates.root}, or has expired: {UNTRUSTED}"
        )
    return f"{instance.node.place} does not answer: {' '.join(said.split())}"


# --- what a primary wrote has come to a standby ---

REPLAYED_TO = "pg_last_wal_replay_lsn()"
# What is replayed was received, also before the last start, of which the first function is silent.
RECEIVED_TO = "greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
REPLAYED = f"SELECT {REPLAYED_TO} >= %s::pg_lsn"
RECEIVED = f"SELECT {RECEIVED_TO} >= %s::pg_lsn"


def replays(standby: Client, target: str, timeout: float) -> bool:
    """Wait until the standby has replayed up to a WAL position of the primary."""
    return _reaches(standby, REPLAYED, target, timeout)


def arrives(standby: Client, facts: Facts, target: str, timeout: float) -> bool:
    """Wait until the standby has replayed up to there; a delayed one, until it has it on disk."""
    query = RECEIVED if facts.apply_delay else REPLAYED
    return _reaches(standby, query, target, timeout)


def delay(facts: Facts) -> str:
    """Return by how much a standby replays later than it receives, as one says it."""
    seconds = facts.apply_delay / 1000
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def _reaches(standby: Client, query: str, target: str, timeout: float) -> bool:
    end = time.monotonic() + timeout
    while not standby.ask(query, target):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
