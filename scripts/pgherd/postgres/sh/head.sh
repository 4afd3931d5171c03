set -eu
umask 077
export PGUSER=postgres PGDATABASE=postgres
# Waiting for a standby would hang our own housekeeping where none streams.
export PGOPTIONS='-c synchronous_commit=local'

as_postgres() { if [ "$(id -u)" = 0 ]; then gosu postgres "$@"; else "$@"; fi; }
sql() { as_postgres psql -XAtq -v ON_ERROR_STOP=1 "$@" </dev/null; }

# fail CODE SENTENCE
fail() { echo "$2" >&2; exit "$1"; }

# until_true SECONDS SQL: ask until the answer is t
until_true() {
  end=$(($(date +%s) + $1))
  until [ "$(sql -c "$2" 2>/dev/null)" = t ]; do
    [ "$(date +%s)" -lt "$end" ] || exit 75
    sleep 0.1
  done
}

# lay FILE: what stdin holds becomes the file, in one rename; tells if that changed anything
lay() {
  cat >"$1.pgherd"
  if cmp -s "$1.pgherd" "$1"; then rm "$1.pgherd"; return; fi
  if [ "$(id -u)" = 0 ]; then chown postgres:postgres "$1.pgherd"; fi
  mv "$1.pgherd" "$1"
  echo "changed ${1##*/}"
}

# block FILE NAME: what stdin holds becomes the block NAME of the file, where it is or at the end
block() {
  begin="# BEGIN pgherd $2" end="# END pgherd $2" body=$(cat)
  [ "$(grep -cxF "$begin" "$1")" = "$(grep -cxF "$end" "$1")" ] ||
    fail 67 "$1 has one of the lines '$begin' and '$end' without the other: mend it by hand."
  grep -qxF "$begin" "$1" || { cat "$1"; printf '\n%s\n%s\n' "$begin" "$end"; } | lay "$1" >/dev/null
  begin="$begin" end="$end" body="$body" awk '
    $0 == ENVIRON["end"] { skip = 0 }
    !skip
    $0 == ENVIRON["begin"] { print ENVIRON["body"]; skip = 1 }' "$1" | lay "$1"
}

# auto_conf NAMES: in postgresql.auto.conf, drop the settings a|b|c and add the lines of stdin.
# Only while the server is down: it rewrites the file itself.
auto_conf() {
  { grep -viE "^[[:space:]]*($1)([[:space:]]|=)" "$PGDATA/postgresql.auto.conf" || :; cat; } |
    lay "$PGDATA/postgresql.auto.conf"
}
