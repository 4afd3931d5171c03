# Only after a standby of that name streams: else every commit would wait.
sql -c "ALTER SYSTEM SET synchronous_standby_names = $names"
sql -c 'SELECT pg_reload_conf()' >/dev/null
until_true "$seconds" "SELECT current_setting('synchronous_standby_names') = $names
  AND (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) >= $count"
