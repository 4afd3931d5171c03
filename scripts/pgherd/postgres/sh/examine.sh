# What lies in a data directory whose server is down; changes nothing.
[ -e "$PGDATA/PG_VERSION" ] && echo "pg_version=$(cat "$PGDATA/PG_VERSION")"
[ -z "$(ls -A "$PGDATA" 2>/dev/null)" ] && echo empty=1
[ -e "$PGDATA/standby.signal" ] && echo standby.signal=1
[ -e /etc/pgherd/initdb.done ] && echo initdb.done=1
[ -s /etc/pgherd/initdb.done ] && [ "$(cat /etc/pgherd/initdb.done)" = "$(this_directory 2>/dev/null)" ] && echo ours=1
unfinished seeding && echo seeding=1
[ -s /etc/pgherd/initdb.pending ] && [ "$(cat /etc/pgherd/initdb.pending)" = "$(this_directory 2>/dev/null)" ] && echo initdb.pending=1
grep -qiE '^[[:space:]]*primary_conninfo' "$PGDATA/postgresql.auto.conf" 2>/dev/null && echo connected=1
[ -e "$PGDATA/pgherd.conf" ] && echo "settings=$(sha256sum <"$PGDATA/pgherd.conf" | cut -d ' ' -f 1)"
if [ -e "$PGDATA/global/pg_control" ]; then LC_ALL=C pg_controldata "$PGDATA" 2>/dev/null || :; fi
timeline=$(LC_ALL=C pg_controldata "$PGDATA" 2>/dev/null |
  sed -n "s/^Latest checkpoint's TimeLineID: *//p; s/^Min recovery ending loc's timeline: *//p" | sort -n | tail -n 1)
if [ -n "$timeline" ] && [ -e "$PGDATA/pg_wal/$(printf %08X "$timeline").history" ]; then
  echo "history=$(awk '/^[0-9]/ { printf "%s %s;", $1, $2 }' "$PGDATA/pg_wal/$(printf %08X "$timeline").history")"
fi
sed -n "s/^synchronous_standby_names = '\(.*\)'$/sync_names=\1/p" "$PGDATA/postgresql.auto.conf" 2>/dev/null | tail -n 1
sed -n "s/^primary_conninfo = '\(.*\)'$/follows=\1/p" "$PGDATA/postgresql.auto.conf" 2>/dev/null | tail -n 1
left=$(unarchived) && [ -z "$left" ] || echo unarchived=$left
# Where links lead, out of the directory or not; and what is not there, though its place for tablespaces is.
is_there() {
  case $2 in pg_tblspc/*) ls -d "$1/PG_$(cat "$PGDATA/PG_VERSION")"_* >/dev/null 2>&1 ;; *) [ -e "$1" ] ;; esac
}
for at in "$PGDATA"/* "$PGDATA"/pg_tblspc/*; do
  [ -L "$at" ] || continue
  target=$(readlink "$at") name=${at#"$PGDATA"/}
  printf 'link\t%s\t%s\n' "$name" "$target"
  for place in ${tablespaces-}; do
    case $target/ in "$place"/*) is_there "$target" "$name" || printf 'gone\t%s\n' "$target" ;; esac
  done
done
for place in ${tablespaces-}; do
  [ "$(stat -c %U "$place")" = postgres ] || echo unready=1
done
