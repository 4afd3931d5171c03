# Until the standby streams and has what the upstream had when we began to wait.
target=$(sql -c 'SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END')
until_true "$seconds" "SELECT coalesce(bool_or(state = 'streaming' AND flush_lsn >= '$target'), false)
  FROM pg_stat_replication WHERE lower(application_name) = lower($standby)"
