"""Users who are not root: those who may use Docker do all of it, the others get a sentence."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import INVOKE, ROOT, Herd, MakeHerd, docker
from test_refusals import REFUSED, UNREACHABLE

NOBODY = 65534
SOMEBODY = 12345  # no user of this machine
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_user(uid: int, *groups: int) -> list[str]:
    """Return the words that make a command another user's."""
    some = [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", *some]


@pytest.fixture(scope="module")
def blank(make_herd: MakeHerd) -> Herd:
    """A group of which nothing was made."""
    return make_herd("17")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """A copy of the repository that belongs to a user, at a path with a space and an umlaut."""
    top = Path(tempfile.mkdtemp(prefix="pgherd-"))
    home = top / "Prüf stand"
    skipped = shutil.ignore_patterns(".git", ".venv", "data", "*_cache", "__pycache__")
    try:
        shutil.copytree(ROOT, home, ignore=skipped, symlinks=True)
        top.chmod(0o755)
        if os.geteuid() == 0:
            for path in [top, home, *home.rglob("*")]:
                os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
            mine = subprocess.run(
                [*as_user(SOMEBODY), *INVOKE, "--version"], cwd=home, check=False,
                env={**os.environ, "HOME": str(home)},
            )  # fmt: skip
            if mine.returncode != 0:
                pytest.skip(f"another user cannot run {sys.executable}")
        yield home
    finally:
        shutil.rmtree(top)


@as_root
def test_a_user_without_permission_on_the_socket(blank: Herd, elsewhere: Path) -> None:
    shutil.copy(blank.topology, elsewhere / "conf" / "mine.toml")
    environment = blank.environment(INVOKE_TOPOLOGY="conf/mine.toml", HOME=str(elsewhere))
    for words in (["setup-master"], ["verify"], ["steps"]):
        done = subprocess.run(
            [*as_user(SOMEBODY), *INVOKE, *words], cwd=elsewhere, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if words != ["verify"]:  # a client, which needs no engine, finds nobody at the port
            assert done.returncode == UNREACHABLE, done.stderr
            assert "no permission on Docker's socket" in done.stderr
            assert "usermod -aG docker" in done.stderr
        assert "Traceback" not in done.stderr


@as_root
def test_a_checkout_that_the_user_cannot_write_to(blank: Herd) -> None:
    done = subprocess.run(
        [*as_user(NOBODY), *INVOKE, "setup-master"], cwd=ROOT, env=blank.environment(
            INVOKE_TOPOLOGY="conf/pair.toml", HOME="/nonexistent"
        ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in {REFUSED, UNREACHABLE}, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_user_who_is_not_root_but_in_the_group_docker(blank: Herd, elsewhere: Path) -> None:
    become = []
    if os.geteuid() == 0:
        become = as_user(SOMEBODY, grp.getgrnam("docker").gr_gid)
    text = blank.topology.read_text(encoding="utf-8")
    text = text.replace(f"{blank.directory}/", "data/").replace(blank.name, f"{blank.name}u")
    (elsewhere / "conf" / "mine.toml").write_text(text, encoding="utf-8")
    environment = blank.environment(INVOKE_TOPOLOGY="conf/mine.toml", HOME=str(elsewhere))

    def invoke(*words: str) -> str:
        done = subprocess.run(
            [*become, *INVOKE, *words], cwd=elsewhere, env=environment, capture_output=True,
            text=True, timeout=200, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kept() -> list[str]:
        return sorted(
            path.name.partition("_bk_")[0] for path in (elsewhere / "data").glob("*_bk_*")
        )

    try:
        assert "passed" in invoke("setup-master", "seed-standby", "verify")
        invoke("seed-standby", "--rebuild", "--allow-async", "--method", "copy", "--yes")
        assert "passed" in invoke("verify")
        assert kept() == ["standby_data"]
        invoke("down", "--purge", "--confirm", f"{blank.name}u")
        assert kept() == ["master_data", "standby_data", "standby_data"]
        invoke("setup-master")
        invoke("down", "--purge", "--delete-data", "--confirm", f"{blank.name}u")
        assert not (elsewhere / "data" / "master_data").exists()
    finally:
        for role in ("master", "standby"):
            docker("rm", "--force", "--volumes", f"{blank.name}u-{role}", check=False)
        docker("network", "rm", f"pgherd-{blank.name}u", check=False)
