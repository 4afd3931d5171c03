# The delay that the topology asks for begins once a new copy streams: until then it would keep the standby from
# connecting, which it does only after it has replayed what lies on its disk.
if grep -qi '^recovery_min_apply_delay' "$PGDATA/postgresql.auto.conf"; then
  sql -c 'ALTER SYSTEM RESET recovery_min_apply_delay'
  echo 'changed delay'
fi
