"""What is looked at before a container gets a name, a port or a directory."""

from __future__ import annotations

import pytest
from fakes import FakeHost, Said, bind, container, group, image, topology

from pgherd.docker.models import Container, Mount
from pgherd.errors import Refused
from pgherd.group import preconditions
from pgherd.group.group import Group
from pgherd.group.observation import Observation
from pgherd.postgres import datadir


def seen(*containers: Container) -> Observation:
    return Observation({}, {"local": {c.name: c for c in containers}})


def made(plan: dict[str, Said] | None = None, **pa: object) -> Group:
    return group(topology(pa=dict(pa)), FakeHost(plan or {"sh -s": Said()}))


# --- names and options ---


def test_a_foreign_container_of_the_nodes_name() -> None:
    asked = made()
    for labels in ({}, {"pgherd.group": "other"}):
        foreign = container("pa", labels=labels, image_ref="redis", status="exited")
        with pytest.raises(Refused, match=r"named pa that is not of group g \(image redis, exited"):
            preconditions.check_name(asked, asked.master, seen(foreign))


def test_a_container_of_another_checkout() -> None:
    asked = made()
    foreign = container("pa", labels={"pgherd.group": "g", "pgherd.home": "/other/data"})
    assert not asked.owns(foreign, "local")
    with pytest.raises(Refused, match=r"pa is of a group g too, of another checkout \(/other/data"):
        preconditions.check_name(asked, asked.master, seen(foreign))


def test_own_and_other_names_are_let_be() -> None:
    asked = made()
    preconditions.check_name(asked, asked.master, seen(container("pa"), container("x", labels={})))


def test_a_changed_container() -> None:
    master = made().master
    same = container("pa", labels={"pgherd.spec": master.spec(image())})
    other = container("pa", labels={"pgherd.spec": "0" * 16})
    assert preconditions.check_spec(master, same, image()) is True
    assert preconditions.check_spec(master, container("pa", planned=True), image()) is True
    with pytest.raises(Refused, match="pa runs with another image, port, directory or option"):
        preconditions.check_spec(master, other, image())
    stopped = container("pa", labels=other.labels, status="exited")
    assert preconditions.check_spec(master, stopped, image()) is False


def test_a_container_of_an_earlier_version_runs_on_and_is_made_anew_once_it_is_down() -> None:
    """It was made before containers held their data."""
    master, words = made().master, ("docker-entrypoint.sh", "postgres")
    labels = {"pgherd.spec": master.spec(image())}
    for status, same in (("running", True), ("restarting", True), ("exited", False)):
        earlier = container("pa", labels=labels, status=status, command=words)
        assert preconditions.check_spec(master, earlier, image()) is same
    held = ("sh", *datadir.server_words(image()))
    assert preconditions.check_spec(
        master, container("pa", labels=labels, status="exited", command=held), image()
    )


def test_what_makes_another_container() -> None:
    specs = [
        made().master.spec(image()),
        made(port=5499).master.spec(image()),
        made(listen="0.0.0.0").master.spec(image()),  # noqa: S104
        made(data="/d/other").master.spec(image()),
        made(data="volume:vol").master.spec(image()),
        made().master.spec(image("postgres:18", "/var/lib/postgresql")),
    ]
    assert len(set(specs)) == len(specs)
    assert made(settings={"work_mem": "1MB"}).master.spec(image()) == specs[0]


# --- data ---


@pytest.mark.parametrize("used", ["/d/pa", "/d", "/", "/d/pa/base/1"])
def test_data_in_use(used: str) -> None:
    asked = made()
    with pytest.raises(Refused, match=f"/d/pa is in use by the container x \\(it has {used}\\)"):
        preconditions.check_data_unused(asked.master, seen(container("x", mounts=(bind(used),))))


@pytest.mark.parametrize(
    "other",
    [
        container("x", mounts=(bind("/d/p"),)),
        container("x", mounts=(bind("/d/pa2"),)),
        container("x", mounts=(bind("/e/d/pa"),)),
        container("x", mounts=(bind("/d/pa"),), status="exited"),
        container("pa", mounts=(bind("/d/pa"),)),
        container("x", mounts=(Mount("pa", "/t", volume=True),)),
    ],
)
def test_data_not_in_use(other: Container) -> None:
    preconditions.check_data_unused(made().master, seen(other))


def test_a_restarting_container_uses_its_data() -> None:
    other = container("x", mounts=(bind("/d/pa"),), status="restarting")
    with pytest.raises(Refused, match="in use"):
        preconditions.check_data_unused(made().master, seen(other))


@pytest.mark.parametrize(
    ("mount", "used"),
    [
        (Mount("vol", "/t", volume=True), True),
        (Mount("vol2", "/t", volume=True), False),
        (Mount("vol", "/t"), False),
    ],
)
def test_a_volume_is_in_use_by_its_name(mount: Mount, used: bool) -> None:
    master, others = made(data="volume:vol").master, seen(container("x", mounts=(mount,)))
    if not used:
        preconditions.check_data_unused(master, others)
        return
    with pytest.raises(Refused, match="vol is in use"):
        preconditions.check_data_unused(master, others)


@pytest.mark.parametrize("state", ["absent", "empty", "full"])
def test_data_state(state: str) -> None:
    assert preconditions.data_state(made({"sh -s": Said(f"{state}\n")}).master) == state


def test_data_that_is_no_directory() -> None:
    with pytest.raises(Refused, match="pa: /d/pa is not a directory"):
        preconditions.data_state(made({"sh -s": Said("not a directory\n")}).master)


