"""Which way a node can come back: as it is, rewound, or with a new base backup."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import SYSTEM, FakeHost, Said, facts, group, image, standby_facts, topology

from pgherd.errors import Refused
from pgherd.group import rejoin_method
from pgherd.group.rejoin_method import Method, RejoinMethod
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.history import Beyond, counted

PROMOTED = facts(timeline=2, history="1\t0/5000148\tpromoted\n", lsn="0/7000000")
SAME = facts(timeline=1, lsn="0/5000148")

# --- one that runs ---


@pytest.mark.parametrize(
    ("mine", "theirs", "follows"),
    [
        ({"lsn": "0/5000148"}, PROMOTED, True),
        ({"lsn": "0/4000000", "received": "0/5000148"}, PROMOTED, True),
        ({"lsn": "0/5000149"}, PROMOTED, False),
        # on disk, though not replayed
        ({"lsn": "0/4000000", "received": "0/5000180"}, PROMOTED, False),
        # received is where the stream began, which is less than was replayed
        ({"lsn": "0/5000180", "received": "0/5000000"}, PROMOTED, False),
        ({"lsn": "0/5000148"}, SAME, True),
        ({"lsn": "0/5000180"}, SAME, False),
        ({"timeline": 3, "history": "1 0/5000148\n2 0/6000000\n"}, PROMOTED, False),  # newer
        ({"timeline": 2, "history": "1 0/4000000\n", "lsn": "0/4000100"}, PROMOTED, False),
        ({"timeline": 2, "history": "7 0/4000000\n", "lsn": "0/1"}, PROMOTED, False),
    ],
)
def test_a_standby_that_runs(mine: dict[str, object], theirs: Facts, follows: bool) -> None:
    assert rejoin_method.can_follow(standby_facts(**mine), theirs) is follows


# --- what pg_waldump tells ---


def test_beyond() -> None:
    said = "pg_version=17\nbeyond=0/5000180 54 3\n"
    assert Beyond.read(said, "0/5000148") == Beyond(0x38 + 54, 3)
    assert Beyond.read("pg_version=17\n", "0/5000148") is None
    # a record that had begun before, of which a part was received
    assert Beyond.read("beyond=0/4FFFFF0 34 1\n", "0/5000000") == Beyond(34, 1)
    assert Beyond.read("beyond=1/10 34 0\n", "0/FFFFFFF0") == Beyond(0x20 + 34, 0)


DISK = Disk(
    pg_version="17", empty=False, system_identifier=SYSTEM, state="in production", timeline=1,
    checkpoint="0/5000028", rewindable=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "disk", "timeline", "found"),
    [
        ("", DISK, 1, None),
        ("beyond=0/5000180 54 1\n", DISK, 1, Beyond(0x38 + 54, 1)),
        # its WAL from there on was removed, and its last checkpoint is further
        ("", replace(DISK, checkpoint="0/9000148"), 1, Beyond(0x4000000, None)),
        ("", replace(DISK, checkpoint="0/5000148"), 1, Beyond(1, None)),
        # it was promoted: there is a record of that at least
        ("", replace(DISK, timeline=2), 1, Beyond(1, None)),
        ("", replace(DISK, timeline=2), 2, None),
    ],
)
def test_wal_that_was_removed_is_not_nothing(
    said: str, disk: Disk, timeline: int, found: Beyond | None
) -> None:
    assert rejoin_method.read_wal_beyond(said, disk, timeline, "0/5000148") == found


# --- one that is down ---


def judged(disk: Disk, theirs: Facts, said: str = "") -> tuple[RejoinMethod, FakeHost]:
    host = FakeHost({"docker run --rm --interactive --name pgherd-g-s1-look": Said(said)})
    host.plan = {("docker", "run"): Said(said)}
    made = group(topology("s1"), host)
    return rejoin_method.choose_method(made.instance("s1"), image(), disk, theirs), host


OWN = "beyond=0/5000180 54 2\n"


@pytest.mark.parametrize(
    ("changes", "theirs", "said", "kind", "commits"),
    [
        # an old primary of which the new one has all
        ({"state": "shut down"}, PROMOTED, "", Method.FOLLOW, 0),
        ({}, PROMOTED, "", Method.FOLLOW, 0),
        ({}, PROMOTED, OWN, Method.REWIND, 2),
        ({"rewindable": False}, PROMOTED, OWN, Method.BASE_BACKUP, 2),
        # a standby that received more than the one that was promoted
        ({"state": "in archive recovery", "standby_signal": True}, PROMOTED, OWN, Method.REWIND, 2),
        # one timeline: a standby that is behind, one that is ahead, another primary
        ({"standby_signal": True, "state": "shut down in recovery"}, SAME, "", Method.FOLLOW, 0),
        ({"standby_signal": True, "state": "shut down in recovery"}, SAME, OWN,
         Method.BASE_BACKUP, None),
        ({"state": "shut down"}, SAME, "", Method.BASE_BACKUP, None),
        # a mark alone makes no standby's data of a primary's; nor does recovery without the mark
        ({"state": "in archive recovery"}, SAME, "", Method.FOLLOW, 0),
        # promoted as well, and what it wrote is removed
        ({"timeline": 2, "history": "1 0/4000000\n"}, PROMOTED, "", Method.REWIND, None),
        ({"timeline": 2, "history": "7 0/4000000\n"}, PROMOTED, OWN, Method.BASE_BACKUP, None),
        ({"half_copied": True}, PROMOTED, "", Method.BASE_BACKUP, 0),
        ({"pg_version": None}, PROMOTED, "", Method.BASE_BACKUP, 0),
    ],
)  # fmt: skip
def test_a_server_that_is_down(
    changes: dict[str, object], theirs: Facts, said: str, kind: Method, commits: int | None
) -> None:
    way, _ = judged(replace(DISK, **changes), theirs, said)  # type: ignore[arg-type]
    assert (way.kind, way.commits) == (kind, commits)
    assert way.why


def test_the_look_changes_nothing_and_begins_where_they_part() -> None:
    _, host = judged(replace(DISK, timeline=2, history="1 0/4000000\n"), PROMOTED, OWN)
    (call,) = host.calls
    assert call.reads
    assert [word for word in call.argv if "target=" in word] == [
        "type=bind,source=/d/s1,target=/var/lib/postgresql/data,readonly"
    ]
    assert "timeline=2\nstart=0/4000000\nfrom=0/4000000\n" in call.stdin


def test_the_reason_is_told() -> None:
    way, _ = judged(DISK, PROMOTED, "beyond=0/5000180 54 1\n")
    assert way.why == (
        "it has 110 bytes of its own after 0/5000148, where the histories part: 1 commit"
    )
    assert counted(None) == "an unknown number of commits"
    assert counted(0) == "0 commits"


def test_another_systems_database_is_refused() -> None:
    with pytest.raises(Refused, match=r"another system \(1, and the group is 7438") as caught:
        judged(replace(DISK, system_identifier="1"), PROMOTED)
    assert "`invoke seed-standby --node s1 --set-aside`" in caught.value.sentence
