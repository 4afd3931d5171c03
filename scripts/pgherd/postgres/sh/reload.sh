# The files are read here as they are now, before the server does: what it would not take goes back.
bad=$(sql -F ': ' -c "SET lc_messages = 'C'" -c "SELECT name, error FROM pg_file_settings
  WHERE error IS NOT NULL AND error NOT LIKE '%cannot be changed without restarting%'")
if [ -n "$bad" ]; then
  [ ! -e "$PGDATA/pgherd.conf.before" ] || mv "$PGDATA/pgherd.conf.before" "$PGDATA/pgherd.conf"
  fail 72 "$bad"
fi
bad=$(sql -F ': ' -c 'SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL')
[ -z "$bad" ] || fail 69 "pg_hba.conf has faults: $bad"
before=$(sql -c 'SELECT pg_conf_load_time()')
sql -c 'SELECT pg_reload_conf()' >/dev/null
until_true 10 "SELECT pg_conf_load_time() > '$before'"
sql -c "SELECT 'restart ' || string_agg(name, ', ') FROM pg_settings WHERE pending_restart HAVING count(*) > 0"
