"""`invoke audit`: nothing on a fresh group, and each leak that is planted, where it is.

That it finds nothing on a fresh group of every major version is in test_secrets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from conftest import ROOT, Herd, MakeHerd, docker

PGDATA = "/var/lib/postgresql/data"
FOUND, NOTHING = 1, 0  # exit statuses
WEAK, LONG = "secret", "aPasswordThatNobodyGuesses17"


@dataclass
class Leaks:
    """A pair with leaks that were planted one beside the other, and one audit of all of them.

    Attributes:
        herd: the pair.
        helper: a container of the group that is no node.
        fresh: what the audit said before.
        found: what it said afterwards: code, node, and where.
        printed: all that it printed then, with the commands that it ran.
    """

    herd: Herd
    helper: str
    ended: list[Callable[[], object]] = field(default_factory=list)
    fresh: str = ""
    found: list[tuple[str, str, str]] = field(default_factory=list)
    printed: str = ""

    def password(self, role: str = "postgres") -> str:
        """Return a password of the group."""
        return (self.herd.secrets() / f"{role}.password").read_text().strip()

    def psql(self, role: str, text: str) -> None:
        """Run SQL as superuser on the node's socket, whatever comes of it."""
        words = ["docker", "exec", "-i", "-u", "postgres", self.herd.container(role), "psql", "-Xq"]
        subprocess.run(words, input=text, text=True, check=True, capture_output=True)

    def write(self, role: str, path: str, text: str) -> None:
        """Add a text to a file in a node's container, as its user."""
        words = ["docker", "exec", "-i", "-u", "postgres", self.herd.container(role)]
        adds = ["sh", "-c", 'mkdir -p "$(dirname "$1")"; cat >>"$1"', "sh", path]
        subprocess.run([*words, *adds], input=text, text=True, check=True)

    def rule(self, role: str, rule: str, *, first: bool = False) -> None:
        """Add a rule to pg_hba.conf, before or after what is there."""
        path = f"{PGDATA}/pg_hba.conf"
        script = (
            f"{{ cat {path}; cat; }} >{path}.n" if not first else f"{{ cat - {path}; }} >{path}.n"
        )
        words = ["docker", "exec", "-i", "-u", "postgres", self.herd.container(role), "sh", "-c"]
        move = f"umask 077; {script} && mv {path}.n {path}"
        subprocess.run([*words, move], input=f"{rule}\n", text=True, check=True)

    def process(self, *words: str, **env: str) -> None:
        """Start a process of the host; it ends with the module."""
        started = subprocess.Popen(words, env={**os.environ, **env}, start_new_session=True)
        self.ended += [lambda: os.kill(started.pid, signal.SIGKILL), started.wait]

    def where(self, code: str, node: str = "") -> list[str]:
        """Return where leaks of that code were found."""
        name = self.herd.container(node) if node else ""
        return [place for c, n, place in self.found if (c, n) == (code, name)]


def audited(herd: Herd, code: int) -> list[tuple[str, str, str]]:
    """Run the audit, and return each finding's code, node and place."""
    answer = json.loads(herd.invoke("audit", "--json", code=code).stdout)
    assert answer["ok"] is (code == NOTHING)
    assert all(f["text"] and f["cure"] for f in answer["findings"])
    return [(f["code"], f["node"], f["where"]) for f in answer["findings"]]


