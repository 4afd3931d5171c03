"""Tasks for who may come in: passwords, certificates, and where secrets lie."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.errors import Refused
from pgherd.tasks.common import JSON, open_group, print_report, print_result, qualify, report_errors


@task(help=JSON)
@report_errors
def audit(c: Context, json_: bool = False) -> None:
    """Look for every secret of the group where it should not be, and for who may come in."""
    from pgherd.checks.audit import audit as look
    from pgherd.report import findings as report

    group = open_group(c)
    found = look(group)
    text = (
        report.audit_json(found, c.config.pgherd.on)
        if json_
        else qualify(report.audit_text(found), c)
    )
    print_report(c, text, ok=found.clean, unreachable=bool(found.away))


@task(help={"role": "postgres or replicator (default: both)"})
@report_errors
def rotate_passwords(c: Context, role: str = "") -> None:
    """Give both roles new passwords while everything streams; generated, or INVOKE_…_PASSWORD's."""
    from pgherd.operations import rotate as step
    from pgherd.report import changes as report

    group = open_group(c)
    done = step.rotate(group, role)
    print_result(c, report.rotation_text(done, str(group.secrets)))


@task(
    help={
        "renew": "make new ones, brought in by a reload: no restart, no lost connection",
        "renew_ca": "another authority, in two stages: first both are trusted",
        **JSON,
    }
)
@report_errors
def tls(c: Context, renew: bool = False, renew_ca: bool = False, json_: bool = False) -> None:
    """Show each node's certificate and what its server shows now, or make new ones."""
    from pgherd.operations import certificates as step
    from pgherd.report import tls as report

    group = open_group(c)
    if renew and renew_ca:
        raise Refused("--renew-ca renews the certificates too: say one of the two.")
    if renew:
        step.renew(group)
        return
    if renew_ca:
        print_result(c, step.renew_authority(group))
        return
    found = step.look(group)
    by, amiss = step.trusted(group), step.amiss(group, found)
    trusted = report.Trusted(group.certificates.for_clients, by, amiss)
    text = (report.as_json if json_ else report.text)(group.name, trusted, found)
    print_report(c, qualify(text, c), ok=not (amiss or any(node.warnings for node in found)))
