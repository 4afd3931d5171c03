# Rules for TLS count as faults as long as the server has none, those for client certificates as long as it has no
# authority ($ssl_ca) to check them with.
now="current_setting('ssl') || ' ' || current_setting('ssl_ca_file')"
if [ "$(sql -c "SELECT $now")" != "on $ssl_ca" ]; then
  sql -c 'SELECT pg_reload_conf()' >/dev/null
  until_true 10 "SELECT $now = 'on $ssl_ca'"
fi
