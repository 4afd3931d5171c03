#> psql: ALTER ROLE … PASSWORD '…'
# rotate ROLE NEW FORMER: a new password for a role, sent as a SCRAM verifier by psql's \password: a plain ALTER ROLE
# would be logged if it failed. Set anew where it is so already: a rule that trusts anybody could not tell.
rotate() {
  # Of what psql says, the servers' own lines: its prompts and statements are nobody's business.
  said=$(printf '\\password %s\n%s\n%s\n' "$1" "$2" "$2" | as_postgres psql -XAtqw -v ON_ERROR_STOP=1 2>&1 >/dev/null) ||
    fail 74 "the password of $1 stays: $(printf '%s' "$said" | grep -o '\(ERROR\|FATAL\|PANIC\): .*' | grep -v SCRAM)"
  if ! said=$(logs_in "$1" "$2"); then
    case $said in *'password authentication failed'*) fail 73 "the new password of $1 was not taken" ;; esac
  fi
  if [ -n "$3" ] && logs_in "$1" "$3" >/dev/null; then echo "open $1"; fi
}
