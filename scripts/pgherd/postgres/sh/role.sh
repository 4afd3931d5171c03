#> psql: CREATE ROLE replicator LOGIN REPLICATION PASSWORD '…'
# The replication role. Its password goes through psql's \password, which sends a SCRAM verifier:
# in a plain CREATE ROLE … PASSWORD it would be logged if the statement failed.
role=$(sql -c "SELECT rolsuper FROM pg_roles WHERE rolname = 'replicator'")
[ "$role" != t ] || fail 68 "The role replicator is a superuser; replication wants one that is not."
if [ -z "$role" ]; then
  sql -c 'CREATE ROLE replicator'
  echo 'changed role replicator'
fi
if [ "$(sql -c "SELECT rolreplication AND rolcanlogin FROM pg_roles WHERE rolname = 'replicator'")" != t ]; then
  sql -c 'ALTER ROLE replicator LOGIN REPLICATION'
fi
settled() {  # it gets in by the password; or it may have the one of a change that was cut short
  logs_in replicator "$password" >/dev/null ||
    { [ -n "${replacing-}" ] && ! logs_in replicator "$replacing" | grep -q 'password authentication failed'; }
}
if [ -z "$role" ] || ! settled; then
  printf '\\password replicator\n%s\n%s\n' "$password" "$password" |
    as_postgres psql -XAtqw -v ON_ERROR_STOP=1 2>/dev/null
  [ -z "$role" ] || echo 'changed password of replicator'
fi
