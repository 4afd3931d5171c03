"""Fixtures: groups of real servers on hosts of the rig. A test file has them by `pytest_plugins`.

from far import MakeFar

pytest_plugins = ["rigged", "rigged_far"]

def test_it(rigged: Rig, make_far: MakeFar) -> None: ...
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from conftest import free_port
from far import LOCAL, Far, MakeFar
from rig import Rig


@pytest.fixture(scope="module")
def make_far(emptied_rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeFar]:
    """Return a maker of groups; what it made is gone when the module is done.

    It takes the host of the master and those of the standbys, or `on` for `invoke on` with one.
    """
    made: list[Far] = []

    def make(*hosts: str, on: str = "", **group: Any) -> Far:
        name = f"r{secrets.token_hex(3)}"
        asked = {"name": name, "image": "postgres:17", "sync": "FIRST 1 (standby1)", **group}
        directory = tmp_path_factory.mktemp("far")
        nodes: dict[str, dict[str, Any]] = {}
        for number, host in enumerate(hosts or (LOCAL, LOCAL)):
            role = "standby" * bool(number) + f"{number}" * (number > 1) or "master"
            node = {"name": f"{name}-{role}", "host": host, "port": free_port()}
            node["data"] = f"{name}/{role}_data"
            if host == LOCAL and not on:
                node["data"] = str(directory / f"{role}_data")
            if len(set(hosts)) > 1:
                address = emptied_rig.machine
                if host != LOCAL:
                    address = emptied_rig.hosts[host.rpartition("@")[2]].address
                node["listen"] = address
            if number:
                node |= {"upstream": f"{name}-master", "application_name": f"standby{number}"}
            nodes[role] = node
        far = Far(name, directory, nodes, asked, emptied_rig.environment(), rig=emptied_rig, on=on)
        far.write()
        made.append(far)
        return far

    yield make
    emptied_rig.repair()
    for far in made:
        far.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, show the servers' last words."""
    report = yield
    if report.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Far):
                for role in value.nodes:
                    log = f"log of {value.container(role)}"
                    report.sections.append((log, value.log(role)))
    return report
