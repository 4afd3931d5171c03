# unarchived: the WAL files that the archiver has not archived yet, where a standby would never: it removes them instead
unarchived() {
  set -- "$PGDATA"/pg_wal/archive_status/*.ready
  [ -e "$1" ] && [ "$(as_postgres postgres -C archive_mode -D "$PGDATA" 2>/dev/null)" = on ] || return 0
  for ready; do # of one whose file is gone there is nothing to keep
    file=$(basename "$ready" .ready)
    [ ! -e "$PGDATA/pg_wal/$file" ] || echo "$file"
  done
}
