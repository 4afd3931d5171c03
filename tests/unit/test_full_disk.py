"""A disk that is full is said, with what to do, wherever its words are found."""

from __future__ import annotations

import pytest
from fakes import FakeHost, Said, container, group, topology

from pgherd.errors import Error, room_wanted
from pgherd.group.observation import NodeObservation, Observation
from pgherd.operations import wait
from pgherd.postgres import scripts

FULL = "PANIC:  could not write to file: No space left on device"
CURE = "The disk of local is full: make room there, then this again. It holds /d/s1.\n"
LOGS, EXEC = "docker logs", "docker exec"


def test_only_where_it_is_full() -> None:
    assert room_wanted("local", FULL, "/d/s1") == CURE
    assert room_wanted("local", FULL) == CURE.replace(" It holds /d/s1.", "")
    assert room_wanted("local", "No such file or directory") == ""


@pytest.mark.parametrize(("log", "cure"), [(FULL, CURE), ("FATAL:  out of memory", "")])
def test_a_server_that_stops_while_it_is_worked_on(log: str, cure: str) -> None:
    """The engine kills what runs in a container that stops, and its CLI says nothing."""
    host = FakeHost({EXEC: Said(code=137), LOGS: Said(err=f"{log}\n")})
    server = group(topology("s1"), host).instance("s1")
    with pytest.raises(Error) as caught:
        server.execute(scripts.compose("ready", seconds=1))
    assert caught.value.sentence == (
        f"{cure}s1 stopped while it was worked on. Its log:\n  | {log}"
    )


@pytest.mark.parametrize(("log", "cure"), [(FULL, CURE), ("LOG:  redo starts", "")])
def test_a_server_that_does_not_answer_after_start(log: str, cure: str) -> None:
    host = FakeHost({LOGS: Said(err=f"{log}\n")})
    made = group(topology("s1"), host)
    seen = Observation({"s1": NodeObservation(container("s1"), None, "no answer")}, {})
    assert wait.why_silent(made, "s1", seen) == (
        f"{cure}s1 runs and does not answer: `invoke logs` tells why."
    )
