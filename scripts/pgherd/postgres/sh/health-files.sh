# What may be wrong with a node's files, running or not; changes nothing. Lines NAME=VALUE, of /etc/pgherd too.
stat -c 'data=%i %U %a' "$PGDATA" 2>/dev/null || :
[ -e "$PGDATA/PG_VERSION" ] || echo no_database=1
[ ! -e "$PGDATA/recovery.conf" ] || echo recovery_conf=1
if [ -d /etc/pgherd ]; then stat -c 'passfile=%U %a' /etc/pgherd/passfile 2>/dev/null || echo passfile=none; fi
(cd /etc/pgherd && stat -c 'key=%n %U %a' ./*.pem) 2>/dev/null || :
newest=$(stat -c %Y "$PGDATA/PG_VERSION" "$PGDATA/global/pg_control" "$PGDATA/postmaster.pid" "$PGDATA/pg_wal" 2>/dev/null |
  sort -n | tail -n 1)
echo "ahead=$((${newest:-0} - $(date +%s)))"
