#> rm $PGDATA/standby.signal
rm -f "$PGDATA/standby.signal"
