"""Defects that a test has to catch each, and how each is planted: planting.py tries them.

`invoke test --mutants` tries all, `invoke test --mutants NAME` those whose names begin so. Whoever
changes a function that is named here plants its defect anew where that is done now.
"""

from __future__ import annotations

from planting import Edit, Mutant

ROOM = "scripts/pgherd/"
LOSING, WAYS = f"{ROOM}operations/data_loss.py", f"{ROOM}group/rejoin_method.py"
HISTORY = f"{ROOM}postgres/history.py"
FENCE = f"{ROOM}operations/fencing.py"
CONNECT, TEARDOWN = f"{ROOM}operations/connect.py", f"{ROOM}operations/teardown.py"
SH = f"{ROOM}postgres/sh/"
LOSSES = "tests/e2e/test_losses.py::"
SEEDING = "tests/e2e/test_seeding.py::"
REFUSALS = "tests/e2e/test_refusals.py::"
VERIFY = "tests/e2e/test_verify_fails.py::"
PAIR = "tests/e2e/test_pair.py::"
CUT_SHORT = "tests/e2e/test_changes_interrupted.py::"
LIVING = "tests/e2e/test_living.py::"
THREE = "[Kind(major='17', standbys=2, strict=False)]"

MUTANTS = (
    # --- what a failover loses ---
    Mutant(
        "max-loss-allowed",
        "A failover loses acknowledged commits of a synchronous group, and nobody was asked.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(LOSING, "DataLoss.refuse_above", "limit is None and not", "not"),
         Edit(LOSING, "DataLoss.refuse_above", "(limit or 0)", "math.inf")),
    ),
    Mutant(
        "max-loss-not-counted",
        "A failover loses more than --max-loss allows.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(LOSING, "DataLoss.refuse_above", "above(limit or 0)", "above(9 + (limit or 0))"),),
    ),
    Mutant(
        "least-takes-over",
        "The standby that has least takes over.",
        f"{LOSSES}test_the_standby_that_has_most_takes_over",
        (Edit(LOSING, "choose_standby", "max(running", "min(running"),),
    ),
    Mutant(
        "lost-bytes-wrong",
        "The bytes of WAL that a failover loses are told wrong.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(HISTORY, "_reach", "+ int(length) - lsn", "+ 2 * int(length) - lsn"),
         Edit(HISTORY, "Beyond.read", "return cls(size,", "return cls(size // 2,")),
    ),
    Mutant(
        "lost-commits-wrong",
        "The commits that a failover loses are told wrong.",
        f"{LOSSES}test_a_failover_that_loses_acknowledged_commits_is_refused",
        (Edit(f"{SH}beyond.sh", "", "commits++", "commits += 2"),),
    ),
    # --- who was primary is none any more ---
    Mutant(
        "fence-without-signal",
        "A lost primary that somebody starts is a second primary.",
        f"{LOSSES}test_the_lost_primary_is_no_primary_when_somebody_starts_it",
        (Edit(FENCE, "mark_as_standby", 'lay "$PGDATA/standby.signal"', "cat >/dev/null"),),
        in_turn=True,
    ),
    Mutant(
        "fence-restarts",
        "The engine starts a lost primary again by itself.",
        f"{LOSSES}test_the_lost_primary_is_no_primary_when_somebody_starts_it",
        (Edit(FENCE, "stop_and_fence", "restart != NEVER", "restart == NEVER"),),
        in_turn=True,
    ),
    # --- the ways back ---
    Mutant(
        "rewound-without-copy",
        "What an old primary wrote alone is gone once it is rewound.",
        f"{LOSSES}test_what_it_wrote_alone_is_kept_when_it_is_rewound",
        (Edit(f"{ROOM}operations/rejoin.py", "_rewind", "commits != 0", "commits == -1"),),
        in_turn=True,
    ),
    Mutant(
        "rewound-never",
        "An old primary with commits of its own gets a new base backup, not pg_rewind.",
        f"{LOSSES}test_what_it_wrote_alone_is_kept_when_it_is_rewound",
        (Edit(WAYS, "_judge", "not disk.rewindable", "disk.rewindable"),),
        in_turn=True,
    ),
    Mutant(
        "rejoin-by-base-backup",
        "Whoever rejoins gets a new base backup, also where it could follow as it is.",
        f"{LOSSES}test_an_old_primary_with_nothing_of_its_own_follows_as_it_is",
        (Edit(WAYS, "_judge", "Method.FOLLOW, why", "Method.BASE_BACKUP, why"),),
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
        "promoted-at-streams-end",
        "A standby whose stream broke is promoted without the primary's last words.",
        f"{CUT_SHORT}test_a_standby_that_lacks_the_primarys_last_words_does_not_take_over",
        (Edit(f"{SH}promote-at-end.sh", "",
              "case $last in 'rmgr: XLOG '*'desc: CHECKPOINT_SHUTDOWN'*) ;; *) return 1 ;; esac",
              "[ -z \"$(sql -c 'SELECT pid FROM pg_stat_wal_receiver')\" ]"),),
    ),
    Mutant(
        "no-slots-on-successor",
        "The new primary has no slots for those that follow it.",
        f"{LIVING}test_switchovers_forth_and_back{THREE}",
        (Edit(f"{ROOM}operations/followers.py", "prepare", '" ".join(slots)', '""'),),
    ),
    # --- whom commits wait for ---
    Mutant(
        "sync-list-in-the-copy",
        "A copy that is promoted has the list of its primary, and its commits wait for ever.",
        f"{SEEDING}test_a_copy_of_a_synchronous_primary_can_lead_alone[basebackup]",
        (Edit(CONNECT, "", '"primary_slot_name", "synchronous_standby_names",',
              '"primary_slot_name",'),
         Edit(CONNECT, "fragments", """"synchronous_standby_names = ''\\n\"""", '""')),
    ),
    Mutant(
        "sync-before-it-streams",
        "Commits wait for a standby while that is still being seeded.",
        f"{SEEDING}test_an_interrupted_base_backup_is_done_by_a_second_try",
        (Edit(f"{ROOM}operations/seed.py", "seed", "    rest = [connect.fragments(",
              "    names = group.topology.sync_for(upstream.node)\n"
              '    set_names(upstream, names.render() if names else "", 0)\n'
              "    rest = [connect.fragments("),),
    ),
    Mutant(
        "rebuilt-unasked",
        "The standby that every commit waits for is seeded anew, and nobody was asked.",
        f"{SEEDING}test_the_only_synchronous_standby_is_not_reseeded_unasked",
        (Edit(f"{ROOM}operations/seed.py", "_check_sync", "not asked.allow", "asked.allow"),),
    ),
    # --- who may come in, and who may be at work ---
    Mutant(
        "hba-from-anywhere",
        "Whoever has the password may stream from anywhere.",
        "tests/e2e/test_secrets.py::test_nobody_streams_from_outside_of_the_groups_network[17]",
        (Edit("conf/pg_hba.conf", "", "replicator  $neighbours ", "replicator  0.0.0.0/0 "),),
    ),
    Mutant(
        "no-lock-on-remote-hosts",
        "Two people change one group on other hosts at once.",
        "tests/e2e/test_remote_lock.py::test_a_second_run_from_another_checkout_is_refused",
        (Edit(f"{ROOM}group/group.py", "Group._lock_all", "name == LOCAL:", "name:"),),
    ),
    Mutant(
        "no-lock-here",
        "Two runs change one group of this machine at once.",
        f"{REFUSALS}test_a_second_run_while_one_is_at_work",
        (Edit(f"{ROOM}group/group.py", "Group._lock_all",
              "held.enter_context(self.here.lease(self.secrets.name, self.name))", "pass"),),
    ),
    Mutant(
        "published-everywhere",
        "A server is published on all addresses of its host, whatever the topology asks.",
        "tests/e2e/test_secrets.py::test_an_audit_finds_nothing[17]",
        (Edit(f"{ROOM}postgres/instance.py", "Instance.run_options",
              'f"{listen}:{self.node.port}:5432"', 'f"{self.node.port}:5432"'),),
    ),
    # --- what verify proves ---
    Mutant(
        "any-error-is-a-refusal",
        "verify takes a write that fails for whatever reason as one that a standby refuses.",
        f"{VERIFY}test_a_write_that_fails_is_not_for_that_a_refused_one",
        (Edit(f"{ROOM}checks/verify.py", "_write_refused",
              "set(answers.values()) == {READ_ONLY}", '"done" not in answers.values()'),),
    ),
    Mutant(
        "wal-may-differ",
        "verify passes a standby whose WAL is another than its primary's.",
        f"{VERIFY}test_it_diverged_in_an_earlier_file_of_the_wal[kept]",
        (Edit(f"{ROOM}checks/wal.py", "compare_wal", "same is False", "same is same.__class__"),),
    ),
    Mutant(
        "sync-may-differ",
        "verify passes a standby that is asynchronous where the topology asks for sync.",
        f"{VERIFY}test_it_streams_asynchronously_where_sync_was_asked",
        (Edit(f"{ROOM}checks/verify.py", "sync_check", "!= asked:", "== -1:"),
         Edit(f"{ROOM}checks/verify.py", "_sync_state", 'in {"sync", "quorum"}',
              '!= "not there"')),
    ),
    Mutant(
        "probe-left-behind",
        "verify leaves what it made.",
        f"{PAIR}test_verify_leaves_nothing_behind[17]",
        (Edit(f"{ROOM}checks/verify.py", "_drop_statement",
              "DROP SCHEMA IF EXISTS {} CASCADE", "SELECT 1 AS {}"),),
    ),
    # --- stopping, and starting again ---
    Mutant(
        "never-started-again",
        "A server that ends by itself is not started again.",
        f"{PAIR}test_a_killed_server_comes_back_by_itself[17]",
        (Edit(f"{ROOM}postgres/instance.py", "Instance.run_options",
              '"--restart", "unless-stopped"', '"--restart", "no"'),),
    ),
    Mutant(
        "stopped-in-ten-seconds",
        "A server that needs longer than Docker's ten seconds to stop is killed.",
        f"{PAIR}test_a_server_gets_the_time_that_its_stop_takes[invoke stop]",
        (Edit(f"{ROOM}docker/engine.py", "Engine.stop", '"-t", str(seconds)', '"-t", "9"'),),
    ),
    Mutant(
        "stopped-by-docker-in-ten-seconds",
        "A server that somebody stops by hand, or the engine, is killed after ten seconds.",
        f"{PAIR}test_a_server_gets_the_time_that_its_stop_takes[docker stop]",
        (Edit(f"{ROOM}postgres/instance.py", "Instance.run_options",
              '"--stop-timeout", str(STOP_SECONDS)', '"--stop-timeout", "9"'),),
    ),
    Mutant(
        "standby-stopped-first",
        "A standby is stopped before its primary, whose commits wait for it then.",
        f"{PAIR}test_stop_is_clean_and_start_brings_all_back[17]",
        (Edit(f"{ROOM}operations/start_stop.py", "stop", "i.name in seen.primaries",
              "i.name not in seen.primaries"),),
    ),
    # --- what is somebody else's ---
    Mutant(
        "delete-data-takes-what-lies-aside",
        "`down --purge --delete-data` deletes what was set aside earlier.",
        f"{SEEDING}test_what_was_set_aside_outlives_a_purge_that_deletes",
        (Edit(TEARDOWN, "remove_places", 'Tool("rmdir")["--", place.source]',
              'Tool("sh")["-c", f"rm -rf -- {place.source}*"]'),),
    ),
    Mutant(
        "stopped-foreign-container-is-ours",
        "A stopped container of somebody else that has a node's name is taken for the group's.",
        f"{REFUSALS}test_a_foreign_container_that_is_stopped_has_the_name",
        (Edit(f"{ROOM}group/preconditions.py", "check_name", "owned = container and group",
              "owned = container and not container.alive or container and group"),),
    ),
    Mutant(
        "down-removes-foreign-container",
        "`down` removes a container of somebody else that has a node's name.",
        f"{REFUSALS}test_a_foreign_container_that_is_stopped_has_the_name",
        (Edit(TEARDOWN, "_remove_from", " and group.owns(c, site.name)", ""),),
    ),
    Mutant(
        "data-of-another-container",
        "A server is started on the data directory of a container that runs.",
        f"{REFUSALS}test_a_container_has_the_data_directory",
        (Edit(f"{ROOM}group/preconditions.py", "check_unused", "c.alive]", "not c.alive]"),),
    ),
)  # fmt: skip
