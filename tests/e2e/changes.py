"""The tasks that are cut short: what is made ready for each, and what belongs to its sound end.

CHANGES are those of a group that lives on: one trial follows the other. TASKS are all of them, and
each try begins with the same group: torture.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable

from conftest import Herd, docker
from trial import NOWHERE, Change, Trial, inside

# --- switchover ---


def _next(trial: Trial) -> tuple[str, ...]:
    roles = list(trial.herd.nodes)
    new = roles[(roles.index(trial.herd.primary()) + 1) % len(roles)]
    return "switchover", "--to", trial.herd.container(new)


def _taken_over(trial: Trial) -> None:
    assert trial.herd.container(trial.herd.primary()) == trial.words[-1]


# --- failover ---


def _lost(trial: Trial) -> tuple[str, ...]:
    old = trial.herd.primary()
    docker("kill", "--signal", "KILL", trial.herd.container(old))
    return ("failover",)


def _old_comes_back(trial: Trial) -> None:
    for role in trial.herd.nodes:
        if trial.herd.status(role) != "running":
            trial.herd.invoke("rejoin", trial.herd.container(role))


# --- rejoin ---


def _failed_over(trial: Trial) -> tuple[str, ...]:
    old = trial.herd.primary()
    docker("kill", "--signal", "KILL", trial.herd.container(old))
    trial.herd.invoke("failover")
    return "rejoin", trial.herd.container(old)


def _second_primary(trial: Trial) -> tuple[str, ...]:
    """The old primary was started by hand, without its mark, and has commits of its own."""
    old = trial.herd.primary()
    words = _failed_over(trial)
    (trial.herd.data(old) / "standby.signal").unlink()
    docker("start", trial.herd.container(old))
    inside(
        trial.herd,
        old,
        "CREATE TABLE own (id int); INSERT INTO own SELECT generate_series(1, 5000)",
    )
    return words


def _emptied(trial: Trial) -> tuple[str, ...]:
    """A standby's data directory is empty."""
    role = trial.standbys[0]
    docker("stop", trial.herd.container(role))
    path = str(trial.herd.data(role))
    subprocess.run(["find", path, "-mindepth", "1", "-delete"], check=True)
    return "rejoin", trial.herd.container(role)


def _no_slot(trial: Trial) -> tuple[str, ...]:
    """A standby was down, and the primary has neither its slot nor the WAL for it any more."""
    role = trial.standbys[0]
    docker("stop", trial.herd.container(role))
    primary = trial.herd.primary()
    slot = str(trial.herd.nodes[role].get("application_name", trial.herd.container(role)))
    slot = slot.lower().replace("-", "_")
    inside(trial.herd, primary, f"SELECT pg_drop_replication_slot('{slot}')")
    inside(trial.herd, primary, "ALTER SYSTEM SET wal_keep_size = 0")
    inside(trial.herd, primary, "SELECT pg_reload_conf()")
    inside(trial.herd, primary, "SELECT pg_switch_wal()")
    for _ in range(2):
        trial.write(primary)
        inside(trial.herd, primary, "SELECT pg_switch_wal()")
        inside(trial.herd, primary, "CHECKPOINT")
    inside(trial.herd, primary, "ALTER SYSTEM RESET wal_keep_size")
    inside(trial.herd, primary, "SELECT pg_reload_conf()")
    return "rejoin", trial.herd.container(role)


def _lagging(trial: Trial) -> tuple[str, ...]:
    """A standby runs, has lost its primary, and is behind."""
    role = trial.standbys[0]
    inside(trial.herd, role, f"ALTER SYSTEM SET primary_conninfo = '{NOWHERE}'")
    inside(trial.herd, role, "SELECT pg_reload_conf()")
    trial.write(rows=20000)
    return "rejoin", trial.herd.container(role)


# --- setting up, and taking down ---


def _of(*words: str) -> Callable[[Trial], tuple[str, ...]]:
    return lambda _trial: words


def _nothing(_herd: Herd) -> None:
    """There is nothing yet."""


def _alone(herd: Herd) -> None:
    """There is a primary, and no trace of a standby."""
    herd.invoke("setup-master")


def _pair_of_four(herd: Herd) -> None:
    """There is a pair; of two further nodes one is to follow the other."""
    herd.nodes["standby3"]["upstream"] = herd.container("standby2")
    herd.write()
    herd.invoke("setup-master", "seed-standby")


def _two_more(trial: Trial) -> tuple[str, ...]:
    return "add-standby", ",".join(map(trial.herd.container, ("standby2", "standby3")))


def _goes_on(trial: Trial) -> None:
    """What was set up is there, can be built on, and is not set up again."""
    assert "already runs" in trial.herd.invoke("setup-master").stderr
    trial.write()
    trial.herd.invoke("seed-standby")


# --- care ---


