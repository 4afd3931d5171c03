"""SSH servers that allow little: few sessions, no forwarding."""

from __future__ import annotations

import pytest
from far import THREE, UNREACHABLE, Far, MakeFar
from machine import lacking
from rig import Rig

pytest_plugins = ["rigged", "rigged_far"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"no further Docker hosts: {lacking()}")


@pytest.fixture(scope="module")
def far(make_far: MakeFar) -> Far:
    return make_far(on="hosta")


@pytest.mark.long
def test_two_sessions_at_once_are_enough(rigged: Rig, far: Far) -> None:
    host = rigged.hosts["hosta"]
    host.sshd_with("MaxSessions 2")
    # Who waits for the database to be made waits long.
    once = "[ -e /tmp/slept ] || { touch /tmp/slept; sleep 4; }"
    host.replace("docker", f'[ "$1" != run ] || {once}\nexec "$original" "$@"')
    done = far.invoke(*THREE)
    assert "hosta allows few sessions at once (MaxSessions in its sshd_config)" in done.stderr
    assert f"verify of {far.name}: passed" in done.stdout


def test_one_session_is_not_enough_and_that_is_told(rigged: Rig, far: Far) -> None:
    rigged.hosts["hosta"].sshd_with("MaxSessions 1")
    before = far.things()
    said = far.invoke("seed-standby", code=UNREACHABLE).stderr
    assert "hosta opens no second session on a connection" in said
    assert "set MaxSessions in its sshd_config to 7 or more; 2 is the least" in said
    assert far.things() == before


@pytest.mark.long
def test_a_server_that_forwards_nothing_is_told(rigged: Rig, far: Far) -> None:
    rigged.hosts["hosta"].sshd_with("AllowTcpForwarding no")
    said = far.invoke("verify", code=UNREACHABLE).stderr
    assert "The SSH server of hosta forwards no connection to 127.0.0.1" in said
    assert "AllowTcpForwarding yes or local" in said
    assert "already" in far.invoke("seed-standby").stderr
    rigged.repair()
    far.checks()
