"""The doctor's round and what it mends, on hosts that run nothing; and how it is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cases import INFO, absent, group, host, node, path
from fakes import ANSWER, FakeHost, Said, topology
from fakes import group as some_group

from pgherd import fix
from pgherd.checks.base import NOTE, PROBLEM, WARNING, Checkup, Finding
from pgherd.checks.collect import PathSheet
from pgherd.checks.doctor import Examination, examine
from pgherd.docker.models import Image
from pgherd.errors import Error, Refused, Unreachable
from pgherd.group.group import Group
from pgherd.report import findings as doctor

IMAGE = {"Id": "sha256:17", "RepoTags": ["postgres:17"], "Config": {"Env": ["PG_MAJOR=17"]}}
SHEET = f"""\
== path 0
up /d
state absent
writable
owner 1000 1000
df /dev/vda         264212084 28725312  77665600      27% /
inodes /dev/vda       16777216 554552 16222664    4% /
== docker
{json.dumps(INFO)}
== image postgres:17
{json.dumps([IMAGE])}
"""
LOOK = "sh -s --"  # the script of a host, whose arguments are paths; that of the servers has none


def made(said: Said | Error, **plan: Any) -> tuple[Group, FakeHost]:
    fake = FakeHost({LOOK: said, "sh -s": Said("[]\n== ANSWERS\n"), **plan})
    return some_group(topology(), fake), fake


def test_a_group_that_is_not_there_yet() -> None:
    """Two commands tell all, since no node can be asked."""
    asked, fake = made(Said(SHEET))
    found = examine(asked).checkup
    assert (found.findings, found.ok, found.away) == ([], True, [])
    assert [call.argv[:2] for call in fake.calls] == [("sh", "-s"), ("sh", "-s")]
    assert all(call.reads for call in fake.calls)
    assert "images='postgres:17 pgherd/postgres:17'" in fake.calls[0].stdin


def test_a_host_that_cannot_be_reached() -> None:
    asked, fake = made(Unreachable("box does not answer."))
    found = examine(asked).checkup
    assert [f.code for f in found.findings] == ["host-unreachable"]
    assert (found.away, found.ok) == (["local"], False)
    assert len(fake.calls) == 1  # it is not asked again


def test_an_engine_that_does_not_answer() -> None:
    text = "== docker\n== docker-said\n sh: 97: docker: not found\n"
    asked, fake = made(Said(text))
    found = examine(asked).checkup
    assert {f.code for f in found.findings if f.level == PROBLEM} >= {"cli-missing"}
    assert (found.away, len(fake.calls)) == (["local"], 1)


def test_a_topology_that_cannot_be_is_refused() -> None:
    asked, _ = made(Refused("no home directories of others are known"))
    with pytest.raises(Refused):
        examine(asked)


@pytest.mark.parametrize(
    ("here", "says"),
    [
        (Said(json.dumps([IMAGE])), "it will be carried over"),
        (Said("[]", "No such image", 1), "built from Debian packages"),
        (Unreachable("no engine here"), "built from Debian packages"),
    ],
)
def test_an_image_that_is_only_here(here: Said | Error, says: str) -> None:
    """No host of the group is this machine: it is asked only where nobody has the image."""
    far = FakeHost(
        {LOOK: Said(SHEET.split("== image", maxsplit=1)[0]), "sh -s": Said("[]\n== ANSWERS\n")}
    )
    asked = Group(topology(pa={"host": "box"}), far.trace, {"box": far})
    asked.here = FakeHost({"docker image inspect": here})
    (found,) = examine(asked).checkup.findings
    assert (found.code, found.level) == ("image-absent", NOTE)
    assert says in found.text


def running() -> str:
    """What `docker container inspect` and psql say of the node pa."""
    labels = {"pgherd.group": "g", "pgherd.home": FakeHost.home, "pgherd.node": "pa"}
    record = {
        "Id": "1", "Name": "/pa", "Image": "sha256:17", "HostConfig": {}, "Mounts": [],
        "State": {"Status": "running", "ExitCode": 0, "StartedAt": ""},
        "Config": {"Image": "postgres:17", "Labels": labels},
    }  # fmt: skip
    return f"{json.dumps([record])}\n== ANSWERS\n== pa 0\n{json.dumps(ANSWER)}\n"


def test_a_node_that_runs_is_asked_once() -> None:
    asked, fake = made(Said(SHEET.replace("absent", "full")))
    fake.plan["sh", "-s"] = Said(running())
    fake.plan["docker", "exec"] = Said("passfile=postgres 644\nahead=0\n== ANSWER\n{}\n")
    found = examine(asked).checkup
    assert "passfile-open" in {f.code for f in found.findings}
    inside = [call for call in fake.calls if call.argv[1] == "exec"]
    assert [call.reads for call in inside] == [True]


@pytest.mark.parametrize(
    ("source", "readonly", "stats", "shared", "left"),
    [
        ("/d/pa", False, "", True, True),
        ("/d/pa", True, "", False, True),  # it is in nobody's way
        ("/d", False, "", True, False),
        ("/m", False, "1:7 /m\n1:7 /d/pa\n", True, True),  # the same, as a bind mount has it
        ("/d/pa_bk_20261128T125928Z.part", False, "", False, False),
        ("/d/pa_bk_20261128T125928Z.part", True, "", False, True),
        ("/m", False, "1:7 /m\n1:7 /d/pa_bk_20261128T125928Z.part\n", False, False),
    ],
)
def test_who_has_a_directory(
    source: str, readonly: bool, stats: str, shared: bool, left: bool
) -> None:
    asked, fake = made(Said(SHEET.replace("absent", "full\npart /d/pa_bk_20261128T125928Z.part")))
    other = json.loads(running().partition("\n")[0])[0] | {"Name": "/x"}
    other["Mounts"] = [{"Type": "bind", "Source": source, "Destination": "/t", "RW": not readonly}]
    fake.plan["sh", "-s"] = Said(f"{json.dumps([other])}\n== ANSWERS\n")
    fake.plan["sh", "-s", "--", "/"] = Said(stats)
    fake.plan["docker",] = Said()
    codes = {f.code for f in examine(asked).checkup.findings}
    assert ("data-shared" in codes, "unfinished-copy" in codes) == (shared, left)


def test_a_node_that_cannot_be_asked_is_told() -> None:
    asked, fake = made(Said(SHEET.replace("absent", "full")))
    fake.plan["sh", "-s"] = Said(running())
    fake.plan["docker", "exec"] = Said("", "Error response from daemon: it is not running", 1)
    found = {f.code: f.text for f in examine(asked).checkup.findings}
    assert "it is not running" in found["not-examined"]


def test_secrets_here_are_looked_at(tmp_path: Path) -> None:
    asked, _ = made(Said(SHEET))
    asked.secrets = tmp_path
    for name, mode in (("postgres.password", 0o644), ("ca.crt", 0o644), ("ca.key", 0o600)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    found = examine(asked).checkup.findings
    assert [(f.code, f.target) for f in found] == [
        ("secret-open", str(tmp_path / "postgres.password"))
    ]


# --- what is mended ---


def mended(finding: Finding, *nodes: Any, delete_parts: bool = False) -> list[str]:
    """Mend one finding; return the commands that were run."""
    fake = FakeHost({"chmod": Said(), "docker": Said(), "rmdir": Said(), "sh": Said()})
    asked = some_group(topology(), fake)
    found = Examination(Checkup("g", [finding]), group(*(nodes or (node(),))))
    fix._fix_once(asked, found, finding, delete_parts)
    return [f"{words} <<{call.stdin}" for words, call in zip(fake.ran, fake.calls, strict=True)]


def finding(code: str, target: str = "", *, fixable: bool = True) -> Finding:
    return Finding(code, WARNING, "x", "", "pa", "local", target, fixable)


@pytest.mark.parametrize(
    ("code", "target", "begins", "has"),
    [
        ("secret-open", "/s/x.password", "chmod 600 -- /s/x.password", ""),
        ("fenced", "", "docker update --restart unless-stopped pa", ""),
        ("reload-due", "", "docker exec", "SELECT pg_reload_conf()"),
        ("retry-slow", "", "docker exec", "ALTER SYSTEM RESET wal_retrieve_retry_interval"),
        ("helper-left", "x-look-1", "docker rm --volumes x-look-1", ""),
        (
            "data-owner",
            "",
            "docker exec --interactive --user root pa sh -s",
            'chown postgres:postgres "$PGDATA"',
        ),
        (
            "passfile-open",
            "",
            "docker run --rm",
            "for file in /etc/pgherd/passfile /etc/pgherd/*.pem; do",
        ),
    ],
)
def test_what_is_mended(code: str, target: str, begins: str, has: str) -> None:
    (ran,) = mended(finding(code, target))
    assert ran.startswith(begins)
    assert has in ran


def test_the_data_of_one_that_is_down_is_mended_in_a_container_of_its_own() -> None:
    (ran,) = mended(finding("data-owner"), node(container=None))
    assert ran.startswith("docker run --rm")
    assert ran.index("flock") < ran.index('chown postgres:postgres "$PGDATA"')


def test_directories_are_made_as_root_for_the_user() -> None:
    way = path("/d/it's/pa", up="/d", state="absent", writable=False)
    (ran,) = mended(finding("parent-not-writable"), absent(path=way))
    assert "--mount type=bind,source=/d,target=/up" in ran
    assert "way='it'\"'\"'s/pa'\nuser=1000:1000" in ran


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("pa_bk_20261128T125928Z.part", True),
        ("pa_bk_mine.part", False),
        ("pa_bk_2026118T125928Z.part", False),
        ("pa_bk_20261340T000000Z.part", False),
        ("pa_bk_20261128T125928Z", False),
        ("pa_bk_mine_bk_20261128T125928Z.part", False),  # of the directory `pa_bk_mine`
    ],
)
def test_only_what_pgherd_names_so_is_its_unfinished_copy(name: str, ours: bool) -> None:
    """Whatever else ends in `.part` is somebody's own, and is not offered for deletion."""
    assert PathSheet.parse("/d/pa", f"part /d/{name}\n").parts == (f"/d/{name}",) * ours


