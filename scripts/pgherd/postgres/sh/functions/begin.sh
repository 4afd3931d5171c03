# begin MARK: an empty directory is ours to fill from here on, and empty places for tablespaces; what a killed run left is
# cleared
begin() {
  if unfinished initdb.pending || unfinished seeding; then
    find "$PGDATA" -mindepth 1 -delete
    for place in ${tablespaces-}; do # only what PostgreSQL makes: the place may have been declared since
      find "$place" -mindepth 1 -path '*/PG_[0-9]*' -delete
      find "$place" -mindepth 1 -depth -type d -exec rmdir {} \; 2>/dev/null || :
    done
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
