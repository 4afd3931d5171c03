# A slot of its own, reserving from now on. One that lost its WAL holds nothing: made anew.
sql -c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
  WHERE slot_name = '$slot' AND wal_status = 'lost' AND NOT active" >/dev/null
sql -c "SELECT pg_create_physical_replication_slot('$slot', true)
  WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$slot')" >/dev/null
