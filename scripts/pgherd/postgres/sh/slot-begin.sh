# Where the WAL begins that the slot keeps.
sql -c "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '$slot'"
