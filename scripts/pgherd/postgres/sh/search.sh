# Where secrets can be seen, by whoever runs this. Each in $labels is a secret, and $secret_LABEL has the forms that it
# is looked for in, one a line. They reach grep by its stdin and are never printed.
# Each line that is printed is a word for what was found, and fields, with tabs between them.
export LC_ALL=C  # any byte is a character
tab=$(printf '\t')
tell() { printf '%s' "$1"; shift; for field; do printf '\t%s' "$field"; done; echo; }
forms() { for of in $1; do eval "printf '%s\\n' \"\$secret_$of\""; done | grep .; }
# holders SECRETS FILE…: which of the files hold one of them
holders() { secrets=$1; shift; forms "$secrets" | grep -lF -f - "$@" 2>/dev/null; }
# held_in FILE…: each secret that a file holds, and the file
held_in() {
  holders "$labels" "$@" | while IFS= read -r file; do
    for label in $labels; do
      [ -z "$(holders "$label" "$file")" ] || printf '%s %s\n' "$label" "$file"
    done
  done
}
# lines_with SECRETS: the numbers of the lines of stdin that hold one of them
lines_with() { tr -d '\000' | { exec 3<&0; forms "$1" | grep -nF -f - /dev/fd/3; } | cut -d : -f 1; }
# A search that finds nothing because it cannot must not pass for one that found nothing.
for label in $labels; do
  [ "$(forms "$label" | lines_with "$label" | head -n 1)" = 1 ] || tell failed 'grep does not find what is there'
done
parent() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 2; }

# The operator's own session, which has the passwords anyway: all that began us, and what else was begun for this.
session=' '
process=$$
while [ "${process:-0}" -gt 0 ]; do
  session="$session$process "
  process=$(parent "$process")
done
is_ours() (
  case $session in *" $1 "*) exit 0 ;; esac
  process=$1
  while [ "${process:-0}" -gt 1 ]; do
    [ "$process" != "$PPID" ] || exit 0
    process=$(parent "$process")
  done
  exit 1
)

# in_processes: arguments and environments of all processes that may be looked at; of one in a container, its id
in_processes() {
  if [ ! -e /proc/self/cmdline ]; then  # macOS
    for label in $labels; do
      ps axww -o pid=,command= | { exec 3<&0; forms "$label" | grep -F -f - /dev/fd/3; } | awk '{ print $1 }' |
        while read -r process; do tell process "$label" cmdline "$process" "$(ps -o comm= -p "$process")" ''; done
    done
    return
  fi
  for kind in cmdline environ; do
    held_in /proc/[0-9]*/"$kind" | while read -r label file; do
      process=${file#/proc/}
      process=${process%/*}
      { [ "$kind" = environ ] && is_ours "$process"; } || [ ! -d "/proc/$process" ] ||
        tell process "$label" "$kind" "$process" "$(cat "/proc/$process/comm" 2>/dev/null)" \
          "$(sed -n 's/.*\([0-9a-f]\{64\}\).*/\1/p' "/proc/$process/cgroup" 2>/dev/null | head -n 1)"
    done
  done
}

# in_files KIND FILE…: those that hold a secret
in_files() {
  kind=$1
  shift
  for file; do
    shift
    [ ! -f "$file" ] || set -- "$@" "$file"
  done
  [ $# -gt 0 ] || return 0
  held_in "$@" | while read -r label file; do tell file "$label" "$kind" "$file"; done
}

# for_node: what the shell in a node's container reads, the secrets and the script; $serving tells it of a server there
for_node() {
  printf "{\nserving='%s'\nlabels='%s'\n" "$serving" "$labels"
  for label in $labels; do
    printf "secret_%s=\$(cat <<'|END-OF-SECRET|'\n" "$label"
    forms "$label"
    printf '%s\n)\n' '|END-OF-SECRET|'
  done
  node_script
  printf 'exit 0\n}\n'
}
