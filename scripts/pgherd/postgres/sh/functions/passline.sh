# passline ROLE PASSWORD: a line of a passfile, for any server
passline() {
  printf '*:*:*:%s:%s\n' "$1" "$(printf %s "$2" | sed 's/[\\:]/\\&/g')"
}
