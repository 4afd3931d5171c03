"""Containers of somebody else on the same engine: one whose inspect hangs holds nobody up.

It is a paused one on Docker 20.10, now and then: `docker inspect` of it hangs, `docker ps` answers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Herd, MakeHerd, docker

# It hangs where the container whose id and name are $HANGS is inspected, and writes that down.
SHIM = """\
#!/bin/sh
case " $* " in
  *" inspect "*)
    for word; do
      case " $HANGS " in *" $word "*) echo "$*" >>"$HANGING"; exec sleep 600 ;; esac
    done ;;
esac
exec "$REAL" "$@"
"""


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd) -> Herd:
    return make_herd()


@pytest.fixture(scope="module")
def neighbour(
    herd: Herd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Path]]:
    """Return what makes the neighbour, with options, and has it hang; returns what it tells."""
    name, place = f"{herd.name}-neighbour", tmp_path_factory.mktemp("shim")
    shim = place / "docker"
    shim.write_text(SHIM, encoding="utf-8")
    shim.chmod(0o755)
    real = shutil.which("docker")
    assert real

    def make(*options: str) -> Path:
        docker("rm", "--force", "--volumes", name, check=False)
        image = herd.invoke("image").stdout.strip()
        made = docker(
            "run", "--detach", "--name", name, *options, "--entrypoint", "sleep", image, "600"
        )
        hanging = place / "hanging"
        hanging.write_text("")
        herd.env |= {
            "PATH": f"{place}:{os.environ['PATH']}", "REAL": real, "HANGING": str(hanging),
            "HANGS": f"{made} {name}",
        }  # fmt: skip
        return hanging

    yield make
    herd.env.clear()
    docker("rm", "--force", "--volumes", name, check=False)


def test_it_is_asked_where_a_directory_may_be_its_own(
    herd: Herd, neighbour: Callable[..., Path]
) -> None:
    """Refused by name then: it may be a server that runs on it. Nothing is made."""
    herd.data("master").mkdir()
    hanging = neighbour("--volume", f"{herd.data('master').parent}:/srv")
    told = herd.invoke("setup-master", code=2).stderr
    assert f"may be in use by the container {herd.name}-neighbour" in told
    assert "docker kill" in told
    assert hanging.read_text()
    assert (herd.status("master"), list(herd.data("master").iterdir())) == ("", [])


def test_it_holds_nobody_up(herd: Herd, neighbour: Callable[..., Path]) -> None:
    hanging = neighbour("--volume", "/srv:/srv:ro", "--label", "a=b,c=d", "--publish", "80")
    herd.invoke("setup-master", "seed-standby", "status")
    assert hanging.read_text() == ""


@pytest.mark.long
def test_it_holds_up_no_other_task(herd: Herd, neighbour: Callable[..., Path]) -> None:
    hanging = neighbour()
    master, standby = herd.container("master"), herd.container("standby")
    herd.invoke("setup-master", "seed-standby", "verify", "diff", "doctor")
    herd.invoke("switchover", "--to", standby)
    docker("kill", standby)
    herd.invoke("failover")
    herd.invoke("rejoin", standby)
    herd.invoke("switchover", "--to", standby)
    herd.invoke("switchover", "--to", master)
    herd.invoke("stop", "start")
    assert hanging.read_text() == ""
    found = json.loads(herd.invoke("audit", "--json", code=1).stdout)["findings"]
    assert [(f["code"], f["where"]) for f in found] == [
        ("unseen", f"docker container inspect {herd.name}-neighbour")
    ]
    herd.invoke("remove-standby", standby, "--allow-async")
    herd.invoke("down", "--purge", "--confirm", herd.name)
