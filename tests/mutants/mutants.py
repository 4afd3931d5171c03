"""Defects that a test has to catch each, and how each is planted: planting.py tries them.

`invoke test --mutants` tries all, `invoke test --mutants NAME` those whose names begin so. Whoever
changes a function that is named here plants its defect anew where that is done now.
"""

from __future__ import annotations

from planting import Edit, Mutant

STEPS = "scripts/pgherd/steps/"
LOSING, WAYS = f"{STEPS}change/losing.py", f"{STEPS}change/ways.py"
SH = "scripts/pgherd/postgres/sh/"
LOSSES = "tests/e2e/test_losses.py::"
LIVING = "tests/e2e/test_living.py::"
THREE = "[Kind(major='17', standbys=2, strict=False)]"

MUTANTS = (
    # --- what a failover loses ---
    Mutant(
        "max-loss-allowed",
        "A failover loses acknowledged commits of a synchronous group, and nobody was asked.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(LOSING, "Loss.refuse_above", "limit is None and not", "not"),
         Edit(LOSING, "Loss.refuse_above", "(limit or 0)", "math.inf")),
    ),
    Mutant(
        "max-loss-not-counted",
        "A failover loses more than --max-loss allows.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(LOSING, "Loss.refuse_above", "<= (limit or 0)", "<= 9 + (limit or 0)"),),
    ),
    Mutant(
        "least-takes-over",
        "The standby that has least takes over.",
        f"{LOSSES}test_the_standby_that_has_most_takes_over",
        (Edit(LOSING, "chosen", "max(running", "min(running"),),
    ),
    Mutant(
        "lost-bytes-wrong",
        "The bytes of WAL that a failover loses are told wrong.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(WAYS, "Beyond.read", "+ length - lsn", "+ 2 * length - lsn"),
         Edit(WAYS, "Beyond.read", "max(size, length)", "size // 2")),
    ),
    Mutant(
        "lost-commits-wrong",
        "The commits that a failover loses are told wrong.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(f"{SH}beyond.sh", "", "desc: COMMIT/) commits++", "desc: /) commits += 2"),),
    ),
    # --- who was primary is none any more ---
    Mutant(
        "fence-without-signal",
        "A lost primary that somebody starts is a second primary.",
        f"{LOSSES}test_the_lost_primary_is_no_primary_when_somebody_starts_it",
        (Edit(f"{STEPS}change/fence.py", "mark", """lay "$PGDATA/standby.signal" """, ": "),),
        in_turn=True,
    ),
    Mutant(
        "fence-restarts",
        "The engine starts a lost primary again by itself.",
        f"{LOSSES}test_the_lost_primary_is_no_primary_when_somebody_starts_it",
        (Edit(f"{STEPS}change/fence.py", "stop", "restart != NEVER", "restart == NEVER"),),
        in_turn=True,
    ),
    # --- the ways back ---
    Mutant(
        "rewound-without-copy",
        "What an old primary wrote alone is gone once it is rewound.",
        f"{LOSSES}test_what_it_wrote_alone_is_kept_when_it_is_rewound",
        (Edit(f"{STEPS}change/rejoin.py", "_rewound", "commits != 0", "commits == -1"),),
        in_turn=True,
    ),
    Mutant(
        "rewound-never",
        "An old primary with commits of its own gets a new base backup, not pg_rewind.",
        f"{LOSSES}test_what_it_wrote_alone_is_kept_when_it_is_rewound",
        (Edit(WAYS, "_judged", "not disk.rewindable", "disk.rewindable"),),
        in_turn=True,
    ),
    Mutant(
        "rejoin-by-base-backup",
        "Whoever rejoins gets a new base backup, also where it could follow as it is.",
        f"{LOSSES}test_an_old_primary_with_nothing_of_its_own_follows_as_it_is",
        (Edit(WAYS, "_judged", "Way(Kind.FOLLOW", "Way(Kind.BASE_BACKUP"),),
        in_turn=True,
    ),
    # --- the moment of a switchover ---
    Mutant(
        "promoted-at-once",
        "A standby is promoted while the primary goes on, so that it lacks what that writes then.",
        f"{LIVING}test_switchovers_forth_and_back{THREE}",
        (Edit(f"{SH}promote-at-end.sh", "", "*) return 1 ;;", "*) ;;"),),
    ),
    Mutant(
        "no-slots-on-successor",
        "The new primary has no slots for those that follow it.",
        f"{LIVING}test_switchovers_forth_and_back{THREE}",
        (Edit(f"{STEPS}change/succession.py", "prepare", '" ".join(slots)', '""'),),
    ),
)  # fmt: skip
