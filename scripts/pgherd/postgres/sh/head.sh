set -eu
umask 077
export PGUSER=postgres PGDATABASE=postgres
# Waiting for a standby would hang our own housekeeping where none streams.
export PGOPTIONS='-c synchronous_commit=local'

as_postgres() { if [ "$(id -u)" = 0 ]; then gosu postgres "$@"; else "$@"; fi; }
sql() { as_postgres psql -XAtq -v ON_ERROR_STOP=1 "$@" </dev/null; }

# fail CODE SENTENCE
fail() { echo "$2" >&2; exit "$1"; }
