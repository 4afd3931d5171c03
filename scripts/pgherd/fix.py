"""What `invoke doctor --fix` does: only what harms nobody, each announced, none of it twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pgherd.checks.base import Finding
from pgherd.checks.doctor import Examination, examine
from pgherd.docker.engine import docker
from pgherd.docker.models import ALWAYS, Image, Mount
from pgherd.errors import Error
from pgherd.group.group import Group
from pgherd.hosts.commands import Tool
from pgherd.operations import restore, set_aside
from pgherd.postgres import datadir, scripts
from pgherd.postgres.instance import PRIVATE, Instance

CONFIRMED_TWICE = "unfinished-copy"  # the one finding whose cure deletes somebody's files
ROUNDS = 3  # what was mended may lay bare what lay behind it: a reload brings old errors to light
UP = "/up"  # where a container has the directory in which others are made

# Each directory on the way belongs to the user, who could not have made the first of them.
_MAKE = f"""\
cd {UP}
while [ -n "$way" ]; do
  part=${{way%%/*}}
  case $way in */*) way=${{way#*/}} ;; *) way= ;; esac
  [ -d "./$part" ] || {{ mkdir -- "./$part"; chown "$user" "./$part"; }}
  cd "./$part"
done
"""


def apply_fixes(group: Group, *, delete_parts: bool) -> Examination:
    """Examine, do what can safely be done about what is found, and examine again.

    It holds the group's lock meanwhile, so that no other run is at work on what it mends.

    Args:
        group: the group.
        delete_parts: also delete copies that killed runs left unfinished.

    Raises:
        Refused: another run is at work.
    """
    fixed: list[str] = []
    with group.locked(tolerant=True):
        found = examine(group)
        for _ in range(ROUNDS):
            told = [_fix_once(group, found, f, delete_parts) for f in found.checkup.findings]
            new = [done for done in told if done and done not in fixed]
            if group.trace.dry or not new:
                break
            fixed += new
            found = examine(group)
    found.checkup.fixed[:] = fixed
    return found


def _fix_once(group: Group, found: Examination, finding: Finding, delete_parts: bool) -> str:
    """Mend one finding and say what was done; empty where nothing was."""
    mends = finding.fixable or (finding.code == CONFIRMED_TWICE and delete_parts)
    act = FIXES.get(finding.code) if mends else None
    try:
        return act(group, found, finding) if act else ""
    except Error as fault:
        group.trace.note(f"{finding.code} stays: {fault.sentence}")
        return ""


def _report(group: Group, text: str) -> str:
    group.trace.note(text)
    return text


def _secret(group: Group, _: Examination, finding: Finding) -> str:
    told = _report(group, f"{finding.target}: permissions 0600")
    done = group.here.run(Tool("chmod")["600", "--", finding.target])
    if not done.ok:
        raise Error(done.complaint())
    return told


def _parent(group: Group, found: Examination, finding: Finding) -> str:
    instance, image = _node(group, finding), _image(found, finding)
    case = found.case.nodes[instance.name]
    places = (one.path for one in case.places)
    path = next((one for one in places if one.path == finding.target), case.path)
    way = path.path.removeprefix(path.up).strip("/")
    told = _report(group, f"{instance.name}: making {path.path}, owned by {path.user}")
    script = scripts.compose(_MAKE, way=way, user=path.user)
    instance.offline(image, script, mounts=[Mount(path.up, UP)])
    return told


def _owner(group: Group, found: Examination, finding: Finding) -> str:
    instance, image = _node(group, finding), _image(found, finding)
    told = _report(group, f"{instance.name}: its data directory belongs to postgres, 0700")
    script = scripts.compose('chown postgres:postgres "$PGDATA"\nchmod 0700 "$PGDATA"\n')
    if found.case.nodes[instance.name].runs:  # its own server holds the directory
        command = docker["exec", "--interactive", "--user", "root", instance.name, "sh", "-s"]
        instance.engine.must(command, stdin=script)
    else:
        instance.offline(image, script, mounts=instance.mounts()[:1])
    return told


def _passfile(group: Group, found: Examination, finding: Finding) -> str:
    instance, image = _node(group, finding), _image(found, finding)
    told = _report(group, f"{instance.name}: its passfile and keys belong to postgres, 0600")
    script = scripts.compose(
        f"for file in {PRIVATE}/passfile {PRIVATE}/*.pem; do\n"
        '  if [ -f "$file" ]; then chown postgres:postgres "$file"; chmod 0600 "$file"; fi\n'
        "done\n"
    )
    instance.offline(image, script, mounts=instance.mounts()[1:])
    return told


def _restart_policy(group: Group, found: Examination, finding: Finding) -> str:
    instance = _node(group, finding)
    container = found.case.nodes[instance.name].container
    told = _report(group, f"{instance.name}: Docker starts it again from now on ({ALWAYS})")
    if container:
        instance.engine.set_restart(container, ALWAYS)
    return told


def _reload(group: Group, _: Examination, finding: Finding) -> str:
    instance = _node(group, finding)
    told = _report(group, f"{instance.name}: reloading its configuration")
    instance.psql("SELECT pg_reload_conf();\n")
    return told


def _retry(group: Group, _: Examination, finding: Finding) -> str:
    instance = _node(group, finding)
    told = _report(
        group, f"{instance.name}: taking wal_retrieve_retry_interval of ALTER SYSTEM back"
    )
    instance.psql("ALTER SYSTEM RESET wal_retrieve_retry_interval;\nSELECT pg_reload_conf();\n")
    return told


def _helper(group: Group, _: Examination, finding: Finding) -> str:
    told = _report(group, f"{finding.target}: removing it")
    group.sites[finding.host or ""].engine.must(docker["rm", "--volumes", finding.target])
    return told


def _part(group: Group, found: Examination, finding: Finding) -> str:
    instance, image = _node(group, finding), _image(found, finding)
    restore.refuse_to_delete(group.site(instance), instance, finding.target, volume=False)
    told = _report(group, f"{instance.name}: deleting the unfinished copy {finding.target}")
    (place,) = (m for m in instance.data_mounts() if datadir.is_part_of(finding.target, m.source))
    set_aside.clear_copies(instance, image, [replace(place, source=finding.target)])
    return told


def _node(group: Group, finding: Finding) -> Instance:
    return group.instance(finding.node or "")


def _image(found: Examination, finding: Finding) -> Image:
    image = found.image(finding.host or "")
    if image is None:
        raise Error(f"the image is not on {finding.host} yet: `invoke image` brings it.")
    return image


FIXES: dict[str, Callable[[Group, Examination, Finding], str]] = {
    "secret-open": _secret,
    "parent-not-writable": _parent,
    "data-owner": _owner,
    "passfile-open": _passfile,
    "key-open": _passfile,
    "fenced": _restart_policy,
    "reload-due": _reload,
    "retry-slow": _retry,
    "helper-left": _helper,
    CONFIRMED_TWICE: _part,
}
