# Copy the WAL files that were not archived to /aside; they count as archived then, so that they are kept once.
kept=$(unarchived)
for file in $kept; do cp -p "$PGDATA/pg_wal/$file" /aside/; done
sync
for file in $kept; do mv "$PGDATA/pg_wal/archive_status/$file.ready" "$PGDATA/pg_wal/archive_status/$file.done"; done
