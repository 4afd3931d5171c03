# A promotion cannot be taken back once it is asked for: whoever takes the turn meanwhile waits until it is through.
if [ "$(sql -c 'SELECT pg_is_in_recovery()')" = t ]; then
  pg_ctl promote --no-wait --pgdata="$PGDATA" >/dev/null
  until_true $promoting 'SELECT NOT pg_is_in_recovery()'
fi
