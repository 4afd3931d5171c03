# The tutorial's way: the files of a server that was stopped cleanly. What must not be copied
# (backup.sgml, basebackup.c) is left out or emptied; pg_control goes last.
state=$(LC_ALL=C pg_controldata /from | sed -n 's/^Database cluster state: *//p')
[ "$state" = 'shut down' ] || fail 70 "its control data says '$state', not 'shut down'"
[ ! -L /from/pg_wal ] && [ -z "$(ls -A /from/pg_tblspc)" ] ||
  fail 71 "it keeps files outside its data directory (pg_wal or a tablespace is a link)"
(cd /from && tar -cf - --exclude=./postmaster.pid --exclude=./postmaster.opts --exclude=./global/pg_control \
  --exclude=./standby.signal --exclude=./recovery.signal --exclude=./backup_label.old .) |
  tar -xpf - -C "$PGDATA"
for emptied in pg_replslot pg_dynshmem pg_notify pg_serial pg_snapshots pg_stat_tmp pg_subtrans; do
  find "$PGDATA/$emptied" -mindepth 1 -delete
done
find "$PGDATA" \( -name pg_internal.init -o -name 'pgsql_tmp*' \) -prune -exec rm -rf {} +
cp -p /from/global/pg_control "$PGDATA/global/pg_control"
sync
