# Where what was done until now ends.
echo "written $(sql -c 'SELECT pg_current_wal_flush_lsn()')"
