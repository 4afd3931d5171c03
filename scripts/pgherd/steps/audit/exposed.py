"""Where the secrets of a group were seen, and what others can read or reach that need not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgherd.host import LOCAL
from pgherd.postgres.group import Group
from pgherd.postgres.instance import PGDATA
from pgherd.steps.audit.findings import Finding
from pgherd.steps.audit.forms import Sought, held, strings
from pgherd.steps.audit.looking import Look

_PLACES = {
    "cmdline": ("the arguments of a process, which everybody there can read", "secret-argv"),
    "environ": ("the environment of a process, which its children get", "secret-environ"),
}
_LINES = 5  # processes that are named in one finding


def in_docker(group: Group, look: Look, sought: list[Sought]) -> Iterator[Finding]:
    """Find secrets in what docker tells of containers and images."""
    kinds = (("container", look.containers), ("image", look.images))
    for kind, record in ((kind, r) for kind, records in kinds for r in records):
        name = _name(record)
        for one in sought:
            places = [_named(path, text) for path, text in strings(record) if held(one, text)]
            places = [p.partition(".")[0] if held(one, p) else p for p in places]
            if not places:
                continue
            node = name if kind == "container" and name in group.instances else ""
            shown = f"docker {kind} inspect {name}: {', '.join(dict.fromkeys(places))}"
            text = f"{one.name} is in the description of the {kind} {name}"
            cure = f"{one.anew}; then make the {kind} anew without it"
            yield Finding(f"secret-{kind}", node, look.host, text, shown, cure)


def _name(record: Mapping[str, Any]) -> str:
    tags = record.get("RepoTags") or []
    return str(record.get("Name") or (tags[0] if tags else record["Id"])).lstrip("/")


def _named(path: str, text: str) -> str:
    """Name a place; a variable by its name, and never with its value."""
    variable = text.partition("=")[0]
    named = ".Env[" in f".{path}" and "=" in text and variable.isidentifier()
    return f"{path.partition('[')[0]} {variable}" if named else path


def in_processes(group: Group, look: Look, sought: list[Sought]) -> Iterator[Finding]:
    """Find secrets in arguments and environments of processes, of the host's and the nodes'."""
    known = {one.label: one for one in sought}
    told = {
        (_name(record), one.label)
        for record in look.containers
        for one in sought
        if any(held(one, text) for _, text in strings(record["Config"].get("Env") or []))
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
        yield Finding(code, node, look.host, text, where, cure)


def in_logs_and_files(group: Group, look: Look, sought: list[Sought]) -> Iterator[Finding]:
    """Find secrets in what a container has logged, in files, and in what any role can read."""
    known = {one.label: one for one in sought}
    for label, container, line in _of(look.lines, "log", 3):
        node = container if container in group.instances else ""
        text = f"{known[label].name} is in the log of {container}"
        where = f"docker logs {container}, line {line} and maybe later ones"
        cure = f"{known[label].anew}; then `docker rm` the container, once it is stopped"
        yield Finding("secret-log", node, look.host, text, where, cure)
    for node, seen in look.nodes.items():
        for label, kind, path in _of(seen.lines, "file", 3):
            if known[label].belongs(node, path):
                continue
            what = "a log on disk" if kind == "logfile" else "a file"
            text = f"{known[label].name} is in {what} of {node}, and in each backup of it"
            code, where = f"secret-{kind}", path.replace(PGDATA, _data(group, node))
            cure = f"{known[label].anew}; then take it out of the file"
            yield Finding(code, node, look.host, text, where, cure)
    yield from _told_to_all(look, known)


def _told_to_all(look: Look, known: Mapping[str, Sought]) -> Iterator[Finding]:
    """Find secrets in what any role can read; what replication carries along is told once."""
    told: set[tuple[str, str]] = set()
    for node, seen in look.nodes.items():
        for label, place in _of(seen.lines, "setting", 2):
            if (label, place) in told and not place.startswith("pg_settings"):
                continue
            told.add((label, place))
            text = f"{known[label].name} is where any role of {node} can read it"
            cure = f"{known[label].anew}; then reset that setting or comment"
            yield Finding("secret-setting", node, look.host, text, place, cure)


def in_topology(files: Mapping[str, str], sought: list[Sought]) -> Iterator[Finding]:
    """Find secrets in the topology file and in conf/."""
    for name, text in files.items():
        for one in sought:
            if held(one, text):
                sentence = f"{one.name} is in {name}, which is copied and shared"
                cure = f"{one.anew}; then take it out of the file"
                yield Finding("secret-topology", "", LOCAL, sentence, name, cure)


def open_files(group: Group, look: Look) -> Iterator[Finding]:
    """Find files and directories of secrets and data that others than their owner can read."""
    for (path,) in _of(look.lines, "open", 1):
        places = [place.source for i in _here(group, look) for place in i.data_mounts()]
        data = any(path.startswith(f"{place}_bk_") for place in places)
        text = "what was set aside of a node can be read by others" if data else _SECRETS
        cure = f"`chmod -R go-rwx '{path}'`"
        yield Finding("readable", "", look.host, text, path, cure)
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
                yield Finding("readable", node, look.host, text, where, cure)


_SECRETS = "the group's secrets can be read by others than their owner"


def ports(group: Group, look: Look) -> Iterator[Finding]:
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
                yield Finding("port", name, look.host, text, f"docker port {name}", cure)


def unseen(group: Group, look: Look) -> Iterator[Finding]:
    """Tell which nodes and containers could not be looked into: nothing is known of them."""
    for name in look.silent:
        text = f"the description of the container {name} could not be searched: no answer comes"
        cure = "if it stays so, restart Docker there"
        node = name if name in group.instances else ""
        yield Finding("unseen", node, look.host, text, f"docker container inspect {name}", cure)
    for node, seen in look.nodes.items():
        if seen.failed:
            text = f"{node} could not be looked at: {seen.failed}"
            cure = "`invoke status` says how it is"
            yield Finding("unseen", node, look.host, text, f"docker exec {node}", cure)


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
