"""What the doctor finds wrong with hosts and places: each decision, by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cases import GB, absent, asked, group, health, host, node, path, server, sheet, told
from fakes import container, facts
from fakes import image as some_image

from pgherd.checks import hosts, networks, storage
from pgherd.checks.base import NOTE, PROBLEM, WARNING, Checkup
from pgherd.checks.collect import HostCase, HostSheet, Mounted, NodeCase
from pgherd.checks.doctor import ENGINE_CHECKS, GROUP_CHECKS, HOST_CHECKS, NODE_CHECKS
from pgherd.checks.storage import PLACE_CHECKS
from pgherd.hosts.base import About

MB = 10**6
ANY = "0.0.0.0"  # noqa: S104 (it is read, and nobody listens)


def of_host(case: HostCase) -> Checkup:
    found = Checkup("g")
    found.check(case, (*HOST_CHECKS, *ENGINE_CHECKS))
    return found


def of_node(case: NodeCase) -> Checkup:
    found = Checkup("g")
    found.check(case, NODE_CHECKS)
    found.check(case, PLACE_CHECKS)
    return found


def test_what_is_well_is_no_finding() -> None:
    well = host(node(), absent("s1"))
    found = Checkup("g")
    for checks, subject in (((*HOST_CHECKS, *ENGINE_CHECKS), well), (NODE_CHECKS, node())):
        found.check(subject, checks)  # type: ignore[arg-type]
    found.check(absent("s1"), NODE_CHECKS)
    for case in (node(), absent("s1")):
        found.check(case, PLACE_CHECKS)
    found.check(group(node(), absent("s1")), GROUP_CHECKS)
    assert found.findings == []
    assert found.checks == len(HOST_CHECKS + ENGINE_CHECKS) + 2 * len(
        NODE_CHECKS + PLACE_CHECKS
    ) + len(GROUP_CHECKS)
    assert found.ok


# --- the engine ---


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("sh: 97: docker: not found", "cli-missing"),
        ("sh: line 97: docker: command not found", "cli-missing"),
        (
            (
                "permission denied while trying to connect to the Docker daemon socket at "
                'unix:///var/run/docker.sock: Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.50/info": '
                "dial unix /var/run/docker.sock: connect: permission denied"
            ),
            "socket-denied",
        ),
        (
            (
                "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker "
                "daemon running?"
            ),
            "engine-down",
        ),
        ("something new", "engine-down"),
        ("", "engine-down"),
    ],
)
def test_an_engine_that_does_not_answer(said: str, code: str) -> None:
    case = host(sheet=HostSheet(complaint=said))
    (found,) = hosts.answers(case)
    assert (found.code, found.level) == (code, PROBLEM)
    assert not case.answers


@pytest.mark.parametrize(
    ("info", "changes", "code", "level"),
    [
        ({"ServerVersion": "19.03.15"}, {}, "engine-old", PROBLEM),
        ({}, {"client": "18.09.1"}, "cli-old", PROBLEM),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, {}, "rootless", NOTE),
        ({"SecurityOptions": ["name=userns"]}, {}, "userns", NOTE),
        ({}, {"endpoint": "tcp://192.0.2.9:2376"}, "engine-elsewhere", PROBLEM),
        ({}, {"endpoint": "ssh://ada@box"}, "engine-elsewhere", PROBLEM),
        ({"Driver": "vfs"}, {}, "storage-vfs", WARNING),
        ({"Architecture": "aarch64"}, {}, "image-architecture", PROBLEM),
        ({}, {"image": some_image(major="13")}, "image-major", PROBLEM),
        ({}, {"image": some_image(major="")}, "image-major", WARNING),
        ({}, {"image": None, "registry": "has"}, "image-absent", NOTE),
        ({}, {"image": None, "registry": "lacks no such host"}, "image-absent", NOTE),
        (
            {},
            {"image": None, "registry": "lacks errors:\ndenied: requested access"},
            "image-unavailable",
            PROBLEM,
        ),
        ({"IPv4Forwarding": False}, {}, "no-forwarding", WARNING),
    ],
)
def test_an_engine_and_its_image(
    info: dict[str, Any], changes: dict[str, Any], code: str, level: str
) -> None:
    if code == "image-architecture":
        changes["image"] = replace(some_image(), platform="linux/amd64")
    found = told(of_host(host(node(), sheet=sheet(info, **changes))).findings)
    assert {code: level} == {f.code: f.level for f in found.values()}


def test_an_engine_on_loopback_is_this_machines() -> None:
    assert not [*hosts.place(host(sheet=sheet(endpoint="tcp://127.0.0.1:2375")))]


def test_an_image_that_another_host_has_is_carried() -> None:
    case = host(sheet=sheet(image=None), image_elsewhere=True)
    assert "carried over" in told(hosts.image(case))["image-absent"].text


def test_an_image_that_cannot_be_built() -> None:
    case = host(sheet=sheet(image=None, registry="lacks x"), image_names=("registry.x/pg:17",))
    assert told(hosts.image(case))["image-unavailable"].level == PROBLEM


# --- networks ---


def test_docker_has_31_networks() -> None:
    assert networks.free_networks(networks.POOLS, [], most=99) == 31
    used = ["172.17.0.0/16", "172.20.0.0/16", "192.168.16.0/20", "10.0.0.0/8", "fd00::/64"]
    assert networks.free_networks(networks.POOLS, used, most=99) == 28
    assert networks.free_networks(networks.POOLS, [*used, "192.168.0.0/16", "default"], 99) == 13


@pytest.mark.parametrize(("network", "level"), [("pgherd-g", WARNING), ("other", PROBLEM)])
def test_networks_that_are_used_up(network: str, level: str) -> None:
    """It only matters where one has to be made; routes are avoided by Docker too."""
    pools = [{"Base": "10.9.0.0/22", "Size": 24}]
    nets = {"bridge": ("10.9.0.0/24",), network: ("10.9.1.0/24",)}
    case = host(sheet=sheet({"DefaultAddressPools": pools}, networks=nets, routes=("10.9.2.7",)))
    assert not [*networks.pools(case)]
    full = replace(case.sheet, routes=("10.9.2.0/23",))
    found = told(networks.pools(replace(case, sheet=full)))["networks-used-up"]
    assert found.level == level
    assert "default-address-pools" in found.cure


def test_forwarding_matters_more_for_a_public_port() -> None:
    public = node(node=asked(listen=ANY))
    off = sheet(kernel={"net/ipv4/ip_forward": "0"})
    assert told(networks.forwarding(host(public, sheet=off)))["no-forwarding"].level == PROBLEM


LINE = 'LISTEN 0 4096 127.0.0.1:5432 0.0.0.0:* users:(("postgres",pid=9,fd=7))'


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"beside": {"x": container("x", ports=((ANY, 5432),))}}, "the container x"),
        ({"sheet": sheet(listeners=(LINE,))}, "the process postgres (pid 9)"),
        ({"sheet": sheet(listeners=(LINE.replace(" users", "").split("((")[0],))}, "another"),
    ],
)
def test_a_port_that_is_taken(changes: dict[str, Any], who: str) -> None:
    assert who in told(networks.port(absent(**changes)))["port-taken"].text


@pytest.mark.parametrize(
    "changes",
    [
        {"beside": {"x": container("x", ports=(("192.0.2.1", 5432),))}},
        {"beside": {"x": container("x", status="exited", ports=((ANY, 5432),))}},
        {"sheet": sheet(listeners=(LINE.replace(":5432", ":15432"),))},
    ],
)
def test_a_port_that_is_free(changes: dict[str, Any]) -> None:
    assert not [*networks.port(absent(**changes))]


def test_a_running_node_has_its_port_itself() -> None:
    assert not [*networks.port(node(sheet=sheet(listeners=(LINE,))))]


def test_an_address_that_the_host_lacks() -> None:
    known = sheet(addresses=("127.0.0.1/8", "192.0.2.10/24"))
    lacks = node(node=asked(listen="192.0.2.1"), sheet=known)
    assert told(networks.address(lacks))["no-address"].level == PROBLEM
    assert not [*networks.address(node(node=asked(listen="192.0.2.10"), sheet=known))]
    assert not [*networks.address(node(node=asked(listen=ANY), sheet=known))]


# --- the machine ---


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"memory": {"MemAvailable": 100 * MB}}, "memory-low", WARNING),
        ({"memory": {"SwapTotal": GB, "SwapFree": 50 * MB}}, "swap-full", WARNING),
        ({"kernel": {"vm/overcommit_memory": "1"}}, "overcommit", NOTE),
        (
            {
                "kernel": {"vm/overcommit_memory": "2"},
                "memory": {"CommitLimit": 4 * GB, "Committed_AS": 4 * GB - 100},
            },
            "overcommit",
            WARNING,
        ),
        ({"kernel": {"kernel/shmmax": "65536"}}, "kernel-shm", WARNING),
        ({"kernel": {"kernel/shmall": "16"}}, "kernel-shm", WARNING),
        ({"kernel": {"fs/file-nr": "95000\t0\t100000"}}, "files-used-up", WARNING),
        ({"docker": {"MemTotal": 200 * MB}}, "memory-short", WARNING),
    ],
)
def test_a_machine(changes: dict[str, Any], code: str, level: str) -> None:
    found = of_host(host(node(), sheet=sheet(**changes))).findings
    assert {f.code: f.level for f in found} == {code: level}


def test_clocks() -> None:
    """An uncertainty of the measurement is granted, and this machine's clock counts as well."""
    near, off = About("", skew=1.5, doubt=0.2), About("", skew=-9.0, doubt=0.1)
    assert not [*hosts.clocks(group(hosts=(host(), host(name="box", about=near))))]
    sure = About("", skew=2.6, doubt=0.8)
    assert not [*hosts.clocks(group(hosts=(host(name="box", about=sure),)))]
    found = [*hosts.clocks(group(hosts=(host(name="box", about=near), host(name="b", about=off))))]
    assert [f.text.partition(":")[0] for f in found] == [
        "The clocks of this machine and b are 9 s apart",
        "The clocks of box and b are 10 s apart",
    ]


