"""Who receives WAL and is no standby of the group: a logical consumer as applications have it.

It speaks the protocol of replication itself, since what is wanted is one that misbehaves.
"""

from __future__ import annotations

import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import Herd
from psycopg import pq
from psycopg.pq.abc import PGconn

NAME = "debezium"
PAUSE = 0.05  # before it connects anew


class Consumer(threading.Thread):
    """A logical consumer that answers what it is asked, and comes back where it is cut off.

    Attributes:
        confirms: whether it confirms what it was sent; else it answers that it has nothing.
        slot: its replication slot, which is there once `connected` is set.
    """

    def __init__(self, herd: Herd, role: str, *, plugin: str, confirms: bool) -> None:
        super().__init__(daemon=True)
        self.confirms = confirms
        self.slot = "consumer"
        self.connected = threading.Event()
        self.ended = threading.Event()
        self._plugin = plugin
        self._conninfo = (
            f"host=127.0.0.1 port={herd.nodes[role]['port']} user=postgres dbname=postgres "
            f"password={herd.password()} replication=database application_name={NAME}"
        )

    def run(self) -> None:
        """Receive until it is told to end."""
        while not self.ended.wait(PAUSE):
            connection = pq.PGconn.connect(self._conninfo.encode())
            if connection.status == pq.ConnStatus.OK:
                self._receive(connection)
            connection.finish()

    def _receive(self, connection: PGconn) -> None:
        connection.exec_(f"CREATE_REPLICATION_SLOT {self.slot} LOGICAL {self._plugin}".encode())
        options = {"pgoutput": " (proto_version '1', publication_names 'p')"}.get(self._plugin, "")
        begun = connection.exec_(
            f"START_REPLICATION SLOT {self.slot} LOGICAL 0/0{options}".encode()
        )
        if begun.status != pq.ExecStatus.COPY_BOTH:
            return
        self.connected.set()
        while not self.ended.is_set():
            length, data = connection.get_copy_data(1)
            if length < 0:
                return
            if length == 0:
                select.select([connection.socket], [], [], 0.2)
                connection.consume_input()
                continue
            message = bytes(data)
            begins = 1 if message[:1] == b"k" else 9  # where the end of what was sent stands
            sent: int = struct.unpack_from("!q", message, begins)[0] if self.confirms else 0
            connection.put_copy_data(b"r" + struct.pack("!qqqqB", sent, sent, sent, 0, 0))
            connection.flush()


@contextmanager
def consuming(
    herd: Herd, role: str, *, plugin: str = "pgoutput", confirms: bool = False
) -> Iterator[Consumer]:
    """Have a logical consumer at work; its slot is gone afterwards from every node."""
    if plugin == "pgoutput":
        herd.sql(role, "CREATE PUBLICATION p FOR ALL TABLES")
    consumer = Consumer(herd, role, plugin=plugin, confirms=confirms)
    consumer.start()
    try:
        assert consumer.connected.wait(30)
        yield consumer
    finally:
        consumer.ended.set()
        consumer.join(30)
        for node in herd.nodes:
            drop_slot(herd, node, consumer.slot)
        herd.sql(herd.primary(), "DROP PUBLICATION IF EXISTS p")


def drop_slot(herd: Herd, role: str, slot: str) -> None:
    """Drop a slot, once whoever has it is gone."""
    gone = "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE"
    active = f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'"
    until_ended = time.monotonic() + 30
    while herd.sql(role, active) and time.monotonic() < until_ended:
        time.sleep(0.1)
    herd.sql(role, f"{gone} slot_name = '{slot}'")
