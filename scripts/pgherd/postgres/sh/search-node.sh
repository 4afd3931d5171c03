# What of secrets can be seen in a node's container, and what its server says of who may come in. $1: root sees only
# what is root's; without $serving no server runs there.
in_processes
if [ "$1" = root ]; then
  in_files file /root/.[!.]*
  exit 0
fi
{ read -r major <"${PGDATA:-}/PG_VERSION"; } 2>/dev/null || major=${PG_MAJOR:-}
$session
export PGUSER=postgres PGDATABASE="${PGHERD_DATABASE:-postgres}" PGCONNECT_TIMEOUT=5
export PGOPTIONS="$session_options $superuser_options -c statement_timeout=10s"
ask() { psql -XAtqw -v ON_ERROR_STOP=1 2>&1; }

if [ -n "$serving" ]; then
  psql -Xqwc '' >/dev/null 2>&1 </dev/null || other_database || :
  if said=$(ask <<'END-OF-SQL'
$facts
END-OF-SQL
  ); then tell server "$said"; else tell failed "$(printf %s "$said" | tr '\n\t' '  ')"; fi
  # What anybody may read: pg_signal_backend is a role that every server has, without a right to read more.
  said=$(ask <<'END-OF-SQL'
SET ROLE pg_signal_backend;
SELECT 'pg_settings, ' || name || E'\t' || translate(setting, E'\n\t', '  ') FROM pg_settings;
SELECT 'pg_db_role_setting, ' || coalesce('role ' || nullif(setrole, 0)::regrole, 'all roles') || E'\t' ||
  translate(array_to_string(setconfig, ' '), E'\n\t', '  ') FROM pg_db_role_setting;
SELECT 'pg_shdescription, a comment' || E'\t' || translate(description, E'\n\t', '  ') FROM pg_shdescription;
END-OF-SQL
  )
  for line in $(printf '%s\n' "$said" | lines_with "$labels"); do
    for label in $labels; do
      [ -z "$(printf '%s\n' "$said" | sed -n "${line}p" | lines_with "$label")" ] ||
        tell setting "$label" "$(printf '%s\n' "$said" | sed -n "${line}p" | cut -f 1)"
    done
  done
  gateways | while read -r address; do tell gateway "$address"; done
  further=$(echo "SELECT DISTINCT sourcefile FROM pg_file_settings WHERE sourcefile IS NOT NULL
    UNION SELECT setting FROM pg_settings WHERE name IN ('hba_file', 'ident_file')" | ask)
  logs=$(echo "SELECT CASE WHEN setting LIKE '/%' THEN setting ELSE current_setting('data_directory') || '/' || setting
    END FROM pg_settings WHERE name = 'log_directory'" | ask)
fi
IFS='
'
set -- "$PGDATA"/* "$PGDATA"/.[!.]* "$PGDATA"/*/*.conf ${further:-} ~postgres/.[!.]* /tmp/* /run/*.pass* /etc/pgherd/*
unset IFS
in_files file "$@"
in_files file "$PGDATA"/pg_stat/* "$PGDATA"/pg_stat_tmp/*
in_files logfile "${logs:-$PGDATA/log}"/* "$PGDATA"/pg_log/*
for file in "$PGDATA" /etc/pgherd/* /etc/pgherd/.[!.]*; do
  [ ! -e "$file" ] || tell mode "$(stat -c %a "$file")" "$file"
done
