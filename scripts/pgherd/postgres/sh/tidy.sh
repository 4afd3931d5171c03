# Slots for nodes that follow another one by now would keep WAL here for ever.
for slot in $strangers; do
  sql -c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
    WHERE slot_name = '$slot' AND slot_type = 'physical' AND NOT active" >/dev/null
done
