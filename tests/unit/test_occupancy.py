"""Who has a directory, which directories are no place for data, and who is kept from starting."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import FakeHost, Said, bind, container, group, image, topology
from pydantic import ValidationError

from pgherd.config.values import no_place
from pgherd.docker.engine import Engine
from pgherd.docker.models import HELPER_LABEL, Container, Mount
from pgherd.errors import DeadlinePassed, Refused
from pgherd.group import preconditions
from pgherd.group.observation import Observation
from pgherd.hosts.commands import Trace
from pgherd.hosts.local import LocalHost
from pgherd.postgres import datadir, scripts
from pgherd.postgres.datadir import COPIED, holders
from pgherd.postgres.facts import Disk

RECORD = {  # of the server pa, as docker has it
    "Id": "1", "Name": "/pa", "Image": "sha256:17", "HostConfig": {},
    "Mounts": [{"Type": "bind", "Source": "/d/pa", "Destination": "/t", "RW": True}],
    "State": {"Status": "running", "ExitCode": 0, "StartedAt": ""},
    "Config": {"Image": "postgres:17", "Labels": {}},
}  # fmt: skip

# --- who has it, on this machine's own file system ---


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A data directory, a link to it, a link to what it lies in, and a directory beside it."""
    (tmp_path / "d" / "pa" / "base").mkdir(parents=True)
    (tmp_path / "d" / "pa2").mkdir()
    (tmp_path / "link").symlink_to("d/pa")
    (tmp_path / "up").symlink_to("d")
    return tmp_path


@pytest.mark.parametrize(
    ("theirs", "has"),
    [
        ("d/pa", True), ("d/pa/", True), ("d/pa2/../pa", True), ("d/./pa", True), ("link", True),
        ("up/pa", True), ("up", True), ("d", True), ("", True), ("d/pa/base", True),
        ("link/base", True), ("up/pa/base/new", True), ("d/pa2", False), ("d/p", False),
        ("e/d/pa", False),
    ],
)  # fmt: skip
def test_a_directory_by_other_names(tree: Path, theirs: str, has: bool) -> None:
    other = container("x", mounts=(Mount(f"{tree}/{theirs}", "/t"),))
    found = holders(Engine(LocalHost(Trace())), f"{tree}/d/pa", [other], volume=False)
    assert bool(found) is has


def test_one_that_only_device_and_inode_tell() -> None:
    """As a bind mount has it: no path leads from one to the other."""
    known = "1:1 /\n1:2 /d\n1:7 /d/pa\n1:3 /m\n1:7 /m/alias\n1:8 /m/alias/base\n"
    for theirs, ours in [("/m/alias", "/d/pa"), ("/m/alias/base", "/d/pa"), ("/d", "/m/alias/x")]:
        host = FakeHost({"sh -s": Said(known.replace("1:3 /m\n", "1:2 /m\n"))})
        other = container("x", mounts=(bind(theirs),))
        assert holders(Engine(host), ours, [other], volume=False) == [(other, other.mounts[0])]


def test_who_only_reads_is_not_in_the_way() -> None:
    reader = container("x", mounts=(Mount("/d/pa", "/t", readonly=True),))
    assert holders(Engine(FakeHost()), "/d/pa", [reader], volume=False) == []


def test_a_run_that_copies_it_is_in_the_way() -> None:
    mounts = (Mount("/d/pa", COPIED, readonly=True),)
    host = FakeHost({"sh -s": Said()})
    helper = container("pgherd-o-s1", labels={HELPER_LABEL: "1"}, mounts=mounts)
    assert holders(Engine(host), "/d/pa", [helper], volume=False) == [(helper, mounts[0])]
    assert holders(Engine(host), "/d/pa", [container("x", mounts=mounts)], volume=False) == []


def only_listed(*sources: Mount) -> Container:
    """A container of somebody else, of which only `docker ps` has told."""
    return container("x", labels={}, mounts=sources, command=(), listed=True)


INSPECT = "docker container inspect id-x"


