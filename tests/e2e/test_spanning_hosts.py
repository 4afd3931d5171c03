"""Hosts of one group that differ: without the image, with another one, with another clock."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from far import REFUSED, Far, MakeFar
from host import Host
from machine import lacking
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")

IMAGE = "pgherd/postgres:17"
FIELDS = "{{json .RootFS.Layers}} {{json .Config.Entrypoint}} {{json .Config.Env}}"


def image_id(host: Host, name: str = IMAGE) -> str:
    return host.docker("image", "inspect", "--format", "{{.Id}}", name, check=False).strip()


@pytest.fixture(scope="module")
def far(make_far: MakeFar) -> Far:
    return make_far("hosta", "hostb")


@pytest.fixture
def hostc(rigged: Rig) -> Iterator[Host]:
    """A host whose images may be changed; afterwards it has the group's again."""
    host = rigged.hosts["hostc"]
    known = image_id(host)
    yield host
    host.empty()
    host.docker("tag", known, IMAGE, check=False)
    if not image_id(host):
        host.load(IMAGE)


# --- the image ---


@pytest.mark.long
def test_the_image_is_carried_where_it_is_not(hostc: Host, make_far: MakeFar) -> None:
    far = make_far("hosta", "hostc")
    hostc.docker("image", "rm", "--force", IMAGE)
    assert hostc.docker("image", "ls", "--all", "--quiet") == ""
    looked = json.loads(far.invoke("hosts", "--json").stdout)
    assert [host["image"] for host in looked["hosts"]] == [IMAGE, ""]
    refused = far.invoke("--dry", "setup-master", code=REFUSED).stderr
    assert "The image postgres:17 is not on hostc" in refused
    said = far.invoke("image").stderr
    assert f"image: {IMAGE} goes from hosta to hostc" in said
    progress = [int(at) for at in re.findall(r"hostc: (\d+) of about \d+ MB", said)]
    assert progress == sorted(set(progress))
    assert len(progress) >= 1
    source = far.host("master").docker("image", "inspect", "--format", FIELDS, IMAGE)
    assert hostc.docker("image", "inspect", "--format", FIELDS, IMAGE) == source
    assert "goes from" not in far.invoke("image").stderr


def other_image(host: Host) -> str:
    """Give the group's image's name to another one on a host; return the id of that."""
    host.docker("run", "--name", "other", IMAGE, "touch", "/other")
    made = host.docker("commit", "other", IMAGE).strip()
    host.docker("rm", "other")
    return made


@pytest.mark.long
def test_another_image_of_that_name(hostc: Host, make_far: MakeFar) -> None:
    """It stays there and is not used; a standby that was made of it is refused."""
    far = make_far("hosta", "hostc", sync="")
    other, asked = other_image(hostc), image_id(far.host("master"))
    name = far.container("standby")
    far.invoke("setup-master", "seed-standby")
    assert hostc.docker("inspect", "--format", "{{.Image}}", name).strip() == asked
    assert image_id(hostc) == other
    assert "already" in far.invoke("seed-standby").stderr
    labels = json.loads(hostc.docker("inspect", "--format", "{{json .Config.Labels}}", name))
    hostc.docker("rm", "--force", name)
    told = [word for label in labels.items() for word in ("--label", "=".join(label))]
    hostc.docker("create", "--name", name, *told, IMAGE)
    before = far.things()
    said = far.invoke("seed-standby", code=REFUSED).stderr
    assert f"{name} on hostc runs another image ({IMAGE}, {other[:19]})" in said
    assert f"than the group has on hosta ({IMAGE}, {asked[:19]})" in said
    assert far.things() == before


# --- what is told ---


@pytest.mark.long
def test_clocks_and_engines_that_differ_are_told(rigged: Rig, far: Far) -> None:
    host = rigged.hosts["hostb"]
    host.replace("date", 'exec "$original" -d "+90 seconds" "$@"')
    host.replace(
        "docker",
        """case $1 in
        version) "$original" "$@" | sed 's/[0-9]*[.][0-9]*[.][^ ]*/77.1.2/' ;;
        *) exec "$original" "$@" ;;
        esac""",
    )
    looked = json.loads(far.invoke("hosts", "--json").stdout)["hosts"]
    assert [round(host["skew"]) for host in looked] == [0, 90]
    assert looked[1]["engine"] == "77.1.2"
    assert "+90" in far.invoke("hosts").stdout.splitlines()[-1]
    said = far.invoke("setup-master").stderr
    assert "the clocks of hosta and hostb are 90 s apart" in said
    here = ".".join(looked[0]["engine"].split(".")[:2])
    assert f"hosta has Docker {here}, and hostb 77.1" in said
    rigged.repair()
    again = far.invoke("setup-master").stderr
    assert "already" in again
    assert "hosts: " not in again


def test_another_architecture_is_refused(rigged: Rig, far: Far) -> None:
    host = rigged.hosts["hostb"]
    mine = host.docker("version", "--format", "{{.Server.Arch}}").strip()
    others = f"s/{mine}/sparc/g; s/sha256:../sha256:00/g"  # with layers of its own
    host.replace("docker", f'"$original" "$@" | sed \'{others}\'')
    before = far.things()
    said = far.invoke("setup-master", code=REFUSED).stderr
    assert f"hosta has architecture linux/{mine}, and hostb linux/sparc" in said
    assert re.search(rf"hostb has linux/sparc,? and hosta (has )?linux/{mine}", said)
    assert "Choose hosts of one architecture" in said
    assert far.things() == before
