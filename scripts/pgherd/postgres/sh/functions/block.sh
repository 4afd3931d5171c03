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
