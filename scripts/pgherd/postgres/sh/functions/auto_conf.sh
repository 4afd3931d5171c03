# auto_conf NAMES: in postgresql.auto.conf, drop the settings a|b|c and add the lines of stdin.
# Only while the server is down: it rewrites the file itself.
auto_conf() {
  { grep -viE "^[[:space:]]*($1)([[:space:]]|=)" "$PGDATA/postgresql.auto.conf" || :; cat; } |
    lay "$PGDATA/postgresql.auto.conf"
}