# --- places ---


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"state": "no directory"}, "no-directory", PROBLEM),
        ({"state": "absent", "writable": False}, "parent-not-writable", PROBLEM),
        ({"parts": ("/d/pa_bk_1.part",)}, "unfinished-copy", WARNING),
        ({"inodes": 500}, "inodes-short", PROBLEM),
        ({"inodes": 1500}, "inodes-short", WARNING),
    ],
)
def test_a_place(changes: dict[str, Any], code: str, level: str) -> None:
    case = absent(path=path("/d/pa", **{"state": "empty", **changes}))
    assert {f.code: f.level for f in of_node(case).findings} == {code: level}


@pytest.mark.parametrize(
    ("where", "codes"),
    [
        (f"/d/{'x' * 230}", set()),
        (f"/d/{'x' * 231}", {"path-long"}),
        (f"/d/{'ü' * 116}", {"path-long"}),  # bytes count, not letters
        (f"{'/d1234567' * 446}/x", {"path-long"}),
        ("/d/a b", {"path-blanks"}),
    ],
)
def test_the_length_of_a_path(where: str, codes: set[str]) -> None:
    assert set(told(storage.length(absent(path=path(where))))) == codes


@pytest.mark.parametrize(
    ("kind", "options", "code", "level"),
    [
        ("nfs4", "rw", "network-file-system", WARNING),
        ("cifs", "rw", "network-file-system", WARNING),
        ("9p", "rw", "network-file-system", WARNING),
        ("virtiofs", "rw", "shared-file-system", WARNING),
        ("vfat", "rw", "ownerless-file-system", PROBLEM),
        ("tmpfs", "rw", "fleeting-file-system", WARNING),
        ("overlay", "rw", "fleeting-file-system", WARNING),
        ("ext4", "ro", "read-only", PROBLEM),
    ],
)
def test_a_file_system(kind: str, options: str, code: str, level: str) -> None:
    mounts = (Mounted("/", "ext4"), Mounted("/d", kind, frozenset({options})))
    found = storage.file_system(absent(sheet=sheet(mounts=mounts)))
    assert {f.code: f.level for f in found} == {code: level}


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "apfs"])
def test_file_systems_that_are_fit(kind: str) -> None:
    assert not [*storage.file_system(node(sheet=sheet(mounts=(Mounted("/", kind),))))]


