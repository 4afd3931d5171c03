"""The process that load.py starts: it inserts rows, and writes down what the servers said.

Its orders come by stdin as a line of JSON (see `Orders`); when stdin ends, it ends. It writes a
line of JSON for each insert, at once, to a file. It speaks libpq's asynchronous functions, so that
each wait has an end of its own: psycopg's `execute` would wait for a silent server for ever.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq import abc

ANSWER_SECONDS = 1.0  # for one node to take a connection
# The timeline is the server's own word for which history it writes on.
INSERT = (
    b"INSERT INTO load_rows (id) VALUES ($1) "
    b"RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
)
_READY = {pq.PollingStatus.READING: select.POLLIN, pq.PollingStatus.WRITING: select.POLLOUT}


class Lost(Exception):
    """There is no connection, or none any more; or a server said no."""


@dataclass(frozen=True)
class Orders:
    """What to do.

    Attributes:
        run: the beginning of every id.
        places: address and port of each node.
        password: of the superuser.
        clients: how many connections insert.
        every: seconds between two inserts of a client.
        give_up: seconds until an insert without an answer is given up.
        pause: seconds before the next try to connect.
        file: where the lines go.
    """

    run: str
    places: list[tuple[str, int]]
    password: str
    clients: int
    every: float
    give_up: float
    pause: float
    file: str


def wait(connection: abc.PGconn, status: pq.PollingStatus, end: float) -> None:
    """Wait until the socket is ready. Raises Lost at the time `end`."""
    poll = select.poll()
    poll.register(connection.socket, _READY[status])
    if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        raise Lost("no answer")


def connect(address: str, port: int, password: str) -> abc.PGconn:
    """Connect to one node, if it takes writes. Raises Lost if not, or not soon."""
    info = make_conninfo(
        "", host=address, port=port, user="postgres", password=password, dbname="postgres",
        application_name="load", target_session_attrs="read-write",
    )  # fmt: skip
    end = time.monotonic() + ANSWER_SECONDS
    connection: abc.PGconn = pq.PGconn.connect_start(info.encode())
    try:
        status = pq.PollingStatus.WRITING
        while status in _READY and connection.status != pq.ConnStatus.BAD:
            wait(connection, status, end)
            status = pq.PollingStatus(connection.connect_poll())
    except BaseException:
        connection.finish()
        raise
    if connection.status != pq.ConnStatus.OK:
        said = connection.get_error_message()
        connection.finish()
        raise Lost(said)
    connection.nonblocking = 1
    return connection


def insert(connection: abc.PGconn, name: str, end: float) -> str:
    """Insert a row and return the timeline that it was committed on.

    Raises:
        Lost: an error, a warning (a commit that no longer waits for its standby), or no answer.
    """
    warnings: list[str] = []
    connection.notice_handler = lambda said: warnings.append(
        (said.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
    )
    try:
        connection.send_query_params(INSERT, [name.encode()])
        while connection.flush():
            wait(connection, pq.PollingStatus.WRITING, end)
        results: list[abc.PGresult] = []
        while True:
            while connection.is_busy():
                wait(connection, pq.PollingStatus.READING, end)
                connection.consume_input()
            if (result := connection.get_result()) is None:
                break
            results.append(result)
    except psycopg.Error as fault:
        raise Lost(str(fault)) from None
    for result in results:
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise Lost(result.get_error_message())
    if warnings or not results:
        raise Lost("; ".join(warnings) or "no result")
    return (results[0].get_value(0, 0) or b"").decode()


class Client(threading.Thread):
    """One connection after the other; each has a row under way, or none."""

    def __init__(self, number: int, orders: Orders, out: IO[str], ending: threading.Event) -> None:
        super().__init__(daemon=True)
        self.number, self.orders, self.out, self.ending = number, orders, out, ending
        turn = number % len(orders.places)  # so that all nodes are somebody's first choice
        self.places = orders.places[turn:] + orders.places[:turn]
        self.connection: abc.PGconn | None = None
        self.port = 0

    def run(self) -> None:
        """Insert until the end is asked for; where nobody takes writes, look for one who does."""
        count, tick = 0, time.monotonic()
        while not self.ending.wait(max(0.0, tick - time.monotonic())):
            if self.connection is None and not self.connected():
                tick = time.monotonic() + self.orders.pause
                continue
            count += 1
            self.one(f"{self.orders.run}-{self.number}-{count}")
            now = time.monotonic()
            tick = (
                max(tick + self.orders.every, now) if self.connection else now + self.orders.pause
            )
        if self.connection:
            self.connection.finish()

    def connected(self) -> bool:
        """Try the nodes in turn, as libpq does; tell whether one takes writes."""
        for address, port in self.places:
            try:
                self.connection, self.port = connect(address, port, self.orders.password), port
            except (Lost, psycopg.Error):  # refused, away, starting, a standby: the next one
                continue
            return True
        return False

    def one(self, name: str) -> None:
        """Insert one row and write down what became of it."""
        assert self.connection
        timeline = why = ""
        begun = time.monotonic()
        try:
            timeline = insert(self.connection, name, begun + self.orders.give_up)
        except Lost as fault:
            why = " ".join(str(fault).split()) or "lost"
        ended = time.monotonic()
        line = {"id": name, "begun": begun, "ended": ended, "port": self.port}
        self.out.write(json.dumps({**line, "timeline": timeline, "why": why}) + "\n")
        if why:
            self.connection.finish()
            self.connection = None


def main() -> None:
    """Read the orders, and insert until stdin ends."""
    orders = Orders(**json.loads(sys.stdin.readline()))
    ending = threading.Event()
    with Path(orders.file).open("w", buffering=1, encoding="utf-8") as out:
        clients = [Client(number, orders, out, ending) for number in range(orders.clients)]
        for client in clients:
            client.start()
        sys.stdin.read()
        ending.set()
        for client in clients:
            client.join(orders.give_up + len(orders.places) * ANSWER_SECONDS + 1)
    os._exit(0)  # whatever a thread may still be waiting for


if __name__ == "__main__":
    main()
