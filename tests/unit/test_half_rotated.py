"""A change of passwords that was cut short: nothing that goes by the new one is turned back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from fakes import FakeHost, Said, facts, image, observation, standby_facts, topology
from fakes import group as fake_group

from pgherd.group.group import Group
from pgherd.hosts.commands import Script, Secret, Trace
from pgherd.operations import connect, start_stop
from pgherd.operations.prepare import (
    REPLACED,
    ROLE,
    ask_superuser,
    streaming_password,
    wait_serving,
)
from pgherd.operations.seed import allow_standby
from pgherd.postgres import scripts
from pgherd.postgres.facts import Disk
from pgherd.security.passwords import Passwords

FORMER, NEW, OTHER = "for\\mer", "n:ew", "other"
EXEC = "docker exec --interactive --user postgres"
PSQL = r"""case "$*" in *rolsuper*) echo f; exit ;; *pg_roles*) echo t; exit ;; esac
if [ -z "${PGPASSFILE-}" ]; then sed -n 2p >"$has"; exit; fi
[ -e "$has" ] || { echo "FATAL: sorry, too many clients already" >&2; exit 2; }
word=$(sed 's/^[^r]*replicator://; s/\\\(.\)/\1/g' "$PGPASSFILE")
[ "$word" = "$(cat "$has")" ] || { echo "FATAL: password authentication failed" >&2; exit 2; }
"""


class Node:
    """A server's container whose psql knows the password of one role."""

    def __init__(self, tmp_path: Path) -> None:
        self.role, self.etc, stubs = tmp_path / "role", tmp_path / "etc", tmp_path / "bin"
        self.etc.mkdir()
        stubs.mkdir()
        for name, body in {"psql": PSQL, "chown": ":", "gosu": 'shift; exec "$@"'}.items():
            (stubs / name).write_text(f"#!/bin/sh\n{body}\n")
            (stubs / name).chmod(0o755)
        self.env = {"PATH": f"{stubs}:{os.environ['PATH']}", "has": str(self.role)}

    def run(self, *pieces: str, replacing: bool = True) -> str:
        """Run a script in a run that goes by the former password; return what it printed."""
        words = {"password": FORMER} | ({"replacing": NEW} if replacing else {})
        script = Script()
        for name, value in words.items():
            script += scripts.password(name, Secret(value, "/x"))
        text = scripts.compose(script, *pieces).text().replace("/etc/pgherd", str(self.etc))
        done = subprocess.run(
            ["sh", "-s"], input=text, env=self.env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def lay(self, password: str) -> None:
        """Give it a passfile with a password."""
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        (self.etc / "passfile").write_text(f"*:*:*:replicator:{escaped}\n")

    def has(self, password: str) -> bool:
        """Tell whether its passfile has that password."""
        before = (self.etc / "passfile").read_text()
        self.lay(password)
        return (self.etc / "passfile").read_text() == before


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


# --- in a node's container ---


@pytest.mark.parametrize(
    ("role", "replacing", "after", "said"),
    [
        (FORMER, False, FORMER, ""),
        (OTHER, False, FORMER, "changed password of replicator\n"),
        (FORMER, True, FORMER, ""),
        (NEW, True, NEW, f"{REPLACED}{ROLE}\n"),
        (OTHER, True, FORMER, "changed password of replicator\n"),
    ],
)
def test_the_role_keeps_a_new_password(
    node: Node, role: str, replacing: bool, after: str, said: str
) -> None:
    node.role.write_text(f"{role}\n")
    asked = ["in-force"] if replacing else []
    assert node.run(*asked, "role", replacing=replacing) == said
    assert node.role.read_text() == f"{after}\n"


def test_the_role_is_left_alone_where_the_server_does_not_say_which_one_it_has(node: Node) -> None:
    assert node.run("in-force", "role") == ""
    assert not node.role.exists()


@pytest.mark.parametrize(
    ("laid", "role", "asked", "stale", "after"),
    [
        (FORMER, FORMER, True, False, FORMER),
        (FORMER, NEW, True, True, NEW),
        (NEW, FORMER, True, False, NEW),  # replays late, or was promoted without the change
        (NEW, NEW, True, False, NEW),
        (OTHER, FORMER, True, True, FORMER),
        (FORMER, "", False, False, FORMER),  # it is down
        (NEW, "", False, False, NEW),
        (OTHER, "", False, True, FORMER),
    ],
)
def test_a_passfile_keeps_a_new_password(
    node: Node, laid: str, role: str, asked: bool, stale: bool, after: str
) -> None:
    node.lay(laid)
    node.role.write_text(f"{role}\n")
    ask = ["in-force"] * asked
    assert ("stale passfile" in node.run(*ask, "passfile-current")) is stale
    node.run(*ask, "passfile")
    assert node.has(after)


# --- from here ---


@pytest.fixture
def made(tmp_path: Path) -> Group:
    """A group whose replication role was given a new password, and no file here tells so."""
    group = fake_group(
        topology("s1"), FakeHost({"docker run": Said(), EXEC: Said(), "docker image": Said()})
    )
    group.passwords = Passwords(tmp_path, group.trace)
    group.passwords.of("replicator")
    group.passwords.replace(["replicator"])
    group.image = image()
    return group


def stdins(group: Group, verb: str) -> list[str]:
    host = group.here
    assert isinstance(host, FakeHost)
    return [call.stdin for call in host.calls if call.argv[1] == verb]


def says(group: Group, *said: str) -> None:
    host = group.here
    assert isinstance(host, FakeHost)
    host.plan[tuple(EXEC.split())] = [Said(text) for text in said]


def test_what_a_server_tells_counts_for_the_whole_run(made: Group) -> None:
    former, new = made.passwords.of("replicator"), made.passwords.replacing()["replicator"]
    says(made, f"{REPLACED}{ROLE}\nstale passfile\n", "", "")
    wait_serving(made, made.master)
    assert made.passwords.of("replicator") == made.passwords.known("replicator") == new
    (laid,) = stdins(made, "run")
    assert f"password=$(cat <<'|END-OF-SECRET|'\n{new.value}\n" in laid
    assert former.value not in laid
    asked, _ = stdins(made, "exec")
    assert all(f"{word.value}\n" in asked for word in (former, new))
    made.passwords.replaced("replicator")
    assert made.passwords.of("replicator").value == new.value


def test_a_standby_that_others_copy_from_is_asked_too(made: Group) -> None:
    new = made.passwords.replacing()["replicator"]
    says(made, f"{REPLACED}{ROLE}\n")
    allow_standby(made, made.instance("s1"), standby_facts())
    assert made.passwords.of("replicator") == new
    (asked,) = stdins(made, "exec")
    assert "CREATE ROLE" not in asked


def test_the_role_is_seen_to_on_a_primary(made: Group) -> None:
    allow_standby(made, made.master, facts())
    (asked,) = stdins(made, "exec")
    assert asked.index(REPLACED) < asked.index("CREATE ROLE")


def test_a_standby_that_gets_another_upstream_is_let_in_there(made: Group) -> None:
    says(made, f"{REPLACED}{ROLE}\nstale passfile\n", "", "")
    connect.follow(made, made.instance("s1"), made.master)
    (laid,) = stdins(made, "run")
    assert made.passwords.replacing()["replicator"].value in laid
    assert "primary_conninfo" in stdins(made, "exec")[-1]


def test_else_nothing_more_is_asked(made: Group) -> None:
    made.passwords.replaced("replicator")
    connect.follow(made, made.instance("s1"), made.master)
    assert len(stdins(made, "exec")) == 1
    text = scripts.compose(streaming_password(made, asked=True)).text()
    assert "replac" not in text


def test_a_dry_run_shows_neither(tmp_path: Path) -> None:
    wet = Passwords(tmp_path, Trace())
    former, new = wet.of("replicator"), wet.replace(["replicator"])["replicator"]
    group = fake_group(topology("s1"), FakeHost(dry=True))
    group.passwords = Passwords(tmp_path, group.trace)
    parts = streaming_password(group, asked=True).parts
    assert [part for part in parts if isinstance(part, Secret)] == [former, new]


def test_the_superusers_is_asked_for_before_a_rewind(tmp_path: Path, made: Group) -> None:
    ask_superuser(made, made.master)
    assert stdins(made, "exec") == []  # it is not being changed
    made.passwords = Passwords(tmp_path / "both", made.trace)
    made.passwords.of("postgres")
    new = made.passwords.replace(["postgres"])["postgres"]
    ask_superuser(made, made.master)
    assert made.passwords.of("postgres") != new
    says(made, f"{REPLACED}postgres\n")
    ask_superuser(made, made.master)
    assert made.passwords.of("postgres") == new
    assert "whose=postgres\n" in stdins(made, "exec")[-1]


def test_the_primary_is_started_and_asked_before_its_standbys(
    made: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(start_stop, "wait_serving", lambda _, i: order.append(i.name))
    monkeypatch.setattr(start_stop, "bring_passfile", lambda _, i: order.append(f"asked {i.name}"))
    data = {"pa": Disk(pg_version="17"), "s1": Disk(pg_version="17", standby_signal=True)}
    nodes = [made.instance("s1"), made.master]
    start_stop._serve(made, observation(), data, nodes)
    assert order == ["pa", "s1"]
    order.clear()
    start_stop._serve(made, observation(pa=facts()), data, nodes[:1])
    assert order == ["asked pa", "s1"]
