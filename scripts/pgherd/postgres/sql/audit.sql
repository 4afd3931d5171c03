-- What one server says of who may come in and by which means, as one JSON object on one line: passwords are told of, and
-- never told. Works on a primary and on a standby, 14 to 18; changes nothing.
-- Since 16 pg_hba.conf may include files, and lines are counted in each of them.
SELECT current_setting('server_version_num')::int >= 160000 AS sixteen \gset
\if :sixteen
  \set number rule_number
  \set file file_name
\else
  \set number line_number
  \set file 'current_setting(''hba_file'')'
\endif
WITH conninfo AS (
  -- as it is in force, and as the files have it for the next reload
  SELECT setting AS text, 'pg_settings' AS place FROM pg_settings WHERE name = 'primary_conninfo' AND setting <> ''
  UNION ALL
  SELECT setting, sourcefile || ':' || sourceline FROM pg_file_settings WHERE name = 'primary_conninfo' AND setting <> ''
)
SELECT jsonb_build_object(
  'in_recovery', pg_is_in_recovery(),
  'password_encryption', current_setting('password_encryption'),
  'ssl', current_setting('ssl'),
  'md5_roles', (SELECT coalesce(jsonb_agg(rolname ORDER BY rolname), '[]') FROM pg_authid WHERE rolpassword LIKE 'md5%'),
  -- who may stream
  'roles', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', rolname, 'super', rolsuper,
      'more', rolcreaterole OR rolcreatedb OR rolbypassrls) ORDER BY rolname), '[]')
    FROM pg_roles WHERE rolcanlogin AND (rolsuper OR rolreplication)),
  'senders', (SELECT coalesce(jsonb_agg(jsonb_build_object('role', usename, 'name', application_name,
      'tls', coalesce(ssl, false))), '[]') FROM pg_stat_replication LEFT JOIN pg_stat_ssl USING (pid)),
  'conninfo', (SELECT coalesce(jsonb_agg(jsonb_build_object('place', place,
      'password', text ~* '(^|\s)password\s*=' OR text ~* '^postgres(ql)?://[^/@]*:[^/@]+@' OR text ~* '[?&]password=',
      'user', substring(text FROM '(?:^|\s)user\s*=\s*''?([^''\s]+)')) ORDER BY place), '[]') FROM conninfo),
  'hba', (SELECT coalesce(jsonb_agg(jsonb_build_object('file', :file, 'line', line_number, 'type', type,
      'databases', database, 'users', user_name, 'address', address, 'netmask', netmask, 'method', auth_method)
      ORDER BY :number), '[]')
    FROM pg_hba_file_rules WHERE error IS NULL)
);
