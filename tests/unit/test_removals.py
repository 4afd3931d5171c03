"""No task deletes or moves data without being told so: each place that could, and its guard."""

from __future__ import annotations

import ast
import re

import pytest
from fakes import ROOT, FakeHost, Said, group, image, topology

from pgherd.errors import Refused
from pgherd.operations import remove, restore, teardown
from pgherd.operations.remove import RemovedNode
from pgherd.postgres.facts import Disk
from pgherd.postgres.instance import Instance

PACKAGE = ROOT / "scripts" / "pgherd"
REMOVES = re.compile(
    r'"rm"|(?:\b|\\n)(?<!docker )(?<!network )rm (?=[-"/{])|\brmdir\b|(?<![-\w])-delete\b|'
    r'(?:\b|\\n)mv (?=[-"/])|\bunlink|rmtree|\.rename\(|os\.remove'
)

# Every line that deletes or renames, with what it takes and what keeps it from taking more. A new
# one fails the test below until it is listed here, with its guard.
SECRETS = "security/passwords.py"
CONTAINERS = "a container and its anonymous volumes; data is bind-mounted or a named volume"
OWN_FILE = "one file that we laid ourselves"
LISTED = {
    ("docker/engine.py", 'self.must(docker["rm", "--volumes", container.name])'): CONTAINERS,
    ("docker/engine.py", 'self.host.run(docker["rm", "--force", "--volumes", name])'): CONTAINERS,
    ("docker/engine.py", 'result = self.run(docker["network", "rm", name])'): "a network",
    ("group/group.py", 'instance.engine.run(docker["rm", "--force", "--volumes", left.name])'):
        CONTAINERS,
    ("postgres/instance.py", 'self.engine.run(docker["rm", "--force", "--volumes", self.name])'):
        CONTAINERS,
    (SECRETS, "Path(name).rename(path)  # whole or not at all, even if we are killed here"):
        "a password's file, or a certificate's, made a line before",
    (SECRETS, "Path(name).unlink(missing_ok=True)"): "the same, if it cannot be written",
    (SECRETS, "made.rename(self.pending)"): "new passwords, whole or not at all",
    (SECRETS, "new.rename(file)"): "a password, once the servers have it",
    ("security/passwords.py",
     'self._trace.shell(f"{words}; rmdir {shlex.quote(str(self.pending))} 2>/dev/null || :")'):
        "an empty directory",
    (SECRETS, "self.pending.rmdir()"): "an empty directory",
    (SECRETS, "shutil.rmtree(left)"): "new passwords of a killed run that no server has",
    ("postgres/sh/functions/logs_in.sh", "trap 'rm \"$known\"' EXIT"): OWN_FILE,
    ("fix.py",
     'group.sites[finding.host or ""].engine.must(docker["rm", "--volumes", finding.target])'):
        CONTAINERS,
    ("postgres/sh/unmark.sh", 'rm -f "$PGDATA/standby.signal"'): OWN_FILE,
    ("postgres/sh/initdb-done.sh", "rm -f /etc/pgherd/seeding"): OWN_FILE,
    ("postgres/sh/initdb-done.sh", "mv /etc/pgherd/initdb.pending /etc/pgherd/initdb.done"):
        OWN_FILE,
    ("postgres/sh/restorable.sh", "rm -f /etc/pgherd/seeding /etc/pgherd/initdb.pending"): OWN_FILE,
    ("postgres/sh/seeded.sh", "rm -f /etc/pgherd/seeding /etc/pgherd/initdb.pending"): OWN_FILE,
    ("postgres/sh/turn-over.sh", "rm -f /tmp/pgherd.turn"): OWN_FILE,
    ("postgres/sh/take-turn.sh", '[ -n "$turn" ] || rm -f /tmp/pgherd.turn'): OWN_FILE,
    ("postgres/sh/check-settings.sh", 'mv "$PGDATA/pgherd.conf.before" "$PGDATA/pgherd.conf"'):
        OWN_FILE,
    ("postgres/sh/functions/lay.sh",
     'if cmp -s "$1.pgherd" "$1"; then rm "$1.pgherd"; return; fi'): OWN_FILE,
    ("postgres/sh/functions/lay.sh", 'mv "$1.pgherd" "$1"'): OWN_FILE,
    ("postgres/sh/rewind.sh",
     ('rm -f "$PGDATA/postmaster.opts" "$PGDATA/postmaster.pid" "$PGDATA/standby.signal" '
      '"$PGDATA/recovery.signal"')): "files of a server that is down, with its data kept aside",
    ("postgres/sh/rewind.sh",
     '[ "$timeline" = 00000001 ] || [ -e "$PGDATA/pg_wal/$timeline.history" ] || rm -f -- "$file"'):
        "WAL of a timeline that was rewound away, with the node's data kept aside",
    ("operations/prepare.py",
     'words = ["--mount", private, "--entrypoint", "rm", image, "/p/initdb.done"]'):
        "a sentence: the operator's own act, on a mark that there was a database",
    ("postgres/sh/copy.sh", 'find "$PGDATA/$emptied" -mindepth 1 -delete'):
        "in a copy that begin() has found empty",
    ("postgres/sh/copy.sh",
     ("find \"$PGDATA\" ${tablespaces-} \\( -name pg_internal.init -o -name 'pgsql_tmp*' -o -path "
      "'*/archive_status/*.ready' \\) -prune -exec rm -rf {} +")):
        "in a copy that begin() has found empty",
    ("postgres/sh/keep-unarchived.sh",
     ('for file in $kept; do mv "$PGDATA/pg_wal/archive_status/$file.ready" '
      '"$PGDATA/pg_wal/archive_status/$file.done"; done')):
        "renames an empty file, once the WAL file that it is about was copied",
    ("postgres/sh/functions/begin.sh", 'find "$place" -mindepth 1 -path \'*/PG_[0-9]*\' -delete'):
        "what PostgreSQL makes in a place for tablespaces, which a run of ours had begun to fill",
    ("postgres/sh/functions/begin.sh",
     'find "$place" -mindepth 1 -depth -type d -exec rmdir {} \\; 2>/dev/null || :'):
        "empty directories in that place",
    ("postgres/sh/functions/begin.sh", 'find "$PGDATA" -mindepth 1 -delete'):
        "what a run of ours had begun to fill, in this very directory, before any server ran",
    ("operations/set_aside.py", ("EMPTY_DATA = f'rm -f \"{PGDATA}/PG_VERSION\"\\nfind \"{PGDATA}\" "
      "-mindepth 1 -delete\\n'")):
        "a volume, once all of it is copied to another; in clear_copies what drop_copy made, or "
        "a copy that was told twice, that no node and no container has, and that is held meanwhile",
    ("operations/set_aside.py",
     ("EMPTY_TABLESPACES = 'for place in ${tablespaces-}; do find \"$place\" -mindepth 1 -delete; "
      "done\\n'")): "the same",
    ("operations/set_aside.py", "find \"$place\" -mindepth 1 -path '*/PG_[0-9]*' -delete"):
        "down --purge --delete-data --confirm NAME: what PostgreSQL has made there",
    ("operations/set_aside.py",
     'find "$place" -mindepth 1 -depth -type d -exec rmdir {} \\\\; 2>/dev/null || :'):
        "empty directories",
    ("operations/set_aside.py", "mv --version 2>/dev/null | grep -q GNU || exit 0"):
        "asks who it is",
    ("operations/set_aside.py", 'said=$(LC_ALL=C mv -T -- "$source" "$trial" 2>&1)'):
        "renames nothing: to a directory that was found to have something in it",
    ("operations/set_aside.py", 'rmdir -- "$trial/full"'): "an empty directory of our own",
    ("operations/set_aside.py", 'rmdir -- "$trial"'): "the same",
    ("operations/set_aside.py", 'move = \'mv -- "$source" "$target"\\n\''):
        "renames, and never into or over anything",
    ("operations/set_aside.py",
     '+ \'  [ ! -d "$left" ] || { mv -- "$left" "$part"; exit; }\\ndone\\nmkdir -- "$part"\\n\''):
        "a copy that was cut short, of which a new one is made",
    ("operations/set_aside.py",
     'f"find {to.target} -mindepth 1 -delete\\n: >{to.target}/{UNFINISHED}\\n" for _, to in ways'):
        "in a new directory or volume, or in that copy",
    ("operations/set_aside.py",
     'lines += "sync\\n" + "".join(f"rm {to.target}/{UNFINISHED}\\n" for _, to in reversed(ways))'):
        OWN_FILE,
    ("operations/set_aside.py", 'instance.engine.must(docker["volume", "rm", copy.source])'):
        "clear_copies: see above",
    ("operations/set_aside.py", 'gone = instance.host.run(Tool("rmdir")["--", copy.source])'):
        "the same, empty",
    ("operations/restore.py", 'gone = group.here.run(Tool("rm")["-r", "--", copy.path])'):
        "passwords that were set aside, told twice",
    ("operations/restore.py", 'if [ -e "$there" ] && ! rmdir -- "$there" 2>/dev/null; then'):
        "an empty directory",
    ("operations/restore.py", 'mv -- "$there" "$target"'): "renames, where nothing is yet",
    ("operations/restore.py", 'mv -- "$copy" "$there"'): "renames, where nothing is any more",
    ("operations/remove.py",
     """script = f'{assignments(private=private)}rmdir -- "$private"\\n{told}'"""):
        "an empty directory",
    ("operations/teardown.py", 'instance.engine.must(docker["volume", "rm", place.source])'):
        "the node's own volume, whose contents were set aside, or deleted as told",
    ("operations/teardown.py", 'instance.host.run(Tool("rmdir")["--", place.source])'):
        "an empty directory",
    ("operations/teardown.py",
     'lines = f"find {PRIVATE} -mindepth 1 -delete\\nchmod 0777 {PRIVATE}\\n"'):
        "passfiles and marks beside the data, never data",
    ("operations/teardown.py", 'result = host.run(Tool("rm")["-rf", "--", directory])'):
        "down --purge --delete-data --confirm NAME: the passwords",
}  # fmt: skip


