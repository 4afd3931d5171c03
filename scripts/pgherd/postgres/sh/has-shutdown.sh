# Does the WAL here have the checkpoint with which a primary was shut down?
wal_records "$checkpoint" --limit=1 |
  grep CHECKPOINT_SHUTDOWN | grep -q "lsn: 0*${checkpoint%/*}/0*${checkpoint#*/}," && echo 'has the shutdown' || :