def test_a_copy_is_deleted_only_if_told_twice() -> None:
    left = finding("unfinished-copy", "/d/pa_bk_20261128T125928Z.part", fixable=False)
    assert mended(left) == []
    *_, deleted, gone = mended(left, delete_parts=True)
    assert "source=/d/pa_bk_20261128T125928Z.part,target=/var/lib/postgresql/data" in deleted
    assert gone.startswith("rmdir -- /d/pa_bk_20261128T125928Z.part")


@pytest.mark.parametrize("path", ["/d/pa", "/d", "/d/pa/base"])
def test_a_copy_that_is_a_nodes_data_by_now_stays(path: str) -> None:
    left = finding("unfinished-copy", path, fixable=False)
    assert not [ran for ran in mended(left, delete_parts=True) if ran.startswith(("docker", "rm"))]


@pytest.mark.parametrize("code", ["port-taken", "replay-paused", "wrong-major"])
def test_what_is_not_mended(code: str) -> None:
    assert mended(finding(code, fixable=False)) == []


def test_what_cannot_be_mended_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    asked = some_group(topology(), FakeHost({"docker": Said("", "no", 1)}))
    found = Examination(Checkup("g"), group(node()))
    assert fix._fix_once(asked, found, finding("fenced"), False) == ""
    assert "fenced stays: A docker command failed" in capsys.readouterr().err


