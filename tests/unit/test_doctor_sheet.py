"""What a host prints is read as it was printed: texts of real machines, shortened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cases import INFO
from fakes import ROOT

from pgherd.checks.collect import HostSheet, Made, Mounted, PathSheet
from pgherd.errors import Error
from pgherd.hosts.commands import assignments
from pgherd.postgres.health import Health

IMAGE = [
    {
        "Id": "sha256:17",
        "RepoTags": ["pgherd/postgres:17"],
        "RepoDigests": [],
        "Architecture": "amd64",
        "Os": "linux",
        "Config": {"Env": ["PG_MAJOR=17"], "Volumes": None},
        "RootFS": {"Layers": ["sha256:1"]},
    }
]

# Debian 12, Docker 20.10 with the CLI 28.2, root.
DEBIAN = f"""\
== system
Linux x86_64
== listeners
 LISTEN 0      4096   127.0.0.1:27133 0.0.0.0:* users:(("docker-proxy",pid=30074,fd=4))
 LISTEN 0      128      0.0.0.0:2024  0.0.0.0:*
== addresses
127.0.0.1/8
192.0.2.2/24
fe80::fc:ff:fe00:1/64
== routes
default
172.17.0.0/16
192.0.2.0/24
== kernel
vm/overcommit_memory 0
kernel/shmmax 18446744073692774399
fs/file-nr 3204\t0\t2466186
net/ipv4/ip_forward 1
== memory
MemTotal:       24684092 kB
MemAvailable:   22898856 kB
SwapTotal:             0 kB
== selinux

== mounts
 proc /proc proc rw,relatime 0 0
 /dev/vda / ext4 rw,relatime,discard 0 0
 tmpfs /srv/a\\040b tmpfs ro,relatime,size=4k,mode=755 0 0
== path 0
up /d/17 a
state full
stat 2285569 999 700
writable
owner 0 0
label ?
df /dev/vda         264212084 28725312  77665600      27% /
inodes /dev/vda       16777216 554552 16222664    4% /
part /d/17 a_bk_20260101T000000Z.part
== path 1
up /d
state absent
owner 1000 1000
label unconfined_u:object_r:user_home_t:s0
df tmpfs                     30720     0     30720       0% /d
inodes -              0      0     0     - /d
== docker
{json.dumps(INFO)}
== docker-said
 WARNING: Error loading config file: open /root/.docker/config.json: permission denied
== endpoint
unix:///var/run/docker.sock
== client
28.2.2
== image pgherd/postgres:17
{json.dumps(IMAGE, indent=4)}
== networks
bridge 172.17.0.0/16
host
pgherd-g 172.21.0.0/16
== containers
/pa 0 false 268435456 pgherd-g 600 ["postgres"]
/s1 3 true 67108864 host null ["postgres","-c","max_connections=20"]
== log pa
 2026-11-28 12:52:18.746 UTC [1] LOG:  database system is ready to accept connections
 == no section
== log s1
"""


@pytest.fixture
def debian() -> HostSheet:
    return HostSheet.parse(DEBIAN, ["/d/17 a", "/d/b"])


def test_what_a_host_has(debian: HostSheet) -> None:
    assert debian.docker["ServerVersion"] == "20.10.24+dfsg1"
    assert (debian.system, debian.client, debian.complaint) == ("Linux x86_64", "28.2.2", "")
    assert debian.image
    assert (debian.image.ref, debian.image.env["PG_MAJOR"]) == ("pgherd/postgres:17", "17")
    assert debian.networks["pgherd-g"] == ("172.21.0.0/16",)
    assert debian.networks["host"] == ()
    assert debian.kernel["fs/file-nr"].split() == ["3204", "0", "2466186"]
    assert debian.memory["MemAvailable"] == 22898856 * 1024
    assert not debian.selinux
    assert debian.listeners[0].startswith("LISTEN 0      4096   127.0.0.1:27133")


def test_what_a_host_has_for_data(debian: HostSheet) -> None:
    full, missing = debian.paths
    assert full == PathSheet(
        "/d/17 a", "/d/17 a", "full", 2285569, "700", True, "0:0", "", 77665600 * 1024,
        264212084 * 1024, 16222664, "/", ("/d/17 a_bk_20260101T000000Z.part",),
    )  # fmt: skip
    assert (missing.state, missing.writable, missing.inode) == ("absent", False, None)
    assert missing.label == "unconfined_u:object_r:user_home_t:s0"
    assert (missing.inodes, missing.free, missing.mount) == (None, 30720 * 1024, "/d")


def test_the_containers_and_their_logs(debian: HostSheet) -> None:
    assert debian.containers["pa"] == Made(0, False, 268435456, "pgherd-g", 600, ("postgres",))
    assert debian.containers["s1"].words[1:] == ("-c", "max_connections=20")
    assert (debian.containers["s1"].oom_killed, debian.containers["s1"].stop_timeout) == (
        True,
        None,
    )
    assert debian.logs["pa"].splitlines()[1] == "== no section"
    assert debian.logs["s1"] == ""


@pytest.mark.parametrize(
    ("path", "point"),
    [("/d/pa", "/"), ("/srv/a b/c", "/srv/a b"), ("/srv/a bc", "/"), ("/proc", "/proc")],
)
def test_the_file_system_of_a_path(debian: HostSheet, path: str, point: str) -> None:
    mount = debian.mounted(path)
    assert mount
    assert mount.point == point


def test_what_is_mounted_last_at_a_place_counts() -> None:
    text = "== mounts\n /dev/a /d ext4 rw 0 0\n tmpfs /d tmpfs ro 0 0\n"
    assert HostSheet.parse(text, []).mounted("/d/x") == Mounted("/d", "tmpfs", frozenset({"ro"}))


def test_the_mounts_of_macos() -> None:
    text = "== mounts\n /dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
    mount = HostSheet.parse(text, []).mounted("/Users/ada")
    assert mount
    assert (mount.kind, "read-only" in mount.options) == ("apfs", True)


def test_an_engine_that_does_not_answer() -> None:
    """The newer CLI prints a record all the same, with nothing in it."""
    said = "Cannot connect to the Docker daemon at unix:///nonexistent.sock. Is it running?"
    text = f'== docker\n{{"ID":"","ServerVersion":""}}\n== docker-said\n {said}\n'
    found = HostSheet.parse(text, [])
    assert (dict(found.docker), found.complaint) == ({}, said)


def test_a_host_that_says_nothing() -> None:
    found = HostSheet.parse("", ["/d/pa"])
    assert (dict(found.docker), found.image, found.mounted("/d")) == ({}, None, None)
    assert found.paths[0].state == "absent"


# --- the script itself ---

SCRIPT = ROOT / "scripts/pgherd/checks/sh/host.sh"
DOCKER = """\
case "$*" in
  info*Root*) echo /var/lib/docker ;;
  info*) echo '{"ServerVersion":"20.10.24"}' ;;
  *"image inspect other"*) echo '[]' ;;
  "ps"*) echo pa ;;
  container*) echo '/pa 0 false 268435456 pgherd-g 600 ["postgres"]' ;;
  logs*) echo '== no section'; echo 'FATAL:  x' >&2 ;;
  "manifest"*) echo 'no such manifest' >&2; exit 1 ;;
  *image*) exit 1 ;;
