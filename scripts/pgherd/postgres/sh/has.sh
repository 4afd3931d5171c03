# Wait until this standby has all that others have ($positions).
for position in $positions; do
  until_true "$seconds" "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) >= '$position'"
done