def test_one_that_cannot_have_it_is_not_inspected() -> None:
    other = only_listed(Mount("/d/pb", ""), Mount("vol", "", volume=True))
    host = FakeHost({"sh -s": Said()})
    assert holders(Engine(host), "/d/pa", [other], volume=False) == []
    assert holders(Engine(host), "v", [other], volume=True) == []
    assert not any("inspect" in ran for ran in host.ran)


@pytest.mark.parametrize(("writes", "number"), [(True, 1), (False, 0)])
def test_one_that_may_have_it_is_inspected_once(writes: bool, number: int) -> None:
    mount = {"Type": "bind", "Source": "/d", "Destination": "/t", "RW": writes}
    record = RECORD | {"Id": "id-x", "Name": "/x", "Mounts": [mount]}
    host = FakeHost({"sh -s": Said(), INSPECT: Said(json.dumps([record]))})
    engine = Engine(host)
    for _ in range(2):
        found = holders(engine, "/d/pa", [only_listed(Mount("/d", ""))], volume=False)
        assert [mount.target for _, mount in found] == ["/t"] * number
    assert host.ran.count(INSPECT) == 1


@pytest.mark.parametrize("volume", [False, True])
def test_one_that_may_have_it_and_does_not_answer_is_in_the_way(volume: bool) -> None:
    source = "vol" if volume else "/d/pa"
    mount = Mount(source, "", volume=volume)
    late = DeadlinePassed("too late")
    host = FakeHost({"sh -s": Said(), INSPECT: late, "docker ps": Said()})
    ((found, its),) = holders(Engine(host), source, [only_listed(mount)], volume=volume)
    assert (found.silent, its) == (True, mount)
    told = datadir.in_use("pa", source, found, its).sentence
    assert f"pa: {source} may be in use by the container x: `docker ps` tells" in told
    assert "`docker kill x`" in told


def test_one_that_is_gone_by_now_is_not_in_the_way() -> None:
    host = FakeHost({"sh -s": Said(), INSPECT: Said("[]\n", "Error: No such container", 1)})
    assert holders(Engine(host), "/d/pa", [only_listed(Mount("/d", ""))], volume=False) == []


def test_a_run_at_work_is_not_to_be_stopped() -> None:
    helper = container("pgherd-o-pa", labels={HELPER_LABEL: "1"}, mounts=(bind("/d/pa"),))
    asked = group(topology(), FakeHost({"sh -s": Said()}))
    with pytest.raises(Refused, match="in use by another pgherd run, in the container pgherd-o-pa"):
        preconditions.check_data_unused(asked.master, Observation({}, {"local": {"x": helper}}))


# --- where no data goes ---


@pytest.mark.parametrize(
    "path",
    [
        "/", "/etc", "/etc/x", "/usr", "/usr/lib/x", "/usr/local", "/boot/x", "/proc/1", "/lib64/x",
        "/dev/x", "/home", "/var", "/var/lib", "/tmp", "/var/lib/docker/volumes/x",  # noqa: S108
    ],
)  # fmt: skip
def test_no_place_for_data(path: str) -> None:
    assert no_place(path)
    for written in (path, f"{path}/", f"/srv/..{path}"):
        with pytest.raises(ValidationError, match="must be a directory of the node's own"):
            topology(pa={"data": written})


@pytest.mark.parametrize(
    "path",
    ["/srv/pa", "/home/ana/pa", "/mnt/pa", "/usr/local/pgsql/pa", "/etcetera", "/var/lib/pg/pa"],
)
def test_places_for_data(path: str) -> None:
    assert no_place(path) == ""
    assert topology(pa={"data": path}).primary.data == path