def plant(leaks: Leaks) -> None:
    """Plant everything that the tests below look for."""
    herd, secret, other = leaks.herd, leaks.password(), leaks.password("replicator")
    home = str(ROOT / "data")
    labels = ["--label", f"pgherd.group={herd.name}", "--label", f"pgherd.home={home}"]
    image = docker("inspect", "--format", "{{.Image}}", herd.container("master"))
    words = [
        "run",
        "--detach",
        "--rm",
        "--name",
        leaks.helper,
        *labels,
        "--env",
        f"SHOP_DB={secret}",
    ]
    docker(*words, "--entrypoint", "sleep", image, "600")
    leaks.process("sh", "-c", 'sleep 600; : "$1"', "sh", f"postgresql://postgres:{secret}@db/")
    leaks.process("sleep", "600", PGPASSWORD=other)
    leaks.psql("master", f"SELECT 'secret {secret}' FROM nowhere;\n")
    leaks.psql("master", f"ALTER ROLE replicator SET application_name = '{other}';\n")
    leaks.write("standby", f"{PGDATA}/conf.d/more.conf", f"# {secret}\n")
    leaks.write("standby", f"{PGDATA}/log/old.log", f"LOG: connection with {other}\n")
    with herd.topology.open("a") as file:
        file.write(f"# {secret}\n")
    (herd.secrets() / "replicator.password").chmod(0o644)
    leaks.rule("master", "host all all 0.0.0.0/0 scram-sha-256")
    leaks.rule("master", "host shop shop 192.0.2.0/24 trust")
    leaks.rule("master", "host shop shop 198.51.100.0/24 md5")
    of_network = ["network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    gateway = docker(*of_network, f"pgherd-{herd.name}")  # the engine chooses among its ranges
    leaks.rule("standby", f"host replication replicator {gateway}/32 scram-sha-256", first=True)
    leaks.psql("master", "ALTER ROLE replicator SUPERUSER;\n")
    md5 = "md5" + "0" * 32
    leaks.psql("master", f"CREATE ROLE old LOGIN PASSWORD '{md5}';\n")
    leaks.psql(
        "standby", "ALTER SYSTEM SET primary_conninfo = 'user=replicator password=elsewhere';\n"
    )
    herd.nodes["standby"]["listen"] = "127.0.0.1"


@pytest.fixture(scope="module")
def leaks(make_herd: MakeHerd) -> Iterator[Leaks]:
    """A pair whose standby is published everywhere, as its topology asks: see `plant`."""
    herd = make_herd()
    herd.nodes["standby"]["listen"] = "0.0.0.0"  # noqa: S104
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    made = Leaks(herd, f"{herd.name}-helper")
    try:
        made.fresh = herd.invoke("audit").stdout
        herd.nodes["standby"]["listen"] = "127.0.0.1"
        herd.write()
        plant(made)
        time.sleep(0.2)  # for sh to be what it runs
        made.found = audited(herd, FOUND)
        done = herd.invoke("--debug", "--echo", "audit", code=FOUND)
        made.printed = done.stdout + done.stderr
        yield made
    finally:
        for end in made.ended:
            end()
        docker("rm", "--force", made.helper, check=False)


def test_on_a_fresh_group_there_is_nothing(leaks: Leaks) -> None:
    assert leaks.fresh == f"audit of {leaks.herd.name}: nothing found, 2 nodes looked into\n"


def test_nothing_else_is_found(leaks: Leaks) -> None:
    assert sorted(
        (code, node.removeprefix(f"{leaks.herd.name}-")) for code, node, _ in leaks.found
    ) == [
        ("conninfo-password", "standby"),
        ("gateway", "standby"),
        ("hba-trust", "master"),
        ("hba-wide", "master"),
        ("md5", "master"),
        ("md5", "master"),
        ("port", "standby"),
        ("readable", ""),
        ("secret-argv", ""),
        ("secret-container", ""),
        ("secret-environ", ""),
        ("secret-file", "standby"),
        ("secret-log", "master"),
        ("secret-logfile", "standby"),
        ("secret-setting", "master"),
        ("secret-topology", ""),
        ("superuser", "master"),
    ]


def test_no_password_is_printed_not_even_by_echo(leaks: Leaks) -> None:
    assert "secret_postgres=" in leaks.printed  # there it would stand
    for role in ("postgres", "replicator"):
        assert leaks.password(role) not in leaks.printed


@pytest.mark.parametrize(
    ("code", "node", "where"),
    [
        ("secret-container", "", "-helper: Config.Env SHOP_DB"),
        ("secret-argv", "", "(sh) of local"),
        ("secret-environ", "", "(sleep) of local"),
        ("secret-file", "standby", "standby_data/conf.d/more.conf"),
        ("secret-logfile", "standby", "standby_data/log/old.log"),
        ("secret-setting", "master", "pg_db_role_setting, role replicator"),
        ("secret-topology", "", "topology.toml"),
        ("readable", "", "replicator.password"),
        ("hba-wide", "master", "host all all 0.0.0.0/0 scram-sha-256"),
        ("hba-trust", "master", "host shop shop 192.0.2.0/24 trust"),
        ("gateway", "standby", "line 1: host replication replicator "),
        ("superuser", "master", "standby1"),
        ("conninfo-password", "standby", "postgresql.auto.conf"),
        ("port", "standby", "docker port"),
    ],
)
def test_a_leak_is_found_where_it_is(leaks: Leaks, code: str, node: str, where: str) -> None:
    (place,) = leaks.where(code, node)
    assert where in place


def test_the_line_of_the_log_is_told(leaks: Leaks) -> None:
    (place,) = leaks.where("secret-log", "master")
    number = int(place.split("line ")[1].split()[0])
    words = ["docker", "logs", leaks.herd.container("master")]

    log = subprocess.run(["sh", "-c", '"$@" 2>&1', "sh", *words], capture_output=True, check=True)
    assert leaks.password().encode() in log.stdout.splitlines()[number - 1]


def test_md5_is_found_as_a_rule_and_as_a_verifier(leaks: Leaks) -> None:
    places = leaks.where("md5", "master")
    assert ["host shop shop 198.51.100.0/24 md5" in p or p == "pg_authid, old" for p in places] == [
        True, True,
    ]  # fmt: skip


# --- one server, and other leaks than those ---


@pytest.fixture(scope="module")
def guessed(make_herd: MakeHerd) -> Herd:
    """A primary alone, whose password is of the user's choice, and too short."""
    herd = make_herd(standbys=0, sync="")
    herd.invoke("setup-master", INVOKE_POSTGRES_PASSWORD=WEAK, INVOKE_REPLICATOR_PASSWORD=LONG)
    return herd


def test_a_password_from_the_environment_is_used_and_a_weak_one_told(guessed: Herd) -> None:
    assert guessed.password() == WEAK
    assert guessed.sql("master", "SELECT 1") == 1
    assert (guessed.secrets() / "replicator.password").read_text().strip() == LONG
    assert audited(guessed, FOUND) == [("weak", "", str(guessed.secrets() / "postgres.password"))]


def test_an_image_with_a_password_in_it_is_found(guessed: Herd) -> None:
    """It is in the image from which some container of the engine was made."""
    plain = docker("inspect", "--format", "{{.Image}}", guessed.container("master"))
    name, image = f"{guessed.name}-other", f"{guessed.name}-image"
    docker("create", "--name", name, "--entrypoint", "true", plain)
    try:
        docker("commit", "--change", f"ENV SHOP_DB={LONG}", name, image)
        docker("rm", name)
        labels = ["--label", f"pgherd.group={guessed.name}", "--label", f"pgherd.home={ROOT}/data"]
        docker("create", "--name", name, *labels, image)
        found = [(code, where) for code, _node, where in audited(guessed, FOUND) if code != "weak"]
    finally:
        docker("rm", "--force", name, check=False)
        docker("rmi", image, check=False)
    assert ("secret-image", f"docker image inspect {image}:latest: Config.Env SHOP_DB") in found
    assert {code for code, _ in found} == {"secret-image", "secret-container"}


def test_a_node_that_cannot_be_looked_into_is_told(guessed: Herd) -> None:
    name = guessed.container("master")
    docker("pause", name)
    try:
        found = audited(guessed, FOUND)
    finally:
        docker("unpause", name)
    assert ("unseen", name) in [(code, node) for code, node, _ in found]
