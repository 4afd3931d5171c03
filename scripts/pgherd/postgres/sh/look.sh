# All containers of the engine, as the function `containers` tells them; then, after a line `== ANSWERS`, what each
# server of the group $group and the home $home says of itself: a line `== NAME STATUS`, then psql's words; and a line
# `== NAME stderr`, then what else was said.
# All are asked at once; each answer waits in its pipe until the later ones are printed, so that they do not mix.
# A lock on a catalog may be held for long: then the server is told of as one that does not answer. On that of the roles
# the connection itself waits, before it has any of the options.
options='-c synchronous_commit=local -c lock_timeout=5s -c statement_timeout=15s'
ask() {
  docker exec --interactive --user postgres --env "PGOPTIONS=$options" --env PGCONNECT_TIMEOUT=10 "$1" \
    psql -XAtq -v ON_ERROR_STOP=1 -U postgres -d postgres <<'END-OF-SQL'
$facts
END-OF-SQL
}
one() {
  also=$({ said=$(ask "$1") && code=0 || code=$?; printf '== %s %s\n%s\n' "$1" "$code" "$said" >&5; } 2>&1)
  printf '== %s stderr\n%s\n' "$1" "$also"
} 5>&1
tell() {
  [ $# -gt 0 ] || return 0
  one "$1" | { shift; tell "$@"; cat; }
}
tell $(docker ps --filter "label=pgherd.group=$group" --filter "label=pgherd.home=$home" --filter label=pgherd.node \
  --filter status=running --filter status=paused --format '{{.Names}}') | { containers; echo '== ANSWERS'; cat; exit "$code"; }