def test_without_the_image_files_cannot_be_mended(capsys: pytest.CaptureFixture[str]) -> None:
    asked = some_group(topology(), FakeHost())
    bare = host(node(), sheet=node().sheet.__class__())
    found = Examination(Checkup("g"), group(hosts=(bare,)))
    assert fix._fix_once(asked, found, finding("data-owner"), False) == ""
    assert "`invoke image` brings it" in capsys.readouterr().err


def test_the_image_of_a_host() -> None:
    image = Examination(Checkup("g"), group(node())).image("local")
    assert isinstance(image, Image)


# --- the report ---

FOUND = [
    Finding("path-blanks", NOTE, "There are blanks.", node="pa", host="local"),
    Finding("port-taken", PROBLEM, "Port 5432\nis taken", "free it", node="pa", host="local"),
    Finding("secret-open", WARNING, "x is open", "mend it", target="/x", fixable=True),
]


def test_the_report() -> None:
    found = Checkup("g", FOUND, 92, fixed=["pa: reloading"])
    assert doctor.doctor_text(found) == (
        "fixed: pa: reloading\n"
        "node pa\n"
        "  PROBLEM  port-taken: Port 5432 is taken. Cure: free it\n"
        "  note     path-blanks: There are blanks\n"
        "group g\n"
        "  warning  secret-open: x is open. Cure: mend it\n"
        "doctor of g: 1 problem, 1 warning, 1 note (92 checks); "
        "`invoke doctor --fix` takes care of 1"
    )


@pytest.mark.parametrize(
    ("findings", "away", "ends"),
    [
        ([], [], "doctor of g: all is well (9 checks)"),
        (FOUND[:1], [], "doctor of g: all is well, 1 note (9 checks)"),
        ([Finding("x", WARNING, "y")] * 2, [], "doctor of g: no problem, 2 warnings (9 checks)"),
        ([], ["box", "b"], "doctor of g: box and b cannot be reached (9 checks)"),
    ],
)
def test_how_it_is_in_all(findings: list[Finding], away: list[str], ends: str) -> None:
    assert doctor.doctor_text(Checkup("g", findings, 9, away)).splitlines()[-1] == ends


def test_the_report_for_programs() -> None:
    answer = json.loads(doctor.doctor_json(Checkup("g", FOUND, 92)))
    assert (answer["group"], answer["ok"], answer["checks"]) == ("g", False, 92)
    assert answer["findings"][0] == {
        "code": "port-taken", "level": "problem", "text": "Port 5432 is taken", "cure": "free it",
        "node": "pa", "host": "local", "fixable": False,
    }  # fmt: skip
