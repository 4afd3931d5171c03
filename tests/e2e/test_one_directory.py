"""One data directory is never given to two containers: two checkouts, at the same time."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker

IN_USE = re.compile(
    r"is in use by (the|another) (container|pgherd run)|is not empty|is an unfinished copy|"
    r"whose passwords"
)


class Checkout:
    """A copy of the project in which somebody else works, with a group of its own."""

    def __init__(self, place: Path, herd: Herd) -> None:
        self.place, self.herd = place, herd
        for name in ("scripts", "conf"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "tasks.py", place)
        shutil.copy(ROOT / "pyproject.toml", place)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start an invoke there and do not wait for it."""
        return subprocess.Popen(
            [*INVOKE, *words], cwd=self.place, env=self.herd.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def does(self, *words: str) -> None:
        """Run an invoke there, which has to do it."""
        run = self.begin(*words)
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 0, said

    def secrets(self) -> Path:
        """The group's passwords there."""
        return self.place / "data" / "secrets" / self.herd.name


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make_herd: MakeHerd) -> list[Checkout]:
    """Two people's checkouts with a group each, whose masters are to have the same directory."""
    found = []
    for who in ("ana", "ben"):
        herd = make_herd(standbys=0, sync="")
        found.append(Checkout(tmp_path_factory.mktemp(who), herd))
    found[1].herd.nodes["master"]["data"] = found[0].herd.nodes["master"]["data"]
    found[1].herd.write()
    return found


@pytest.fixture
def empty(two: list[Checkout]) -> Iterator[list[Checkout]]:
    """Neither has anything, and the directory is not there."""
    _clear(two)
    yield two
    _clear(two)


def _clear(two: list[Checkout]) -> None:
    for checkout in two:
        docker("rm", "--force", "--volumes", checkout.herd.container("master"), check=False)
        shutil.rmtree(checkout.place / "data", ignore_errors=True)
    shutil.rmtree(two[0].herd.data("master"), ignore_errors=True)


def race(two: list[Checkout], pause: float, *words: str) -> tuple[Checkout, str]:
    """Have both do the same; return who did it, and what the other was told."""
    runs = []
    for checkout in two:
        runs.append(checkout.begin(*words))
        time.sleep(pause)
    said = [run.communicate(timeout=120)[0] for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) == [0, 2], f"{codes}\n" + "\n----\n".join(said)
    winner = codes.index(0)
    return two[winner], said[1 - winner]


def sound(winner: Checkout, two: list[Checkout]) -> None:
    """One server runs on the directory, and its pages are whole."""
    herd = winner.herd
    up = [c for c in two if c.herd.status("master") == "running"]
    assert up == [winner]
    docker(
        "exec", "--user", "postgres", herd.container("master"), "psql", "-c",
        "CREATE TABLE IF NOT EXISTS kept AS SELECT generate_series(1, 1000) AS n",
    )  # fmt: skip
    docker("stop", herd.container("master"))
    data = f"type=bind,source={herd.data('master')},target=/var/lib/postgresql/data"
    image = docker("inspect", "--format", "{{.Config.Image}}", herd.container("master"))
    check = ["--user", "postgres", "--entrypoint", "pg_checksums", image, "--check"]
    said = docker(
        "run", "--rm", "--mount", data, "--env", "PGDATA=/var/lib/postgresql/data", *check
    )
    assert re.search(r"Bad checksums: +0\b", said), said


@pytest.mark.parametrize("pause", [0.0, 1.0])
@pytest.mark.long
def test_of_two_that_make_a_master_one_does(empty: list[Checkout], pause: float) -> None:
    winner, told = race(empty, pause, "setup-master")
    assert IN_USE.search(told), told
    assert "Traceback" not in told
    sound(winner, empty)


def test_of_two_that_are_stopped_one_starts(empty: list[Checkout]) -> None:
    """Each has a container from before; the engine itself starts both."""
    ana, ben = empty
    ana.does("setup-master")
    docker("stop", ana.herd.container("master"))
    shutil.copytree(ana.secrets(), ben.secrets(), ignore=shutil.ignore_patterns("*-master"))
    ben.does("setup-master")
    docker("stop", ben.herd.container("master"))
    names = [checkout.herd.container("master") for checkout in empty]
    subprocess.run(["docker", "start", *names], check=True, capture_output=True, timeout=60)
    time.sleep(2)
    logs = [
        subprocess.run(
            ["docker", "logs", "--since", "3s", name], capture_output=True, text=True, check=True
        ) for name in names
    ]  # fmt: skip
    refused = ["another container has this data directory" in log.stderr for log in logs]
    assert sorted(refused) == [False, True]
    docker("stop", *names)
    winner, told = race(empty, 0.0, "start")
    assert "is in use by" in told
    sound(winner, empty)


@pytest.mark.long
def test_by_other_names_it_is_the_same(empty: list[Checkout]) -> None:
    """While one serves: by a link, from within, from above, and by a bind mount."""
    ana, ben = empty
    ana.does("setup-master")
    data = ana.herd.data("master")
    link, bound = data.with_name("link"), data.with_name("bound")
    link.symlink_to(data)
    bound.mkdir()
    before = ben.herd.nodes["master"]["data"]
    mounted = subprocess.run(["mount", "--bind", str(data), str(bound)], check=False).returncode
    try:
        names = [f"{link}/", f"{data}/base/../../{data.name}/base", str(data.parent)]
        for name in [*names, *([str(bound)] if mounted == 0 else [])]:
            ben.herd.nodes["master"]["data"] = name
            ben.herd.write()
            run = ben.begin("setup-master")
            said, _ = run.communicate(timeout=60)
            assert run.returncode == 2, said
            assert f"is in use by the container {ana.herd.container('master')}" in said
    finally:
        if mounted == 0:
            subprocess.run(["umount", str(bound)], check=True)
        ben.herd.nodes["master"]["data"] = before
        ben.herd.write()
        link.unlink()
        bound.rmdir()
    sound(ana, empty)
