# The options are words of ours: shellcheck disable=SC2086
gosu postgres pg_basebackup --pgdata="$PGDATA" --dbname="$conninfo" --slot="$slot" --no-password \
  --wal-method=stream --progress $options </dev/null
