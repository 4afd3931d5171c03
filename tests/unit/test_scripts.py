"""The scripts for inside a container: how they are put together, and what they do to files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from fakes import ROOT, group, topology

from pgherd.hosts.commands import Script, Secret
from pgherd.operations.prepare import settings_fragment
from pgherd.postgres import scripts

SH = ROOT / "scripts" / "pgherd" / "postgres" / "sh"
FRAGMENTS = sorted(path.stem for path in SH.glob("*.sh"))

Run: TypeAlias = Callable[[Script], subprocess.CompletedProcess[str]]


@pytest.fixture
def pgdata(tmp_path: Path) -> Path:
    path = tmp_path / "a data directory"
    path.mkdir()
    return path


@pytest.fixture
def run(tmp_path: Path, pgdata: Path) -> Run:
    """Run a script as the container would, on a directory of its own and with stubs for root's."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, body in {
        "chown": ":",
        "gosu": 'shift; exec "$@"',
        "pg_controldata": "echo 'Database cluster state:               shut down'",
    }.items():
        (stubs / name).write_text(f"#!/bin/sh\n{body}\n")
        (stubs / name).chmod(0o755)
    (tmp_path / "etc").mkdir()
    env = {"PATH": f"{stubs}:{os.environ['PATH']}", "PGDATA": str(pgdata)}

    def execute(script: Script) -> subprocess.CompletedProcess[str]:
        text = script.text().replace("/etc/pgherd", str(tmp_path / "etc"))
        text = text.replace("/proc/net/", f"{tmp_path}/")
        return subprocess.run(
            ["sh", "-s"], input=text, env=env, capture_output=True, text=True, check=False
        )

    return execute


# --- composing ---


@pytest.mark.parametrize("name", FRAGMENTS)
def test_fragments_are_shell(name: str) -> None:
    text = scripts.compose(name).text()
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", FRAGMENTS)
def test_functions_come_along_where_they_are_called(name: str) -> None:
    needed = {
        "answer": ["other_database"],
        "begin-copy": ["unfinished", "begin"],
        "beyond": ["wal_records"],
        "drop-slot": ["until_true"],
        "disarm": ["until_true"],
        "examine": ["unarchived", "unfinished"],
        "hba": ["lay", "block", "gateways"],
        "has": ["until_true"],
        "has-shutdown": ["wal_records"],
        "in-force": ["passline", "logs_in"],
        "initdb": ["unfinished", "begin"],
        "keep-unarchived": ["unarchived"],
        "let-go": ["until_true"],
        "mark-standby": ["lay"],
        "passfile": ["lay", "passline", "in_passfile"],
        "passfile-current": ["passline", "in_passfile"],
        "released": ["until_true"],
        "promote-at-end": ["until_true", "wal_records"],
        "reload": ["until_true", "lay"],
        "replayed": ["until_true"],
        "ready": ["other_database"],
        "search-node": ["gateways", "other_database"],
        "role": ["passline", "logs_in"],
        "rotate": ["passline", "logs_in"],
        "swap-passfile": ["passline"],
        "sync-names": ["until_true"],
        "synchronous": ["until_true"],
        "tls": ["lay"],
        "tls-on": ["until_true"],
    }
    lines = scripts.compose(name).text().splitlines()
    defined = [f for f in scripts.FUNCTIONS for line in lines if line == f"{f}() {{"]
    assert called(defined, needed.get(name, [])) == needed.get(name, [])


def called(defined: list[str], needed: list[str]) -> list[str]:
    """Leave out functions that only come along because a comment has their names as words."""
    return [name for name in defined if name in needed or name not in {"unfinished", "begin"}]


@pytest.mark.parametrize(
    ("piece", "needed"),
    [
        (scripts.lay("f", "x"), ["lay"]),
        (scripts.block("f", "n", "x"), ["lay", "block"]),
        (scripts.auto_conf(("a",), "x"), ["lay", "auto_conf"]),
        ("echo replay blocks\n", []),
    ],
)
def test_functions_of_pieces(piece: str, needed: list[str]) -> None:
    text = scripts.compose(piece).text()
    defined = [f for f in scripts.FUNCTIONS if f"\n{f}() {{" in text]
    assert called(defined, needed) == needed


