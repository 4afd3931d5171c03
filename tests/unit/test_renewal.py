"""New certificates where not every node runs: only those that run are asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeHost, Said, container, facts, image, observation
from fakes import group as fake_group
from test_certificates import with_tls

from pgherd.group.group import Group
from pgherd.group.observation import NodeObservation
from pgherd.operations import certificates
from pgherd.operations.certificates import Shown
from pgherd.security.authority import Certificates
from pgherd.security.passwords import Passwords


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    """A primary that serves with TLS, and two standbys that do not run."""
    host = FakeHost(
        {
            "docker run": Said(),
            "docker exec --interactive --user postgres pa": Said(),  # of the others it would fail
            "sh -s": Said("full\n"),
        }
    )
    group = fake_group(with_tls("s1", "s2"), host)
    group.certificates = Certificates(tmp_path, group.topology, group.trace, Path)
    group.passwords = Passwords(tmp_path, group.trace)
    seen = observation(pa=facts(certificate="one"))
    down = {
        n: NodeObservation(container(n, status=s), None)
        for n, s in {"s1": "exited", "s2": "restarting"}.items()
    }
    found = replace(seen, nodes={**seen.nodes, **down})
    monkeypatch.setattr(group, "observe", lambda **_: found)
    monkeypatch.setattr(certificates, "ensure_image", lambda *_: image())
    monkeypatch.setattr(
        certificates, "_fetch_shown", lambda _, instance: Shown(instance.name, None, None)
    )
    return group


def laid(group: Group) -> set[str]:
    """Return the nodes whose private files were laid."""
    host = group.here
    assert isinstance(host, FakeHost)
    runs = [call.argv for call in host.calls if call.argv[:2] == ("docker", "run")]
    return {words[words.index("--name") + 1].removeprefix("pgherd-g-") for words in runs}


def test_nodes_that_are_down_have_theirs_when_they_start(
    made: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {n: made.certificates.of_server(i.node).value for n, i in made.instances.items()}
    certificates.renew(made)
    assert laid(made) == {"pa", "s1", "s2"}
    after = {n: made.certificates.of_server(i.node).value for n, i in made.instances.items()}
    assert set(before.values()) & set(after.values()) == set()
    said = capsys.readouterr().err
    assert said.count("is down, and has it when it starts") == 2
    assert "pa: new connections see its certificate" in said


def test_so_do_they_another_authority(made: Group) -> None:
    assert "both" in certificates.renew_authority(made)
    assert "alone" in certificates.renew_authority(made)
    assert laid(made) == {"pa", "s1", "s2"}
