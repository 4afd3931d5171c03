# begin MARK: an empty directory is ours to fill from here on; what a killed run left is cleared
begin() {
  if unfinished initdb.pending || unfinished seeding; then
    find "$PGDATA" -mindepth 1 -delete
    echo 'changed an unfinished copy was removed'
  fi
  [ -z "$(ls -A "$PGDATA")" ] || fail 65 "$(ls -A "$PGDATA" | head -n 3 | tr '\n' ' ')"
  this_directory >"/etc/pgherd/$1"
  chown postgres:postgres "$PGDATA"
  chmod 0700 "$PGDATA"
}
