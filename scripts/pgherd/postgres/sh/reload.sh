#> psql: SELECT pg_reload_conf()
bad=$(sql -F ': ' -c 'SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL')
if [ -n "$bad" ]; then
  # A server does not start with them: those before go back, whoever made the fault.
  [ -z "${former_rules:-}" ] || printf %s "${former_rules%.}" | lay "$PGDATA/pg_hba.conf" >/dev/null
  fail 69 "pg_hba.conf has faults: $bad"
fi
before=$(sql -c 'SELECT pg_conf_load_time()')
sql -c 'SELECT pg_reload_conf()' >/dev/null
until_true 10 "SELECT pg_conf_load_time() > '$before'"
sql -c "SELECT 'restart ' || string_agg(name, ', ') FROM pg_settings WHERE pending_restart HAVING count(*) > 0"
