rm -f "$PGDATA/standby.signal"
