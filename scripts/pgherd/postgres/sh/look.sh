# All containers of the engine, as the function `containers` tells them; then, after a line `== ANSWERS`, what each
# server of the group $group and the home $home says of itself (answer.sh): a line `== NAME STATUS`, then its words; and
# a line `== NAME stderr`, then what else was said.
# All are asked at once; each answer waits in its pipe until the later ones are printed, so that they do not mix.
ask() {
  docker exec --interactive --user postgres "$1" sh -s <<'END-OF-QUESTION'
$question
END-OF-QUESTION
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
