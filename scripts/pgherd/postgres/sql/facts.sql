-- What one server says of itself, as one JSON object: a single round trip tells all.
-- Works on a primary and on a standby, 14 to 18; changes nothing.
SELECT json_build_object(
  'in_recovery', pg_is_in_recovery(),
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'version_num', current_setting('server_version_num')::int,
  'segment_size', (SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size'),
  -- after a promotion the checkpoint with the new timeline may be minutes away: the WAL has it now
  'timeline', CASE WHEN pg_is_in_recovery()
    THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                  (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                  (SELECT received_tli FROM pg_stat_wal_receiver))
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
  -- flushed, not only inserted: what a standby may have
  'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
  'replay_paused', pg_is_in_recovery() AND pg_is_wal_replay_paused(),
  'sync_names', current_setting('synchronous_standby_names'),
  'primary_conninfo', current_setting('primary_conninfo'),
  'primary_slot', current_setting('primary_slot_name'),
  'receiver', (
    SELECT json_build_object('status', status, 'timeline', received_tli, 'slot', slot_name,
                             'sender', sender_host)
    FROM pg_stat_wal_receiver),
  'senders', (
    SELECT coalesce(json_agg(json_build_object(
      'application_name', application_name, 'state', state, 'sync_state', sync_state,
      'sent', sent_lsn, 'flush', flush_lsn, 'replay', replay_lsn, 'backend_start', backend_start)), '[]')
    FROM pg_stat_replication),
  'slots', (
    SELECT coalesce(json_agg(json_build_object(
      'name', slot_name, 'active', active, 'restart', restart_lsn, 'wal_status', wal_status)), '[]')
    FROM pg_replication_slots WHERE slot_type = 'physical'),
  'sync_waiters', (
    SELECT coalesce(json_agg(json_build_object(
      'pid', pid, 'since', state_change, 'seconds', extract(epoch FROM clock_timestamp() - state_change), 'query', left(query, 60))), '[]')
    FROM pg_stat_activity WHERE wait_event = 'SyncRep'),
  'clients', (
    SELECT coalesce(json_agg(json_build_object(
      'pid', pid, 'user', usename, 'application_name', application_name, 'state', state)), '[]')
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
  'tablespaces', (
    SELECT coalesce(json_agg(spcname), '[]') FROM pg_tablespace
    WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'replicator', (
    SELECT json_build_object('replication', rolreplication, 'login', rolcanlogin, 'superuser', rolsuper)
    FROM pg_roles WHERE rolname = 'replicator'),
  'hba_lets_replicator_in', (
    SELECT EXISTS (SELECT FROM pg_hba_file_rules WHERE error IS NULL
      AND type LIKE 'host%' AND 'replication' = ANY (database) AND auth_method <> 'reject'
      AND 'replicator' = ANY (user_name)))
);
