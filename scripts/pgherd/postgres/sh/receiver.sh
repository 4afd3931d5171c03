# The process that receives WAL now, if there is one.
receiver=$(sql -c 'SELECT pid FROM pg_stat_wal_receiver')
