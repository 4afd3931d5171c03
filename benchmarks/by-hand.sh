#!/bin/sh
# The work of `invoke setup-master seed-standby verify`, by hand: docker and psql commands and
# nothing else. What bench.py measures pgherd against; it sets the variables below.
set -eu
: "${name:?}" "${image:?}" "${directory:?}" "${master_port:?}" "${standby_port:?}"
master=$name-master standby=$name-standby network=$name-net
pgdata=/var/lib/postgresql/data
on() { docker exec -i -u postgres "$1" psql -XAtq -v ON_ERROR_STOP=1; }

# network and master
docker network create "$network" >/dev/null
mkdir -p "$directory/master" "$directory/standby"
docker run -d --name "$master" --network "$network" -p "127.0.0.1:$master_port:5432" \
  -e POSTGRES_PASSWORD=secret -e PGDATA=$pgdata --restart unless-stopped \
  -v "$directory/master:$pgdata" "$image" >/dev/null
until docker exec "$master" pg_isready -q -h 127.0.0.1; do sleep 0.1; done

# role and hba line
echo "CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'secret'" | on "$master"
docker exec -u postgres "$master" sh -c \
  "echo 'host replication replicator samenet scram-sha-256' >> $pgdata/pg_hba.conf"
echo 'SELECT pg_reload_conf()' | on "$master" >/dev/null

# base backup with a slot
docker run --rm --network "$network" -e PGPASSWORD=secret -e PGDATA=$pgdata \
  -v "$directory/standby:$pgdata" "$image" \
  pg_basebackup -d "host=$master user=replicator application_name=standby1" -D $pgdata \
  -X stream -c fast -C -S standby1 -R >/dev/null

# standby
docker run -d --name "$standby" --network "$network" -p "127.0.0.1:$standby_port:5432" \
  -e PGDATA=$pgdata --restart unless-stopped -v "$directory/standby:$pgdata" "$image" >/dev/null
until docker exec "$standby" pg_isready -q -h 127.0.0.1; do sleep 0.1; done
until [ "$(echo "SELECT state FROM pg_stat_replication WHERE application_name = 'standby1'" | on "$master")" = streaming ]; do
  sleep 0.1
done

# synchronous
printf '%s;\n' "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (standby1)'" 'SELECT pg_reload_conf()' |
  on "$master" >/dev/null
until [ "$(echo 'SELECT sync_state FROM pg_stat_replication' | on "$master")" = sync ]; do sleep 0.1; done

# a row seen, a write refused, and cleaned up
lsn=$(printf '%s;\n' 'CREATE TABLE probe (id int)' 'INSERT INTO probe VALUES (1)' \
  'SELECT pg_current_wal_insert_lsn()' | on "$master")
until [ "$(echo "SELECT pg_last_wal_replay_lsn() >= '$lsn'" | on "$standby")" = t ]; do sleep 0.1; done
[ "$(echo 'SELECT count(*) FROM probe' | on "$standby")" = 1 ]
if echo 'INSERT INTO probe VALUES (2)' | on "$standby" 2>/dev/null; then exit 1; fi
if echo 'CREATE TABLE refused (id int)' | on "$standby" 2>/dev/null; then exit 1; fi
echo 'DROP TABLE probe' | on "$master"
echo 'by hand: done'