HOME = "unconfined_u:object_r:user_home_t:s0"
CONFINES = {"SecurityOptions": ["name=seccomp,profile=default", "name=selinux"]}


@pytest.mark.parametrize(
    ("info", "enforces", "label", "codes"),
    [
        (CONFINES, True, HOME, {"selinux-label"}),
        (CONFINES, True, "system_u:object_r:container_file_t:s0", set()),
        (CONFINES, False, HOME, set()),
        ({}, True, HOME, set()),
        (CONFINES, True, "", set()),
    ],
)
def test_selinux(info: dict[str, Any], enforces: bool, label: str, codes: set[str]) -> None:
    case = absent(sheet=sheet(info, selinux=enforces), path=path(label=label))
    assert set(told(storage.selinux(case))) == codes


@pytest.mark.parametrize(
    ("info", "system", "where", "level"),
    [
        ({"OperatingSystem": "Docker Desktop"}, "Darwin arm64", "/opt/pg", WARNING),
        ({"OperatingSystem": "Docker Desktop"}, "Darwin arm64", "/Users/ada/pg", None),
        ({"OperatingSystem": "Docker Desktop"}, "Linux x86_64", "/srv/pg", WARNING),
        ({"DockerRootDir": "/var/snap/docker/common/x"}, "Linux x86_64", "/srv/pg", PROBLEM),
        ({"DockerRootDir": "/var/snap/docker/common/x"}, "Linux x86_64", "/home/a/pg", None),
        ({}, "Linux x86_64", "/srv/pg", None),
    ],
)
def test_what_an_engine_in_a_box_sees(
    info: dict[str, Any], system: str, where: str, level: str | None
) -> None:
    case = absent(sheet=sheet(info, system=system), path=path(where))
    assert [f.level for f in storage.sharing(case)] == [level] * (level is not None)


