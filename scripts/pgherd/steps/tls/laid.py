"""What TLS adds to a node: files in its private directory, settings, rules, connection strings.

Each is empty where the group has none. A server reads key and certificate at its start and at each
reload, a standby those that it trusts at each connection.
"""

from __future__ import annotations

import re

from pgherd.certificates import digest
from pgherd.errors import Error
from pgherd.postgres import scripts
from pgherd.postgres.conf import read_conninfo
from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PRIVATE, Instance
from pgherd.rules import Setting
from pgherd.shell import Script, Secret, assignments

STALE = "stale tls"  # what sh/tls-current.sh says
_PARAMETERS = ("sslmode", "sslrootcert", "channel_binding", "sslcert", "sslkey")


def _texts(group: Group, instance: Instance) -> dict[str, Secret]:
    """Return what lies in a node's private directory, by the file's name up to its dot."""
    certificates, node = group.certificates, instance.node
    found = {"server": certificates.of_server(node), "ca": certificates.trusted()}
    if instance.encryption.client_certificates:
        found["client"] = certificates.of_client(node)
    return found


def fragment(group: Group, instance: Instance) -> Script:
    """Return the fragment that lays the node's key and certificates."""
    if not instance.encryption.on:
        return Script()
    laid = Script(("client_pem=\n",))
    for name, text in _texts(group, instance).items():
        laid += scripts.password(f"{name}_pem", text)
    return laid + scripts.fragment("tls")


def current(group: Group, instance: Instance) -> list[str]:
    """Return the fragment that ends a script where what is laid is not as it ought to be.

    None in a script that `--dry` prints: some of it may be made by that very script.
    """
    if not instance.encryption.on or group.trace.dry:
        return []
    return _current(group, instance)


def _current(group: Group, instance: Instance) -> list[str]:
    sums = {f"{name}_sum": digest(text) for name, text in _texts(group, instance).items()}
    return [assignments(**({"client_sum": ""} | sums)), scripts.fragment("tls-current")]


def settings(instance: Instance) -> dict[str, Setting]:
    """Return the settings of a node.

    `ssl_ca_file` only where client certificates are asked for: with it a server asks everybody for
    one, and refuses a client that has one of somebody else's in ~/.postgresql.
    """
    if not instance.encryption.on:
        return {}
    pem = f"{PRIVATE}/server.pem"
    found: dict[str, Setting] = {"ssl": True, "ssl_cert_file": pem, "ssl_key_file": pem}
    if instance.encryption.client_certificates:
        found["ssl_ca_file"] = f"{PRIVATE}/ca.crt"
    least = "ssl_min_protocol_version"
    if least not in map(str.lower, instance.node.settings):
        found[least] = "TLSv1.2"
    return found


def switched_on(instance: Instance) -> list[str]:
    """Return the fragment that has the settings for TLS in force before rules count on them."""
    if not instance.encryption.on:
        return []
    authorities = str(settings(instance).get("ssl_ca_file", ""))
    return [assignments(ssl_ca=authorities), scripts.fragment("tls-on")]


def rule(instance: Instance, text: str) -> str:
    """Return a rule of conf/pg_hba.conf as it is for the node: who is let in, by TLS only."""
    if not instance.encryption.on or text.rsplit(maxsplit=1)[-1] == "reject":
        return text
    shows = " clientcert=verify-full" if instance.encryption.client_certificates else ""
    return re.sub(r"^host\b", "hostssl", text) + shows


def parameters(instance: Instance) -> dict[str, str]:
    """Return what a node's connection string to another node says of TLS."""
    if not instance.encryption.on:
        return {}
    found = {
        "sslmode": "verify-full",
        "sslrootcert": f"{PRIVATE}/ca.crt",
        "channel_binding": "require",
    }
    if instance.encryption.client_certificates:
        found |= {"sslcert": f"{PRIVATE}/client.pem", "sslkey": f"{PRIVATE}/client.pem"}
    return found


def told(facts: Facts) -> dict[str, str]:
    """Return what a standby's connection string says of TLS."""
    said = read_conninfo(facts.primary_conninfo)
    return {name: said[name] for name in _PARAMETERS if name in said}


def as_asked(instance: Instance, facts: Facts) -> bool:
    """Tell whether a standby connects with TLS, or without it, as the topology asks."""
    return told(facts) == parameters(instance)


def seen_stale(group: Group, instance: Instance) -> bool:
    """Look whether a server that runs has other files than it ought to, as `--dry` has to know.

    One that does not run yet was given them when it was made.
    """
    if not instance.encryption.on:
        return False
    script = scripts.compose(*_current(group, instance))
    try:
        return STALE in instance.execute(script, reads=True)
    except Error:
        return False