def removals() -> set[tuple[str, str]]:
    """Return each line of code of the package that deletes or renames."""
    found = set()
    for file in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.sh")]):
        if file.name in {"authority.py", "tls_files.py", "x509.py"}:  # files of their own, no data
            continue
        text = file.read_text(encoding="utf-8")
        prose = _prose(text) if file.suffix == ".py" else set()
        for number, line in enumerate(text.splitlines(), 1):
            code = line.strip()
            if number in prose or code.startswith("#") or "docker run --rm" in code:
                continue
            if REMOVES.search(code):
                found.add((str(file.relative_to(PACKAGE)), code))
    return found


def _prose(text: str) -> set[int]:
    """Return the lines of docstrings, and of sentences with a command in backticks."""
    lines = {n for n, line in enumerate(text.splitlines(), 1) if "`" in line}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def test_every_removal_is_listed_with_its_guard() -> None:
    assert removals() == set(LISTED)


# Who may call what deletes data: a further caller is a further way to lose it.
CALLERS = {
    "drop_copy": {"operations/rejoin.py"},
    "clear_copies": {"operations/set_aside.py", "operations/restore.py", "fix.py"},
    "_clear": {"operations/teardown.py"},
    "_clear_secrets": {"operations/teardown.py"},
    "purge": {"tasks/living.py"},
    "restore.delete": {"tasks/data.py"},
}


