# What a server says of itself, as JSON. Where it lets nobody in or does not answer, its words go to stderr, and to
# stdout, in lines, what can be known of it all the same (examine.sh, running.sh); the exit status is psql's.
# A lock on a catalog may be held for long: then the server is told of as one that does not answer. On that of the roles
# the connection itself waits, before it has any of the options.
export LC_ALL=C PGCONNECT_TIMEOUT=10
PGOPTIONS="$PGOPTIONS -c lock_timeout=5s -c statement_timeout=15s"
answer() {
  psql -XAtqw -v ON_ERROR_STOP=1 <<'END-OF-SQL'
$facts
END-OF-SQL
}
# The links in its data directory come first, each a line: SQL cannot tell of them.
for at in "$PGDATA"/*; do [ ! -L "$at" ] || printf 'link\t%s\t%s\n' "${at##*/}" "$(readlink "$at")"; done
exec 3>&1
code=0
fault=$(answer 2>&1 >&3) || code=$?
case $code$fault in
  2*'timeout expired'*) ;;
  2*) if other_database; then code=0; fault=$(answer 2>&1 >&3) || code=$?; fi ;;
esac
[ -z "$fault" ] || printf '%s\n' "$fault" >&2
[ "$code" != 0 ] || exit 0
exec 2>/dev/null
