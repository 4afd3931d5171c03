"""Looking at the servers: their logs, psql in their containers, and what the tutorial opens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from pgherd.docker.engine import docker
from pgherd.errors import Refused, quoted
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.image import find_image
from pgherd.hosts.commands import Script, Tool, assignments
from pgherd.hosts.parallel import WORKERS, run_all
from pgherd.postgres import conf, scripts
from pgherd.postgres.facts import Facts
from pgherd.postgres.instance import Instance

LOG_SECONDS = 60.0
# One round trip for all servers of a host.
_LOGS = """\\
for name; do
  docker logs --tail "$tail" "$name" 2>&1 | sed "${head:+s/^/$name | /}"
done
"""


def lines(text: str) -> int:
    """Read a number of lines. Raises Refused for what is none."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Refused(f"--tail is a number of lines, not {quoted(text)}.")
    return int(text)


def logs(group: Group, name: str, *, tail: int, follow: bool, show: Callable[[str], None]) -> None:
    """Show the last lines of one server's log or of all; with `follow`, go on until Ctrl-C.

    Where there are several, each line begins with its node's name.
    """
    instances = [group.instance(name)] if name else list(group.instances.values())
    sites = {group.site(instance).name: group.site(instance) for instance in instances}
    found = run_all(lambda site: site.engine.containers(), list(sites.values()))
    containers = dict(zip(sites, found, strict=True))
    there = [i for i in instances if i.name in containers[i.node.host]]
    if not there:
        seed = f"`invoke seed-standby --node {name}`"
        make = seed if name and group.instance(name).node.upstream else "`invoke setup-master`"
        raise Refused(f"There is no container of {name or group.name}: {make} or `invoke start`.")

    if follow:
        _follow(there, ["--tail", str(tail), "--follow"], show)
        return
    for site in sites.values():
        names = [i.name for i in there if i.node.host == site.name]
        head = "yes" if len(instances) > 1 else ""
        script = Script((assignments(tail=tail, head=head) + _LOGS,))
        command = Tool("sh")["-s", "--", names]
        if names:
            site.engine.run(command, stdin=script, timeout=LOG_SECONDS, on_line=show, reads=True)


def _follow(instances: list[Instance], options: list[str], show: Callable[[str], None]) -> None:
    if len(instances) > WORKERS:
        raise Refused(f"--follow shows {WORKERS} servers at once: say --node.")

    def read(instance: Instance) -> None:
        head = f"{instance.name} | " if len(instances) > 1 else ""
        instance.engine.run(
            docker["logs", *options, instance.name],
            timeout=None,
            on_line=lambda line: show(f"{head}{line}"),
            reads=True,
        )

    run_all(read, instances)


@dataclass(frozen=True)
class PsqlOptions:
    """How psql is to be run.

    Attributes:
        command: SQL to run; else it reads its own input.
        database: where; else the group's own.
        user: the role that logs in.
        tuples_only: print the rows alone, without head and count.
    """

    command: str = ""
    database: str | None = None
    user: str = "postgres"
    tuples_only: bool = False


def psql(group: Group, name: str, options: PsqlOptions, *, terminal: bool) -> int:
    """Run psql in a node's container: on the terminal, or for one command; return its exit code.

    Raises:
        Refused: the node does not run, or a name is empty.
    """
    for option, value in (("database", options.database), ("user", options.user)):
        if value == "":
            raise Refused(f"--{option} is empty (a variable not set?).")
    if name:
        instance = group.instance(name)
        containers, answers = group.site(instance).look()
        container, answer = containers.get(name), answers.get(name)
        group.work_where([answer if isinstance(answer, Facts) else None])
    else:
        seen = group.observe(tolerant=True)
        leads = group.leader(seen.facts, seen.own)
        instance = group.instance(leads.name) if leads else group.primary(seen)
        if len(seen.primaries) > 1:
            group.trace.note(f"{group.several(seen)}.")
        container = seen.nodes[instance.name].container
    if container is None or not container.running:
        raise Refused(f"{instance.name} does not run: `invoke start`.")
    chosen = ["--tuples-only"] * options.tuples_only
    if options.command:
        chosen += ["-P", "pager=off", "--command", options.command]
    tty = ["--tty"] if terminal else []
    database = options.database or instance.database or "postgres"
    if not database.isidentifier():  # psql takes a name with = for more than a name
        database = conf.conninfo(dbname=database)
    words = ["exec", "--interactive", *tty, "--user", "postgres", instance.name]
    return instance.host.interactive(
        docker[(*words, "psql", "-X", "-U", options.user, "-d", database, *chosen)]
    )


