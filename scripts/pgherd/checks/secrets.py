"""The secrets that are looked for, in the forms that files, logs and commands have them in."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from pgherd.checks.base import AuditFinding
from pgherd.config.values import LOCAL
from pgherd.errors import DeadlinePassed, Error
from pgherd.group import preconditions
from pgherd.group.group import Group, Site
from pgherd.group.image import find_image
from pgherd.hosts.base import Host
from pgherd.hosts.commands import Script, Secret, Tool, assignments
from pgherd.postgres import scripts
from pgherd.postgres.instance import PGDATA, Instance

LEAST = 8  # characters; a shorter password stands in too many places by chance
COMMON = frozenset({"password", "passw0rd", "postgres", "postgresql", "replicator", "12345678"})

COMING = frozenset({"ca.coming.pem", "ca.trusted.pem"})  # of the authority that is to be


@dataclass(frozen=True)
class SecretPatterns:
    """One secret of the group.

    Attributes:
        label: a word for it in scripts, of lower case letters and `_`.
        name: what it is, for people.
        secret: its value, and the file that holds it.
        places: where it belongs in a node's container; of a key, the node is said before a colon.
    """

    label: str
    name: str
    secret: Secret
    places: tuple[str, ...] = ()

    @property
    def weak(self) -> bool:
        """Whether it is too common to be looked for, or to be a password."""
        value = self.secret.value
        return len(value) < LEAST or value.lower() in COMMON

    @property
    def anew(self) -> str:
        """How it is made worthless."""
        if not self.label.startswith("key_"):
            return "`invoke rotate-passwords` makes it worthless"
        if self.secret.path.rpartition("/")[2] in COMING:  # another authority is on its way
            return "`invoke tls --renew-ca` until it is the only one, then twice more, replaces it"
        if self.secret.path.endswith(".key"):
            return "`invoke tls --renew-ca` replaces it"
        return "`invoke tls --renew` replaces it"

    def belongs(self, node: str, path: str) -> bool:
        """Tell whether a file of a node's container is where it has to be."""
        return path in self.places or f"{node}:{path}" in self.places

    @property
    def forms(self) -> tuple[str, ...]:
        """How it may be written: as it is, escaped or doubled for a format, as base64.

        A key has more lines than one, of which each is looked for.
        """
        value = self.secret.value
        if "\n" in value:  # a key, of lines of base64
            return tuple(value.splitlines())
        found = [
            value,
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            re.sub(r"([\\'])", r"\\\1", value),  # a connection string
            re.sub(r"([\\:])", r"\\\1", value),  # a passfile
            value.replace("'", "''"),  # SQL
            value.replace("\\", "\\\\").replace("'", "''"),  # postgresql.conf
            value.replace("'", "'\\''"),  # a shell
            shlex.quote(value).removeprefix("'").removesuffix("'"),
            quote(value, safe=""),
            base64.b64encode(value.encode()).decode().rstrip("="),
        ]
        return tuple(dict.fromkeys(found))


def assigned(sought: list[SecretPatterns]) -> Script:
    """Return shell text that sets $labels, and $secret_LABEL to the forms of each secret."""
    script = Script((f"labels='{' '.join(s.label for s in sought)}'\n",))
    for one in sought:
        start = f"secret_{one.label}=$(cat <<'|END-OF-SECRET|'\n"
        forms = Secret("\n".join(one.forms), one.secret.path)
        script += Script((start, forms, "|END-OF-SECRET|\n)\n"))
    return script


def strings(value: object, path: str = "") -> list[tuple[str, str]]:
    """Return all texts within a JSON value, with where each is: `Config.Env[2]`; keys count."""
    if isinstance(value, str):
        return [(path, value)]
    if isinstance(value, Mapping):
        found = [(f"{path}.{key}".lstrip("."), str(key)) for key in value]
        inner = [strings(v, f"{path}.{key}".lstrip(".")) for key, v in value.items()]
    elif isinstance(value, list):
        found, inner = [], [strings(v, f"{path}[{n}]") for n, v in enumerate(value)]
    else:
        return []
    return found + [pair for pairs in inner for pair in pairs]


