"""The sentence for each fault that a single value of a topology can have."""

# ruff: noqa: E501 (a fault and its sentence stand on one line)
from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgherd.config import loader
from pgherd.errors import Refused

GOOD = """
[group]
name = "pair"
sync = "FIRST 1 (standby1)"
[nodes.pmaster]
port = 5432
data = "data/pmaster_data"
[nodes.pstandby]
port = 5433
data = "data/pstandby_data"
upstream = "pmaster"
application_name = "standby1"
"""


# A line of the file, and the fault it makes. The section stands before the key, with spaces.
VALUES = r"""
[group] imgae = "x"      -> group.imgae: unknown key (did you mean image?)
[group] zzz = 1          -> group.zzz: unknown key (known are name, image, sync, strict, initdb, database, tls, tls_ca, tls_ca_key, tls_client_certificates)
[group] hosts.a.root = 1 -> group.hosts: unknown key (known are name, image, sync, strict, initdb, database, tls, tls_ca, tls_ca_key, tls_client_certificates)
[group] strict = 1       -> group.strict: must be true or false, not 1
[group] image = 17       -> group.image: must be text in quotes, not 17
[group] image = "-x"     -> group.image: must be an image, not "-x"
[group] image = "a b"    -> group.image: must be an image, not "a b"
[group] initdb = ""      -> group.initdb: must be a path, not ""
[group] name = "a b"     -> group.name: must be 1 to 63 <name>, not "a b"
[group] sync = [1]       -> group.sync: must be text in quotes, not a list
[group] sync = "2 (a)"   -> group.sync: waits for 2 standbys but 1 name is listed, so every commit would hang
[nodes.pstandby] adress = 1     -> nodes.pstandby.adress: unknown key (did you mean address?)
[nodes.pstandby] "a b" = 1      -> nodes.pstandby."a b": unknown key (known are host, port, listen, address, data, upstream, application_name, settings, tablespaces)
[nodes.pstandby] name = "other" -> nodes.pstandby.name: is the table's own name: leave this out
[nodes.pstandby] port = "54x"   -> nodes.pstandby.port: must be a whole number from 1 to 65535, not "54x"
[nodes.pstandby] port = true    -> nodes.pstandby.port: must be a whole number from 1 to 65535, not true
[nodes.pstandby] port = 0       -> nodes.pstandby.port: must be a whole number from 1 to 65535, not 0
[nodes.pstandby] port = 65536   -> nodes.pstandby.port: must be a whole number from 1 to 65535, not 65536
[nodes.pstandby] port = 54.0    -> nodes.pstandby.port: must be a whole number from 1 to 65535, not 54.0
[nodes.pstandby] port = 0xLONG  -> nodes.pstandby.port: must be a whole number from 1 to 65535, not so long a number
[nodes.pstandby] port = {}      -> nodes.pstandby.port: must be a whole number from 1 to 65535, not a table
[nodes.pstandby] data = ""      -> nodes.pstandby.data: must be a path or volume:NAME, without control characters, not ""
[nodes.pstandby] data = "a\nb"  -> nodes.pstandby.data: must be a path or volume:NAME, without control characters, not "a\nb"
[nodes.pstandby] data = "/"     -> nodes.pstandby.data: must be a directory of the node's own, not "/"
[nodes.pstandby] data = "~x/y"  -> nodes.pstandby.data: must begin with ~/ for the home directory, not "~x/y"
[nodes.pstandby] data = "volume:-" -> nodes.pstandby.data: the volume's name must be 2 to 63 <name>
[nodes.pstandby] data = 2026-01-01 -> nodes.pstandby.data: must be text in quotes, not a date or time
[nodes.pstandby] listen = "here"   -> nodes.pstandby.listen: must be an IP address of its host, like 127.0.0.1 or 0.0.0.0, not "here"
[nodes.pstandby] address = "a,b"   -> nodes.pstandby.address: must be one host name or IP address, without port, not "a,b"
[nodes.pstandby] host = "-oX=y"    -> nodes.pstandby.host: must be "local" or an SSH destination <forms>, not "-oX=y"
[nodes.pstandby] host = "ada@box:99999" -> nodes.pstandby.host: must be "local" or an SSH destination <forms>, not "ada@box:99999"
[nodes.pstandby] host = "ssh://ada@box" -> nodes.pstandby.host: must be "local" or an SSH destination <forms>, not "ssh://ada@box"
[nodes.pstandby] upstream = 1      -> nodes.pstandby.upstream: must be text in quotes, not 1
[nodes.pstandby] application_name = "é" -> nodes.pstandby.application_name: must be 1 to 63 printable ASCII characters (PostgreSQL alters others), not "é"
[nodes.pstandby] application_name = "*" -> nodes.pstandby.application_name: cannot be *, which means every standby in group.sync
[nodes.pstandby] settings = 1           -> nodes.pstandby.settings: must be a table, not 1
[nodes.pstandby] settings.work_mem = [] -> nodes.pstandby.settings.work_mem: must be text, a number, true or false, not a list
[nodes.pstandby] settings.a.b = "x"     -> nodes.pstandby.settings.a: must be text, a number, true or false, not a table
[nodes.pstandby] settings.work_mem = nan -> nodes.pstandby.settings.work_mem: must be text, a number, true or false, not nan
[nodes.pstandby] settings.x = "a\nb"     -> nodes.pstandby.settings.x: must be one line, not "a\nb"
[nodes.pstandby] settings."a b" = 1      -> nodes.pstandby.settings."a b": is no name of a PostgreSQL setting
[nodes.pstandby] settings.Port = 1       -> nodes.pstandby.settings.Port: cannot be set here: inside its container a server has 5432; the node's port is what is published
[nodes.pstandby] settings.wal_level = "Minimal" -> nodes.pstandby.settings.wal_level: cannot be minimal: standbys need replica or logical
[nodes.pstandby] settings.hot_standby = false   -> nodes.pstandby.settings.hot_standby: cannot be off: a standby that answers no queries cannot be checked
[nodes.pstandby] settings.allow_alter_system = "No" -> nodes.pstandby.settings.allow_alter_system: cannot be off: pgherd sets synchronous_standby_names and primary_conninfo of running servers by ALTER SYSTEM
[nodes.pstandby] settings.hot_standby = "of"    -> nodes.pstandby.settings.hot_standby: cannot be off: a standby that answers no queries cannot be checked
[nodes.pstandby] settings.max_wal_senders = "1" -> nodes.pstandby.settings.max_wal_senders: must be 2 or more, not "1"
[nodes.pstandby] settings.max_replication_slots = 0 -> nodes.pstandby.settings.max_replication_slots: must be 1 or more, not 0
[nodes.pstandby] settings = {A = 1, a = 2} -> nodes.pstandby.settings.a: stands twice: PostgreSQL does not tell its letters' case apart
[hosts.box] root = "x"   -> hosts.box.root: must begin with / or ~/, not "x"
[hosts.box] rot = "/x"   -> hosts.box.rot: unknown key (did you mean root?)
[hosts.local] root = "/" -> hosts.local.root: must begin with / or ~/, not "/"
[nodes.p] port = 1       -> nodes.p: must be 2 to 63 <name>, not "p"
[nodes."é-"] port = 1    -> nodes."é-": must be 2 to 63 <name>, not "é-"
[nodes.pstandby] tablespaces = 3 -> nodes.pstandby.tablespaces: must be a table, not 3
[nodes.pstandby] tablespaces."/f" = 3 -> nodes.pstandby.tablespaces."/f": must be text in quotes, not 3
[nodes.pstandby] tablespaces."/f" = "/" -> nodes.pstandby.tablespaces."/f": must be a directory of the node's own, not "/"
[nodes.pstandby] tablespaces."/etc" = "x" -> nodes.pstandby.tablespaces."/etc": cannot be /etc inside of the container: there is /etc/pgherd
[nodes.pstandby] tablespaces."/usr/x" = "x" -> nodes.pstandby.tablespaces."/usr/x": cannot be /usr/x inside of the container: it is the system's (/usr)
[nodes.pstandby] tablespaces."f/../x" = "x" -> nodes.pstandby.tablespaces."f/../x": is no path inside of a container, like "/srv/fast": absolute, of letters, digits, _ . and -
[nodes.pother] port = 1  -> nodes.pother.data: missing
[gruop] name = "x"       -> gruop: unknown key (did you mean group?)
"""
NAME = "characters, letters, digits, _ . and -, beginning with a letter or a digit"
FORMS = "(an alias of ssh_config, ada@box, ada@box:2222 or [2001:db8::1]:2222)"


@pytest.mark.parametrize("case", VALUES.strip().splitlines())
def test_every_fault_has_its_sentence(tmp_path: Path, case: str) -> None:
    case = case.replace("LONG", "f" * 5000).replace("<name>", NAME).replace("<forms>", FORMS)
    line, fault = case.split(" -> ")
    section, added = line.strip().split(" ", 1)
    key = re.escape(added.split(" = ")[0])
    tables = GOOD.replace("\n[", "\0[").split("\0") + [section] * (section not in GOOD)
    changed = [
        re.sub(rf"(?m)^{key} = .*$", "", table) + f"\n{added}"
        if table.startswith(section)
        else table
        for table in tables
    ]
    path = tmp_path / "x.toml"
    path.write_text("\n".join(changed), encoding="utf-8")
    with pytest.raises(Refused) as caught:
        loader.load(path, {})
    head, *lines = str(caught.value).split("\n  ")
    assert head == f"{path}: " + ("1 fault:" if len(lines) == 1 else f"{len(lines)} faults:")
    assert fault.strip() in lines
