# Wait until the process $receiver, which received from the former upstream, is gone; tell what this standby has then.
until_true "$seconds" "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid = ${receiver:-0})"
sql -c "SELECT 'has ' || greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
