# until_true SECONDS SQL: ask until the answer is t
until_true() {
  end=$(($(date +%s) + $1))
  until [ "$(sql -c "$2" 2>/dev/null)" = t ]; do
    [ "$(date +%s)" -lt "$end" ] || exit 75
    sleep 0.05
  done
}