def _seeded_anew(trial: Trial) -> tuple[str, ...]:
    """A standby is down; what it had before it was seeded anew lies aside."""
    trial.herd.invoke("seed-standby", "--rebuild", "--allow-async")
    docker("stop", trial.herd.container("standby"))
    (copy,) = json.loads(trial.herd.invoke("aside.list", "--json").stdout)["copies"]
    return "aside.restore", copy["name"]


def _put_back(trial: Trial) -> None:
    """The old data streams, and what was in its place lies aside."""
    herd = trial.herd
    (copy,) = json.loads(herd.invoke("aside.list", "--json").stdout)["copies"]
    assert copy["why"] == f"before {trial.words[-1]} was put back", copy
    herd.invoke("rejoin", herd.container("standby"))


def _down(trial: Trial) -> None:
    """All is gone but the data, which serves again."""
    herd = trial.herd
    assert [herd.status(role) for role in herd.nodes] == [""] * len(herd.nodes)
    assert docker("network", "ls", "--quiet", "--filter", f"name=^pgherd-{herd.name}$") == ""
    herd.invoke("setup-master", "seed-standby")


def _purge(trial: Trial) -> tuple[str, ...]:
    return "down", "--purge", "--confirm", trial.herd.name


def _purged(trial: Trial) -> None:
    """All is gone; what was set aside is put back in its place by hand, and serves again."""
    herd = trial.herd
    assert not herd.secrets().exists()
    places = [herd.secrets(), *map(herd.data, herd.nodes)]
    for place in places:
        (aside,) = place.parent.glob(f"{place.name}_bk_*")
        assert not place.exists()
        aside.rename(place)
    _down(trial)


CHANGES = {
    "switchover of a pair": Change(_next, _taken_over),
    "switchover and Ctrl-C": Change(_next, _taken_over, sign=signal.SIGINT),
    "switchover and SIGTERM": Change(_next, _taken_over, sign=signal.SIGTERM),
    "switchover of three, strict": Change(_next, _taken_over, standbys=2, strict=True),
    "failover of a pair": Change(_lost, _old_comes_back, lasting=False),
    "failover of three": Change(_lost, _old_comes_back, standbys=2, lasting=False),
    "rejoin that follows": Change(_failed_over),
    "rejoin by pg_rewind": Change(_second_primary, loaded=False),
    "rejoin without data": Change(_emptied, loaded=False),
    "rejoin without WAL": Change(_no_slot, loaded=False),
    "rejoin of one that runs": Change(_lagging, loaded=False),
}

COPY = ("seed-standby", "--method", "copy", "--yes")
# The longest ones first.
TASKS = {
    "seed-standby by copy": Change(_of(*COPY), begin=_alone),
    "add-standby": Change(_two_more, standbys=3, begin=_pair_of_four),
    **CHANGES,
    "down and purge": Change(_purge, _purged),
    "down": Change(_of("down"), _down),
    "tls": Change(_of("tls", "--renew-ca"), tls=True, loaded=False),
    "rotate-passwords": Change(_of("rotate-passwords"), loaded=False),  # the clients have the old
    "aside.restore": Change(_seeded_anew, _put_back, loaded=False),
    "seed-standby by basebackup": Change(_of("seed-standby"), begin=_alone),
    "setup-master": Change(_of("setup-master"), _goes_on, loaded=False, begin=_nothing),
}


# --- those that torture.py leaves out: there is little in them to be cut short ---


def _renewed(_trial: Trial) -> tuple[str, ...]:
    return "tls", "--renew"


def _leaves(trial: Trial) -> tuple[str, ...]:
    return "remove-standby", trial.herd.container("standby")


def _seeded(trial: Trial) -> None:
    trial.herd.invoke("seed-standby")


def _started(trial: Trial) -> None:
    trial.herd.invoke("start")


def _stopped(trial: Trial) -> tuple[str, ...]:
    trial.herd.invoke("stop")
    return ("start",)


def _required(trial: Trial) -> None:
    trial.herd.invoke("step.require-sync")


def _open_password(trial: Trial) -> tuple[str, ...]:
    (trial.herd.secrets() / "postgres.password").chmod(0o644)
    return "doctor", "--fix"


def _closed(trial: Trial) -> None:
    mode = (trial.herd.secrets() / "postgres.password").stat().st_mode
    assert mode & 0o777 == 0o600, oct(mode)


OTHERS = {
    "remove-standby": Change(_leaves, _seeded, loaded=False),
    "stop": Change(_of("stop"), _started, loaded=False),
    "start": Change(_stopped, loaded=False, lasting=False),
    "sync --off": Change(_of("sync", "--off"), _required, loaded=False),
    "tls --renew": Change(_renewed, tls=True, loaded=False),
    "doctor --fix": Change(_open_password, _closed, loaded=False, lasting=False),
}
