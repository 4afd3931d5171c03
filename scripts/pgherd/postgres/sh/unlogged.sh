# Tell how many unlogged tables there are: a promotion empties them. A line `unlogged TABLES DATABASES`, with a `+` where
# not all databases could be asked within seconds; none where there are no such tables. Asked are those whose files tell
# of some: the fork `init` of a table is on every node.
unlogged=$(
  for directory in "$PGDATA"/base/* "$PGDATA"/pg_tblspc/*/PG_*/*; do
    set -- "$directory"/*_init
    [ ! -e "$1" ] || echo "${directory##*/}"
  done | sort -un
)
if [ -n "$unlogged" ]; then
  tables=0 databases=0 more='' end=$(($(date +%s) + 8)) limits='-c statement_timeout=4s -c lock_timeout=2s'
  names=$(
    exec 2>/dev/null
    export PGCONNECT_TIMEOUT=4 PGOPTIONS="$PGOPTIONS $limits"
    sql -F ' ' -c "SELECT oid, datname FROM pg_database
      WHERE datallowconn AND oid::text = ANY (string_to_array('$(echo $unlogged)', ' '))"
  ) || more=+
  while read -r oid name; do
    [ -n "$oid" ] || continue
    count=
    [ "$(date +%s)" -ge "$end" ] || count=$(
      exec 2>/dev/null
      export PGCONNECT_TIMEOUT=4 PGOPTIONS="$PGOPTIONS $limits" PGDATABASE="$name"
      sql -c "SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'"
    ) || count=
    if [ -z "$count" ]; then more=+
    elif [ "$count" != 0 ]; then tables=$((tables + count)) databases=$((databases + 1)); fi
  done <<END-OF-NAMES
$names
END-OF-NAMES
  [ "$tables$more" = 0 ] || echo "unlogged $tables $databases $more"
fi
