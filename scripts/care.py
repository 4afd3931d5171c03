"""Tasks that take care of a group: its health, its secrets, and what was set aside of its data."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.tasking import open_group, qualify, report_errors
from printing import came, looked


@task(
    help={
        "json_": "print one JSON object",
        "fix": "do what can safely be done about it, and look again",
        "delete_parts": "with --fix: also delete copies that killed runs left unfinished",
    }
)
@report_errors
def doctor(c: Context, json_: bool = False, fix: bool = False, delete_parts: bool = False) -> None:
    """Look for what ails the group, or will when it is made: each with its cure."""
    from pgherd.checks.doctor import examine
    from pgherd.checks.fix import apply_fixes
    from pgherd.errors import Refused
    from pgherd.report import findings as report

    if delete_parts and not fix:
        raise Refused(
            "--delete-parts goes with --fix: nothing is deleted without being told twice."
        )
    group = open_group(c)
    found = (apply_fixes(group, delete_parts=delete_parts) if fix else examine(group)).checkup
    text = report.doctor_json(found) if json_ else report.doctor_text(found)
    looked(c, qualify(text, c), ok=found.ok, away=bool(found.away), acted=fix)


@task(
    help={
        "renew": "make new ones, brought in by a reload: no restart, no lost connection",
        "renew_ca": "another authority, in two stages: first both are trusted",
        "json_": "print one JSON object",
    }
)
@report_errors
def tls(c: Context, renew: bool = False, renew_ca: bool = False, json_: bool = False) -> None:
    """Show each node's certificate and what its server shows now, or make new ones."""
    from pgherd.errors import Refused
    from pgherd.operations import certificates as step
    from pgherd.report import tls as report

    group = open_group(c)
    if renew and renew_ca:
        raise Refused("--renew-ca renews the certificates too: say one of the two.")
    if renew:
        step.renew(group)
        return
    if renew_ca:
        came(c, step.renew_authority(group))
        return
    found = step.look(group)
    by, amiss = step.trusted(group), step.amiss(group, found)
    trusted = report.Trusted(group.certificates.for_clients, by, amiss)
    text = (report.as_json if json_ else report.text)(group.name, trusted, found)
    looked(c, qualify(text, c), ok=not (amiss or any(node.warnings for node in found)))


@task(
    help={
        "json_": "print one JSON object",
        "delete": "delete this one, by its name or path; say it in --confirm as well",
        "confirm": "the same name again",
    }
)
@report_errors
def backups(c: Context, json_: bool = False, delete: str = "", confirm: str = "") -> None:
    """List what tasks have set aside: data directories, volumes, passwords, unfinished copies."""
    from pgherd.operations import restore as copies
    from pgherd.operations import restore as deleting
    from pgherd.report import aside as report

    group = open_group(c)
    if delete or confirm:
        deleting.delete(group, delete, confirm=confirm)
        return
    found = copies.survey(group)
    text = report.as_json(found) if json_ else qualify(report.as_text(found), c)
    looked(c, text, away=bool(found.away))


@task(
    positional=["name"],
    help={
        "name": "of a copy, or its path, as `invoke backups` shows it; HOST:NAME on one host",
        "foreign": "also if it is of another system or another major version than the group",
    },
)
@report_errors
def restore(c: Context, name: str, foreign: bool = False) -> None:
    """Put back what was set aside; what is there now is set aside in its place."""
    from pgherd.operations import restore as restoring

    restoring.restore(open_group(c), name, foreign=foreign)


@task(help={"json_": "print one JSON object"})
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
    looked(c, text, ok=found.clean, away=bool(found.away))


@task(help={"role": "postgres or replicator (default: both)"})
@report_errors
def rotate_passwords(c: Context, role: str = "") -> None:
    """Give both roles new passwords while everything streams; generated, or INVOKE_…_PASSWORD's."""
    from pgherd.operations import rotate as step
    from pgherd.report import changes as report

    group = open_group(c)
    done = step.rotate(group, role)
    came(c, report.rotation_text(done, str(group.secrets)))
