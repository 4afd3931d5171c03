# Where secrets can be seen on a host, what its engine tells of the images $images, and what others can read of the
# directories in $private (they and what lies in them) and $data, a line each. Each node of the group that runs is looked
# into.
in_processes
[ "$(id -u)" = 0 ] || tell user "$(id -un)"
open_to() { find "$@" ! -type l 2>/dev/null | while IFS= read -r file; do tell open "$file"; done; }
# A path is one word, whatever is in it: no pattern, so that `a[1]` does not become its neighbour `a1`.
set -f
IFS='
'
set -- $private
unset IFS
set +f
for directory; do
  for found in "$directory" "$directory"_bk_*; do
    [ ! -d "$found" ] || open_to "$found" -maxdepth 1 \
      \( -perm -040 -o -perm -020 -o -perm -010 -o -perm -004 -o -perm -002 -o -perm -001 \)
  done
done
set -f
IFS='
'
set -- $data
unset IFS
set +f
for directory; do
  for found in "$directory"_bk_*; do
    [ ! -d "$found" ] || open_to "$found" -maxdepth 0 \( -perm -004 -o -perm -002 -o -perm -001 \)
  done
done
[ -n "$docker" ] || exit 0

serving=yes
look_into() {
  if said=$(for_node | docker exec --interactive --user root "$1" sh -c \
    'text=$(cat); printf "%s\n" "$text" | sh -s root && printf "%s\n" "$text" | gosu postgres sh -s postgres' 2>&1)
  then printf '%s\n' "$said" | while IFS= read -r line; do printf 'node\t%s\t%s\n' "$1" "$line"; done
  else tell node "$1" failed "$(printf %s "$said" | tail -n 1 | tr '\n\t' '  ')"
  fi
}
look_at_log() {
  docker logs "$1" 2>&1 | lines_with "$labels" | head -n 1 | grep -q . || return 0
  for label in $labels; do
    line=$(docker logs "$1" 2>&1 | lines_with "$label" | head -n 1)
    [ -z "$line" ] || tell log "$label" "$1" "$line"
  done
}
# Each is looked at in a process of its own, and its answer waits in a pipe until the later ones are printed.
each() {
  [ $# -gt 1 ] || return 0
  "$1" "$2" | { act=$1; shift 2; each "$act" "$@"; cat; }
}
[ -z "$images" ] || docker image inspect --format "image$tab{{json .}}" $images 2>/dev/null || :
each look_at_log $(docker ps --all --filter "label=pgherd.group=$group" --filter "label=pgherd.home=$home" --format '{{.Names}}')
each look_into $(docker ps --filter "label=pgherd.group=$group" --filter "label=pgherd.home=$home" --filter label=pgherd.node \
  --filter status=running --filter status=paused --format '{{.Names}}')
