# The proof by hand: a table made on the primary is read on the standby, which refuses a write.
# It proves less than `invoke verify`: it connects inside the containers, and nothing watches it.
# A standby that is delayed has to have received the table, and refuse a write that needs none.
echo 'SELECT application_name, state, sync_state FROM pg_stat_replication;' | on_primary
[ "$(echo 'SELECT pg_is_in_recovery();' | on_standby)" = t ]
on_primary <<'SQL'
CREATE SCHEMA pgherd_probe CREATE TABLE rows (id int PRIMARY KEY);
INSERT INTO pgherd_probe.rows VALUES (1), (2), (3);
SQL
lsn=$(echo 'SELECT pg_current_wal_insert_lsn();' | on_primary)
tries=0
came='pg_last_wal_replay_lsn()'
[ -z "$delayed" ] || came="greatest($came, pg_last_wal_receive_lsn())"
until [ "$(echo "SELECT $came >= '$lsn';" | on_standby)" = t ]; do
  tries=$((tries + 1))
  [ $tries -lt 150 ] || { echo "$standby does not get to $lsn" >&2; exit 4; }
  sleep 0.1
done
[ -n "$delayed" ] || [ "$(echo 'SELECT count(*) FROM pgherd_probe.rows;' | on_standby)" = 3 ]
for statement in 'CREATE SCHEMA pgherd_no' 'INSERT INTO pgherd_probe.rows VALUES (0)' 'DROP TABLE pgherd_probe.rows'; do
  case $delayed$statement in yes*pgherd_probe*) continue ;; esac
  refusal=$(echo "$statement;" | on_standby 2>&1) || :
  case $refusal in *25006*) ;; *) echo "$standby did not refuse: $statement" >&2; exit 1 ;; esac
done
echo 'DROP SCHEMA pgherd_probe CASCADE;' | on_primary
echo "verify: a row of $primary was ${delayed:+received, not yet }read on $standby, which refused to write"
