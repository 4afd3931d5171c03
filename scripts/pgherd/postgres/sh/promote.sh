#> pg_ctl promote --pgdata=$PGDATA
# A promotion cannot be taken back once it is asked for: whoever takes the turn meanwhile waits until it is through.
# The control data tells what the server is, as it does where nobody can log in.
leads() { LC_ALL=C pg_controldata "$PGDATA" | grep -q '^Database cluster state: *in production$'; }
if ! leads; then
  pg_ctl promote --no-wait --pgdata="$PGDATA" >/dev/null
  end=$(($(date +%s) + promoting))
  until leads; do
    [ "$(date +%s)" -lt "$end" ] || exit 75
    sleep 0.05
  done
fi