@pytest.mark.parametrize("name", CALLERS)
def test_what_deletes_data_is_called_from_where_it_is_guarded(name: str) -> None:
    called = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and f".{ast.unparse(node.func)}".endswith(f".{name}"):
                called.add(str(file.relative_to(PACKAGE)))
    assert called == CALLERS[name]


# --- the guards ---


@pytest.mark.parametrize("confirm", ["", "G", "other", "g "])
def test_a_purge_wants_the_groups_name(confirm: str) -> None:
    host = FakeHost()
    for delete in (False, True):
        with pytest.raises(Refused, match="invoke down --purge --confirm g"):
            teardown.purge(group(topology("s1"), host), confirm=confirm, delete=delete)
    with pytest.raises(Refused, match="goes with --purge"):
        teardown.down(group(topology("s1"), host), delete=True)
    assert host.calls == []


@pytest.mark.parametrize(("name", "confirm"), [("x", ""), ("", "x"), ("", ""), ("x", "y")])
def test_deleting_wants_the_name_twice(name: str, confirm: str) -> None:
    host = FakeHost()
    with pytest.raises(Refused, match="wants the name twice"):
        restore.delete(group(topology("s1"), host), name, confirm=confirm)
    assert host.calls == []


@pytest.mark.parametrize("name", ["/d/s1", "s1", "..", "*", "/d/s1_bk_x", "s1_bk_20260101T000000Z"])
def test_only_what_is_listed_is_deleted(name: str) -> None:
    other = "found\t1\tdata\ts1\t/d/s1_bk_20260102T000000Z\nwhy\t1\t\n"
    host = FakeHost({"sh -eus": Said(other)})
    with pytest.raises(Refused, match=r"Nothing of g is set aside as .*: s1_bk_20260102T000000Z"):
        restore.delete(group(topology("s1"), host), name, confirm=name)
    assert [call.reads for call in host.calls] == [True]


def test_what_the_user_named_otherwise_is_not_listed() -> None:
    said = "found\t1\tdata\ts1\t/d/s1_bk_mine\nfound\t2\tdata\ts1\t/d/s1_bk_20260102T000000Z\n"
    found, _ = restore.read(f"{said}why\t2\t\n", "local")
    assert [copy.name for copy in found] == ["s1_bk_20260102T000000Z"]


@pytest.mark.parametrize(("ours", "removed"), [(True, True), (False, False)])
def test_a_removed_standbys_volume_goes_only_if_it_is_its_own(
    monkeypatch: pytest.MonkeyPatch, ours: bool, removed: bool
) -> None:
    disk = Disk(pg_version="17", empty=False, ours=ours)
    monkeypatch.setattr(Instance, "disk", lambda *_, **__: disk)
    monkeypatch.setattr(remove, "set_data_aside", lambda *_, **__: "v_bk_x")
    monkeypatch.setattr(remove, "clear_private", lambda *_: None)
    host = FakeHost({"docker volume": Said(), "sh": Said("full"), "sh -s -- volume": Said("yes")})
    made = group(topology("s1", s1={"data": "volume:vol"}), host)
    node = RemovedNode(made.instance("s1"), None, None, "s1", "s1", asked=True)
    own = remove._owns_data(made, node, image())
    assert remove._take(made, node, image(), own=own)
    assert ("docker volume rm vol" in host.ran) is removed
