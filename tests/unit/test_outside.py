"""What lies outside a data directory: what is carried, who refuses, and what helps."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fakes import FakeHost, Said, bind, container, facts, group, image, observation, topology

from pgherd.docker.models import Mount
from pgherd.errors import Refused
from pgherd.group import outside_data, preconditions
from pgherd.group.group import Group
from pgherd.postgres.facts import Disk, Outside, read_links

FAST = {"tablespaces": {"/srv/fast": "/d/pa_fast"}}


def spaces(**changes: Any) -> dict[str, Any]:
    """What a server tells of one tablespace."""
    return {
        "name": "fast", "path": "/ts", "lies": "container",
        "databases": [{"name": "postgres", "default": False}],
    } | changes  # fmt: skip


def declared(fake: FakeHost | None = None) -> Group:
    """A group that has declared a place at /srv/fast."""
    other = {"tablespaces": {"/srv/fast": "/d/s1_fast"}}
    return group(topology("s1", pa=FAST, s1=other), fake)


@pytest.mark.parametrize(
    ("path", "lies", "mounted", "well"),
    [
        ("/srv/fast", "mount", ["/srv/fast"], True),
        ("/srv/fast/below", "", ["/srv/fast"], True),
        ("/srv/fast", "", None, True),  # a container that is to be made has it
        ("/srv/fast", "", [], False),
        ("/srv/fast", "container", ["/srv/fast"], False),
        ("/srv/fast", "memory", None, False),
        ("/srv/faster", "mount", ["/srv"], False),
        ("/ts", "mount", ["/ts"], False),
    ],
)
def test_what_lies_well(path: str, lies: str, mounted: list[str] | None, well: bool) -> None:
    had = None if mounted is None else container("pa", mounts=[Mount("/x", at) for at in mounted])
    found = outside_data.astray(declared().master.node, [Outside("x", path, lies)], had)
    assert (found == []) is well


def test_links_that_lead_out() -> None:
    lines = [
        "link\tpg_wal\t/wal", "link\tpg_tblspc/16385\t/ts", "link\tlog\t../log", "link\ta\tb/c",
        "link\tpg_tblspc/2\t../in", "link\tkey\t/etc/pgherd/server.pem", "linked\tx\t/y",
        "link\tdeep\t/var/lib/postgresql/data/x",
    ]  # fmt: skip
    assert [(o.what, o.path) for o in read_links("\n".join(lines))] == [
        ("pg_wal", "/wal"), ("the tablespace 16385", "/ts"), ("log", "/var/lib/postgresql/log"),
    ]  # fmt: skip


def test_a_container_without_a_mount_for_its_data_is_never_removed() -> None:
    made = group(topology("s1"))
    seen = observation(pa=facts())
    bare = container("pa", mounts=(Mount("/d/private", "/etc/pgherd"),))
    with pytest.raises(Refused, match="has no mount at /var/lib/postgresql/data: its data is in"):
        outside_data.refuse_to_remove(made, [(made.master, bare, seen.nodes["pa"].facts)], seen)


def refused(made: Group, **told: Any) -> str:
    """Return the refusal of removing all, by what the primary tells."""
    seen = observation(pa=facts(tablespaces=(spaces(**told),)))
    with pytest.raises(Refused) as caught:
        outside_data.refuse_to_remove_all(made, [made.master], seen)
    return caught.value.sentence


def test_the_way_out() -> None:
    said = refused(group(topology("s1", s1={"data": "volume:vol"})))
    assert "pa: the tablespace fast is at /ts, in its container only" in said
    assert re.findall(r"`(.*)`", said) == [
        'invoke psql --command "'
        + "; ".join(
            f"ALTER {kind} ALL IN TABLESPACE fast SET TABLESPACE pg_default"
            for kind in ("TABLE", "INDEX", "MATERIALIZED VIEW")
        )
        + '"',
        'invoke psql --command "DROP TABLESPACE fast"',
        "invoke down start",
        "invoke psql --command \"CREATE TABLESPACE fast LOCATION '/ts'\"",
    ]
    lines = ["[nodes.pa.tablespaces]", '"/ts" = "/d/pa_ts"']
    lines += ["[nodes.s1.tablespaces]", '"/ts" = "volume:vol_ts"']
    assert "\n  ".join(lines) in said


def test_the_way_out_of_other_databases_and_names() -> None:
    databases = [{"name": n, "default": d} for n, d in (("A b", False), ("c", True))]
    databases.append({"name": "postgres", "default": True})
    told = {"name": '"my ""ts"', "path": "/with blank/x", "databases": databases}
    said = refused(group(topology("s1")), **told)
    assert "`docker exec --user postgres pa psql --dbname 'A b' --command 'ALTER TABLE ALL" in said
    assert '`invoke psql --command "ALTER DATABASE c SET TABLESPACE pg_default"`' in said
    move = "ALTER DATABASE postgres SET TABLESPACE pg_default"
    assert f'pa psql --dbname template1 --command "{move}"`' in said
    assert '"/srv/_my___ts_" = "/d/pa__my___ts_"' in said
    assert "LOCATION '\"'\"'/srv/_my___ts_'\"'\"''`" in said


def test_one_that_is_declared_and_was_made_before_that() -> None:
    said = refused(declared(), path="/srv/fast")
    assert "To have it again, in the place that is declared:\n  `invoke down start`" in said
    assert "[nodes." not in said


def test_one_in_a_mount_that_is_declared_no_more() -> None:
    said = refused(group(topology("s1")), lies="mount")
    assert "in a mount that the topology does not declare" in said


def test_what_the_primary_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions, "data_state", lambda *_: preconditions.FULL)
    made = group(topology("s1"))
    seen = observation(pa=facts(), s1=None)
    disk = Disk(pg_version="17", empty=False, outside=(Outside("the tablespace 1", "/ts"),))
    with pytest.raises(Refused, match="`docker rm --force s1`, then this again"):
        outside_data.refuse_to_move(made, made.instance("s1"), seen, disk)


def start(made: Group, *, fits: bool, **changes: Any) -> None:
    """Look whether a server may be run on data with something at /ts, or as `changes` say."""
    found = Disk(pg_version="17", empty=False, outside=(Outside("pg_wal", "/ts"),), **changes)
    had = container("pa", mounts=(bind("/d/pa"),), status="exited")
    wanted = made.master.spec(image())
    labels = {**had.labels, "pgherd.spec": wanted if fits else "another"}
    had = container("pa", mounts=(bind("/d/pa"),), status="exited", labels=labels)
    outside_data.refuse_to_start(made, made.master, found, had, image())


@pytest.mark.parametrize("has", ["0", "512"])
def test_a_container_is_started_as_it_is_where_it_has_all(has: str) -> None:
    made = group(topology("s1"), FakeHost({"sh -c": Said(has)}))
    if has == "512":
        start(made, fits=True)
        return
    with pytest.raises(Refused, match="Put pg_wal in place of its link into /d/pa"):
        start(made, fits=True)


def test_another_container_is_not_made_in_place_of_one_that_has_it() -> None:
    made = group(topology("s1"), FakeHost({"sh -c": Said("512")}))
    with pytest.raises(Refused, match="`docker start pa` runs it as it is"):
        start(made, fits=False)


def test_what_is_gone_from_its_place() -> None:
    made = declared()
    found = Disk(
        pg_version="17", empty=False, outside=(Outside("the tablespace 1", "/srv/fast"),),
        gone=("/srv/fast",),
    )  # fmt: skip
    with pytest.raises(Refused, match="the tablespace 1 at /srv/fast is gone: /d/pa_fast has no"):
        outside_data.refuse_to_start(made, made.master, found, None, image())
