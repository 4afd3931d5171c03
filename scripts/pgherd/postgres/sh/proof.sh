# The proof by hand: a table made on the primary is read on the standby, which refuses a write.
# It proves less than `invoke verify`: it connects inside the containers, and nothing watches it.
echo 'SELECT application_name, state, sync_state FROM pg_stat_replication;' | on_primary
[ "$(echo 'SELECT pg_is_in_recovery();' | on_standby)" = t ]
on_primary <<'SQL'
CREATE TABLE pgherd_probe (id int PRIMARY KEY);
INSERT INTO pgherd_probe SELECT generate_series(1, 3);
SQL
lsn=$(echo 'SELECT pg_current_wal_insert_lsn();' | on_primary)
tries=0
until [ "$(echo "SELECT pg_last_wal_replay_lsn() >= '$lsn';" | on_standby)" = t ]; do
  tries=$((tries + 1))
  [ $tries -lt 150 ] || { echo "$standby does not replay $lsn" >&2; exit 4; }
  sleep 0.1
done
[ "$(echo 'SELECT count(*) FROM pgherd_probe;' | on_standby)" = 3 ]
for statement in 'INSERT INTO pgherd_probe VALUES (0)' 'CREATE TABLE pgherd_no (id int)' 'DROP TABLE pgherd_probe'; do
  refusal=$(echo "$statement;" | on_standby 2>&1) || :
  case $refusal in *25006*) ;; *) echo "$standby did not refuse: $statement" >&2; exit 1 ;; esac
done
echo 'DROP TABLE pgherd_probe;' | on_primary
echo "verify: a row of $primary was read on $standby, which refused to write"
