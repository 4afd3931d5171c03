"""Switchovers and lost primaries under load: no row is lost, and there is one primary at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from conftest import Herd, MakeHerd
from stories import Story, asked_of, living

CLIENTS = 3


@dataclass(frozen=True)
class Kind:
    """What sort of group; `strict`: commits rather wait than run without a synchronous standby."""

    major: str
    standbys: int = 1
    strict: bool = False


KINDS = [Kind("17", standbys=2)]
LONG = [Kind("15"), Kind("18"), Kind("17"), Kind("17", strict=True)]


@pytest.fixture(
    scope="module",
    params=[*KINDS, *(pytest.param(k, marks=pytest.mark.long) for k in LONG)],
    ids=str,
)
def kind(request: pytest.FixtureRequest) -> Kind:
    assert isinstance(request.param, Kind)
    return request.param


@pytest.fixture(scope="module")
def herd(make_herd: MakeHerd, kind: Kind) -> Herd:
    return make_herd(kind.major, kind.standbys, **asked_of(kind.standbys, strict=kind.strict))


@pytest.fixture(scope="module")
def story(herd: Herd) -> Iterator[Story]:
    with living(herd, herd.directory, clients=CLIENTS) as story:
        yield story


def test_switchovers_forth_and_back(story: Story) -> None:
    for _ in range(2):
        outage = story.switchover()
        assert outage.said is not None
        assert outage.seen < 10
        story.sound()


@pytest.mark.long
def test_the_primary_is_lost_and_comes_back(story: Story, kind: Kind) -> None:
    alone = kind.standbys == 1  # with strict, commits wait then until there is a standby again
    for _ in range(2):
        story.failover(waits=kind.strict and alone)
        story.sound()
