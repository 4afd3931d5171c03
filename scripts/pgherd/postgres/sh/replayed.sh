# Until this server has replayed, or as a primary written, up to there.
until_true "$seconds" "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
  ELSE pg_current_wal_flush_lsn() END >= '$position'"
