#> psql: ALTER SYSTEM SET synchronous_standby_names = $names
# Only after a standby of that name streams: else every commit would wait. If it is gone by now, the
# former value goes back; not where another run has set another one meanwhile: this may outlive its own.
former=$(sql -c "SELECT quote_literal(current_setting('synchronous_standby_names'))")
set_names() {
  sql -c "ALTER SYSTEM SET synchronous_standby_names = $1"
  sql -c 'SELECT pg_reload_conf()' >/dev/null
}
set_names "$names"
(until_true "$seconds" "SELECT current_setting('synchronous_standby_names') = $names
  AND (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) >= $count") || {
  ours=$(sql -c "SELECT EXISTS (SELECT FROM pg_file_settings WHERE name = 'synchronous_standby_names'
    AND setting = $names AND sourcefile LIKE '%/postgresql.auto.conf')")
  [ "$ours" != t ] || set_names "$former"
  exit 75
}
