#> pg_ctl promote --pgdata=$PGDATA, once the last WAL of the primary is here
# Promote at the very end of the primary's WAL: when the stream has ended, and the last record that came is the
# checkpoint of its shutdown, which nothing follows. Never before: what it lacks then would be lost.
if [ "$start" = 0/0 ]; then  # with --dry the position was not known: whatever is replayed again by now
  start=$(sql -c 'SELECT redo_lsn FROM pg_control_checkpoint()')
fi
at_the_end() {
  last=$(wal_records "$start" | tail -n 1)
  case $last in 'rmgr: XLOG '*'desc: CHECKPOINT_SHUTDOWN'*) ;; *) return 1 ;; esac
}
end=$(($(date +%s) + seconds)) looks=0
echo armed
until at_the_end; do
  receiver=$(sql -c 'SELECT pid FROM pg_stat_wal_receiver')
  # The receiver ends with the stream. A query would see it later, and hold up replay meanwhile.
  while [ -n "$receiver" ] && [ -d "/proc/$receiver" ] && in_turn; do
    looks=$((looks + 1))
    [ $((looks % 100)) -ne 0 ] || [ "$(date +%s)" -lt "$end" ] || break
    sleep 0.003
  done
  in_turn || fail 71 'the promotion was called off'
  [ "$(date +%s)" -lt "$end" ] || exit 75
  sleep 0.005
done
last=${last##*lsn: } last=${last%%,*}
in_turn || fail 71 'the promotion was called off'
echo "received $last"
# Asked for once all is replayed: what holds up replay would hold up the promotion, which cannot be taken back.
end=$(($(date +%s) + patience))
until [ "$(sql -c "SELECT CASE WHEN pg_last_wal_replay_lsn() > '$last' THEN pg_promote(wait => false) END")" = t ]; do
  [ "$(date +%s)" -lt "$end" ] || exit 75
  sleep 0.01
  in_turn || fail 71 'the promotion was called off'
done
until_true $promoting 'SELECT NOT pg_is_in_recovery()'
echo "promoted after $last"
