#> cp -a /from/. $PGDATA
# The tutorial's way: the files of a server that was stopped cleanly. What must not be copied
# (backup.sgml, basebackup.c) is left out or emptied; pg_control goes last.
# Meanwhile no server gets at them, since each holds its data (hold.sh). Where one holds nothing, pg_control tells that it
# ran: every server writes it when it starts.
if command -v flock >/dev/null; then
  exec 8</from
  tries=0
  until said=$(flock -s -n 8 2>&1) || [ -n "$said" ]; do
    tries=$((tries + 1))
    [ $tries -lt 10 ] || fail 70 'another container has it'
    sleep 0.1
  done
fi
before=$(cksum </from/global/pg_control) || fail 70 'it has no control data'
as_before() { [ "$(cksum <"$1")" = "$before" ] || fail 74 'a server ran on the data while it was copied'; }
state=$(LC_ALL=C pg_controldata /from | sed -n 's/^Database cluster state: *//p')
[ "$state" = 'shut down' ] || fail 70 "its control data says '$state', not 'shut down'"
# What is a link is copied only where it leads into a place for tablespaces, which is copied as a whole.
comes_along() {
  for place in "$PGDATA" ${tablespaces-}; do
    case $1/ in "$place"/*) return 0 ;; /*) ;; *) return 0 ;; esac
  done
  return 1
}
for link in /from/* /from/pg_tblspc/*; do
  [ ! -L "$link" ] || comes_along "$(readlink "$link")" ||
    fail 71 "it keeps files outside its data directory (${link#/from/} is a link to $(readlink "$link"))"
done
# The exit code is that of the tar that writes; the one that reads has to say that it came to its end. GNU's 1 is no more
# than that a file changed, as some file systems say of one that did not: pg_control tells whether a server ran.
read_all() { [ "$1" -eq 0 ] || { [ "$1" -eq 1 ] && tar --version 2>/dev/null | grep -q 'GNU tar'; }; }
# copied FROM TO OPTION...
copied() {
  from=$1 to=$2
  shift 2
  all=$({
    (cd "$from" && code=0 && { tar -cf - "$@" . || code=$?; } && read_all "$code" && echo all >&3) | tar -xpf - -C "$to"
  } 3>&1)
  [ "$all" = all ] || fail 74 'not all of the data could be read'
}
copied /from "$PGDATA" --exclude=./postmaster.pid --exclude=./postmaster.opts --exclude=./global/pg_control \
  --exclude=./standby.signal --exclude=./recovery.signal --exclude=./backup_label.old
for place in ${tablespaces-}; do copied "/from.tablespaces$place" "$place"; done
for emptied in pg_replslot pg_dynshmem pg_notify pg_serial pg_snapshots pg_stat_tmp pg_subtrans; do
  find "$PGDATA/$emptied" -mindepth 1 -delete
done
find "$PGDATA" ${tablespaces-} \( -name pg_internal.init -o -name 'pgsql_tmp*' -o -path '*/archive_status/*.ready' \) -prune -exec rm -rf {} +
as_before /from/global/pg_control
cp -p /from/global/pg_control "$PGDATA/global/pg_control"
as_before "$PGDATA/global/pg_control"
sync