@pytest.mark.parametrize(("code", "state"), [(0, "full"), (1, "absent")])
def test_a_volume_that_is_there_counts_as_full(code: int, state: str) -> None:
    asked = made({"docker volume inspect vol": Said(code=code)}, data="volume:vol")
    assert preconditions.data_state(asked.master) == state


# --- ports ---

ANY = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize(
    ("ports", "listen", "taken"),
    [
        ((("127.0.0.1", 5432),), "127.0.0.1", True),
        (((ANY, 5432),), "127.0.0.1", True),
        ((("::", 5432),), "127.0.0.1", True),
        ((("10.0.0.5", 5432),), ANY, True),
        ((("10.0.0.5", 5432),), "127.0.0.1", False),
        (((ANY, 5433),), ANY, False),
    ],
)
def test_port_of_another_container(
    ports: tuple[tuple[str, int], ...], listen: str, taken: bool
) -> None:
    master, others = made(listen=listen).master, seen(container("x", ports=ports))
    if not taken:
        preconditions.check_port(master, others)
        return
    with pytest.raises(Refused, match=r"Port 5432 is taken by the container x\. Free it, or give"):
        preconditions.check_port(master, others)


@pytest.mark.parametrize(
    "other",
    [
        container("x", ports=(("127.0.0.1", 5432),), status="exited"),
        container("pa", ports=(("127.0.0.1", 5432),)),
    ],
)
def test_ports_that_do_not_count(other: Container) -> None:
    preconditions.check_port(made().master, seen(other))


@pytest.mark.parametrize(
    ("line", "listen", "who"),
    [
        (
            'LISTEN 0 4096 127.0.0.1:5432 0.0.0.0:* users:(("docker-proxy",pid=77,fd=7))',
            "127.0.0.1",
            "the process docker-proxy (pid 77)",
        ),
        ("LISTEN 0 4096 127.0.0.1:5432 0.0.0.0:*", "127.0.0.1", "another process"),
        ("LISTEN 0 4096 0.0.0.0:5432 0.0.0.0:*", "127.0.0.1", "another process"),
        ("LISTEN 0      244   [::]:5432   [::]:*", "127.0.0.1", "another process"),
        ("LISTEN 0 4096 *:5432 *:*", "127.0.0.1", "another process"),
        ("LISTEN 0 4096 127.0.0.1%lo:5432 0.0.0.0:*", "127.0.0.1", "another process"),
        ("LISTEN 0 4096 [fe80::1]%eth0:5432 [::]:*", "fe80::1", "another process"),
        ("LISTEN 0 4096 [::1]:5432 [::]:*", "127.0.0.1", ""),
        ("LISTEN 0 4096 127.0.0.2:5432 0.0.0.0:*", "127.0.0.1", ""),
        ("LISTEN 0 4096 127.0.0.1:15432 0.0.0.0:*", "127.0.0.1", ""),
        ("LISTEN 0 4096 127.0.0.1:54321 0.0.0.0:*", "127.0.0.1", ""),
        (
            "postgres 1234 root 7u IPv4 0x1a2b 0t0 TCP 127.0.0.1:5432 (LISTEN)",
            "127.0.0.1",
            "the process postgres (pid 1234)",
        ),
        (
            "com.docke 987 ana 55u IPv6 0x1a2b 0t0 TCP *:5432 (LISTEN)",
            "127.0.0.1",
            "the process com.docke (pid 987)",
        ),
        (
            "postgres 1234 root 7u IPv6 0x1a2b 0t0 TCP [::1]:5432 (LISTEN)",
            "::1",
            "the process postgres (pid 1234)",
        ),
        ("postgres 1 root 7u IPv4 0x1a2b 0t0 TCP 10.0.0.1:5432 (LISTEN)", "127.0.0.1", ""),
        ("", "127.0.0.1", ""),
    ],
)
def test_listener(line: str, listen: str, who: str) -> None:
    assert preconditions.listener(line, listen, 5432) == who


def test_port_of_another_process() -> None:
    line = 'LISTEN 0 4096 127.0.0.1:5432 0.0.0.0:* users:(("postgres",pid=9,fd=7))\n'
    with pytest.raises(Refused, match=r"Port 5432 is taken by the process postgres \(pid 9\)"):
        preconditions.check_port(made({"sh -s": Said(line)}).master, seen())


def test_with_dry_the_port_of_a_server_that_will_be_stopped_is_free() -> None:
    """`invoke --dry stop start`: while the script is printed, the server still has its port."""
    line = 'LISTEN 0 4096 127.0.0.1:5432 0.0.0.0:* users:(("docker-proxy",pid=9,fd=7))\n'
    own = container("pa", status="exited", planned=True)
    preconditions.check_port(made({"sh -s": Said(line)}).master, seen(own))


def test_an_address_that_the_host_lacks() -> None:
    asked = topology(pa={"host": "box", "listen": "192.0.2.1"})
    made = group(asked, FakeHost({"sh -s": Said("no such address\n")}))
    with pytest.raises(Refused, match=r"nodes\.pa\.listen: 192\.0\.2\.1 is no address of box"):
        preconditions.check_port(made.master, Observation({}, {"box": {}}))


def test_here_the_engine_may_be_another_machines() -> None:
    """DOCKER_HOST, or Docker Desktop: its addresses are not this machine's."""
    host = FakeHost({"sh -s": Said()})
    asked = group(topology(pa={"listen": "192.0.2.1"}), host)
    preconditions.check_port(asked.master, seen())
    assert "ip -o address" not in host.calls[0].stdin
