# Until no commit waits for a standby any more.
until_true "$seconds" "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"
