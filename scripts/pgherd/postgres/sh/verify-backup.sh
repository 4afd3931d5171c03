gosu postgres pg_verifybackup --quiet "$PGDATA"
