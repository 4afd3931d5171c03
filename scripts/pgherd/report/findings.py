"""A checkup as text and as JSON. Pure: it returns text and prints none."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pgherd.checks.base import LEVELS, WARNING, Audit, AuditFinding, Checkup, Finding
from pgherd.checks.containers import Difference
from pgherd.checks.diff import Comparison
from pgherd.errors import Refused
from pgherd.hosts.commands import qualify_commands
from pgherd.report import uris
from pgherd.report.text import one_line, table

if TYPE_CHECKING:
    from pgherd.checks.verify import Verdict
    from pgherd.config.topology import Topology
    from pgherd.group.platforms import HostReport
    from pgherd.operations.steps import Step

WIDTH = max(map(len, LEVELS))


def doctor_text(checkup: Checkup) -> str:
    """Return a line for each finding, under the host or node that has it, and how it is in all."""
    lines = [f"fixed: {told}" for told in checkup.fixed]
    places: dict[str, list[Finding]] = {}
    for finding in checkup.ordered():
        places.setdefault(_place(checkup, finding), []).append(finding)
    for place, findings in places.items():
        lines += [place, *(f"  {_line(finding)}" for finding in findings)]
    return "\n".join([*lines, f"doctor of {checkup.group}: {_summary(checkup)}"])


def _place(checkup: Checkup, finding: Finding) -> str:
    if finding.node:
        return f"node {finding.node}"
    return f"host {finding.host}" if finding.host else f"group {checkup.group}"


def _line(finding: Finding) -> str:
    level = finding.level.upper() if finding.level == LEVELS[0] else finding.level
    cure = f". Cure: {finding.cure}" if finding.cure else ""
    return f"{level:<{WIDTH}}  {finding.code}: {one_line(finding.text).rstrip('.')}{one_line(cure)}"


def _summary(checkup: Checkup) -> str:
    counts = list(_counts(checkup))
    away = f"{' and '.join(checkup.away)} cannot be reached" if checkup.away else ""
    said = ", ".join([*([away] if away else []), *counts])
    warned = any(finding.level == WARNING for finding in checkup.findings)
    healthy = ("no problem" if warned else "all is well") if checkup.ok else ""
    told = ", ".join(filter(None, [healthy, said]))
    mends = sum(finding.fixable for finding in checkup.findings)
    cure = f"; `invoke doctor --fix` takes care of {mends}" if mends else ""
    return f"{told} ({checkup.checks} checks){cure}"


def _counts(checkup: Checkup) -> Iterator[str]:
    for level in LEVELS:
        count = sum(finding.level == level for finding in checkup.findings)
        if count:
            yield f"{count} {level}{'s' * (count > 1)}"


def doctor_json(checkup: Checkup) -> str:
    """Return one JSON object with every finding, the worst first."""
    return json.dumps(
        {
            "group": checkup.group,
            "ok": checkup.ok,
            "checks": checkup.checks,
            "findings": [_plain(finding) for finding in checkup.ordered()],
            "fixed": checkup.fixed,
            "unreachable": checkup.away,
        },
        indent=2,
    )


def _plain(finding: Finding) -> dict[str, object]:
    values = asdict(finding)
    del values["target"]
    return {**values, "text": one_line(finding.text), "cure": one_line(finding.cure)}


# --- an audit as text for people and as JSON for programs. Pure ---


def audit_text(found: Audit) -> str:
    """Return each finding with its place and its cure, what was not looked at, a summary."""
    width = max((len(f.code) for f in found.findings), default=0)
    lines = [line for f in found.findings for line in _finding(f, width)]
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"note: {host} cannot be reached: {one_line(why)}" for host, why in found.away]
    count = len(found.findings)
    result = "nothing found" if found.clean else f"{count} finding{'s' * (count > 1)}"
    looked = f"{found.looked} node{'s' * (found.looked != 1)} looked into"
    return "\n".join([*lines, f"audit of {found.group}: {result}, {looked}"])


def _finding(finding: AuditFinding, width: int) -> list[str]:
    told = [one_line(finding.text), f"where  {one_line(finding.where)}", f"cure   {finding.cure}"]
    heads = [finding.code, "", ""]
    return [f"{head:<{width}}  {line}" for head, line in zip(heads, told, strict=True)]


def audit_json(found: Audit, on: str = "") -> str:
    """Return one JSON object; the cures are as they are typed for a group placed `on` a host."""
    return json.dumps(
        {
            "group": found.group,
            "ok": found.clean and not found.away,
            "findings": [
                {**asdict(f), "cure": qualify_commands(f.cure, on)} for f in found.findings
            ],
            "notes": list(found.notes),
            "unreachable": dict(found.away),
            "nodes": found.looked,
        },
        indent=2,
    )


# --- A comparison as text for people and as JSON for programs. Pure ---


def diff_text(found: Comparison) -> str:
    """Return what is asked, what is found and the cure of each difference, notes, a summary."""
    width = max((len(d.node) for d in found.differences), default=0)
    lines = [line for d in found.differences for line in _difference(d, width)]
    lines += [f"note: {n.sentence}: `{n.command}` swaps them back" for n in found.notes]
    count = len(found.differences)
    result = "no difference" if found.same else f"{count} difference{'s' * (count > 1)}"
    away = f", and {', '.join(found.away)} cannot be reached" if found.away else ""
    return "\n".join([*lines, f"diff of {found.group}: {result}{away}"])


def diff_json(found: Comparison, on: str = "") -> str:
    """Return one JSON object; the commands are as they are typed for a group placed `on` a host."""

    def typed(item: dict[str, str]) -> dict[str, str]:
        return {**item, "command": qualify_commands(f"`{item['command']}`", on)[1:-1]}

    return json.dumps(
        {
            "group": found.group,
            "same": found.same and not found.away,
            "differences": [typed(asdict(d)) for d in found.differences],
            "notes": [typed(asdict(n)) for n in found.notes],
            "unreachable": dict(found.away),
        },
        indent=2,
    )


def _difference(difference: Difference, width: int) -> list[str]:
    told = [
        f"asked  {one_line(difference.asked)}",
        f"found  {one_line(difference.found)}",
        f"cure   `{difference.command}`",
    ]
    heads = [difference.node, "", ""]
    return [f"{head:<{width}}  {line}" for head, line in zip(heads, told, strict=True)]


# --- results as text, JSON and TAP ---


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
