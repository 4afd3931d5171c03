set -eu
umask 077
export PGUSER=postgres PGDATABASE=postgres
# Housekeeping must not wait for a standby; and a verifier is SCRAM's, whatever the server prefers.
export PGOPTIONS='-c synchronous_commit=local -c password_encryption=scram-sha-256'

as_postgres() { if [ "$(id -u)" = 0 ]; then gosu postgres "$@"; else "$@"; fi; }
sql() { as_postgres psql -XAtq -v ON_ERROR_STOP=1 "$@" </dev/null; }

# fail CODE SENTENCE
fail() { echo "$2" >&2; exit "$1"; }
