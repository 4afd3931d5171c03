-- What one server says of itself, as one JSON object: a single round trip tells all.
-- Works on a primary and on a standby, 14 to 18; changes nothing.
WITH now (timeline, lsn) AS (
  -- after a promotion the checkpoint with the new timeline may be minutes away: the WAL has it now
  SELECT CASE WHEN pg_is_in_recovery()
    THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                  (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                  (SELECT received_tli FROM pg_stat_wal_receiver),
                  -- and once its upstream is gone, what it has received tells it alone; where it was rewound,
                  -- files of a timeline may lie there that it has left, without their history
                  (SELECT max(('x' || file)::bit(32)::int)
                   FROM (SELECT DISTINCT left(name, 8) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$') files (file)
                   WHERE file = '00000001'
                      OR EXISTS (SELECT FROM pg_stat_file('pg_wal/' || file || '.history', true) WHERE size IS NOT NULL)))
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
  -- flushed, not only inserted: what a standby may have
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END
)
SELECT json_build_object(
  'in_recovery', pg_is_in_recovery(),
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'version_num', current_setting('server_version_num')::int,
  'timeline', timeline,
  'lsn', lsn,
  -- of the timelines before, where each ended: the file is there from the second one on
  'history', coalesce(pg_read_file(
    'pg_wal/' || upper(lpad(to_hex(timeline), 8, '0')) || '.history', 0, 1000000, true), ''),
  -- on disk, replayed or not; NULL where nothing was streamed since the start
  'received', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END,
  'replay_paused', pg_is_in_recovery() AND pg_is_wal_replay_paused(),
  'replayed_age', CASE WHEN pg_is_in_recovery()
    THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END,
  'apply_delay', (SELECT setting::bigint FROM pg_settings WHERE name = 'recovery_min_apply_delay'), -- ms
  -- a primary that has this file would come back as a standby
  'marked', EXISTS (SELECT FROM pg_stat_file('standby.signal', true) WHERE size IS NOT NULL),
  -- a promotion that waits for its moment, or has just begun (sh/in-turn.sh)
  'turn', coalesce(pg_read_file('/tmp/pgherd.turn', 0, 100, true), ''),
  -- of the file with key and certificate, where TLS is on and they are the group's; the file may be gone since
  'certificate', CASE WHEN current_setting('ssl') = 'on' AND current_setting('ssl_cert_file') = '/etc/pgherd/server.pem'
    THEN coalesce(encode(sha256(pg_read_binary_file('/etc/pgherd/server.pem', 0, 1000000, true)), 'hex'), 'gone') END,
  'settings', encode(sha256(pg_read_binary_file('pgherd.conf', 0, 1000000, true)), 'hex'),
  'written', ( -- in that file
    SELECT coalesce(json_object_agg(name, setting ORDER BY seqno), '{}')
    FROM pg_file_settings WHERE sourcefile LIKE '%/pgherd.conf' AND name IS NOT NULL),
  'database', current_database(),
  -- where it is said that transactions of ours would be read-only, were it not for our options, which hide it from
  -- pg_settings: of the role's and the database's settings the more special one counts, then the last line of the files
  'read_only', (
    SELECT CASE WHEN value::bool THEN place END FROM (
      SELECT CASE WHEN setrole = 0 THEN 0 ELSE 2 END + CASE WHEN setdatabase = 0 THEN 0 ELSE 1 END, 0,
        concat_ws(' IN ', CASE WHEN setrole <> 0 THEN 'ROLE ' || quote_ident(session_user)
                               WHEN setdatabase = 0 THEN 'ROLE ALL' END,
                          CASE WHEN setdatabase <> 0 THEN 'DATABASE ' || quote_ident(current_database()) END),
        substr(option, strpos(option, '=') + 1)
      FROM pg_db_role_setting, unnest(setconfig) AS option
      WHERE lower(option) LIKE 'default\_transaction\_read\_only=%'
        AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      UNION ALL
      SELECT -1, seqno, sourcefile || ':' || sourceline, setting FROM pg_file_settings
      WHERE lower(name) = 'default_transaction_read_only' AND applied) AS said (rank, line, place, value)
    ORDER BY rank DESC, line DESC LIMIT 1),
  -- where it is said that ALTER SYSTEM is not allowed (17 and later)
  'no_alter_system', (
    SELECT CASE WHEN NOT setting::bool THEN coalesce(sourcefile || ':' || sourceline, source) END
    FROM pg_settings WHERE name = 'allow_alter_system'),
  'restart_due', (
    SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
  'conflicts', (SELECT coalesce(sum(conflicts), 0) FROM pg_stat_database),
  'sync_names', current_setting('synchronous_standby_names'),
  'primary_conninfo', current_setting('primary_conninfo'),
  'primary_slot', current_setting('primary_slot_name'),
  'receiver', (
    SELECT json_build_object('status', status, 'timeline', received_tli, 'slot', slot_name,
                             'sender', sender_host, 'port', sender_port)
    FROM pg_stat_wal_receiver),
  'senders', (
    SELECT coalesce(json_agg(json_build_object(
      'pid', r.pid, 'user', usename, 'slot', slot_name, 'plugin', plugin,
      'application_name', application_name, 'state', state, 'sync_state', sync_state, 'sent', sent_lsn,
      'write', write_lsn, 'flush', flush_lsn, 'replay', replay_lsn, 'backend_start', backend_start,
      'connected', extract(epoch FROM clock_timestamp() - backend_start),
      'replay_lag', extract(epoch FROM replay_lag),
      'silent', extract(epoch FROM clock_timestamp() - reply_time), 'tls', version, 'cipher', cipher)), '[]')
    FROM pg_stat_replication r LEFT JOIN pg_stat_ssl USING (pid) LEFT JOIN pg_replication_slots ON active_pid = r.pid),
  -- what lies before the position is older than so many seconds
  'checkpoint', (
    SELECT json_build_object('redo', redo_lsn, 'seconds', extract(epoch FROM clock_timestamp() - checkpoint_time))
    FROM pg_control_checkpoint()),
  -- NULL where it does not archive. `fails`: seconds since a file could not be archived, where none could be since
  'archiver', CASE WHEN current_setting('archive_mode') = 'always'
      OR current_setting('archive_mode') = 'on' AND NOT pg_is_in_recovery() THEN (
    SELECT json_build_object(
      'always', current_setting('archive_mode') = 'always',
      'fails', (SELECT extract(epoch FROM clock_timestamp() - last_failed_time) FROM pg_stat_archiver
        WHERE last_failed_time > coalesce(last_archived_time, '-infinity')),
      'files', count(*),
      'seconds', coalesce(extract(epoch FROM clock_timestamp() - min(modification)), 0))
    FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') END,
  -- NULL where replay waits for no session. Those who may hold it: a lock tells by itself, a snapshot that there is one
  'held', (
    SELECT json_build_object(
      'by', s.wait_event,
      'seconds', (SELECT extract(epoch FROM clock_timestamp() - min(waitstart)) FROM pg_locks l WHERE l.pid = s.pid),
      'holders', (
        SELECT coalesce(json_agg(json_build_object(
          'pid', pid, 'user', usename, 'application_name', application_name, 'state', state,
          'seconds', extract(epoch FROM clock_timestamp() - xact_start), 'query', left(query, 60)) ORDER BY xact_start), '[]')
        FROM pg_stat_activity h WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
          AND CASE WHEN s.wait_event_type = 'Lock' THEN pid IN (
              SELECT theirs.pid FROM pg_locks AS mine JOIN pg_locks AS theirs USING (locktype, database, relation)
              WHERE mine.pid = s.pid AND NOT mine.granted AND theirs.granted)
            ELSE backend_xmin IS NOT NULL END))
    FROM pg_stat_activity s WHERE backend_type = 'startup'
      AND (wait_event_type IN ('Lock', 'BufferPin') OR wait_event LIKE 'RecoveryConflict%')),
  'slots', (
    SELECT coalesce(json_agg(json_build_object(
      'name', slot_name, 'active', active, 'restart', restart_lsn, 'wal_status', wal_status,
      'retained', pg_wal_lsn_diff(lsn, restart_lsn), 'left', safe_wal_size)), '[]')
    FROM pg_replication_slots WHERE slot_type = 'physical'),
  'sync_waiters', (
    SELECT coalesce(json_agg(json_build_object(
      'pid', pid, 'since', state_change, 'seconds', extract(epoch FROM clock_timestamp() - state_change), 'query', left(query, 60))), '[]')
    FROM pg_stat_activity WHERE wait_event = 'SyncRep'),
  'clients', (
    SELECT coalesce(json_agg(json_build_object(
      'pid', pid, 'user', usename, 'application_name', application_name, 'state', state,
      'transaction', extract(epoch FROM clock_timestamp() - xact_start))), '[]')
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
  'prepared', (SELECT count(*) FROM pg_prepared_xacts),
  -- those outside the data directory: in a mount of the container, in memory (tmpfs), or in the container only; and in
  -- which databases something would have to be moved out of it
  'tablespaces', (
    SELECT coalesce(json_agg(json_build_object(
      'name', quote_ident(spcname), 'path', path, 'lies', coalesce(lies, 'container'), 'databases', (
        SELECT coalesce(json_agg(json_build_object('name', datname, 'default', dattablespace = t.oid) ORDER BY datname), '[]')
        FROM pg_tablespace_databases(t.oid) AS has JOIN pg_database ON pg_database.oid = has)) ORDER BY spcname), '[]')
    FROM (SELECT oid, spcname, pg_tablespace_location(oid) AS path FROM pg_tablespace
          WHERE oid::text IN (SELECT pg_ls_dir('pg_tblspc'))) AS t
    LEFT JOIN LATERAL (
      SELECT CASE WHEN split_part(line, ' - ', 2) ~ '^tmpfs ' THEN 'memory' ELSE 'mount' END AS lies
      FROM unnest(string_to_array(pg_read_file('/proc/self/mountinfo', 0, 1000000, true), E'\n')) AS line
      WHERE split_part(line, ' ', 5) LIKE '/_%' AND starts_with(path || '/', split_part(line, ' ', 5) || '/')
      ORDER BY length(split_part(line, ' ', 5)) DESC LIMIT 1) AS mount ON true
    WHERE path ~ '^/' AND NOT starts_with(path, current_setting('data_directory') || '/')),
  'replicator', (
    SELECT json_build_object('replication', rolreplication, 'login', rolcanlogin, 'superuser', rolsuper)
    FROM pg_roles WHERE rolname = 'replicator'),
  'hba_lets_replicator_in', (
    SELECT EXISTS (SELECT FROM pg_hba_file_rules WHERE error IS NULL
      AND type LIKE 'host%' AND 'replication' = ANY (database) AND auth_method <> 'reject'
      AND 'replicator' = ANY (user_name)))
) FROM now;
