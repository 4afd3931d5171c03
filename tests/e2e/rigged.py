"""Fixtures: Docker hosts that are reached by SSH. A test file has them by `pytest_plugins`.

    from rig import Rig

    pytest_plugins = ["rigged"]

    def test_it(rigged: Rig) -> None: ...

One rig is made for all files that a process tests, since images take their time. What befell its
hosts is undone after each test, and what is on them is gone after each file.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from conftest import INVOKE, ROOT
from machine import lacking
from rig import Rig, rig

TOPOLOGY = """\
[group]
name = "image-of-the-rig"
image = "postgres:17"
[nodes.image-of-the-rig]
port = 5432
data = "data/nothing"
"""


@pytest.fixture(scope="session")
def rig_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image for postgres:17, as this machine's engine has it."""
    if lacking():
        pytest.skip(f"no further Docker hosts: {lacking()}")
    topology = tmp_path_factory.mktemp("image") / "topology.toml"
    topology.write_text(TOPOLOGY)
    with (tmp_path_factory.getbasetemp().parent / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers, and building one takes a minute
        done = subprocess.run(
            [*INVOKE, "image"], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
            env={**os.environ, "INVOKE_TOPOLOGY": str(topology)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def rig_of_three(rig_image: str) -> Iterator[Rig]:
    """Three hosts that have the image; tests take `rigged`, which is the same with care."""
    with rig(hosts=3, images=(rig_image,)) as made:
        yield made


@pytest.fixture(scope="module")
def emptied_rig(rig_of_three: Rig) -> Iterator[Rig]:
    """The same hosts, with nothing on them after the file; for fixtures of a file."""
    yield rig_of_three
    rig_of_three.repair()
    rig_of_three.empty()


@pytest.fixture
def rigged(emptied_rig: Rig) -> Iterator[Rig]:
    """The same hosts, sound again after the test."""
    yield emptied_rig
    emptied_rig.repair()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, show the last words of each host's sshd and engine."""
    report = yield
    if report.when == "call" and report.failed:
        found: Any = getattr(item, "funcargs", {}).get("rigged")
        for host in found.hosts.values() if found else ():
            for log in ("sshd.log", "dockerd.log"):
                lines = (host.directory / log).read_text(errors="replace").splitlines()
                report.sections.append((f"{log} of {host.name}", "\n".join(lines[-15:])))
    return report
