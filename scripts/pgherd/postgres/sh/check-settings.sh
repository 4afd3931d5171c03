# `postgres -C` reads all files as a start would, and says what it does not take; then those before
# go back, or none. (pg_file_settings cannot tell a bad value from one that only wants a restart.)
if ! said=$(as_postgres postgres -D "$PGDATA" -C port 2>&1 >/dev/null); then
  if [ -e "$PGDATA/pgherd.conf.before" ]; then
    mv "$PGDATA/pgherd.conf.before" "$PGDATA/pgherd.conf"
  else
    : >"$PGDATA/pgherd.conf"
  fi
  lines=$(echo "$said" | sed -n 's/^.*LOG: *//p' | tr '\n' ';')
  fail 72 "${lines:-$said}"
fi
