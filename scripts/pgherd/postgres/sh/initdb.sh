#> initdb --data-checksums --auth-host=scram-sha-256 --auth-local=trust --pwfile=… --pgdata=$PGDATA
# A new database, made by the image's own script, that leaves no server behind.
# The mark initdb.pending tells a run that was killed; initdb.done, that a database was here.
[ ! -e /etc/pgherd/initdb.done ] || [ -n "$(ls -A "$PGDATA")" ] || fail 66 "the database is gone"
begin initdb.pending
printf '%s\n' "$superuser_password" >/run/superuser.password
export POSTGRES_PASSWORD_FILE=/run/superuser.password
unset PGOPTIONS  # of our sessions; the user's scripts have theirs
[ -z "${PGHERD_DATABASE:-}" ] || export POSTGRES_DB="$PGHERD_DATABASE"
export POSTGRES_INITDB_ARGS='--data-checksums --auth-host=scram-sha-256 --auth-local=trust'
if command -v docker-ensure-initdb.sh >/dev/null; then
  docker-ensure-initdb.sh postgres
else # images before 2023-11
  chown postgres /run/superuser.password
  as_postgres sh -c "initdb --pwfile=/run/superuser.password $POSTGRES_INITDB_ARGS"
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
