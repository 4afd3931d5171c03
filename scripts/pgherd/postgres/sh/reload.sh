bad=$(sql -F ': ' -c 'SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL')
[ -z "$bad" ] || fail 69 "pg_hba.conf has faults: $bad"
before=$(sql -c 'SELECT pg_conf_load_time()')
sql -c 'SELECT pg_reload_conf()' >/dev/null
until_true 10 "SELECT pg_conf_load_time() > '$before'"
sql -c "SELECT 'restart ' || string_agg(name, ', ') FROM pg_settings WHERE pending_restart HAVING count(*) > 0"