@pytest.mark.parametrize("where", ["/h/secrets", "/h", "/", "/h/secrets/g", "/h/secrets/g/pa/x"])
def test_data_is_not_laid_into_the_secrets_nor_over_them(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost({"sh -s": Said()})
    monkeypatch.setattr(host, "home", "/h", raising=False)
    monkeypatch.setattr(host, "paths", lambda *data: [where, *data[1:]])
    with pytest.raises(Refused, match=r"nodes\.pa\.data: /d/pa is "):
        preconditions.check_data_unused(
            group(topology(), host).master, Observation({}, {"local": {}})
        )


# --- who holds it ---


def holding(data: Path, *words: str) -> subprocess.Popen[str]:
    """Begin a script as a container does, that holds the directory."""
    script = f"{scripts.fragment('hold')}echo got it\n{' '.join(words)}\n"
    return subprocess.Popen(
        ["sh", "-eu", "-c", script], env={"PGDATA": str(data), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_of_two_only_one_holds_it(tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    (tmp_path / "data").mkdir()
    alias.symlink_to("data")
    with holding(tmp_path / "data", "read end") as first:
        assert first.stdout
        assert first.stdout.readline() == "got it\n"
        with holding(alias) as second:
            out, err = second.communicate(timeout=20)
        assert (second.returncode, out, err.strip()) == (datadir.HELD, "", datadir.SENTENCE)
        first.communicate("\n", timeout=20)
    with holding(alias) as third:
        assert third.communicate(timeout=20)[0] == "got it\n"


def test_where_it_cannot_be_held_it_goes_on(tmp_path: Path) -> None:
    with holding(tmp_path / "not there") as run:
        assert run.communicate(timeout=20)[0] == "got it\n"


def test_a_server_holds_its_data_and_runs_what_the_image_runs() -> None:
    flag, script, *words = datadir.server_words(image())
    assert (flag, words) == ("-c", ["sh", "docker-entrypoint.sh", "postgres"])
    assert script.endswith('\nexec "$@"')
    assert "#" not in script
    own = SimpleNamespace(entrypoint=("/own.sh", "-x"))
    assert datadir.server_words(own)[3:] == ["/own.sh", "-x", "postgres"]  # type: ignore[arg-type]


def test_its_own_server_is_named_as_who_holds_it() -> None:
    said = Said("", datadir.SENTENCE, datadir.HELD)
    host = FakeHost({"docker": said, "sh -c": Said(json.dumps([RECORD])), "sh -s": Said()})
    with pytest.raises(Refused, match="/d/pa is in use by its own server: `docker stop pa`"):
        group(topology(), host).master.offline(image(), scripts.compose("mark-standby"))


def test_what_writes_holds_it_and_what_looks_does_not() -> None:
    host = FakeHost({"docker": Said(), "test": Said()})
    master = group(topology(), host).master
    master.offline(image(), scripts.compose("mark-standby"))
    master.disk(image())
    wrote, _, looked = host.calls
    assert "flock -n $fd" in wrote.stdin
    assert "flock" not in looked.stdin


# --- whose it is ---


@pytest.mark.parametrize(
    ("disk", "refused"),
    [
        (Disk(settings="1", ours=False), True),
        (Disk(settings="1", ours=True), False),
        (Disk(settings="", ours=False), False),  # a database that no group of pgherd has made
    ],
)
def test_data_of_a_group_of_another_name(tmp_path: Path, disk: Disk, refused: bool) -> None:
    asked = group(topology())
    (tmp_path / "former").mkdir()
    asked.secrets = asked.passwords.directory = tmp_path / "g"
    if not refused:
        preconditions.check_group_of_data(asked, asked.master, disk)
        return
    with pytest.raises(Refused) as caught:
        preconditions.check_group_of_data(asked, asked.master, disk)
    assert "Give the group its former name in" in caught.value.sentence
    assert f"mv {tmp_path}/FORMER-NAME {tmp_path}/g" in caught.value.sentence
    assert "(there are former)" in caught.value.sentence
    assert "invoke aside.restore" not in caught.value.sentence
    for name in ("g_bk_20260101T000000Z", "g_bk_20260102T000000Z", "g"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        Refused, match=r"`invoke aside.restore g_bk_20260102T000000Z` .*are former\)"
    ):
        preconditions.check_group_of_data(asked, asked.master, disk)
    (tmp_path / "g" / "replicator.password").write_text("word\n", encoding="utf-8")
    preconditions.check_group_of_data(asked, asked.master, disk)
