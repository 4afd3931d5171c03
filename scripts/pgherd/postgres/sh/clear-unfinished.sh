# A copy that was killed left its marker: the files are ours, no server ever ran on them. Both
# ways of copying write pg_control last, and a base backup has its label until the first start.
if [ -e /etc/pgherd/seeding ]; then
  if [ ! -e "$PGDATA/global/pg_control" ] || [ -e "$PGDATA/backup_label" ]; then
    find "$PGDATA" -mindepth 1 -delete
    echo 'changed an unfinished copy was removed'
  fi
fi
[ -z "$(ls -A "$PGDATA")" ] || fail 65 "$(ls -A "$PGDATA" | head -n 3 | tr '\n' ' ')"
touch /etc/pgherd/seeding
chown postgres:postgres "$PGDATA"
chmod 0700 "$PGDATA"