def holds_secret(sought: SecretPatterns, text: str) -> bool:
    """Tell whether a text has a secret in it."""
    return any(form in text for form in sought.forms)


# --- the look: one script for each host ---

# The secrets go there by stdin and are compared there, by grep; only where they are comes back.
# What docker tells of containers and images comes back as it is, and is searched here.

SECONDS = 300.0  # logs may be long
FIELDS = 7  # the most of any line, so that a file's name may have a tab


@dataclass
class Look:
    """What was seen on one host.

    Attributes:
        host: its name.
        containers: the engine's, as `docker container inspect` has them.
        silent: the names of those whose inspect does not answer.
        images: those that these were made of.
        lines: what the scripts saw on the host, each as a word and its fields.
        nodes: what they saw in each node of the group that could be looked into.
    """

    host: str
    containers: list[dict[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    lines: list[tuple[str, ...]] = field(default_factory=list)
    nodes: dict[str, NodeLook] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The containers' names by id."""
        return {c["Id"]: c["Name"].lstrip("/") for c in self.containers}


@dataclass
class NodeLook:
    """What was seen in one node: the scripts' lines, and what its server says, if one answers.

    Attributes:
        lines: each as a word and its fields.
        server: what `sql/audit.sql` returns.
        gateways: of the container's networks, with their lengths.
        failed: why it could not be looked into, or the server does not answer.
    """

    lines: list[tuple[str, ...]] = field(default_factory=list)
    server: dict[str, Any] | None = None
    gateways: list[str] = field(default_factory=list)
    failed: str = ""


def at_site(group: Group, site: Site, sought: list[SecretPatterns]) -> Look:
    """Look at a host of the group, and into its nodes, those that are down included.

    Raises:
        Unreachable: the host or its engine.
        Error: the look failed.
    """
    here = site.name == LOCAL
    private = [str(group.secrets)] if here else []
    private += [f"{site.private}/{name}" for name in site.instances]
    places = [place for i in site.instances.values() for place in i.data_mounts()]
    data = [place.source for place in places if not place.volume]
    look = _run(site.host, site, sought, private=private, data=data)
    for instance in site.instances.values():
        if instance.name not in look.nodes:
            _look_offline(group, instance, look, sought)
    return look


def at_home(group: Group, sought: list[SecretPatterns]) -> Look:
    """Look at the machine that runs pgherd, where the passwords lie, if no node is there."""
    return _run(group.here, None, sought, private=[str(group.secrets)], data=[], group=group.name)


def _run(
    host: Host,
    site: Site | None,
    sought: list[SecretPatterns],
    *,
    private: list[str],
    data: list[str],
    group: str = "",
) -> Look:
    containers, silent = site.engine.records() if site else ([], [])
    values = assignments(
        images=" ".join(sorted({str(c.get("Image", "")) for c in containers})),
        docker="yes" if site else "",
        group=site.topology.group.name if site else group,
        home=host.home,
        private="\n".join(private),
        data="\n".join(data),
    )
    database = site.topology.group.database if site else ""
    script = (
        _script_head(sought, database) + values + scripts.fragment("search-host") + "exit 0\n}\n"
    )
    run = site.engine.run if site else host.run
    try:
        result = run(Tool("sh")["-s"], stdin=script, timeout=SECONDS, reads=True)
    except DeadlinePassed:  # what it said so far may hold a secret: it is not shown
        raise DeadlinePassed(
            f"The look at {host.name} did not end within {SECONDS:.0f} s. A log of gigabytes, or a "
            "server that stands still?"
        ) from None
    if not result.ok:
        raise Error(f"The look at {host.name} failed: {result.err.strip()[-500:]}")
    look = replace(read(host.name, result.out), containers=containers, silent=silent)
    for word, *fields in look.lines:
        if word == "failed":
            raise Error(f"The look at {host.name} failed: {' '.join(fields)}")
    return look


def _script_head(sought: list[SecretPatterns], database: str = "") -> Script:
    """Return the beginning of a script: its secrets, what searches, and what a node is to run."""
    node = scripts.fragment("search-node").replace("$facts\n", scripts.sql("audit"), 1)
    node = node.replace("$session\n", scripts.session(), 1)
    search = scripts.fragment("search")
    functions = "".join(scripts.function(name) for name in ("gateways", "other_database"))
    inner = f"{assignments(PGHERD_DATABASE=database)}{search}{functions}{node}"
    outer = f"node_script() {{ cat <<'END-OF-NODE'\n{inner}END-OF-NODE\n}}\n"
    return Script(("{\n",)) + assigned(sought) + search + outer


def _look_offline(
    group: Group, instance: Instance, look: Look, sought: list[SecretPatterns]
) -> None:
    """Look at the files of a node whose server does not run, if it has any."""
    records = {c["Name"].lstrip("/"): c for c in look.containers}
    record = records.get(instance.name)
    if record and (record["State"]["Running"] or record["State"]["Restarting"]):
        look.nodes[instance.name] = NodeLook(failed="it could not be looked into")
        return
    if preconditions.data_state(instance) != preconditions.FULL:
        return
    image = find_image(group)
    if image is None:
        look.nodes[instance.name] = NodeLook(failed="its image is gone, and it is down")
        return
    text = f"PGDATA={PGDATA}\nserving=\nfor_node | gosu postgres sh -s postgres\nexit 0\n}}\n"
    said = instance.offline(image, _script_head(sought) + text, readonly=True, reads=True)
    look.nodes[instance.name] = node = NodeLook()
    for line in said.splitlines():
        _into(node, line.split("\t"))
    look.lines.append(("down", instance.name))


def read(host: str, text: str) -> Look:
    """Read what the script of a host printed.

    Raises:
        Error: it is something else.
    """
    look = Look(host)
    try:
        for line in text.splitlines():
            word, _, rest = line.partition("\t")
            if word == "image":
                look.images.append(json.loads(rest))
            elif word == "node":
                name, *fields = rest.split("\t", FIELDS)
                _into(look.nodes.setdefault(name, NodeLook()), fields)
            else:
                look.lines.append((word, *rest.split("\t", FIELDS)))
    except ValueError:
        raise Error(f"What {host} answers cannot be read: is its docker a podman?") from None
    return look


def _into(node: NodeLook, fields: list[str]) -> None:
    word, *rest = fields
    if word == "server":
        node.server = json.loads("\t".join(rest))
    elif word == "gateway":
        node.gateways.append(rest[0])
    elif word == "failed":
        node.failed = "\t".join(rest)
    else:
        node.lines.append((word, *rest))


# --- where the secrets of a group were seen, and what others can read or reach that need not ---

_PLACES = {
    "cmdline": ("the arguments of a process, which everybody there can read", "secret-argv"),
    "environ": ("the environment of a process, which its children get", "secret-environ"),
}
_LINES = 5  # processes that are named in one finding


def in_docker(group: Group, look: Look, sought: list[SecretPatterns]) -> Iterator[AuditFinding]:
    """Find secrets in what docker tells of containers and images."""
    kinds = (("container", look.containers), ("image", look.images))
    for kind, record in ((kind, r) for kind, records in kinds for r in records):
        name = _name(record)
        for one in sought:
            places = [
                _name_place(path, text) for path, text in strings(record) if holds_secret(one, text)
            ]
            places = [p.partition(".")[0] if holds_secret(one, p) else p for p in places]
            if not places:
                continue
            node = name if kind == "container" and name in group.instances else ""
            shown = f"docker {kind} inspect {name}: {', '.join(dict.fromkeys(places))}"
            text = f"{one.name} is in the description of the {kind} {name}"
            cure = f"{one.anew}; then make the {kind} anew without it"
            yield AuditFinding(f"secret-{kind}", node, look.host, text, shown, cure)


def _name(record: Mapping[str, Any]) -> str:
    tags = record.get("RepoTags") or []
    return str(record.get("Name") or (tags[0] if tags else record["Id"])).lstrip("/")


def _name_place(path: str, text: str) -> str:
    """Name a place; a variable by its name, and never with its value."""
    variable = text.partition("=")[0]
    named = ".Env[" in f".{path}" and "=" in text and variable.isidentifier()
    return f"{path.partition('[')[0]} {variable}" if named else path


def in_processes(group: Group, look: Look, sought: list[SecretPatterns]) -> Iterator[AuditFinding]:
    """Find secrets in arguments and environments of processes, of the host's and the nodes'."""
    known = {one.label: one for one in sought}
    told = {
        (_name(record), one.label)
        for record in look.containers
        for one in sought
        if any(holds_secret(one, text) for _, text in strings(record["Config"].get("Env") or []))
    }
    found: dict[tuple[str, str, str], list[str]] = {}
    for node, lines in [("", look.lines), *((n, of.lines) for n, of in look.nodes.items())]:
        for label, kind, process, command, container in _of(lines, "process", 5):
            inside = node or look.names.get(container, "")
            if not node and inside in look.nodes:
                continue  # seen there as well
            if kind == "environ" and (inside, label) in told:
                continue  # it came with the container's own
            found.setdefault((inside, label, kind), []).append(f"{process} ({command})")
    for (inside, label, kind), processes in found.items():
        where = f"process {', '.join(processes[:_LINES])}" + " …" * (len(processes) > _LINES)
        where += f" in {inside}" if inside else f" of {look.host}"
        place, code = _PLACES[kind]
        text = f"{known[label].name} is in {place}"
        node = inside if inside in group.instances else ""
        cure = f"{known[label].anew}; then end that process, and give the password by a passfile"
        yield AuditFinding(code, node, look.host, text, where, cure)


def in_logs_and_files(
    group: Group, look: Look, sought: list[SecretPatterns]
) -> Iterator[AuditFinding]:
    """Find secrets in what a container has logged, in files, and in what any role can read."""
    known = {one.label: one for one in sought}
    for label, container, line in _of(look.lines, "log", 3):
        node = container if container in group.instances else ""
        text = f"{known[label].name} is in the log of {container}"
        where = f"docker logs {container}, line {line} and maybe later ones"
        cure = f"{known[label].anew}; then `docker rm` the container, once it is stopped"
        yield AuditFinding("secret-log", node, look.host, text, where, cure)
    for node, seen in look.nodes.items():
        for label, kind, path in _of(seen.lines, "file", 3):
            if known[label].belongs(node, path):
                continue
            what = "a log on disk" if kind == "logfile" else "a file"
            text = f"{known[label].name} is in {what} of {node}, and in each backup of it"
            code, where = f"secret-{kind}", path.replace(PGDATA, _data(group, node))
            cure = f"{known[label].anew}; then take it out of the file"
            yield AuditFinding(code, node, look.host, text, where, cure)
    yield from _find_readable_by_all_roles(look, known)


def _find_readable_by_all_roles(
    look: Look, known: Mapping[str, SecretPatterns]
) -> Iterator[AuditFinding]:
    """Find secrets in what any role can read; what replication carries along is told once."""
    told: set[tuple[str, str]] = set()
    for node, seen in look.nodes.items():
        for label, place in _of(seen.lines, "setting", 2):
            if (label, place) in told and not place.startswith("pg_settings"):
                continue
            told.add((label, place))
            text = f"{known[label].name} is where any role of {node} can read it"
            cure = f"{known[label].anew}; then reset that setting or comment"
            yield AuditFinding("secret-setting", node, look.host, text, place, cure)


def in_topology(files: Mapping[str, str], sought: list[SecretPatterns]) -> Iterator[AuditFinding]:
    """Find secrets in the topology file and in conf/."""
    for name, text in files.items():
        for one in sought:
            if holds_secret(one, text):
                sentence = f"{one.name} is in {name}, which is copied and shared"
                cure = f"{one.anew}; then take it out of the file"
                yield AuditFinding("secret-topology", "", LOCAL, sentence, name, cure)


def open_files(group: Group, look: Look) -> Iterator[AuditFinding]:
    """Find files and directories of secrets and data that others than their owner can read."""
    for (path,) in _of(look.lines, "open", 1):
        places = [place.source for i in _here(group, look) for place in i.data_mounts()]
        data = any(path.startswith(f"{place}_bk_") for place in places)
        text = "what was set aside of a node can be read by others" if data else _SECRETS
        cure = f"`chmod -R go-rwx '{path}'`"
        yield AuditFinding("readable", "", look.host, text, path, cure)
    for node, seen in look.nodes.items():
        for mode, path in _of(seen.lines, "mode", 2):
            others = int(mode, 8) & (0o007 if path == PGDATA else 0o077)
            if others:
                what = "the data directory" if path == PGDATA else "a file with secrets"
                cure = f"`docker exec -u root {node} chmod go-rwx {path}`"
                if path != PGDATA:
                    cure = f"`invoke seed-standby --node {node}`, or `chmod go-rwx` as root"
                where = path.replace(PGDATA, _data(group, node))
                text = f"{what} of {node} can be read by others (mode {mode})"
                yield AuditFinding("readable", node, look.host, text, where, cure)


_SECRETS = "the group's secrets can be read by others than their owner"


def ports(group: Group, look: Look) -> Iterator[AuditFinding]:
    """Find nodes that are published wider than the topology asks."""
    for record in look.containers:
        name = _name(record)
        instance = group.instances.get(name)
        if instance is None or instance.node.host != look.host:
            continue
        asked = (instance.node.listen, str(instance.node.port))
        bindings = ((record.get("HostConfig") or {}).get("PortBindings") or {}).values()
        for binding in (b for published in bindings for b in published or []):
            address = binding.get("HostIp") or "0.0.0.0"  # noqa: S104
            if (address, binding["HostPort"]) != asked:
                place = f"{address}:{binding['HostPort']}"
                text = f"{name} is published on {place}, and asked for on {':'.join(asked)}"
                cure = "`invoke down`, which keeps the data, then `invoke start`"
                yield AuditFinding("port", name, look.host, text, f"docker port {name}", cure)


def unseen(group: Group, look: Look) -> Iterator[AuditFinding]:
    """Tell which nodes and containers could not be looked into: nothing is known of them."""
    for name in look.silent:
        text = f"the description of the container {name} could not be searched: no answer comes"
        cure = "if it stays so, restart Docker there"
        node = name if name in group.instances else ""
        yield AuditFinding(
            "unseen", node, look.host, text, f"docker container inspect {name}", cure
        )
    for node, seen in look.nodes.items():
        if seen.failed:
            text = f"{node} could not be looked at: {seen.failed}"
            cure = "`invoke status` says how it is"
            yield AuditFinding("unseen", node, look.host, text, f"docker exec {node}", cure)


def _of(lines: list[tuple[str, ...]], word: str, fields: int) -> Iterator[tuple[str, ...]]:
    """Yield the fields of the lines of one kind; the last one may have tabs in it."""
    for kind, *rest in lines:
        if kind == word:
            yield (*rest[: fields - 1], "\t".join(rest[fields - 1 :]))


def _data(group: Group, node: str) -> str:
    instance = group.instances.get(node)
    return instance.node.data if instance else PGDATA


def _here(group: Group, look: Look) -> list[Any]:
    return [i for i in group.instances.values() if i.node.host == look.host]
