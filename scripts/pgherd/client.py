"""A connection as an application makes it: to the published port, with a password."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from contextlib import suppress
from typing import Any

import psycopg

from pgherd.postgres.group import Group
from pgherd.postgres.instance import Instance

CONNECT_SECONDS = 5
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # PostgreSQL manual, message formats: SSLRequest
# Ends a query that a lock holds up. It does not end a COMMIT that waits for a standby: PostgreSQL
# switches it off before (postgres.c, finish_xact_command); whoever commits has a watch for that.
STATEMENT_TIMEOUT = "10s"

Connection = psycopg.Connection[tuple[object, ...]]


def connect(group: Group, instance: Instance, application_name: str) -> Connection:
    """Connect to a node as superuser, in autocommit.

    Raises:
        psycopg.OperationalError: it does not answer, or takes no such password.
        Unreachable: its host does not let it be reached.
    """
    secret = group.passwords.known("postgres")
    return psycopg.connect(
        **_way(group, instance),
        require_auth="!password",  # never in clear to whoever answers there
        user="postgres",
        password=secret.value if secret else "",
        dbname="postgres",
        connect_timeout=CONNECT_SECONDS,
        application_name=application_name,
        options=f"-c statement_timeout={STATEMENT_TIMEOUT}",
        autocommit=True,
        client_encoding="utf8",  # a database in SQL_ASCII would answer in bytes
        passfile=str(group.secrets / "none"),  # the user's own must not stand in for the group's
    )


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


def shown_certificate(instance: Instance) -> bytes:
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
