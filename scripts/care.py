"""Tasks that take care of a group: its health, its secrets, and what was set aside of its data."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pgherd.tasking import given, placed, told
from printing import came, looked


@task(
    help={
        "json_": "print one JSON object",
        "fix": "do what can safely be done about it, and look again",
        "delete_parts": "with --fix: also delete copies that killed runs left unfinished",
    }
)
@told
def doctor(c: Context, json_: bool = False, fix: bool = False, delete_parts: bool = False) -> None:
    """Look for what ails the group, or will when it is made: each with its cure."""
    from pgherd.errors import Refused
    from pgherd.report import doctor as report
    from pgherd.steps.doctor.examine import examine
    from pgherd.steps.doctor.fixes import mend

    if delete_parts and not fix:
        raise Refused(
            "--delete-parts goes with --fix: nothing is deleted without being told twice."
        )
    group = given(c)
    found = (mend(group, delete_parts=delete_parts) if fix else examine(group)).checkup
    text = report.as_json(found) if json_ else report.text(found)
    looked(c, placed(text, c), ok=found.ok, away=bool(found.away), acted=fix)


@task(
    help={
        "renew": "make new ones, brought in by a reload: no restart, no lost connection",
        "renew_ca": "another authority, in two stages: first both are trusted",
        "json_": "print one JSON object",
    }
)
@told
def tls(c: Context, renew: bool = False, renew_ca: bool = False, json_: bool = False) -> None:
    """Show each node's certificate and what its server shows now, or make new ones."""
    from pgherd.errors import Refused
    from pgherd.report import tls as report
    from pgherd.steps.tls import certificates as step

    group = given(c)
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
    looked(c, placed(text, c), ok=not (amiss or any(node.warnings for node in found)))


@task(
    help={
        "json_": "print one JSON object",
        "delete": "delete this one, by its name or path; say it in --confirm as well",
        "confirm": "the same name again",
    }
)
@told
def backups(c: Context, json_: bool = False, delete: str = "", confirm: str = "") -> None:
    """List what tasks have set aside: data directories, volumes, passwords, unfinished copies."""
    from pgherd.report import backups as report
    from pgherd.steps.backups import copies, deleting

    group = given(c)
    if delete or confirm:
        deleting.delete(group, delete, confirm=confirm)
        return
    found = copies.survey(group)
    text = report.as_json(found) if json_ else placed(report.as_text(found), c)
    looked(c, text, away=bool(found.away))


@task(
    positional=["name"],
    help={
        "name": "of a copy, or its path, as `invoke backups` shows it; HOST:NAME on one host",
        "foreign": "also if it is of another system or another major version than the group",
    },
)
@told
def restore(c: Context, name: str, foreign: bool = False) -> None:
    """Put back what was set aside; what is there now is set aside in its place."""
    from pgherd.steps.backups import restoring

    restoring.restore(given(c), name, foreign=foreign)


@task(help={"json_": "print one JSON object"})
@told
def audit(c: Context, json_: bool = False) -> None:
    """Look for every secret of the group where it should not be, and for who may come in."""
    from pgherd.report import audit as report
    from pgherd.steps.audit.audit import audit as look

    group = given(c)
    found = look(group)
    text = report.as_json(found, c.config.pgherd.on) if json_ else placed(report.text(found), c)
    looked(c, text, ok=found.clean, away=bool(found.away))


@task(help={"role": "postgres or replicator (default: both)"})
@told
def rotate_passwords(c: Context, role: str = "") -> None:
    """Give both roles new passwords while everything streams; generated, or INVOKE_…_PASSWORD's."""
    from pgherd.report import rotation as report
    from pgherd.steps.rotation import rotate as step

    group = given(c)
    done = step.rotate(group, role)
    came(c, report.text(done, str(group.secrets)))
