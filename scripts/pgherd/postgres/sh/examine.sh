# What lies in a data directory whose server is down; changes nothing.
[ -e "$PGDATA/PG_VERSION" ] && echo "pg_version=$(cat "$PGDATA/PG_VERSION")"
[ -z "$(ls -A "$PGDATA" 2>/dev/null)" ] && echo empty=1
for name in standby.signal backup_label; do [ -e "$PGDATA/$name" ] && echo "$name=1"; done
for name in seeding initdb.pending initdb.done; do [ -e "/etc/pgherd/$name" ] && echo "$name=1"; done
grep -qiE '^[[:space:]]*primary_conninfo' "$PGDATA/postgresql.auto.conf" 2>/dev/null && echo connected=1
if [ -e "$PGDATA/global/pg_control" ]; then LC_ALL=C pg_controldata "$PGDATA" 2>/dev/null || :; fi