def test_a_directory_in_use_by_others() -> None:
    texts = [f.text for f in storage.shared(node(used=(("/d", "backup"), ("/d/pa/base", "y"))))]
    assert [text.split(" too ")[0].rpartition(" ")[2] for text in texts] == ["backup", "y"]


def test_directories_within_each_other() -> None:
    one, other = absent("s1", path=path("/d/pa/s1")), node()
    assert set(told(storage.nested(host(other, one)))) == {"data-nested"}


def test_a_copy_that_is_at_work_is_no_leftover() -> None:
    case = node(path=path(parts=("/d/pa_bk_1.part",)), busy=frozenset({"/d/pa_bk_1.part"}))
    assert not [*storage.leftovers(case)]
    assert len([*storage.leftovers(replace(case, busy=frozenset()))]) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"health": health(no_database=True)}, "data-gone"),
        ({"path": path(inode=8)}, "data-moved"),
        ({"path": path(state="absent", inode=None)}, "data-moved"),
    ],
)
def test_data_that_is_taken_away_under_the_server(changes: dict[str, Any], code: str) -> None:
    assert set(told(storage.moved(node(**changes)))) == {code}


def test_scripts_for_a_new_database_on_noexec() -> None:
    mounts = (Mounted("/", "ext4"), Mounted("/mnt", "ext4", frozenset({"noexec"})))
    case = host(sheet=sheet(mounts=mounts), initdb="/mnt/initdb")
    assert set(told(storage.noexec(case))) == {"noexec"}
    assert not [*storage.noexec(replace(case, initdb="/srv/initdb"))]


def test_scripts_for_a_new_database_that_copy_a_server() -> None:
    found = told(storage.clones(host(sheet=sheet(clones=("/srv/initdb/10.sh",)))))
    assert "/srv/initdb/10.sh" in found["initdb-clones"].text


# --- space ---


@pytest.mark.parametrize(
    ("free", "code"), [(70 * MB, "space-short"), (500 * MB, "space-low"), (3 * GB, None)]
)
def test_room_for_a_standby(free: int, code: str | None) -> None:
    """The primary has 73 MB, and may have 1 GB of WAL."""
    case = group(node(), absent("s1", path=path("/d/s1", state="absent", free=free)))
    found = [*storage.seeding(case)]
    assert [(f.code, f.node) for f in found] == [(code, "s1")] * (code is not None)


def test_room_for_two_on_one_file_system() -> None:
    places_ = {name: path(f"/d/{name}", state="absent", free=140 * MB) for name in ("s1", "s2")}
    case = group(node(), *(absent(name, path=place) for name, place in places_.items()))
    (found,) = storage.seeding(case)
    assert (found.code, found.node, found.host) == ("space-short", None, "local")
    assert "s1 and s2 will need 146.7 MB" in found.text


@pytest.mark.parametrize(
    ("free", "code"), [(60 * MB, "disk-full"), (900 * MB, "disk-low"), (20 * GB, None)]
)
def test_the_disk_of_a_living_server(free: int, code: str | None) -> None:
    found = [*storage.full(node(path=path(free=free)))]
    assert [f.code for f in found] == [code] * (code is not None)


SLOT = {"name": "s1", "active": False, "wal_status": "extended", "retained": GB, "left": None}


@pytest.mark.parametrize(
    ("limit", "free", "code"),
    [(-1, 80 * GB, "slot-unlimited"), (10 * GB, 8 * GB, "slot-room"), (10 * GB, 10 * GB, None)],
)
def test_wal_that_slots_may_keep(limit: int, free: int, code: str | None) -> None:
    bytes_ = {**server().bytes, "max_slot_wal_keep_size": limit}
    case = node(
        facts=facts(slots=(SLOT,)), health=health(server(bytes=bytes_)), path=path(free=free)
    )
    assert [f.code for f in storage.slots(case)] == [code] * (code is not None)
    assert not [*storage.slots(replace(case, facts=facts()))]
