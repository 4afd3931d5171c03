set -eu
umask 077
export PGUSER=postgres PGDATABASE="${PGHERD_DATABASE:-postgres}"
# Each session of ours begins from known settings. What only a later major knows is said only where the data is of one.
{ read -r major <"${PGDATA:-}/PG_VERSION"; } 2>/dev/null || major=${PG_MAJOR:-}
$session
# Housekeeping must not wait for a standby; and a verifier is SCRAM's, whatever the server prefers.
export PGOPTIONS="$session_options $superuser_options -c synchronous_commit=local -c password_encryption=scram-sha-256"

as_postgres() { if [ "$(id -u)" = 0 ]; then gosu postgres "$@"; else "$@"; fi; }
sql() { as_postgres psql -XAtqw -v ON_ERROR_STOP=1 "$@" </dev/null; }

# fail CODE SENTENCE
fail() { echo "$2" >&2; exit "$1"; }
