# begin MARK: an empty directory is ours to fill from here on, and empty places for tablespaces; what a killed run left is
# cleared
begin() {
  if unfinished initdb.pending || unfinished seeding; then
    find "$PGDATA" ${tablespaces-} -mindepth 1 -delete
    echo 'changed an unfinished copy was removed'
  fi
  for place in "$PGDATA" ${tablespaces-}; do
    [ "$place" = "$PGDATA" ] && where= || where="$place: "
    [ -z "$(ls -A "$place")" ] || fail 65 "$where$(ls -A "$place" | head -n 3 | tr '\n' ' ')"
  done
  this_directory >"/etc/pgherd/$1"
  chown postgres:postgres "$PGDATA"
  chmod 0700 "$PGDATA"
}
