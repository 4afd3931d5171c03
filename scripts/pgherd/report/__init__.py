"""Results as text for people, JSON and TAP for programs. Pure: it returns text and prints none."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pgherd.errors import Refused
from pgherd.report import uris
from pgherd.report.text import one_line, table

if TYPE_CHECKING:  # a task pays for what it needs only: psycopg takes a while to import
    from pgherd.steps.hosts import HostReport
    from pgherd.steps.tutorial import Step
    from pgherd.topology import Topology
    from pgherd.verify import Verdict


def verdict(*, json_: bool, tap: bool) -> Callable[[Verdict], str]:
    """Return what writes a verdict as it is asked for. Raises Refused for two ways at once."""
    if json_ and tap:
        raise Refused("--json and --tap contradict each other.")
    return verdict_json if json_ else verdict_tap if tap else verdict_text


def verdict_text(verdict: Verdict) -> str:
    """Return a line for each check with its evidence, the cures, the log lines and a summary."""
    rows = [
        ["ok" if c.ok else "FAIL", c.name, c.node, one_line(c.evidence)] for c in verdict.checks
    ]
    lines = []
    for line, check in zip(table(rows).splitlines(), verdict.checks, strict=True):
        lines += [line, *([f"      cure: {check.cure}"] if check.cure else [])]
    for node, said in verdict.log.items():
        lines += [f"log of {node}:", *(f"  {line}" for line in said)] if said else []
    failed = sum(not check.ok for check in verdict.checks)
    result = "passed" if verdict.ok else f"FAILED: {failed} of {len(verdict.checks)} checks"
    return "\n".join([*lines, f"verify of {verdict.group}: {result} ({verdict.seconds:.1f} s)"])


def verdict_json(verdict: Verdict) -> str:
    """Return one JSON object with the group, the outcome and every check."""
    return json.dumps(
        {
            "group": verdict.group,
            "ok": verdict.ok,
            "seconds": round(verdict.seconds, 3),
            "checks": [asdict(check) for check in verdict.checks],
        },
        indent=2,
    )


def verdict_tap(verdict: Verdict) -> str:
    """Return the checks in the Test Anything Protocol, version 13."""
    lines = ["TAP version 13", f"1..{len(verdict.checks)}"]
    for number, check in enumerate(verdict.checks, 1):
        lines.append(f"{'ok' if check.ok else 'not ok'} {number} - {check.name} {check.node}")
        notes = [check.evidence, *([f"cure: {check.cure}"] if check.cure else [])]
        lines += [f"# {line}" for note in notes for line in note.splitlines()]
    return "\n".join(lines)


def steps_text(steps: Sequence[Step]) -> str:
    """Return the twelve steps, each with the tutorial's line below it."""
    rows = [(s.number, s.task, s.does, s.done) for s in steps]
    lines = table([("", "step", "what it does", "done"), *rows]).splitlines()
    body = [
        f"{row}\n      instead of: {step.line}" for row, step in zip(lines[1:], steps, strict=True)
    ]
    return "\n".join([lines[0], *body, "Each is a task: invoke step.run-master, and so on."])


def hosts_text(reports: Sequence[HostReport]) -> str:
    """Return a line for each host, and below it what it lacks or why it does not answer."""
    head = ("host", "nodes", "Docker", "platform", "clock", "free", "image", "containers")
    rows = [(r.name, ", ".join(r.nodes), *_cells(r)) for r in reports]
    faults = [f"{r.name}: {r.fault}" for r in reports if not r.ok]
    return "\n".join([table([head, *rows]), *faults])


def _cells(report: HostReport) -> tuple[str, ...]:
    if not report.ok:
        return ("cannot be reached", *[""] * 5)
    containers = ", ".join(f"{name} {state}" for name, state in report.containers)
    return (
        report.engine,
        report.platform,
        _clock(report),
        _size(report.free),
        report.image or "not there",
        containers or "none",
    )


def hosts_json(group: str, reports: Sequence[HostReport]) -> str:
    """Return one JSON object with each host."""
    hosts = [
        {**asdict(r), "ok": r.ok, "containers": dict(r.containers), "free_bytes": r.free}
        for r in reports
    ]
    for host in hosts:
        del host["free"]
    return json.dumps({"group": group, "ok": all(r.ok for r in reports), "hosts": hosts}, indent=2)


def _clock(report: HostReport) -> str:
    return f"{report.skew:+.1f} s" if abs(report.skew) > max(report.doubt, 0.1) else "same"


def _size(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.1f} GB"


def summary(
    topology: Topology, password_file: str, trusted: str, over: Mapping[str, Sequence[str]]
) -> str:
    """Return what there is after a demo: the nodes, how to connect, what to try next.

    `trusted` is as `uris.Wanted` has it, `over` as `uris.tunnels`.
    """
    nodes = list(topology.nodes.values())
    standby = topology.standbys[0].name if topology.standbys else nodes[0].name
    database = topology.group.database or "postgres"
    *single, both = uris.lines(topology, uris.Wanted(database=database, trusted=trusted))
    rows = [
        (node.name, "primary" if node.upstream is None else f"standby of {node.upstream}", uri)
        for node, uri in zip(nodes, single, strict=True)
    ]
    invoke = f"invoke on {topology.placed_on}" if topology.placed_on else "invoke"
    further = {
        "psql": "a session on the primary",
        f"psql --node {standby}": "one on the standby, which refuses writes",
        "steps": "what was done, step by step",
        "status": "is all well?",
        f"switchover --to {standby}": "the standby becomes the primary, and nothing is lost",
        "logs --follow": "the logs of all servers",
        "stop start": "and they find each other again",
        "down": "remove the containers, keep the data",
    }
    next_lines = "\n".join(f"  {f'{invoke} {task}':<40} {does}" for task, does in further.items())
    ways = "".join(
        f"first, to reach them from here: {way}\n" for way in uris.tunnels(topology, over)
    )
    return f"""
{table(rows)}
whichever is primary: {both}
{ways}the password: export PGPASSWORD="$(cat {shlex.quote(password_file)})"

Next:
{next_lines}"""
