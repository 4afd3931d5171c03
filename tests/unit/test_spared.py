"""What was set aside and is in use again, or is another group's: not listed, deleted, put back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import FakeHost, Said, group, image, topology

from pgherd.docker.models import Mount
from pgherd.errors import Refused
from pgherd.group.group import Group
from pgherd.operations import restore, set_aside
from pgherd.postgres.instance import PGDATA

COPY = "/d/pa_bk_20260102T000000Z"
NAME = COPY.rpartition("/")[2]
FOUND = f"found\t1\tdata\tpa\t{COPY}\nwhy\t1\tpa of g: x\n"
LOOK = "sh -eus --"  # at what was set aside
STAT = "sh -s --"  # device and inode

IMAGE = {"Id": "sha256:17", "RepoTags": ["postgres:17"], "Config": {"Env": ["PG_MAJOR=17"]}}


def running(name: str, source: str, status: str = "running", kind: str = "bind") -> str:
    """What docker says of one container with that directory."""
    mount = {"Type": kind, "Source": source, "Name": source, "Destination": "/t", "RW": True}
    record = {
        "Id": "1", "Name": f"/{name}", "Image": "sha256:17", "HostConfig": {}, "Mounts": [mount],
        "State": {"Status": status, "ExitCode": 0, "StartedAt": ""},
        "Config": {"Image": "postgres:17", "Labels": {}},
    }  # fmt: skip
    return json.dumps([record])


def made(
    found: str = FOUND,
    containers: str = "[]",
    stats: str = "",
    *,
    nodes: Any = None,
) -> tuple[Group, FakeHost]:
    host = FakeHost({
        LOOK: Said(found), STAT: Said(stats), "sh -s": Said(f"{containers}\n== ANSWERS\n"),
        "sh": Said(containers), "docker": Said(json.dumps([IMAGE])), "rmdir": Said(),
        "rm": Said(), "test": Said(),
    })  # fmt: skip
    return group(topology("s1", **(nodes or {})), host), host


def deleted(host: FakeHost) -> list[str]:
    return [
        f"{call.argv[0]} {call.argv[1]}"
        for call in host.calls
        if call.argv[0] in {"rm", "rmdir"} or "-delete" in call.stdin or "volume rm" in call.stdin
    ]


def delete(asked: Group, name: str = NAME) -> None:
    restore.delete(asked, name, confirm=name)


def test_a_copy_is_deleted_where_nobody_has_it() -> None:
    asked, host = made()
    delete(asked)
    assert deleted(host) == ["docker run", "rmdir --"]


@pytest.mark.parametrize("data", [COPY, f"{COPY}/base/x"])
@pytest.mark.parametrize("node", ["pa", "s1"])
def test_a_nodes_data_of_now_is_no_copy(node: str, data: str) -> None:
    """As where `data` was pointed at an old copy: under a server that runs, or stopped."""
    asked, host = made(nodes={node: {"data": data}})
    assert restore.survey(asked).copies == ()
    with pytest.raises(Refused, match="Nothing of g is set aside"):
        delete(asked)
    with pytest.raises(Refused, match="Nothing of g is set aside"):
        restore.restore(asked, NAME, foreign=False)
    assert deleted(host) == []


def test_nor_is_a_nodes_volume() -> None:
    volume = "v_bk_20260102T000000Z"
    found = f"found\t1\tvolume\t\t{volume}\nwhy\t1\tpa of g: x\n"
    asked, _ = made(found, nodes={"s1": {"data": f"volume:{volume}"}})
    assert restore.survey(asked).copies == ()


def test_nor_what_only_device_and_inode_tell() -> None:
    asked, host = made(stats=f"1:7 {COPY}\n1:7 /d/s1\n")
    with pytest.raises(Refused, match=f"{COPY} of local is no copy: the data of s1 is there"):
        delete(asked)
    with pytest.raises(Refused, match="is no copy"):
        restore.restore(asked, NAME, foreign=False)
    assert deleted(host) == []


@pytest.mark.parametrize("name", ["pa", "s1", "x"])
@pytest.mark.parametrize(
    ("source", "status", "says"),
    [
        (COPY, "running", "in use by"),
        ("/d", "running", "in use by"),
        (f"{COPY}/base", "restarting", "in use by"),
        (COPY, "exited", "`docker rm NAME` first"),
        (f"{COPY}/base", "created", "`docker rm NAME` first"),
    ],
)
def test_what_a_container_has_is_not_deleted(
    name: str, source: str, status: str, says: str
) -> None:
    asked, host = made(containers=running(name, source, status))
    with pytest.raises(Refused, match=says.replace("NAME", name)):
        delete(asked)
    assert deleted(host) == []


@pytest.mark.parametrize("source", ["/d", "/e"])
def test_a_stopped_container_that_has_more_than_that_is_not_in_the_way(source: str) -> None:
    asked, host = made(containers=running("x", source, "exited"))
    delete(asked)
    assert deleted(host) == ["docker run", "rmdir --"]


def test_what_is_deleted_is_held_meanwhile() -> None:
    """The kernel's lock decides, whatever was seen before."""
    asked, host = made()
    set_aside.clear_copies(asked.master, image(), [Mount(COPY, PGDATA)])
    (run,) = [call for call in host.calls if call.argv[0] == "docker"]
    assert f"type=bind,source={COPY},target=/var/lib/postgresql/data" in run.argv
    assert run.stdin.index("flock -n $fd") < run.stdin.index("-delete")


def test_who_holds_it_is_told_by_the_copys_path() -> None:
    asked, host = made(containers=running("x", COPY))
    host.plan["docker", "run"] = Said("", "pgherd: another container has this data directory", 76)
    with pytest.raises(Refused, match=f"{COPY} is in use by the container x"):
        set_aside.clear_copies(asked.master, image(), [Mount(COPY, PGDATA)])


# --- a group that `on` has placed elsewhere ---


def placed(found: str) -> tuple[Group, FakeHost, FakeHost]:
    """A group on box, with another one of its name here."""
    far = FakeHost({LOOK: Said(), "sh": Said("[]\n== ANSWERS\n")})
    far.name = "box"
    asked = Group(topology(pa={"host": "box"}), far.trace, {"box": far})
    here = FakeHost({LOOK: Said(found), "rm": Said()})
    asked.here = here
    return asked, far, here


def test_the_journal_of_here_is_not_asked_for_a_group_elsewhere() -> None:
    asked, far, here = placed("")
    restore.survey(asked)
    assert "journal=''" in here.calls[0].stdin
    assert "aside.log" in far.calls[0].stdin


def test_data_of_here_is_not_deleted_for_a_group_elsewhere() -> None:
    asked, _, here = placed(FOUND)
    with pytest.raises(Refused, match="Nothing of g is set aside"):
        delete(asked)
    assert deleted(here) == []


def test_the_passwords_of_a_group_elsewhere_are() -> None:
    path = "/s/g_bk_20260102T000000Z"
    asked, _, here = placed(f"found\t1\tsecrets\t\t{path}\nwhy\t1\t\n")
    delete(asked, path)
    assert deleted(here) == ["rm -r"]


def test_data_of_another_host_is_not_put_back() -> None:
    asked, _, here = placed(FOUND)
    with pytest.raises(Refused, match="is on local, and pa lives on box now: copy /d/pa_bk"):
        restore.restore(asked, NAME, foreign=False)
    assert deleted(here) == []