def test_a_script_is_read_whole_before_it_runs(run: Run) -> None:
    """Its commands share its stdin: `cat` would else take the lines that follow."""
    done = run(scripts.compose("cat\necho after\n"))
    assert (done.returncode, done.stdout) == (0, "after\n")


def test_values_are_variables(run: Run) -> None:
    text = "it's $HOME\n`id` \\"
    script = scripts.compose('printf "%s|%s" "$one" "$two"\n', one=text, two=5)
    assert run(script).stdout == f"{text}|5"


@pytest.mark.parametrize("value", ["p w", "it's", "$HOME `id`", "a\\nb", ")", '"', "ü"])
def test_a_password_becomes_a_variable(run: Run, value: str) -> None:
    piece = scripts.password("password", Secret(value, "/x"))
    script = scripts.compose(piece, 'printf %s "$password"\n')
    assert [part for part in script.parts if isinstance(part, Secret)] == [Secret(value, "/x")]
    assert len(script.parts) == 3
    assert run(script).stdout == value


def test_a_failing_command_ends_the_script(run: Run) -> None:
    done = run(scripts.compose("false\necho after\n"))
    assert (done.returncode, done.stdout) == (1, "")


def test_changes_are_what_fragments_say() -> None:
    assert scripts.changes("x\nchanged a.conf\nunchanged\nchanged role r\n") == ["a.conf", "role r"]


# --- files ---


def test_lay_makes_a_file_and_tells_only_of_changes(run: Run, pgdata: Path) -> None:
    script = scripts.compose(scripts.lay("$PGDATA/x.conf", "it's $x\n\\"))
    assert [run(script).stdout for _ in range(2)] == ["changed x.conf\n", ""]
    assert (pgdata / "x.conf").read_text() == "it's $x\n\\\n"
    assert (pgdata / "x.conf").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in pgdata.iterdir()] == ["x.conf"]


def block(text: str) -> Script:
    return scripts.compose(scripts.block("$PGDATA/f", "n", text))


BLOCK = "# BEGIN pgherd n\n{}\n# END pgherd n\n"


def test_block_is_added_at_the_end_once(run: Run, pgdata: Path) -> None:
    file = pgdata / "f"
    file.write_text("user's own\n")
    assert [run(block("a\nb\n")).stdout for _ in range(2)] == ["changed f\n", ""]
    assert file.read_text() == "user's own\n\n" + BLOCK.format("a\nb")


def test_block_is_replaced_where_it_is(run: Run, pgdata: Path) -> None:
    file = pgdata / "f"
    file.write_text("before\n" + BLOCK.format("old\nolder") + "after \\n $x\n")
    assert run(block("new \\n 'x' $y & /\n")).stdout == "changed f\n"
    assert file.read_text() == "before\n" + BLOCK.format("new \\n 'x' $y & /") + "after \\n $x\n"


def test_blocks_of_other_names_stay(run: Run, pgdata: Path) -> None:
    other = BLOCK.format("x").replace("pgherd n", "pgherd other")
    (pgdata / "f").write_text(other)
    run(block("a\n"))
    assert (pgdata / "f").read_text() == other + "\n" + BLOCK.format("a")


def test_block_after_a_last_line_without_an_end(run: Run, pgdata: Path) -> None:
    (pgdata / "f").write_text("last")
    run(block("a\n"))
    assert (pgdata / "f").read_text() == "last\n" + BLOCK.format("a")


@pytest.mark.parametrize(
    "lines",
    [
        "BEGIN x",
        "x END y",
        "END x BEGIN y",  # taken for a block it would lose the user's last line
        "BEGIN x END y BEGIN z END",
    ],
)
def test_what_is_no_block_is_left_to_the_user(run: Run, pgdata: Path, lines: str) -> None:
    marks = {"BEGIN": "# BEGIN pgherd n", "END": "# END pgherd n"}
    text = "".join(f"{marks.get(word, word)}\n" for word in lines.split())
    (pgdata / "f").write_text(text)
    done = run(block("a\n"))
    assert (done.returncode, done.stdout) == (67, "")
    assert done.stderr.startswith(f"{pgdata}/f must have the lines '# BEGIN pgherd n' and ")
    assert (pgdata / "f").read_text() == text


