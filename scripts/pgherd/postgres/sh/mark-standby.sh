[ -e "$PGDATA/standby.signal" ] || lay "$PGDATA/standby.signal" </dev/null
