"""TLS: nobody comes in without, each side knows the other, certificates change while all runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asking import until
from conftest import Herd, MakeHerd, docker
from load import missing, running_load
from test_dry import printed, run
from trial import inside


@pytest.fixture(scope="module")
def three(make_herd: MakeHerd) -> Herd:
    """A group of three with client certificates for the replication role."""
    herd = make_herd("17", standbys=2, tls=True, tls_client_certificates=True)
    herd.invoke("setup-master")
    herd.invoke("add-standby", "--all")
    return herd


def trusted(herd: Herd) -> dict[str, Any]:
    """Return what a client says that trusts the group's authority and nobody else."""
    return {"sslmode": "verify-full", "sslrootcert": str(herd.secrets() / "ca.crt")}


def serials(herd: Herd) -> dict[str, tuple[str, str]]:
    """Return the serial numbers of each node's certificate, as kept and as served."""
    told = json.loads(herd.invoke("tls", "--json").stdout)
    assert told["ok"]
    return {n["name"]: (n["kept"]["serial"], n["served"]["serial"]) for n in told["nodes"]}


def secured(herd: Herd) -> list[str]:
    """Verify the group, and return the evidence that each standby's stream is encrypted."""
    return [c["evidence"] for (name, _), c in herd.checks().items() if name == "encrypted"]


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """The certificate of an authority that the group does not know."""
    return authority(tmp_path, "stranger")


def authority(place: Path, name: str) -> Path:
    """Make an authority as people do, by openssl; return its certificate, beside its NAME.key."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    words += ["-noenc", "-days", "30", "-subj", f"/CN={name}", "-keyout", f"{place}/{name}.key"]
    subprocess.run([*words, "-out", f"{place}/{name}.crt"], check=True, capture_output=True)
    return place / f"{name}.crt"


def test_replication_is_encrypted_and_verified(three: Herd) -> None:
    found = secured(three)
    assert len(found) == 2
    for evidence in found:
        assert "TLSv1.3" in evidence
        assert "sslmode=verify-full" in evidence
        assert "channel_binding=require" in evidence
        assert "sslcert=" in evidence
    assert "no difference" in three.invoke("diff").stdout
    assert "all is well" in three.invoke("status").stdout


def test_without_tls_nobody_comes_in(three: Herd) -> None:
    for role in three.nodes:
        with (
            pytest.raises(psycopg.OperationalError, match=r"rejects connection.*no encryption"),
            three.connect(role, sslmode="disable"),
        ):
            pass


def test_a_client_knows_the_server_by_its_authority_alone(three: Herd, stranger: Path) -> None:
    with three.connect("standby", **trusted(three)) as connection:
        assert connection.pgconn.ssl_in_use
    with (
        pytest.raises(psycopg.OperationalError, match="certificate verify failed"),
        three.connect("standby", sslmode="verify-full", sslrootcert=str(stranger)),
    ):
        pass
    uri = three.invoke("uri", "--role", "primary").stdout.strip()
    with psycopg.connect(uri, password=three.password()) as connection:
        assert connection.pgconn.ssl_in_use


def test_the_password_alone_does_not_let_a_replica_in(three: Herd) -> None:
    """From a neighbour in the group's network, which the rules let in with a certificate."""
    info = f"host={three.container('master')} user=replicator passfile=/etc/pgherd/passfile"
    info += " replication=yes sslmode=require"
    words = ["docker", "exec", "--user", "postgres", three.container("standby"), "psql", "-c"]
    more = " sslcert=/etc/pgherd/client.pem sslkey=/etc/pgherd/client.pem"
    for also, code, said in (("", 2, "requires a valid client certificate"), (more, 0, "systemid")):
        done = subprocess.run(
            [*words, "IDENTIFY_SYSTEM", info + also], capture_output=True, text=True, check=False
        )
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done


