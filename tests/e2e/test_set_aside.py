"""What was set aside is listed, comes back, and is deleted only when told so twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import ROOT, Herd, MakeHerd, docker
from faults import until
from killing import Act, When, killed

# The tests follow each other on one pair: what one has set aside, the next one finds.
OLD = "20200102T030405Z"  # of a copy that is made here


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    """A pair whose standby was seeded twice."""
    made = make_herd("17")
    made.invoke("setup-master", "seed-standby")
    made.invoke("seed-standby", "--rebuild", "--allow-async")
    return made


def listed(herd: Herd) -> dict[str, dict[str, Any]]:
    """Return what `invoke aside.list` lists, by name."""
    answer = json.loads(herd.invoke("aside.list", "--json").stdout)
    assert answer["group"] == herd.name
    return {copy["name"]: copy for copy in answer["copies"]}


def as_root(herd: Herd, script: str) -> str:
    """Run shell text as root with the directory that the data lies in."""
    place = f"type=bind,source={herd.directory},target=/place"
    image = docker("inspect", "--format", "{{.Config.Image}}", herd.container("standby"))
    words = ["run", "--rm", "--mount", place, "--entrypoint", "sh", image, "-ec", script]
    return docker(*words)


def test_what_was_set_aside_is_listed(herd: Herd) -> None:
    ((name, copy),) = listed(herd).items()
    assert name.startswith("standby_data_bk_")
    assert copy["path"] == str(herd.directory / name)
    system = herd.sql("master", "SELECT system_identifier FROM pg_control_system()")
    assert {key: copy[key] for key in ("node", "host", "kind", "postgresql", "role")} == {
        "node": herd.container("standby"), "host": "local", "kind": "data", "postgresql": "17",
        "role": "standby",
    }  # fmt: skip
    assert (copy["system"], copy["timeline"]) == (str(system), 1)
    assert (copy["state"], copy["why"]) == ("shut down in recovery", "seeded anew")
    assert copy["complete"] is True
    assert copy["bytes"] > 20_000_000
    text = herd.invoke("aside.list").stdout
    assert name in text
    assert "1 copy is set aside and takes" in text
    assert "free on local" in text


def test_it_is_not_put_back_under_a_server_or_from_one(herd: Herd) -> None:
    (name,) = listed(herd)
    said = herd.invoke("aside.restore", name, code=2).stderr
    assert f"`docker stop {herd.container('standby')}`" in said
    user = f"{herd.name}-user"
    docker("stop", herd.container("standby"))
    image = docker("inspect", "--format", "{{.Config.Image}}", herd.container("standby"))
    mount = f"type=bind,source={herd.directory / name},target=/x"
    docker("run", "--rm", "--detach", "--name", user, "--mount", mount, image, "sleep", "300")
    try:
        assert (
            f"in use by the container {user}" in herd.invoke("aside.restore", name, code=2).stderr
        )
        words = ["aside.delete", name, "--confirm", name]
        assert f"in use by the container {user}" in herd.invoke(*words, code=2).stderr
    finally:
        docker("rm", "--force", user)
    herd.invoke("start")


def test_it_runs_after_it_was_put_back(herd: Herd) -> None:
    """With all stopped nobody else leads: what was a primary is one."""
    herd.invoke("stop")
    herd.invoke("step.set-aside", "--node", herd.container("master"))
    name = next(n for n, copy in listed(herd).items() if copy["why"] == "step.set-aside")
    assert "`invoke start` runs it as that" in herd.invoke("aside.restore", name).stderr
    herd.invoke("start")
    assert all(check["ok"] for check in herd.checks().values())


def test_what_is_not_whole_or_of_another_major_is_refused(herd: Herd, make_herd: MakeHerd) -> None:
    make_herd("15")  # so that its image is here
    part = f"standby_data_bk_{OLD}.part"
    (herd.directory / part / "base").mkdir(parents=True)
    copy = listed(herd)[part]
    assert (copy["complete"], copy["fault"]) == (False, "an unfinished copy")
    docker("stop", herd.container("standby"))
    assert "is not whole" in herd.invoke("aside.restore", part, code=2).stderr
    (name,) = (n for n, c in listed(herd).items() if c["why"] == "seeded anew")
    herd.invoke("stop")
    docker("rm", *(herd.container(role) for role in herd.nodes))
    herd.group["image"] = "postgres:15"
    herd.write()
    try:
        assert listed(herd)[name]["postgresql"] == "17"
        said = herd.invoke("aside.restore", name, code=2).stderr
        assert f"{name} is a database of PostgreSQL 17" in said
    finally:
        herd.group["image"] = "postgres:17"
        herd.write()


def test_deleting_wants_the_name_twice_and_takes_nothing_else(herd: Herd) -> None:
    part = f"standby_data_bk_{OLD}.part"
    for words in ([part], [part, "--confirm", f"{part}x"]):
        assert "Not confirmed" in herd.invoke("aside.delete", *words, code=2).stderr
    live = [str(herd.data("standby")), "standby_data", f"{part}/.."]
    for name in live:
        said = herd.invoke("aside.delete", name, "--confirm", name, code=2).stderr
        assert "is set aside as" in said
    before = sorted(path.name for path in herd.directory.iterdir())
    assert part in before
    herd.invoke("aside.delete", part, "--confirm", part)
    left = sorted(path.name for path in herd.directory.iterdir())
    assert left == [name for name in before if name != part]


def test_a_renamed_group_is_refused_before_anything_changes(herd: Herd) -> None:
    name = f"{herd.name}x"
    other = Herd(name, herd.directory, herd.nodes, {**herd.group, "name": name})
    try:
        other.write()
        said = other.invoke("setup-master", code=2).stderr
        assert "was made by a group of pgherd whose passwords are not here" in said
        assert "Give the group its former name" in said
        assert f"mv {herd.secrets().parent}/FORMER-NAME {other.secrets()}" in said
        assert not other.secrets().exists()
    finally:
        herd.write()
        for left in (ROOT / "data").glob(f".{name}*"):
            left.unlink()
    assert "password" not in herd.invoke("start").stderr


@pytest.mark.long
def test_an_old_primary_comes_back_as_a_standby(herd: Herd) -> None:
    """Beside a living primary, whatever its copy was; a killed run is completed by the next."""
    old_primary = f"master_data_bk_{OLD}"
    copied = herd.directory / old_primary
    herd.invoke("stop")
    as_root(herd, f"cp -a /place/master_data /place/{old_primary}")
    herd.invoke("start")
    herd.invoke("switchover", "--to", herd.container("standby"))
    assert listed(herd)[old_primary]["role"] == "primary"
    docker("stop", herd.container("master"))
    herd.sql("standby", "SET synchronous_commit = local; CREATE TABLE since (n int)")
    # While it is made a standby; before the data is moved aside; and when that is done.
    makes, moves = Act("mark-standby"), Act("put-back")
    moments: list[tuple[Act, When]] = [(makes, "during"), (moves, "before"), (moves, "after")]
    for act, when in moments:
        assert killed(herd, act, when, "aside.restore", old_primary).killed
        if when == "after":  # the script that renames goes on by itself, to its end
            until(lambda: herd.data("master").is_dir() and not copied.exists(), "it is put back")
        else:
            assert herd.data("master").is_dir()
            assert old_primary in listed(herd)
    said = herd.invoke("aside.restore", str(herd.directory / old_primary)).stderr
    assert f"invoke rejoin {herd.container('master')}" in said or "already has" in said
    assert "already has" in herd.invoke("aside.restore", old_primary).stderr
    assert as_root(herd, "ls /place/master_data/standby.signal")
    policy = "{{.HostConfig.RestartPolicy.Name}}"
    assert docker("inspect", "--format", policy, herd.container("master")) == "no"
    # What the killed run's script moved aside is there, with why.
    reasons = [copy["why"] for name, copy in listed(herd).items() if "master_data" in name]
    assert reasons == [f"before {old_primary} was put back"]
    assert herd.primary() == "standby"


@pytest.mark.long
def test_the_passwords_come_back_with_the_data(herd: Herd) -> None:
    word = herd.password()
    if herd.primary() == "standby":  # as the test before leaves it: the other follows nobody yet
        herd.invoke("rejoin", herd.container("master"))
    herd.invoke("sync", "--off")
    herd.sql("standby", "CREATE TABLE dear AS SELECT 1 AS n")
    herd.invoke("down", "--purge", "--confirm", herd.name)
    purged = {n: c for n, c in listed(herd).items() if c["why"] == "down --purge"}
    data = [name for name, copy in purged.items() if copy["kind"] == "data"]
    assert sorted(purged[name]["role"] for name in data) == ["primary", "standby"]
    (secrets,) = (name for name, copy in purged.items() if copy["kind"] == "secrets")
    herd.invoke("aside.restore", secrets)
    assert herd.password() == word
    assert "already has" in herd.invoke("aside.restore", secrets).stderr
    for name in data:
        herd.invoke("aside.restore", name)
    assert "serves, as primary" in herd.invoke("start").stderr
    assert herd.sql("standby", "SELECT n FROM dear") == 1


@pytest.mark.long
def test_a_copy_of_another_system_comes_back_only_where_that_is_said(make_herd: MakeHerd) -> None:
    """The standby had a database of its own; it is as if it had come from somewhere else."""
    herd = make_herd("17")
    herd.invoke("setup-master", "step.run-standby")
    herd.sql("standby", "CREATE TABLE mine AS SELECT 'its own' AS words")
    herd.invoke("seed-standby")
    (name,) = listed(herd)
    docker("stop", herd.container("standby"))
    said = herd.invoke("aside.restore", name, code=2).stderr
    assert "--foreign" in said
    assert listed(herd)[name]["role"] == "primary"
    herd.invoke("aside.restore", name, "--foreign")
    docker("start", herd.container("standby"))
    words = "SELECT words FROM mine"
    until(lambda: herd.sql("standby", words) == "its own", "it serves with its own data")
