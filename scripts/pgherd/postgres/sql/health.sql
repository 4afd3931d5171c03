-- What of one server may ail it and is not in facts.sql, as one JSON object. On a primary and on a standby, 14 to 18;
-- changes nothing.
SELECT current_setting('server_version_num')::int >= 150000 AS fifteen \gset
\if :fifteen
  SELECT coalesce(json_agg(datname ORDER BY datname), '[]') AS collations FROM pg_database
  WHERE datallowconn AND datcollversion <> pg_database_collation_actual_version(oid) \gset
\else
  \set collations '[]'
\endif
SELECT json_build_object(
  'bytes', (
    SELECT json_object_agg(name, pg_size_bytes(current_setting(name))) FROM pg_settings WHERE name IN
      ('shared_buffers', 'work_mem', 'maintenance_work_mem', 'max_wal_size', 'max_slot_wal_keep_size')),
  'settings', (
    SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN
      ('dynamic_shared_memory_type', 'fsync', 'full_page_writes', 'hash_mem_multiplier',
       'max_connections', 'max_locks_per_transaction', 'max_parallel_workers_per_gather', 'max_prepared_transactions',
       'max_wal_senders', 'max_worker_processes', 'wal_level', 'wal_retrieve_retry_interval')),
  -- where ALTER SYSTEM has put it; NULL where it has not
  'retry_by', (
    SELECT sourcefile FROM pg_settings
    WHERE name = 'wal_retrieve_retry_interval' AND sourcefile LIKE '%/postgresql.auto.conf'),
  'databases', (SELECT sum(pg_database_size(oid)) FROM pg_database),
  'wal', (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir()),
  -- files that were written after the server last read them; times of files are whole seconds
  'unread', (
    SELECT coalesce(json_agg(name), '[]')
    FROM unnest(ARRAY['postgresql.conf', 'postgresql.auto.conf', 'pgherd.conf', 'pg_hba.conf']) AS name
    WHERE (pg_stat_file(name, true)).modification > pg_conf_load_time()),
  -- what a reload would change of that which nobody changes by the way
  'grave', (
    SELECT coalesce(json_agg(name ORDER BY name), '[]')
    FROM pg_settings s LEFT JOIN pg_file_settings f USING (name)
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'primary_conninfo',
                   'primary_slot_name', 'restore_command', 'archive_command')
      AND CASE WHEN f.name IS NULL THEN s.source = 'configuration file'
               ELSE f.applied AND f.setting IS DISTINCT FROM s.setting END),
  'bad_lines', (
    SELECT coalesce(json_agg(coalesce(f.name, '?') || ': ' || f.error), '[]') FROM pg_file_settings f
    WHERE f.error IS NOT NULL AND NOT EXISTS (SELECT FROM pg_settings s WHERE s.name = f.name AND s.pending_restart)),
  'bad_rules', (
    SELECT coalesce(json_agg('line ' || line_number || ': ' || error), '[]') FROM pg_hba_file_rules
    WHERE error IS NOT NULL),
  'collations', :'collations'::json,
  'libc', (SELECT max(pg_collation_actual_version(oid)) FROM pg_collation WHERE collprovider = 'c'),
  'broken_pages', (SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database),
  'oldest', (SELECT max(age(datfrozenxid)) FROM pg_database),
  'clients', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  'senders', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
  -- bytes of each tablespace outside the data directory, by where it is
  'tablespaces', (
    SELECT coalesce(json_object_agg(path, bytes), '{}')
    FROM (SELECT pg_tablespace_location(oid) AS path, pg_tablespace_size(oid) AS bytes FROM pg_tablespace
          WHERE oid::text IN (SELECT pg_ls_dir('pg_tblspc'))) AS t
    WHERE path ~ '^/')
);