esac
"""


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_script_of_a_host(shell: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(f"#!/bin/sh\n{DOCKER}")
    (tmp_path / "bin/docker").chmod(0o755)
    places = [tmp_path / name for name in ("full", "it's empty", "a/b/c", "file")]
    (places[0] / "base").mkdir(parents=True)
    (tmp_path / "full_bk_20260101T000000Z.part").mkdir()
    places[1].mkdir()
    places[3].write_text("x")
    (tmp_path / "full/10.sh").write_text("# pg_basebackup is not for here\n")
    (tmp_path / "full/20.sh").write_text("exec pg_basebackup -D $PGDATA\n")
    values = assignments(
        images="none postgres:17", group="g", home="/h", volumes="", initdb=str(places[0])
    )
    done = subprocess.run(
        [shell, "-s", "--", *map(str, places)], input=values + SCRIPT.read_text(), text=True,
        capture_output=True, check=True, env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stderr == ""
    found = HostSheet.parse(done.stdout, [*map(str, places)])
    assert [p.state for p in found.paths] == ["full", "empty", "absent", "no directory"]
    assert found.paths[2].up == str(tmp_path)
    assert found.paths[0].parts == (f"{places[0]}_bk_20260101T000000Z.part",)
    assert found.paths[0].inode == places[0].stat().st_ino
    assert all(p.free for p in found.paths)
    assert found.clones == (f"{places[0]}/20.sh",)
    assert found.registry == "lacks no such manifest"
    assert set(found.containers) == {"pa"}
    assert sorted(found.logs["pa"].splitlines()) == ["== no section", "FATAL:  x"]


def test_the_script_of_a_host_without_docker(tmp_path: Path) -> None:
    for tool in ("sh", "uname", "sed", "dirname", "ls", "stat", "id", "df", "awk", "cat", "grep"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    values = assignments(images="postgres:17", group="g", home="/h", volumes="", initdb="")
    done = subprocess.run(
        [str(tmp_path / "sh"), "-s", "--", str(tmp_path)], input=values + SCRIPT.read_text(),
        text=True, capture_output=True, check=True, env={"PATH": str(tmp_path)},
    )  # fmt: skip
    found = HostSheet.parse(done.stdout, [str(tmp_path)])
    assert (dict(found.docker), found.paths[0].state) == ({}, "full")
    assert "docker: not found" in found.complaint or "docker: command not found" in found.complaint


# --- of a node ---

RUNNING = """\
data=2295092 postgres 700
passfile=postgres 600
key=./server.pem postgres 600
ahead=-30
shm=262144 1060
files=20000
== ANSWER
{"bytes" : { "work_mem" : 4194304 }, "settings" : { "fsync" : "on" }, "retry_by" : null, \
"databases" : 23018705, "wal" : 50331648, "unread" : ["pg_hba.conf"], "bad_lines" : [], \
"bad_rules" : [], "archive_fails" : null, "collations" : [], "libc" : "2.36", "broken_pages" : 0, \
"oldest" : 15, "clients" : 1, "senders" : 1, "tablespaces" : {}, "of_tomorrow": 1}
"""


def test_what_a_running_node_says() -> None:
    found = Health.parse(RUNNING)
    assert (found.inode, found.owner, found.mode) == (2295092, "postgres", "700")
    assert (found.passfile, found.ahead, found.files) == ("postgres 600", -30, 20000)
    assert found.keys == ("./server.pem postgres 600",)
    assert found.shm == (268435456, 1085440)
    assert found.server
    assert (found.server.unread, found.server.wal) == (("pg_hba.conf",), 50331648)


def test_what_lies_in_the_directory_of_one_that_is_down() -> None:
    found = Health.parse("pg_version=17\nno_database=1\nrecovery_conf=1\npassfile=none\nahead=7\n")
    assert (found.server, found.no_database, found.recovery_conf) == (None, True, True)
    assert (found.passfile, found.ahead, found.shm) == ("none", 7, None)


@pytest.mark.parametrize("answer", ["", "psql: error", "[]", '"x"'])
def test_an_answer_that_is_none(answer: str) -> None:
    with pytest.raises(Error, match="cannot be read"):
        Health.parse(f"files=unlimited\n== ANSWER\n{answer}")
