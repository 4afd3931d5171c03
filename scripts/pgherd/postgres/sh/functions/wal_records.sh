# wal_records LSN [OPTION ..]: the WAL records of $timeline from a position on, as pg_waldump tells them. It is given the
# first file and the last: else it learns how long files are from whichever the directory lists first, and fails where
# that one was made in advance and is all zeros (search_directory in pg_waldump.c).
wal_records() {
  bytes=$(LC_ALL=C pg_controldata "$PGDATA" 2>/dev/null | sed -n 's/^Bytes per WAL segment: *//p')
  [ -n "$bytes" ] || return 0
  on=$(printf %08X "$timeline") at=$1
  shift
  first=$on$(printf %08X%08X $((0x${at%/*})) $((0x${at#*/} / bytes)))
  for newest in "$PGDATA/pg_wal/$on"????????????????; do :; done
  LC_ALL=C TZ=UTC pg_waldump --path="$PGDATA/pg_wal" --timeline="$timeline" --start="$at" "$@" "$first" "${newest##*/}" 2>/dev/null
}
