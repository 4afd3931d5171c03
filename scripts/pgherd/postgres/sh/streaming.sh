#> psql: SELECT * FROM pg_stat_replication, until $standby streams
# Until the standby streams and has what the upstream had when we began to wait. The server waits itself: to ask it
# again and again, for many standbys at once, would take the time that they need. $secured is a further condition.
sql -c "DO \$wait\$
DECLARE
  target pg_lsn := CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END;
  late timestamptz := clock_timestamp() + make_interval(secs => $seconds);
BEGIN
  LOOP
    PERFORM pg_stat_clear_snapshot();
    EXIT WHEN EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn >= target
      AND lower(application_name) = lower($standby) ${secured-});
    IF clock_timestamp() > late THEN RAISE 'too late'; END IF;
    PERFORM pg_sleep(0.02);
  END LOOP;
END \$wait\$" 2>/dev/null || exit 75
