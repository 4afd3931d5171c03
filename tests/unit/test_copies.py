"""What `sh/list-set-aside.sh` finds and prints, as copies; and how they are shown."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from boxes import program
from fakes import ROOT, FakeHost, Said, group, topology

from pgherd.errors import Refused
from pgherd.hosts.commands import Trace, assignments
from pgherd.hosts.local import LocalHost
from pgherd.operations import restore, set_aside
from pgherd.operations.restore import Copy, Kept
from pgherd.report import aside

SCRIPT = ROOT / "scripts" / "pgherd" / "postgres" / "sh" / "list-set-aside.sh"
AT = "20260102T030405Z"
INSIDE = """\
size=2048
pg_version=17
standby.signal=1
pg_control version number:            1300
Database system identifier:           7438000000000000001
Database cluster state:               shut down in recovery
Latest checkpoint's TimeLineID:       3
"""


def said(kind: str, path: str, inside: str, why: str = "s1 of g: seeded anew") -> str:
    return f"found\t1\t{kind}\ts1\t{path}\nfree\t1000\nwhy\t1\t{why}\n== 1\n{inside}"


def one(kind: str, path: str, inside: str, why: str = "") -> Copy:
    ((copy,), _) = restore.read(said(kind, path, inside, why), "local")
    return copy


def test_a_copy_as_it_is_read() -> None:
    ((copy,), free) = restore.read(said("data", f"/d/s1_bk_{AT}", INSIDE), "box")
    assert (copy.name, copy.of, copy.host) == (f"s1_bk_{AT}", "/d/s1", "box")
    assert copy.at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (copy.size, free) == (2048 * 1024, {"box": 1000 * 1024})
    assert (copy.fault, copy.reason) == ("", "seeded anew")
    assert copy.disk
    assert (copy.disk.pg_version, copy.disk.timeline, copy.disk.standby_signal) == ("17", 3, True)


@pytest.mark.parametrize(
    ("kind", "name", "inside", "why", "fault"),
    [
        ("data", f"s1_bk_{AT}.part", INSIDE, "", "an unfinished copy"),
        ("volume", f"s1_bk_{AT}", f"{INSIDE}pgherd.unfinished=1\n", "", "an unfinished copy"),
        ("data", f"s1_bk_{AT}", INSIDE, "s1 of g: x, an unfinished copy", "an unfinished copy"),
        ("data", f"s1_bk_{AT}", "size=4\n", "", "no database"),
        ("data", f"s1_bk_{AT}", "size=4\npg_version=17\n", "", "no control data"),
        ("secrets", f"g_bk_{AT}", "size=4\npostgres.password=1\n", "", "has no password of repl"),
        ("secrets", f"g_bk_{AT}", "postgres.password=1\nreplicator.password=1\n", "", ""),
        ("data", f"s1_bk_{AT}", INSIDE, "", ""),
    ],
)
def test_what_is_not_whole(kind: str, name: str, inside: str, why: str, fault: str) -> None:
    found = one(kind, f"/d/{name}", inside, why).fault
    assert found.startswith(fault)
    assert bool(found) is bool(fault)


def test_of_another_majors_control_data_only_the_system_counts() -> None:
    text = f"WARNING: Calculated CRC checksum does not match\n{INSIDE}"
    copy = one("data", f"/d/s1_bk_{AT}", text.replace("17", "18"))
    assert copy.disk
    assert (copy.disk.system_identifier, copy.disk.state) == ("7438000000000000001", None)
    assert (copy.disk.timeline, copy.fault) == (0, "")


@pytest.mark.parametrize(
    "name",
    ["s1_bk_mine", "s1_bk_", "s1_bk_20261340T000000Z", "s1_bk_x.part", "s1_bk_2026118T125928Z"],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert restore.read(said("data", f"/d/{name}", INSIDE), "local")[0] == []


def kept(*found: Copy, **away: str) -> Kept:
    return Kept("g", found, {"local": 5_000_000_000}, away)


def test_a_copy_by_its_names() -> None:
    here = one("data", f"/d/s1_bk_{AT}", INSIDE)
    there = Copy("data", "s2", "box", f"/e/s1_bk_{AT}", here.at)
    both = kept(here, there)
    for name in (f"/d/s1_bk_{AT}", f"/d/s1_bk_{AT}/", f"local:s1_bk_{AT}"):
        assert restore.find_copy(both, name) is here
    assert restore.find_copy(both, f"box:/e/s1_bk_{AT}") is there
    assert restore.find_copy(both, "/d/s1") is None
    with pytest.raises(Refused, match=r"more than once: say local:/d/s1_bk.* or box:/e/s1_bk"):
        restore.find_copy(both, f"s1_bk_{AT}")


def test_the_table_and_what_all_of_it_takes() -> None:
    copy = one("data", f"/d/s1_bk_{AT}", INSIDE, "s1 of g: seeded anew")
    text = aside.as_text(kept(copy, box="no route"), datetime(2026, 2, 12, tzinfo=UTC))
    head, row, away, place, takes, _, how = text.splitlines()
    assert head.split()[:5] == ["name", "host", "node", "age", "size"]
    assert row.split()[:6] == [f"s1_bk_{AT}", "local", "s1", "40", "d", "2.1"]
    assert "standby, shut down in recovery" in row
    assert (away, place) == ("box: left out, since it cannot be reached", "in /d of local")
    assert (
        takes
        == "g: 1 copy is set aside and takes 2.1 MB (5.0 GB free on local); the oldest is 40 d old"
    )
    assert "invoke aside.delete NAME --confirm NAME" in how
    assert aside.as_text(kept()) == "g: nothing is set aside"
    (plain,) = json.loads(aside.as_json(kept(copy)))["copies"]
    assert (plain["role"], plain["why"], plain["complete"]) == ("standby", "seeded anew", True)


# --- the scripts, on this machine ---


def shell(text: str, *words: str, **values: str) -> subprocess.CompletedProcess[str]:
    assigned = "".join(f"{key}={assignments(x=value)[2:]}" for key, value in values.items())
    return subprocess.run(
        ["sh", "-eus", "--", *words], input=assigned + text, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_what_lies_beside_is_found_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s a "place", *this*'
    for name in (f"s1_bk_{AT}", f"s1_bk_{AT}.part", "s1_bk", "s1", "other_bk_x"):
        (odd / name).mkdir(parents=True)
    (odd / "s1_bk_file").write_text("", encoding="utf-8")
    gone, stray = odd / f"s3_bk_{AT}", odd / f"s2_bk_{AT}"
    stray.mkdir()
    journal = tmp_path / "aside.log"
    lines = [
        f"t\t{odd}/s1_bk_{AT}\ts1 of g: first", f"t\t{odd}/s1_bk_{AT}\ts1 of g: then",
        f"t\t{stray}\ts2 of g: remove-standby", f"t\t{gone}\ts3 of g: x",
        f"t\t{odd}/other_bk_x\ts1 of h: x",
    ]  # fmt: skip
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = {"journal": str(journal), "group": "g", "images": ""}
    done = shell(SCRIPT.read_text(encoding="utf-8"), "data", "s1", f"{odd}/s1", **values)
    assert (done.returncode, done.stderr) == (0, "")
    found, free = restore.read(done.stdout, "local")
    assert [(copy.path, copy.reason, copy.fault) for copy in found] == [
        (f"{odd}/s1_bk_{AT}", "then", ""),
        (f"{odd}/s1_bk_{AT}.part", "", "an unfinished copy"),
        (str(stray), "remove-standby", ""),
    ]
    assert free["local"] > 0


@pytest.mark.parametrize(
    ("left", "taken"), [(f"s1_bk_{AT}.part", True), ("s1_bk_mine.part", False)]
)
def test_a_copy_is_made_in_place_of_our_own_only(tmp_path: Path, left: str, taken: bool) -> None:
    """What is there is emptied first."""
    (tmp_path / left).mkdir()
    fake = FakeHost({"sh": Said()})
    s1 = group(topology("s1", s1={"data": f"{tmp_path}/s1"}), fake).instance("s1")
    part = f"{tmp_path}/s1_bk_new.part"
    set_aside._make_part(s1, f"{tmp_path}/s1", part)
    assert shell(fake.calls[-1].stdin).returncode == 0
    assert ((tmp_path / left).exists(), Path(part).is_dir()) == (not taken, True)


def test_a_directory_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    text = SCRIPT.read_text(encoding="utf-8").replace('[ -r "${of%/*}" ]', "false")
    values = {"journal": "/no/such", "group": "g", "images": ""}
    done = shell(text, "data", "s1", f"{tmp_path}/s1", **values)
    assert (done.returncode, "cannot be listed" in done.stderr) == (1, True)


def swapping(place: Path, copy: Path, data: Path, target: Path) -> str:
    """Return the shell text that swaps them."""
    host = FakeHost()
    host.home = str(place)
    return restore.script_of(host, *map(str, (copy, data, target)), who="s1 of g", why="'why'")


@pytest.mark.parametrize("there", ["nothing", "empty", "full"])
def test_the_swap_moves_nothing_into_or_over_anything(tmp_path: Path, there: str) -> None:
    copy, data, target = tmp_path / f"s1_bk_{AT}", tmp_path / "s1", tmp_path / "s1_bk_now"
    (copy / "old").mkdir(parents=True)
    if there != "nothing":
        data.mkdir()
    if there == "full":
        (data / "new").mkdir()
    done = shell(swapping(tmp_path, copy, data, target))
    assert (done.returncode, done.stdout) == (0, "moved\n" if there == "full" else "\n")
    assert [path.name for path in data.iterdir()] == ["old"]
    assert target.exists() is (there == "full")
    assert not copy.exists()
    told = [line.split("\t")[1:] for line in (tmp_path / "aside.log").read_text().splitlines()]
    left = [[str(target), "s1 of g: 'why'"]] if there == "full" else []
    assert told == [*left, [str(copy), "s1 of g: put back"]]


def test_a_name_is_only_a_name_to_the_swap(tmp_path: Path) -> None:
    copy, data, target = (tmp_path / name for name in ("{left}", "{back}", "$moved'"))
    for path in (copy / "old", data / "new"):
        path.mkdir(parents=True)
    assert shell(swapping(tmp_path, copy, data, target)).stdout == "moved\n"
    assert ((data / "old").is_dir(), (target / "new").is_dir()) == (True, True)
    assert len((tmp_path / "aside.log").read_text().splitlines()) == 2


def test_the_swap_comes_to_its_end_though_nobody_hears_it(tmp_path: Path) -> None:
    copy, data, target = tmp_path / f"s1_bk_{AT}", tmp_path / "s1", tmp_path / "s1_bk_now"
    for path in (copy / "old", data / "new"):
        path.mkdir(parents=True)
    ear, mouth = os.pipe()
    os.close(ear)
    words = ["sh", "-euc", swapping(tmp_path, copy, data, target)]
    done = subprocess.run(words, stdout=mouth, stderr=mouth, check=False)
    os.close(mouth)
    assert done.returncode != 0
    assert ((data / "old").is_dir(), (target / "new").is_dir()) == (True, True)
    assert len((tmp_path / "aside.log").read_text().splitlines()) == 2


def test_links_are_made_postgress_themselves(tmp_path: Path) -> None:
    """One leads nowhere, as of a tablespace that is not there; one to what is somebody else's."""
    data, private = tmp_path / "data", tmp_path / "private"
    for path in (data, private):
        path.mkdir()
    (data / "nowhere").symlink_to("/no/such")
    (data / "there").symlink_to(private)
    said = tmp_path / "said"
    text = (SCRIPT.parent / "restorable.sh").read_text(encoding="utf-8")
    # Whoever runs the tests is postgres here; what chown is given is written down, and done.
    me = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    text = text.replace("postgres:postgres", me).replace("! -user postgres", f"-user {me}")
    text = text.replace("/etc/pgherd", shlex.quote(str(private)))
    text = text.replace("-exec chown", f'-exec sh -c \'echo "$@" >{said}; chown "$@"\' sh')
    head = "this_directory() { echo 1:2; }\n"
    done = shell(head + text, PGDATA=str(data), name="s1_bk_x")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(data / "nowhere") in said.read_text(encoding="utf-8")
    assert (private / "restored").read_text(encoding="utf-8") == "1:2 s1_bk_x\n"


