#> pg_verifybackup $PGDATA
gosu postgres pg_verifybackup --quiet "$PGDATA"
