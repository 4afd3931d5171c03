#> $PGDATA/standby.signal: an empty file
[ -e "$PGDATA/standby.signal" ] || lay "$PGDATA/standby.signal" </dev/null
