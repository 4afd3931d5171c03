"""Tasks for groups on other machines: name one, look at all."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.errors import Refused
from pgherd.tasks.common import JSON, open_group, print_report, report_errors


@task(positional=["host"], help={"host": "an SSH destination: box, ada@box, ada@box:2222"})
@report_errors
def on(c: Context, host: str) -> None:
    """Place the group on another machine, for the tasks that follow: invoke on ada@box …."""
    from pgherd.config.loader import requested_host

    if not host:
        raise Refused("`invoke on` needs a host, and was given an empty word: a variable not set?")
    requested_host(host, "")
    c.config.pgherd.on = host


@task(help=JSON)
@report_errors
def hosts(c: Context, json_: bool = False) -> None:
    """Look at each host of the topology: does it answer, its Docker, space, image, containers."""
    from pgherd.group.platforms import survey
    from pgherd.report import findings

    group = open_group(c)
    found = survey(group)
    text = findings.hosts_json(group.name, found) if json_ else findings.hosts_text(found)
    print_report(c, text, unreachable=not all(host.ok for host in found))
