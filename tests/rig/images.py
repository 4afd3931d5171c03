"""Images that hosts have from their first moment: loaded once, then linked into each one's store.

Loading one takes as long as everything else together, and on several hosts at once longer still.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from engine import Engine
from machine import BASE, alone, run

STORE = BASE / "images"
PARTS = ("image", "overlay2")


def stored(directory: Path, cgroup: str, images: tuple[str, ...]) -> Path:
    """Return a data directory of an engine with these images, which nobody runs on.

    Args:
        directory: of the rig that wants it; it is made there if it is not yet stored.
        cgroup: of that rig.
        images: as this machine's engine knows them.
    """
    known = run("docker", "image", "inspect", "--format", "{{.Id}}", *images).split()
    key = hashlib.sha256(repr(sorted(zip(images, known, strict=True))).encode()).hexdigest()[:16]
    STORE.mkdir(exist_ok=True)
    with alone(STORE):
        if not (STORE / key).exists():
            maker = Engine(directory / "images", "images", cgroup)
            maker.begin(own=("run",))
            try:
                maker.start_engine()
                maker.load(*images)
                maker.stop_engine()
            finally:
                maker.end()
            (maker.directory / "docker").rename(STORE / key)
            shutil.rmtree(maker.directory)
    return STORE / key


def lay(store: Path, data: Path) -> None:
    """Lay the images into the data directory of an engine that has not started yet.

    The layers' files are links to the same files: an engine never writes into a layer.
    """
    data.mkdir(mode=0o710)
    for part in PARTS:
        how = "--archive" if part == "image" else "-al"
        run("cp", how, str(store / part), str(data / part))