def test_a_standby_follows_nobody_whom_it_does_not_know(three: Herd, stranger: Path) -> None:
    standby = three.container("standby2")
    info = str(three.sql("standby2", "SHOW primary_conninfo"))
    docker("cp", str(stranger), f"{standby}:/home/stranger.crt")
    docker("exec", standby, "chmod", "0644", "/home/stranger.crt")
    astray = info.replace("/etc/pgherd/ca.crt", "/home/stranger.crt").replace("'", "''")
    three.sql("standby2", f"ALTER SYSTEM SET primary_conninfo = '{astray}'")
    three.sql("standby2", "SELECT pg_reload_conf()")
    end = time.monotonic() + 30
    while "certificate verify failed" not in docker_log(standby):
        assert time.monotonic() < end
        time.sleep(0.1)
    differences = three.invoke("diff", code=1).stdout
    assert "it connects with sslmode=verify-full sslrootcert=/home/stranger.crt" in differences
    three.invoke("rejoin", standby)
    assert three.sql("standby2", "SHOW primary_conninfo") == info


def test_a_server_without_tls_is_told(three: Herd) -> None:
    """By who looks at it as by who looks for leaks: passwords and rows would go in clear."""
    name = three.container("standby2")
    inside(three, "standby2", "ALTER SYSTEM SET ssl = off")
    inside(three, "standby2", "SELECT pg_reload_conf()")
    try:
        assert until(lambda: inside(three, "standby2", "SHOW ssl") == "off")
        told = json.loads(three.invoke("status", "--json", code=1).stdout)["warnings"]
        found = json.loads(three.invoke("audit", "--json", code=1).stdout)["findings"]
    finally:
        inside(three, "standby2", "ALTER SYSTEM RESET ssl")
        inside(three, "standby2", "SELECT pg_reload_conf()")
    assert [(w["code"], w["node"]) for w in told] == [("in-clear", name)]
    assert ("in-clear", name) in [(f["code"], f["node"]) for f in found]
    assert until(lambda: inside(three, "standby2", "SHOW ssl") == "on")


def docker_log(name: str) -> str:
    """Return what a server has said on both channels."""
    done = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_renewal_under_load_loses_nothing_and_nobody(three: Herd) -> None:
    before = serials(three)
    pids = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_replication"
    streams = three.sql("master", pids)
    with running_load(three.places, three.password(), three.directory, clients=3) as load:
        three.invoke("tls", "--renew")
        load.first(load.rows()[-1].ended)
        after = serials(three)
        before_ca = (three.secrets() / "ca.crt").read_text(encoding="ascii")
        for authorities in (2, 1):
            three.invoke("tls", "--renew-ca")
            trusts = (three.secrets() / "ca.crt").read_text(encoding="ascii")
            assert trusts.count("BEGIN CERTIFICATE") == authorities
    assert load.unknown() == []  # so no connection was lost either
    assert missing(load.acknowledged(), partial(three.sql, "master")) == set()
    assert three.sql("master", pids) == streams
    for name, (kept, served) in after.items():
        assert kept == served
        assert kept not in before[name]
    assert before_ca not in trusts
    secured(three)


@pytest.mark.long
def test_a_node_that_is_down_meanwhile_comes_back_with_its_new_certificate(three: Herd) -> None:
    name, before = three.container("standby2"), serials(three)
    docker("stop", name)
    said = three.invoke("tls", "--renew").stderr
    assert f"{name}: is down, and has it when it starts" in said
    three.invoke("start")
    assert len(secured(three)) == 2
    for node, (kept, served) in serials(three).items():
        assert kept == served
        assert kept not in before[node]


@pytest.mark.long
def test_another_primary_serves_by_tls_too(three: Herd) -> None:
    three.invoke("switchover", "--to", three.container("standby"))
    docker("kill", "--signal", "KILL", three.container("standby"))
    three.invoke("failover", "--to", three.container("master"), "--max-loss", "any")
    with three.connect("master", options="-c synchronous_commit=local") as connection:
        connection.execute("CREATE TABLE since_then ()")
    three.invoke("rejoin", three.container("standby"))
    assert len(secured(three)) == 2


def test_private_files_are_for_the_server_alone(three: Herd) -> None:
    listed = "stat -c '%n %a %U' /etc/pgherd/server.pem /etc/pgherd/ca.crt /etc/pgherd/client.pem"
    for role in three.nodes:
        said = docker("exec", three.container(role), "sh", "-c", listed).splitlines()
        assert [line.split()[1:] for line in said] == [["600", "postgres"]] * 3
    assert (three.secrets() / "ca.key").stat().st_mode & 0o777 == 0o600
    keys = docker("exec", three.container("master"), "grep", "-rl", "PRIVATE", "/etc/pgherd")
    assert sorted(keys.split()) == ["/etc/pgherd/client.pem", "/etc/pgherd/server.pem"]


