# other_database: work in the first that takes connections and is no template, in place of one that is not there.
# template1 is for this question alone: whoever stays there keeps others from making databases.
other_database() {
  [ -z "${PGHERD_DATABASE:-}" ] || return 1
  other=$(psql -XAtqwd template1 2>/dev/null <<'END-OF-SQL'
SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid LIMIT 1
END-OF-SQL
  ) || return 1
  [ -n "$other" ] && [ "$other" != "$PGDATABASE" ] && PGDATABASE=$other
}
