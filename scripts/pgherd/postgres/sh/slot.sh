#> psql: SELECT pg_create_physical_replication_slot(…, true) for: $slots
# Slots for standbys, reserving from now on. One that lost its WAL, or never held any: made anew.
for slot in $slots; do
  sql -c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
    WHERE slot_name = '$slot' AND (wal_status = 'lost' OR restart_lsn IS NULL) AND NOT active" \
    -c "SELECT pg_create_physical_replication_slot('$slot', true)
    WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$slot')" >/dev/null
done
