# block FILE NAME: what stdin holds becomes the block NAME of the file, where it is or at the end
block() {
  begin="# BEGIN pgherd $2" end="# END pgherd $2" body=$(cat)
  case $(grep -xF -e "$begin" -e "$end" "$1" | tr '\n' ';') in
    '' | "$begin;$end;") ;;
    *) fail 67 "$1 must have the lines '$begin' and '$end' once each, in this order: mend it by hand." ;;
  esac
  grep -qxF "$begin" "$1" || { cat "$1"; printf '\n%s\n%s\n' "$begin" "$end"; } | lay "$1" >/dev/null
  begin="$begin" end="$end" body="$body" awk '
    $0 == ENVIRON["end"] { skip = 0 }
    !skip
    $0 == ENVIRON["begin"] { print ENVIRON["body"]; skip = 1 }' "$1" | lay "$1"
}
