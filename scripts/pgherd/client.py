"""A connection as an application makes it: to the published port, with a password."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from contextlib import suppress
from typing import Any, Self

import psycopg
from psycopg.sql import Composable

from pgherd.group.group import Group
from pgherd.hosts.commands import Trace
from pgherd.postgres.conf import APPLICATION_SESSION, SESSION, SUPERUSER_SESSION, session_options
from pgherd.postgres.instance import Instance

CONNECT_SECONDS = 5
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # PostgreSQL manual, message formats: SSLRequest
# Ends a query that a lock holds up. It does not end a COMMIT that waits for a standby: PostgreSQL
# switches it off before (postgres.c, finish_xact_command); whoever commits has a watch for that.
STATEMENT_TIMEOUT = "10s"
SINCE_17 = 170000
PROBE = '"pgherd_probe'  # how the table begins that verify makes: what is read of it is shown
# Where libpq could not even talk to a server: its own words.
NOT_THERE = re.compile(r"refused|timeout|timed out|No route|unreachable|translate host")

Connection = psycopg.Connection[tuple[object, ...]]


def connect(
    group: Group,
    instance: Instance,
    application_name: str,
    *,
    as_application: bool = False,
    shown: bool = False,
) -> Connection:
    """Connect to a node as superuser, in autocommit.

    The session begins from known settings, or `as_application` from those that the server gives to
    any: only its deadlines are ours then. With `shown`, `--echo` shows its statements.

    Raises:
        psycopg.OperationalError: it does not answer, or takes no such password.
        Unreachable: its host does not let it be reached.
    """
    known = {**(APPLICATION_SESSION if as_application else SESSION | SUPERUSER_SESSION)}
    known |= {"statement_timeout": STATEMENT_TIMEOUT, **instance.further_deadlines}
    secret = group.passwords.known("postgres")
    parameters = {
        **_way(group, instance),
        "require_auth": "!password",  # never in clear to whoever answers there
        "user": "postgres",
        "password": secret.value if secret else "",
        "connect_timeout": CONNECT_SECONDS,
        "application_name": application_name,
        "options": session_options(known),
        "autocommit": True,
        "client_encoding": "utf8",  # a database in SQL_ASCII would answer in bytes
        "passfile": str(group.secrets / "none"),  # the user's own must not stand in for the group's
    }
    try:
        connection = psycopg.connect(**parameters, dbname=instance.database or "postgres")
    except psycopg.OperationalError as fault:
        if instance.database or NOT_THERE.search(str(fault)):
            raise
        instance.database = _other_database(parameters)
        if not instance.database:
            raise
        connection = psycopg.connect(**parameters, dbname=instance.database)
    shows = _showing(group.trace, instance.name) if shown else connection.cursor_factory
    if connection.info.server_version < SINCE_17 or instance.further_deadlines:
        connection.cursor_factory = shows
        return connection
    instance.further_deadlines = {"transaction_timeout": "0"}
    try:
        connection.execute("SET transaction_timeout = 0")
    except psycopg.Error:  # it was that short
        connection.close()
        return connect(
            group, instance, application_name, as_application=as_application, shown=shown
        )
    connection.cursor_factory = shows
    return connection


def _showing(trace: Trace, node: str) -> type[psycopg.Cursor[Any]]:
    """Return a cursor that shows statements with what the server answered, with `--echo`.

    Those of verify's own table are, and what was refused; the others only look.
    """
    told = set[str]()  # a try is not told a second time, as it is done

    class Showing(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
            text = query.as_string(self) if isinstance(query, Composable) else query
            text = text.decode() if isinstance(text, bytes) else str(text)
            text = " ".join(text.split())
            try:
                done = super().execute(query, params, **options)
            except psycopg.Error as fault:
                trace.show(
                    f"psql on {node}: {text}  -- {fault.sqlstate}: {fault.diag.message_primary}"
                )
                raise
            if PROBE in text and text not in told:
                told.add(text)
                trace.show(f"psql on {node}: {text}  -- {self.statusmessage}")
            return done

    return Showing if trace.echo else psycopg.Cursor


def _other_database(parameters: dict[str, Any]) -> str:
    """Return the first database that takes connections and is no template; empty if none is told.

    template1 is for this question alone: a session there keeps others from making databases.
    """
    query = (
        "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate "
        "ORDER BY oid LIMIT 1"
    )
    with suppress(psycopg.Error), psycopg.connect(**parameters, dbname="template1") as connection:
        row = connection.execute(query.encode()).fetchone()
        return str(row[0]) if row and row[0] != "postgres" else ""
    return ""


def _way(group: Group, instance: Instance) -> dict[str, Any]:
    """Return where a node is reached; with TLS by a name that its certificate has, and verified.

    What is connected to may be the end of a tunnel here.
    """
    host, port = instance.host.reach(instance.node.published_at, instance.node.port)
    if not instance.encryption.on:
        return {"host": host, "port": port, "sslmode": "prefer"}
    place = {"host": host}  # the node's `address`, where it is a name
    with suppress(ValueError):
        place = {"hostaddr": str(ipaddress.ip_address(host)), "host": instance.name}
    return {
        **place,
        "port": port,
        "sslmode": "verify-full",
        "sslrootcert": str(group.certificates.root),
        "channel_binding": "require",
    }


class NoTls(OSError):
    """A server answers that it speaks no TLS."""


def fetch_certificate(instance: Instance) -> bytes:
    """Return the certificate that a server shows now to who connects, in DER; nothing is verified.

    Raises:
        OSError: it does not answer, or (NoTls) has no TLS.
        Unreachable: its host does not let it be reached.
    """
    place = instance.host.reach(instance.node.published_at, instance.node.port)
    looking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    looking.check_hostname = False
    looking.verify_mode = ssl.CERT_NONE  # what it is, is to be shown, whatever it is
    with socket.create_connection(place, CONNECT_SECONDS) as plain:
        plain.sendall(SSL_REQUEST)
        if plain.recv(1) != b"S":
            raise NoTls("the server has no TLS")
        with looking.wrap_socket(plain) as wrapped:
            return wrapped.getpeercert(binary_form=True) or b""


def cut(connection: Connection) -> None:
    """End a connection that another thread may be waiting on: closing it would not end that."""
    with suppress(OSError, psycopg.Error):
        end = socket.socket(fileno=os.dup(connection.fileno()))
        end.shutdown(socket.SHUT_RDWR)
        end.close()
