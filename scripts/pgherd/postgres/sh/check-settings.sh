# The server reads all its files to tell one setting, and says what it does not take.
bad=$(as_postgres postgres -D "$PGDATA" -C port 2>&1 >/dev/null) || fail 72 "$bad"