# --- an authority of the user's own ---


def test_an_authority_of_ones_own_signs(make_herd: MakeHerd, tmp_path: Path) -> None:
    """Clients that trust it need nothing of this group; those that do not are not let down."""
    own, other = authority(tmp_path, "own"), authority(tmp_path, "other")
    herd = make_herd(
        "17",
        standbys=0,
        sync="",
        tls=True,
        tls_ca=str(own),
        tls_ca_key=str(own.with_suffix(".key")),
    )
    herd.invoke("setup-master")
    with herd.connect("master", sslmode="verify-full", sslrootcert=str(own)) as connection:
        assert connection.pgconn.ssl_in_use
    with (
        pytest.raises(psycopg.OperationalError, match="certificate verify failed"),
        herd.connect("master", sslmode="verify-full", sslrootcert=str(other)),
    ):
        pass
    assert not (herd.secrets() / "ca.key").exists()
    assert "sslrootcert=" in herd.invoke("uri").stdout


# --- there and back ---


@pytest.fixture(scope="module")
def printed_pair(make_herd: MakeHerd, tmp_path_factory: pytest.TempPathFactory) -> Herd:
    """A pair that the script has made which --dry prints: its certificates by openssl."""
    herd = make_herd("18", tls=True)
    run(printed(herd, "setup-master", "seed-standby"), tmp_path_factory.mktemp("script"))
    return herd


@pytest.mark.long
def test_what_the_printed_script_made_is_used_as_it_is(printed_pair: Herd) -> None:
    herd = printed_pair
    made = sorted(path.name for path in herd.secrets().iterdir())
    assert len(secured(herd)) == 1
    said = herd.invoke("setup-master", "seed-standby").stderr
    assert said.count("already") == 4  # runs, allows, streams, synchronous
    assert "made " not in said
    assert sorted(path.name for path in herd.secrets().iterdir()) == made


@pytest.mark.long
def test_tls_is_given_up_and_comes_back_by_what_diff_names(printed_pair: Herd) -> None:
    herd = printed_pair
    for asked in (False, True):
        herd.group["tls"] = asked
        herd.write()
        streams = herd.sql("master", "SELECT pid FROM pg_stat_replication")
        for task, code, said in (
            (["start"], 0, "follows as before"),
            (["switchover", "--to", herd.container("standby")], 2, "streams could break"),
        ):
            assert said in herd.invoke(*task, code=code).stderr
        assert herd.sql("master", "SELECT pid FROM pg_stat_replication") == streams
        differences = json.loads(herd.invoke("diff", "--json", code=1).stdout)["differences"]
        assert {d["node"] for d in differences if d["what"] == "tls"} == {
            keys["name"] for keys in herd.nodes.values()
        }
        commands = dict.fromkeys(d["command"].removeprefix("invoke ") for d in differences)
        herd.invoke(*" ".join(commands).split(), "diff")
        assert len(secured(herd)) == asked
        if not asked:
            with herd.connect("standby", sslmode="disable"):
                pass


@pytest.mark.long
def test_files_that_are_gone_from_under_a_server_are_told_with_what_helps(
    printed_pair: Herd,
) -> None:
    """Another directory has taken the private one's place, as where it was copied back."""
    herd, name = printed_pair, printed_pair.container("standby")
    private = herd.secrets() / name
    subprocess.run(["cp", "-a", str(private), f"{private}_new"], check=True)
    shutil.rmtree(private)
    Path(f"{private}_new").rename(private)
    warned = json.loads(herd.invoke("status", "--json", code=1).stdout)["warnings"]
    (told,) = (w["text"] for w in warned if (w["code"], w["node"]) == ("certificate", name))
    assert "`invoke stop`, `invoke start`" in told
    differences = json.loads(herd.invoke("diff", "--json", code=1).stdout)["differences"]
    assert [d["command"] for d in differences if d["what"] == "certificate"] == [
        "invoke stop start"
    ]
    assert f"{name} runs with another directory" in herd.invoke("tls", "--renew", code=1).stderr
    herd.invoke("stop", "start")
    herd.invoke("tls", "--renew", "diff", "status")
    assert len(secured(herd)) == 1