def test_auto_conf_drops_and_adds(run: Run, pgdata: Path) -> None:
    file = pgdata / "postgresql.auto.conf"
    file.write_text(
        "# kept\nprimary_conninfo = 'host=old'\n  Recovery_Target_Time='x'\n"
        "primary_conninfo_x = 1\nwork_mem = '1MB' # primary_conninfo = 2\nrecovery_target on\n"
    )
    names = ("primary_conninfo", "recovery_target[a-z_]*")
    script = scripts.compose(scripts.auto_conf(names, "primary_conninfo = 'it''s $x'"))
    assert [run(script).stdout for _ in range(2)] == ["changed postgresql.auto.conf\n", ""]
    assert file.read_text().splitlines() == [
        "# kept",
        "primary_conninfo_x = 1",
        "work_mem = '1MB' # primary_conninfo = 2",
        "primary_conninfo = 'it''s $x'",
    ]


def test_auto_conf_of_nothing_but_what_is_dropped(run: Run, pgdata: Path) -> None:
    (pgdata / "postgresql.auto.conf").write_text("a = 1\n")
    assert run(scripts.compose(scripts.auto_conf(("a",), ""))).returncode == 0
    assert (pgdata / "postgresql.auto.conf").read_text() == ""


# --- fragments that need no server ---


def test_hba_names_each_gateway(run: Run, pgdata: Path, tmp_path: Path) -> None:
    (tmp_path / "route").write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "eth0\t00000000\t010012AC\t0003\t0\t0\t0\t00000000\n"
        "eth0\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n"
    )
    none = "0" * 32
    (tmp_path / "ipv6_route").write_text(
        f"fd00{none[4:]} 40 {none} 00 {none} 00000100 00000001 00000000 00000001 eth0\n"
        f"{none} 00 {none} 00 fd00{none[5:]}1 00000400 00000001 00000000 00000003 eth0\n"
    )
    (pgdata / "pg_hba.conf").write_text("local all all trust\n")
    rules = "host replication r $gateway reject\nhost replication r samenet scram-sha-256"
    done = run(scripts.compose("hba", rules=rules, elsewhere=""))
    assert (done.returncode, done.stdout, done.stderr) == (0, "changed pg_hba.conf\n", "")
    assert (pgdata / "pg_hba.conf").read_text().splitlines() == [
        "local all all trust",
        "",
        "# BEGIN pgherd replication",
        "host replication r 172.18.0.1/32 reject",
        "host replication r fd00:0000:0000:0000:0000:0000:0000:0001/128 reject",
        "host replication r samenet scram-sha-256",
        "# END pgherd replication",
    ]


def test_hba_names_the_nodes_of_other_hosts(run: Run, pgdata: Path) -> None:
    (pgdata / "pg_hba.conf").write_text("local all all trust\n")
    rules = "host replication r $elsewhere scram-sha-256"
    elsewhere = "192.0.2.7 2001:db8::7 localhost"
    assert run(scripts.compose("hba", rules=rules, elsewhere=elsewhere)).returncode == 0
    found = (pgdata / "pg_hba.conf").read_text().splitlines()
    assert found[3:5] == [
        "host replication r 192.0.2.7/32 scram-sha-256",
        "host replication r 2001:db8::7/128 scram-sha-256",
    ]
    assert set(found[5:-1]) <= {
        "host replication r 127.0.0.1/32 scram-sha-256",
        "host replication r ::1/128 scram-sha-256",
    }
    assert len(found) > 6