def test_the_swap_stops_where_the_name_is_taken(tmp_path: Path) -> None:
    copy, data, target = tmp_path / f"s1_bk_{AT}", tmp_path / "s1", tmp_path / "s1_bk_now"
    for path in (copy / "old", data / "new", target):
        path.mkdir(parents=True)
    assert shell(swapping(tmp_path, copy, data, target)).returncode == 1
    assert (copy / "old").is_dir()
    assert (data / "new").is_dir()
    assert list(target.iterdir()) == []


def test_where_no_journal_is_a_copy_is_read_without_a_reason() -> None:
    text = said("data", f"/d/s1_bk_{AT}", INSIDE)
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("why\t")]
    ((copy,), _) = restore.read("".join(lines), "box")
    assert (copy.why, copy.fault) == ("", "")


# --- whether a directory can be renamed is tried without renaming it ---


def test_a_directory_that_can_be_renamed_stays(tmp_path: Path) -> None:
    (tmp_path / "data" / "base").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    paths = [str(tmp_path / name) for name in ("data", "empty", "not there")]
    assert set_aside.unmovable(LocalHost(Trace()), paths) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "empty"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["base"]


@pytest.mark.parametrize("tool", ["mktemp", "mkdir"])
def test_where_it_cannot_even_be_tried_that_is_the_reason(tmp_path: Path, tool: str) -> None:
    """As on a full disk: with an empty directory in its way a renaming would be one."""
    data, tools = tmp_path / "data", tmp_path / "bin"
    data.mkdir()
    tools.mkdir()
    program(tools / tool, f"echo '{tool}: it is: No space left on device' >&2; exit 1")
    done = subprocess.run(
        ["sh", "-s", "--", str(data)], input=set_aside._TRY_TO_RENAME, text=True, check=True,
        capture_output=True, env={"PATH": f"{tools}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout == f"{data}\tNo space left on device\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "data"]
