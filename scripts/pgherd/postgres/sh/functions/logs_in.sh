# logs_in ROLE PASSWORD: does the server let a role in by that? Prints what psql says. By the address, not by loopback: there
# the rules of an adopted database may trust anybody.
logs_in() {
  (
    known=$(mktemp)
    trap 'rm "$known"' EXIT
    passline "$1" "$2" >"$known"
    PGPASSFILE=$known PGOPTIONS=$session_options psql -XAtqw -h "$(hostname)" -U "$1" -c '' 2>&1 </dev/null
  )
}
