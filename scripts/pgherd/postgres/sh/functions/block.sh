# block FILE NAME [top]: what stdin holds becomes the block NAME of the file, where it is or at the end, or the top
block() {
  first="# BEGIN pgherd $2" last="# END pgherd $2" body=$(cat)
  [ -s "$1" ] || fail 67 "$1 is missing or empty: put it back, from a copy or the image's sample."
  case $(grep -xF -e "$first" -e "$last" "$1" | tr '\n' ';') in
    '' | "$first;$last;") ;;
    *) fail 67 "$1 must have the lines '$first' and '$last' once each, in this order: mend it by hand." ;;
  esac
  if ! grep -qxF "$first" "$1"; then
    {
      [ -z "${3:-}" ] || printf '%s\n%s\n\n' "$first" "$last"
      cat "$1"
      [ -n "${3:-}" ] || printf '\n%s\n%s\n' "$first" "$last"
    } | lay "$1" >/dev/null
  fi
  first="$first" last="$last" body="$body" awk '
    $0 == ENVIRON["last"] { skip = 0 }
    !skip
    $0 == ENVIRON["first"] { print ENVIRON["body"]; skip = 1 }' "$1" | lay "$1"
}
