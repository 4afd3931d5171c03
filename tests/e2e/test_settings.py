"""What a topology asks of its servers, and what every server gets: settings, scripts, policies."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Herd, MakeHerd, docker

PGDATA = "/var/lib/postgresql/data"


@pytest.fixture(scope="module")
def tuned(make_herd: MakeHerd, tmp_path_factory: pytest.TempPathFactory) -> Herd:
    """A pair with settings of its own for each node, and scripts for its new database."""
    scripts = tmp_path_factory.mktemp("initdb scripts")
    scripts.chmod(0o755)  # the server's user reads it
    (scripts / "1-shop.sql").write_text("CREATE TABLE shop AS SELECT 'open' AS state;\n")
    (scripts / "2-name.sh").write_text('psql -U postgres -c "CREATE DATABASE warehouse"\n')
    herd = make_herd("17", initdb=str(scripts))
    herd.nodes["master"]["settings"] = {
        "work_mem": "7MB", "log_connections": True, "max_connections": 77,
        "seq_page_cost": 1.25, "application_name": "it's \\ ü",
    }  # fmt: skip
    herd.nodes["standby"]["settings"] = {"max_connections": 77, "work_mem": "9MB"}
    herd.write()
    herd.invoke("setup-master", "seed-standby")
    return herd


def show(herd: Herd, role: str, setting: str) -> str:
    """Return a setting as a client without wishes of its own sees it."""
    return docker(
        "exec", herd.container(role), "psql", "-XAtU", "postgres", "-c", f"SHOW {setting}"
    )


def test_each_node_has_the_settings_of_the_topology(tuned: Herd) -> None:
    assert show(tuned, "master", "work_mem") == "7MB"
    assert show(tuned, "master", "log_connections") == "on"
    assert show(tuned, "master", "max_connections") == "77"
    assert show(tuned, "master", "seq_page_cost") == "1.25"
    assert show(tuned, "standby", "work_mem") == "9MB"
    assert show(tuned, "standby", "max_connections") == "77"
    assert show(tuned, "standby", "seq_page_cost") == "1"
    assert all(check["ok"] for check in tuned.checks().values())


def test_odd_text_arrives_as_it_was_written(tuned: Herd) -> None:
    query = "SELECT reset_val FROM pg_file_settings JOIN pg_settings USING (name) WHERE"
    assert tuned.sql("master", f"{query} name = 'application_name'") is not None
    written = "SELECT setting FROM pg_file_settings WHERE name = 'application_name'"
    assert tuned.sql("master", written) == "it's \\ ü"


@pytest.mark.parametrize("role", ["master", "standby"])
def test_every_node_is_ready_to_lead(tuned: Herd, role: str) -> None:
    wanted = {
        "max_slot_wal_keep_size": "10GB", "data_checksums": "on", "wal_log_hints": "on",
        "max_wal_senders": "40", "max_replication_slots": "40",
        "wal_retrieve_retry_interval": "100ms", "password_encryption": "scram-sha-256",
    }  # fmt: skip
    assert {name: show(tuned, role, name) for name in wanted} == wanted


@pytest.mark.parametrize("role", ["master", "standby"])
def test_each_node_has_a_file_and_a_name_of_its_own(tuned: Herd, role: str) -> None:
    name = tuned.container(role)
    assert show(tuned, role, "cluster_name") == name
    laid = docker("exec", name, "cat", f"{PGDATA}/pgherd.conf")
    assert laid.count("cluster_name") == 1
    assert f"cluster_name = '{name}'" in laid
    main = docker("exec", name, "cat", f"{PGDATA}/postgresql.conf")
    assert main.count("include 'pgherd.conf'") == 1


@pytest.mark.parametrize("role", ["master", "standby"])
def test_scripts_for_a_new_database_are_run_once(tuned: Herd, role: str) -> None:
    assert tuned.sql(role, "SELECT state FROM shop") == "open"
    assert tuned.sql(role, "SELECT count(*) FROM pg_database WHERE datname = 'warehouse'") == 1


@pytest.mark.parametrize("role", ["master", "standby"])
def test_the_container_is_labelled_and_starts_with_the_engine(tuned: Herd, role: str) -> None:
    form = (
        '{{.HostConfig.RestartPolicy.Name}} {{index .Config.Labels "pgherd.group"}}'
        ' {{index .Config.Labels "pgherd.node"}} {{json .NetworkSettings.Ports}}'
    )
    policy, group, node, ports = docker("inspect", "--format", form, tuned.container(role)).split()
    assert (policy, group, node) == ("unless-stopped", tuned.name, tuned.container(role))
    assert (
        ports
        == f'{{"5432/tcp":[{{"HostIp":"127.0.0.1","HostPort":"{tuned.nodes[role]["port"]}"}}]}}'
    )


def change(herd: Herd, role: str, **settings: object) -> None:
    """Change settings of a node in the topology."""
    herd.nodes[role]["settings"] |= settings
    herd.write()


def test_a_changed_setting_is_reloaded(tuned: Herd) -> None:
    change(tuned, "master", work_mem="11MB")
    said = tuned.invoke("setup-master").stderr
    assert "brought up to date: pgherd.conf" in said
    assert "restart is due" not in said
    assert show(tuned, "master", "work_mem") == "11MB"


def test_a_changed_setting_of_the_standby_is_reloaded(tuned: Herd) -> None:
    change(tuned, "standby", work_mem="12MB")
    tuned.invoke("seed-standby")
    assert show(tuned, "standby", "work_mem") == "12MB"


@pytest.mark.long
def test_a_setting_that_wants_a_restart_is_told(tuned: Herd) -> None:
    change(tuned, "master", shared_buffers="64MB")
    said = tuned.invoke("setup-master").stderr
    assert "a restart is due for shared_buffers: `invoke stop start`" in said
    assert show(tuned, "master", "shared_buffers") == "128MB"
    tuned.invoke("stop", "start")
    assert show(tuned, "master", "shared_buffers") == "64MB"
    assert "restart is due" not in tuned.invoke("setup-master").stderr
    assert all(check["ok"] for check in tuned.checks().values())


def test_a_users_own_lines_in_the_files_stay(tuned: Herd) -> None:
    add = f"echo \"maintenance_work_mem = '65MB'\" >> {PGDATA}/postgresql.conf"
    rule = f"echo 'host all nobody_here samehost reject' >> {PGDATA}/pg_hba.conf"
    name = tuned.container("master")
    docker("exec", "--user", "postgres", name, "sh", "-c", f"{add}; {rule}")
    tuned.invoke("setup-master")
    tuned.sql("master", "SELECT pg_reload_conf()")
    assert "nobody_here" in docker("exec", name, "cat", f"{PGDATA}/pg_hba.conf")
    assert tuned.sql("master", "SHOW maintenance_work_mem") == "65MB"


@pytest.mark.long
def test_a_script_that_fails_makes_no_database(make_herd: MakeHerd, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "1-wrong.sql").write_text("SELECT no_such_function();\n")
    herd = make_herd("17", initdb=str(tmp_path))
    assert "no_such_function" in herd.invoke("setup-master", code=1).stderr
    (tmp_path / "1-wrong.sql").write_text("CREATE TABLE right_now ();\n")
    herd.invoke("setup-master")
    assert herd.sql("master", "SELECT count(*) FROM right_now") == 0
