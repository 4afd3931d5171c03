"""Names and paths that a shell would run or take apart: they work, or are refused; none is run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker

RUN = "$(touch X) `touch X` ; touch X"
NAME = f'it\'s "s" {RUN}'[:63]
PASSWORD = f"p w'\"\\:%|é {RUN}"
# What is typed in place of a node, a number, a list.
TYPED = f"'\"{RUN}\na b\x1b[31m{'é' * 2000}"


@pytest.fixture(scope="module")
def nasty(make_herd: MakeHerd) -> Herd:
    """A pair whose paths, application name, settings and passwords have all that a shell reads."""
    herd = make_herd("17")
    herd.group["sync"] = 'FIRST 1 ("' + NAME.replace('"', '""') + '")'
    directory = herd.directory / f"d a't\"a, é {RUN.replace('/', '')}"
    for role, keys in herd.nodes.items():
        keys["data"] = str(directory / f"{role} data")
        keys["settings"] = {"log_line_prefix": f"é '\\ {RUN} %m "}
    herd.nodes["standby"]["application_name"] = NAME
    herd.write()
    herd.secrets().mkdir(parents=True, mode=0o700)
    for role in ("postgres", "replicator"):
        (herd.secrets() / f"{role}.password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    herd.invoke("setup-master", "seed-standby")
    return herd


def nothing_ran(herd: Herd) -> None:
    """See that no shell made a file X: here, beside the data, or in a container."""
    assert not (ROOT / "X").exists()
    assert not list(herd.directory.rglob("X"))
    for role in herd.nodes:
        look = 'for d in / /tmp /etc/pgherd /var/lib/postgresql "$PGDATA"; do ls -d "$d/X"; done; :'
        assert docker("exec", herd.container(role), "sh", "-c", look + " 2>/dev/null") == ""


def test_it_works_and_nothing_is_run(nasty: Herd) -> None:
    nasty.invoke("verify", "status", "diff")
    nasty.invoke("uri", "--format", "env", "--database", RUN, "--user", "it's")
    assert nasty.sql("master", "SHOW log_line_prefix") == f"é '\\ {RUN} %m "
    assert nasty.sql("master", "SELECT application_name FROM pg_stat_replication") == NAME
    assert Path(nasty.nodes["standby"]["data"]).is_dir()
    nothing_ran(nasty)


@pytest.mark.long
def test_a_switchover_and_its_printed_script(nasty: Herd) -> None:
    name = nasty.container("standby")
    printed = nasty.invoke("--dry", "switchover", "--to", name).stdout
    subprocess.run(["sh", "-n"], input=printed, text=True, check=True)
    known = ("#", "set -eu", "docker ", "{", "} | docker ", "cat <<", "printf '%s\\n' \"$(cat ")
    assert [line for line in _commands(printed) if not line.startswith(known)] == []
    nasty.invoke("switchover", "--to", name)
    nasty.invoke("verify")
    nothing_ran(nasty)


def _commands(script: str) -> list[str]:
    """Return the lines that a shell would read as commands, without what is in here-documents."""
    found, end = [], ""
    for line in script.splitlines():
        if end:
            end = "" if line == end else end
        else:
            found.append(line)
            end = line.rpartition("<<'")[2].split("'")[0] if "<<'" in line else ""
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("switchover", "--to", "{}"),
        ("failover", "--to", "{}"),
        ("step.base-backup", "--node", "{}"),
        ("seed-standby", "--max-rate", "{}"),
        ("remove-standby", "{}"),
        ("add-standby", "{}"),
        ("sync", "--mode", "{}"),
        ("uri", "--format", "{}"),
        ("on", "{}", "status"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_typed_is_refused_and_changes_nothing(nasty: Herd, words: tuple[str, ...]) -> None:
    before = started(nasty)
    done = subprocess.run(
        [*INVOKE, *(TYPED if word == "{}" else word for word in words)],
        cwd=ROOT, env=nasty.environment(), capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000
    assert all(char.isprintable() or char == "\n" for char in done.stderr), done.stderr
    assert started(nasty) == before
    nothing_ran(nasty)


def started(herd: Herd) -> list[str]:
    """Return since when each server runs."""
    return [
        docker("inspect", "--format", "{{.State.StartedAt}}", herd.container(role))
        for role in herd.nodes
    ]