def test_a_name_that_leads_nowhere_lets_nobody_in(run: Run, pgdata: Path) -> None:
    (pgdata / "pg_hba.conf").write_text("before\n")
    done = run(scripts.compose("hba", rules="$elsewhere", elsewhere="no.such.invalid"))
    assert done.returncode == 1
    assert "no.such.invalid cannot be resolved in this container" in done.stderr
    assert (pgdata / "pg_hba.conf").read_text() == "before\n"


def test_a_passfile_line_is_escaped(run: Run, tmp_path: Path) -> None:
    piece = scripts.password("password", Secret("a:b\\c*", "/x"))
    assert run(scripts.compose(piece, "passfile")).stdout == "changed passfile\n"
    path = tmp_path / "etc" / "passfile"
    assert path.read_text() == "*:*:*:replicator:a\\:b\\\\c*\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_standby_is_marked_once(run: Run, pgdata: Path) -> None:
    script = scripts.compose("mark-standby")
    assert [run(script).stdout for _ in range(2)] == ["changed standby.signal\n", ""]
    assert (pgdata / "standby.signal").read_bytes() == b""


def test_an_empty_directory_is_examined(run: Run) -> None:
    done = run(scripts.compose("examine"))
    assert (done.returncode, done.stdout) == (0, "empty=1\n")


def test_a_standbys_directory_is_examined(run: Run, pgdata: Path, tmp_path: Path) -> None:
    (pgdata / "PG_VERSION").write_text("17\n")
    (pgdata / "standby.signal").touch()
    (pgdata / "postgresql.auto.conf").write_text("# x\nPrimary_Conninfo = 'host=pa'\n")
    (pgdata / "global").mkdir()
    (pgdata / "global" / "pg_control").touch()
    (tmp_path / "etc" / "initdb.done").touch()
    assert run(scripts.compose("examine")).stdout.splitlines() == [
        "pg_version=17",
        "standby.signal=1",
        "initdb.done=1",
        "connected=1",
        "Database cluster state:               shut down",
    ]


def mark(path: Path) -> str:
    """The contents of a mark that names this directory."""
    return subprocess.run(
        ["stat", "-c", "%d:%i:%W", path], capture_output=True, text=True, check=True
    ).stdout


def test_the_settings_that_a_directory_has_are_examined(run: Run, pgdata: Path) -> None:
    (pgdata / "pgherd.conf").write_text("a = 1\n")
    digest = hashlib.sha256(b"a = 1\n").hexdigest()
    assert run(scripts.compose("examine")).stdout == f"settings={digest}\n"


