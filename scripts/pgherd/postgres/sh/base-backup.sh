#> pg_basebackup --pgdata=$PGDATA --dbname="$conninfo" --wal-method=stream $options
# The options are words of ours: shellcheck disable=SC2086
PGOPTIONS=$session_options gosu postgres pg_basebackup --pgdata="$PGDATA" --dbname="$conninfo" --no-password \
  --wal-method=stream --progress $options </dev/null
