"""Programs of a newer Debian, for a host whose engine is newer than this machine's.

They are kept between runs, since fetching them takes a minute; /var/cache may be emptied at will.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from pathlib import Path

from machine import ENVIRONMENT, alone

CACHE = Path("/var/cache/pgherd-rig")
SUITE = "sid"
PACKAGES = ("docker.io", "docker-cli", "iptables", "iproute2", "mount")


def current_system() -> Path:
    """Return a root file system with the engine that Debian has now; each month it is made anew.

    Raises:
        RuntimeError: it could not be made: no mirror of Debian answers, or a package is amiss.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    asked = repr((SUITE, PACKAGES, time.strftime("%Y-%m")))
    made = CACHE / hashlib.sha256(asked.encode()).hexdigest()[:16]
    with alone(CACHE):
        if not made.exists():
            for old in CACHE.iterdir():  # another month's, or a killed run's
                shutil.rmtree(old)
            unfinished = CACHE / "unfinished"
            _make(unfinished)
            unfinished.rename(made)
    return made


def _make(directory: Path) -> None:
    """Make it by mmdebstrap, which ends with this process, and its mounts with it."""
    done = subprocess.run(
        ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child",
         "mmdebstrap", "--quiet", "--variant=apt", "--mode=root",
         # A suite that is still being made may be past its date where a mirror lags behind.
         "--aptopt=Acquire::Check-Valid-Until \"false\"",
         f"--include={','.join(PACKAGES)}", SUITE, str(directory)],
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"no root file system of {SUITE} can be made: {done.stderr[-2000:]}")
