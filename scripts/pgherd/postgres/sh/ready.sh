# Over TCP: while the image initialises a database, its temporary server answers on the socket.
end=$(($(date +%s) + seconds))
until pg_isready -q -h 127.0.0.1; do
  [ "$(date +%s)" -lt "$end" ] || exit 75
  sleep 0.05
done
psql -Xqwc '' >/dev/null 2>&1 </dev/null || other_database || :
