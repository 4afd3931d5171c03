until_true "$seconds" "SELECT count(*) >= $count FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