def test_a_mark_names_its_directory(run: Run, pgdata: Path, tmp_path: Path) -> None:
    done = run(scripts.compose("begin-copy"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "etc" / "seeding").read_text() == mark(pgdata)
    assert pgdata.stat().st_mode & 0o777 == 0o700
    assert run(scripts.compose("examine")).stdout == "empty=1\nseeding=1\n"
    assert run(scripts.compose("seeded", "examine")).stdout == ("empty=1\ninitdb.done=1\nours=1\n")
    pgdata.rename(pgdata.with_name("elsewhere"))
    pgdata.mkdir()
    (pgdata / "precious").touch()
    assert run(scripts.compose("examine")).stdout == "initdb.done=1\n"


@pytest.mark.parametrize("name", ["seeding", "initdb.pending"])
def test_what_a_killed_run_left_is_cleared(
    run: Run, pgdata: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "etc" / name).write_text(mark(pgdata))
    (pgdata / "base").mkdir()
    (pgdata / "base" / "1").touch()
    assert run(scripts.compose("examine")).stdout == f"{name}=1\n"
    done = run(scripts.compose("begin-copy"))
    assert done.stdout == "changed an unfinished copy was removed\n"
    assert list(pgdata.iterdir()) == []
    assert (tmp_path / "etc" / "seeding").read_text() == mark(pgdata)


@pytest.mark.parametrize(
    ("marked", "files"),
    [
        ("", ["mine"]),
        ("another", ["mine"]),
        ("empty", ["mine"]),
        ("this", ["mine", "postmaster.opts"]),  # a server ran on it
    ],
)
@pytest.mark.parametrize("name", ["seeding", "initdb.pending"])
def test_what_is_no_unfinished_copy_stays(
    run: Run, pgdata: Path, tmp_path: Path, name: str, marked: str, files: list[str]
) -> None:
    text = {"another": mark(tmp_path), "this": mark(pgdata), "empty": ""}.get(marked)
    if text is not None:
        (tmp_path / "etc" / name).write_text(text)
    for file in files:
        (pgdata / file).touch()
    ran = name == "initdb.pending" and marked == "this"  # the image's own script runs one
    assert run(scripts.compose("examine")).stdout == "initdb.pending=1\n" * ran
    done = run(scripts.compose("begin-copy"))
    assert (done.returncode, done.stdout, done.stderr) == (65, "", " ".join(files) + " \n")
    assert sorted(path.name for path in pgdata.iterdir()) == files


def test_settings_that_the_server_does_not_take_go_back(
    run: Run, pgdata: Path, tmp_path: Path
) -> None:
    server = tmp_path / "bin" / "postgres"
    server.write_text(
        '#!/bin/sh\ngrep -q good "$2/pgherd.conf" || { echo " LOG:  bad x" >&2; exit 1; }\n'
    )
    server.chmod(0o755)
    own, before = pgdata / "pgherd.conf", pgdata / "pgherd.conf.before"
    own.write_text("good\n")
    before.write_text("older\n")
    assert run(scripts.compose("check-settings")).returncode == 0
    assert (own.read_text(), before.read_text()) == ("good\n", "older\n")
    own.write_text("bad\n")
    before.write_text("good\n")
    done = run(scripts.compose("check-settings"))
    assert (done.returncode, done.stdout, done.stderr) == (72, "", "bad x;\n")
    assert (own.read_text(), before.exists()) == ("good\n", False)


def test_settings_of_before_are_kept(run: Run, pgdata: Path) -> None:
    piece = settings_fragment(group(topology()).master)
    (pgdata / "postgresql.conf").write_text("port = 5432\n")
    assert run(scripts.compose(piece)).stdout == "changed pgherd.conf\nchanged postgresql.conf\n"
    laid = (pgdata / "pgherd.conf").read_text()
    assert not (pgdata / "pgherd.conf.before").exists()
    assert run(scripts.compose(piece)).stdout == ""
    assert (pgdata / "pgherd.conf.before").read_text() == laid


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What is to be copied: some of what a server has."""
    path = tmp_path / "from"
    emptied = ["replslot", "dynshmem", "notify", "serial", "snapshots", "stat_tmp", "subtrans"]
    for name in ["global", "base", "pg_wal", "pg_tblspc", *(f"pg_{n}" for n in emptied)]:
        (path / name).mkdir(parents=True)
    for name in ["PG_VERSION", "postmaster.pid", "standby.signal", "base/pg_internal.init",
                 "base/1", "global/pg_control", "pg_wal/0001", "pg_notify/x"]:  # fmt: skip
        (path / name).write_text(name)
    (path / "pg_replslot" / "s1").mkdir()
    (path / "pg_wal" / "archive_status").mkdir()
    (path / "pg_wal" / "archive_status" / "0001.ready").write_text("")
    return path


def copying(source: Path) -> Script:
    return Script((scripts.compose("copy").text().replace("/from", str(source)),))


def test_a_copy_leaves_out_what_is_not_to_be_copied(run: Run, pgdata: Path, source: Path) -> None:
    done = run(copying(source))
    assert (done.returncode, done.stderr) == (0, "")
    found = sorted(str(path.relative_to(pgdata)) for path in pgdata.rglob("*") if path.is_file())
    assert found == ["PG_VERSION", "base/1", "global/pg_control", "pg_wal/0001"]
    assert not any((pgdata / "pg_replslot").iterdir())


def stub(tmp_path: Path, name: str, body: str) -> None:
    """Put a program of that name before the real one, which `body` may run as $real."""
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\nreal={shutil.which(name)}\n{body}\n")
    path.chmod(0o755)


def test_a_copy_that_was_not_read_to_its_end(
    run: Run, pgdata: Path, source: Path, tmp_path: Path
) -> None:
    """The tar that writes gets a whole archive, and knows nothing of it."""
    stub(tmp_path, "tar", 'case $1 in -cf) $real "$@"; exit 2 ;; esac\nexec $real "$@"')
    done = run(copying(source))
    assert (done.returncode, done.stderr) == (74, "not all of the data could be read\n")
    assert not (pgdata / "global" / "pg_control").exists()


@pytest.mark.parametrize(("kind", "code"), [("tar (GNU tar) 1.34", 0), ("busybox", 74)])
def test_a_file_that_seems_to_have_changed(
    run: Run, source: Path, tmp_path: Path, kind: str, code: int
) -> None:
    """Some file systems say so of one that did not; of another tar it means more than that."""
    told = f'--version) echo "{kind}"; exit'
    stub(tmp_path, "tar", f'case $1 in {told} ;; -cf) $real "$@"; exit 1 ;; esac\nexec $real "$@"')
    assert run(copying(source)).returncode == code


def test_a_copy_that_could_not_be_written(run: Run, source: Path, tmp_path: Path) -> None:
    stub(tmp_path, "tar", 'case $1 in -xpf) exit 2 ;; esac\nexec $real "$@"')
    assert run(copying(source)).returncode == 2


def test_a_copy_of_what_a_server_ran_on(
    run: Run, pgdata: Path, source: Path, tmp_path: Path
) -> None:
    """One that holds nothing: as it starts, it writes to its control data."""
    wrote = f"echo in production >>{source}/global/pg_control"
    stub(tmp_path, "tar", f'case $1 in -cf) {wrote} ;; esac\nexec $real "$@"')
    done = run(copying(source))
    assert (done.returncode, done.stderr) == (74, "a server ran on the data while it was copied\n")
    assert not (pgdata / "global" / "pg_control").exists()


def test_what_is_copied_is_held(run: Run, source: Path, tmp_path: Path) -> None:
    """By a lock that those of servers and of containers that write exclude, and one as ours not."""
    stub(tmp_path, "tar", f'flock -n {source} true && echo free >&2\nexec $real "$@"')
    done = run(copying(source))
    assert (done.returncode, done.stderr) == (0, "")
    with subprocess.Popen(
        ["flock", "-s", source, "sh", "-c", "echo; read end"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as another:  # fmt: skip
        assert another.stdout
        another.stdout.readline()
        assert run(copying(source)).returncode != 70
        another.communicate("\n")


def test_what_a_server_holds_is_not_copied(run: Run, pgdata: Path, source: Path) -> None:
    hold = f"{scripts.fragment('hold')}echo\nread end\n"
    with subprocess.Popen(
        ["sh", "-c", hold], env={"PGDATA": str(source), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout
        server.stdout.readline()
        done = run(copying(source))
        server.communicate("\n")
    assert (done.returncode, done.stderr) == (70, "another container has it\n")
    assert not any(pgdata.iterdir())


# --- for whom commits wait ---


@pytest.mark.parametrize(("ours", "sets"), [("t", ["'s1'", "'former'"]), ("f", ["'s1'"])])
def test_names_go_back_only_where_they_are_still_these(
    run: Run, tmp_path: Path, ours: str, sets: list[str]
) -> None:
    """The script outlives a run that is killed; another run may have set others since."""
    said = tmp_path / "said"
    stub(
        tmp_path,
        "psql",
        f"""for words; do :; done
case $words in
  *quote_literal*) echo "'former'" ;;
  *pg_file_settings*"setting = 's1'"*) echo {ours} ;;
  *pg_stat_replication*) echo f ;;
  *) echo "$words" >>{said} ;;
esac""",
    )
    done = run(scripts.compose("sync-names", names="'s1'", count=1, seconds=0))
    assert done.returncode == 75
    lines = [line for line in said.read_text().splitlines() if line.startswith("ALTER")]
    assert lines == [f"ALTER SYSTEM SET synchronous_standby_names = {name}" for name in sets]