# --- what the tutorial opens in an editor, or asks by SQL ---

_LINES = "grep -vE '^[[:space:]]*(#|$)' \"$PGDATA/{file}\" || :\n"
_WAITED_FOR = (
    "SELECT application_name, state, sync_state, "
    "current_setting('synchronous_standby_names') AS synchronous_standby_names "
    "FROM (SELECT) AS one LEFT JOIN pg_stat_replication ON true"
)
# By name: a file of the data directory, and what prints its lines; or no file, and SQL.
SHOWN = {
    "hba": ("pg_hba.conf", _LINES),
    "conf": ("pgherd.conf", _LINES),
    "conninfo": ("postgresql.auto.conf", "grep -E '^primary_' \"$PGDATA/{file}\" || :\n"),
    "signal": ("standby.signal", '[ ! -e "$PGDATA/{file}" ] || echo "it is there: a standby"\n'),
    "slots": (
        "",
        "SELECT slot_name, slot_type, active, restart_lsn, wal_status FROM pg_replication_slots",
    ),
    "sync": ("", _WAITED_FOR),
    "log-settings": (
        "",
        "SELECT name, setting, unit FROM pg_settings WHERE name ~ '^log' AND setting <> boot_val",
    ),
}


@dataclass(frozen=True)
class Shown:
    """What one node has: where that is on its host, empty for an answer to SQL; and the lines."""

    node: str
    path: str
    lines: tuple[str, ...]


def show(group: Group, name: str, node: str = "") -> list[Shown]:
    """Return what a node has of something that the tutorial looks at, or what every node has.

    It is read in containers, so that no rights on the host's files are needed. A password that
    somebody wrote into a connection string is left out.

    Raises:
        Refused: there is nothing of that name.
    """
    if name not in SHOWN:
        raise Refused(f"{quoted(name)} is none of {', '.join(SHOWN)}.")
    chosen = [group.instance(node)] if node else list(group.instances.values())
    seen = group.observe()
    running = [instance for instance in chosen if seen.nodes[instance.name].facts]
    image = find_image(group, seen) if len(running) < len(chosen) else None

    def look(instance: Instance) -> Shown:
        if instance in running:
            return _show(instance, name, lambda script: instance.execute(script, reads=True))
        if not SHOWN[name][0] or image is None:
            return Shown(
                instance.name, "", ("(its server does not answer, and nothing else tells)",)
            )
        if preconditions.data_state(instance) != preconditions.FULL:
            return Shown(instance.name, "", ())
        data = instance.mounts(readonly=True)[:1]
        return _show(
            instance, name, lambda script: instance.offline(image, script, mounts=data, reads=True)
        )

    return run_all(look, chosen)


def _show(instance: Instance, name: str, run: Callable[[Script], str]) -> Shown:
    file, how = SHOWN[name]
    text = how.format(file=file) if file else f'psql -Xqw -c "{how}"\n'
    said = hide_passwords(run(scripts.compose(text)))
    path = f"{instance.node.data.rstrip('/')}/{file}" if file else ""
    return Shown(instance.name, path, tuple(said.rstrip().splitlines()))


def hide_passwords(text: str) -> str:
    """Return lines without the passwords in them: of a connection string, a URI, a rule.

    The rest of the line goes with it: where a quoted value ends is told by several rules at once.
    """
    text = re.sub(r"((?:password|passwd|secrets)\s*=\s*).*", r"\1…", text)
    return re.sub(r"(://[^:@/\s]*:).*@", r"\1…@", text)


def shown_text(found: list[Shown]) -> str:
    """Return it as text: each node's under a line with the path."""
    blocks = []
    for one in found:
        head = f"{one.node}: {one.path}" if one.path else f"{one.node}:"
        blocks.append("\n".join([head, *(f"  {line}" for line in one.lines or ("(nothing)",))]))
    return "\n".join(blocks)


def shown_json(group: Group, found: list[Shown]) -> str:
    """Return it as one JSON object."""
    nodes = [{"node": f.node, "path": f.path or None, "lines": list(f.lines)} for f in found]
    return json.dumps({"schema": 1, "group": group.name, "nodes": nodes}, indent=2)
