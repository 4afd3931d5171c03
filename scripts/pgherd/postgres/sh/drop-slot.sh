#> psql: SELECT pg_drop_replication_slot('$slot')
# The slot of a node that is stopped: whoever still holds it is a sender that has not noticed yet.
if [ "$(sql -c "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '$slot'")" != 0 ]; then
  (until_true 5 "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '$slot'") ||
    sql -c "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '$slot' AND active" >/dev/null
  # In one statement: whoever streams from it still, out of our reach, is back in milliseconds.
  until_true 10 "SELECT pg_drop_replication_slot(slot_name) IS NOT NULL FROM pg_replication_slots WHERE slot_name = '$slot' AND NOT active"
fi
