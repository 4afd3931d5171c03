#!/bin/sh
# A switchover as people do it, with docker and psql and nothing else, on a pair that pgherd has set up.
# What living.py measures pgherd against; it sets the variables below.
#
#   switch: the primary is stopped, the standby promoted; nobody is waited for until there is a standby again.
#   back:   the old primary follows the new one, which waits for it then.
set -eu
: "${primary:?}" "${standby:?}" # containers: who is primary now, and who is to be
pgdata=/var/lib/postgresql/data
on() { docker exec -i -u postgres "$1" psql -XAtq -v ON_ERROR_STOP=1; }

switch() {
  docker stop "$primary" >/dev/null
  echo 'SELECT pg_promote()' | on "$standby" >/dev/null
  printf '%s;\n' "ALTER SYSTEM SET synchronous_standby_names = ''" 'SELECT pg_reload_conf()' | on "$standby" >/dev/null
}

back() {
  : "${name:?}" "${slot:?}" # of the old primary, as a standby
  echo "SELECT pg_create_physical_replication_slot('$slot', true)
    WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$slot')" | on "$standby" >/dev/null
  conninfo="host=$standby port=5432 user=replicator application_name=$name passfile=/etc/pgherd/passfile"
  data=$(docker inspect --format "{{range .Mounts}}{{if eq .Destination \"$pgdata\"}}{{.Source}}{{end}}{{end}}" "$primary")
  docker run --rm -i --network none --user postgres -v "$data:$pgdata" --entrypoint sh \
    "$(docker inspect --format '{{.Config.Image}}' "$primary")" -eus <<SCRIPT
touch $pgdata/standby.signal
cat >>$pgdata/postgresql.auto.conf <<'CONF'
primary_conninfo = '$conninfo'
primary_slot_name = '$slot'
synchronous_standby_names = ''
CONF
SCRIPT
  docker start "$primary" >/dev/null
  until [ "$(echo "SELECT state FROM pg_stat_replication WHERE application_name = '$name'" | on "$standby")" = streaming ]; do
    sleep 0.1
  done
  echo 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active' | on "$primary" >/dev/null
  printf '%s;\n' "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (\"$name\")'" 'SELECT pg_reload_conf()' |
    on "$standby" >/dev/null
  until [ "$(echo 'SELECT sync_state FROM pg_stat_replication' | on "$standby")" = sync ]; do sleep 0.1; done
}

"$1"
