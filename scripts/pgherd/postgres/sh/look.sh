# What each of the containers $@ says of itself, all asked at once: a line `== NAME STATUS`, then psql's words.
# Each answer waits in its pipe until the later ones are printed, so that they do not mix.
ask() {
  docker exec --interactive --user postgres --env 'PGOPTIONS=-c synchronous_commit=local' "$1" \
    psql -XAtq -v ON_ERROR_STOP=1 -U postgres -d postgres 2>&1 <<'END-OF-SQL'
$facts
END-OF-SQL
}
tell() {
  [ $# -gt 0 ] || return 0
  { said=$(ask "$1") && code=0 || code=$?; printf '== %s %s\n%s\n' "$1" "$code" "$said"; } | { shift; tell "$@"; cat; }
}
tell "$@"
