#> pg_rewind --target-pgdata=$PGDATA --source-server="$source"
# Take back what this database has and the new primary has not. Cut short, it is no database that a server may run on:
# the mark tells so.
this_directory >/etc/pgherd/seeding
rm -f "$PGDATA/postmaster.opts" "$PGDATA/postmaster.pid" "$PGDATA/standby.signal" "$PGDATA/recovery.signal"
printf '*:*:*:postgres:%s\n' "$(printf %s "$superuser_password" | sed 's/[\\:]/\\&/g')" >/run/rewind.passfile
chown postgres /run/rewind.passfile
# pg_rewind wants a clean stop; one that crashed is recovered first, alone and without a network.
case $(LC_ALL=C pg_controldata "$PGDATA" | sed -n 's/^Database cluster state: *//p') in
  'shut down' | 'shut down in recovery') ;;
  *) gosu postgres postgres --single -F -D "$PGDATA" -c archive_mode=off -c session_preload_libraries= -c local_preload_libraries= \
    template1 </dev/null >/dev/null ;;
esac
gosu postgres pg_rewind --target-pgdata="$PGDATA" --source-server="$source" --dry-run </dev/null
gosu postgres pg_rewind --target-pgdata="$PGDATA" --source-server="$source" --progress </dev/null
# WAL of a timeline that it has left, and that the new primary never had: a promotion may take that number again.
for file in "$PGDATA/pg_wal/"????????????????????????; do
  name=${file##*/}
  timeline=${name%????????????????}
  [ "$timeline" = 00000001 ] || [ -e "$PGDATA/pg_wal/$timeline.history" ] || rm -f -- "$file"
done
