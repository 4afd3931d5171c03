# What was set aside on a host: for each three arguments, a kind (data, secrets), a node and its directory, all that lies
# beside that by the name `…_bk_…`; what $journal says that was set aside for $group; and the volumes of that kind.
# Lines with tabs tell of each its number, and why it is there as far as that is known; then a container with all of
# them, read-only, tells what is in them: after a line `== NUMBER` its own lines.
# It is one container and one round trip, however many there are. Without any of $images nobody looks into them.
wanted=$# at=0
while [ $at -lt "$wanted" ]; do
  at=$((at + 3)) kind=$1 node=$2 of=$3
  shift 3
  [ ! -e "${of%/*}" ] || [ -r "${of%/*}" ] || { echo "${of%/*} cannot be listed by $(id -un)" >&2; exit 1; }
  for path in "$of"_bk_*; do [ ! -d "$path" ] || set -- "$@" "$kind" "$node" "$path"; done
done
if [ -r "$journal" ]; then  # the nodes that are in no topology any more
  newline='
'
  found=$newline$(printf '%s\n' "$@")$newline
  saved=$IFS IFS=$newline
  set -f
  for path in $(awk -F '\t' -v words=" of $group: " 'index($3, words) { print $2 }' "$journal" | sort -u); do
    [ -d "$path" ] || continue
    case $found in *"$newline$path$newline"*) ;; *) set -- "$@" data '' "$path" ;; esac
  done
  set +f
  IFS=$saved
fi
[ -z "$images" ] || for name in $(docker volume ls --quiet --filter "label=pgherd.group=$group" --filter name=_bk_); do
  set -- "$@" volume '' "$name"
done
count=$(($# / 3)) number=0
while [ $number -lt $count ]; do
  number=$((number + 1)) kind=$1 node=$2 path=$3
  shift 3
  printf 'found\t%s\t%s\t%s\t%s\n' $number "$kind" "$node" "$path"
  if [ "$kind" = volume ]; then
    printf 'why\t%s\t%s\n' $number "$(docker volume inspect --format '{{index .Labels "pgherd.why"}}' "$path")"
    set -- "$@" --mount "type=volume,source=$path,target=/aside/$number,readonly"
    continue
  fi
  printf 'free\t%s\n' "$(df -Pk -- "$path" | awk 'NR == 2 { print $4 }')"
  [ ! -r "$journal" ] || printf 'why\t%s\t%s\n' $number "$(awk -F '\t' -v path="$path" '$2 == path { w = $3 } END { print w }' "$journal")"
  # One record of CSV, so that any path may stand in it.
  source=$(printf %s "$path" | sed 's/"/""/g')
  set -- "$@" --mount "type=bind,\"source=$source\",target=/aside/$number,readonly"
done
[ $# -gt 0 ] || exit 0
for image in $images ''; do
  [ -z "$image" ] || ! docker image inspect "$image" >/dev/null 2>&1 || break
done
[ -n "$image" ] || exit 0
docker run --rm --interactive --network none --label pgherd.helper=1 "$@" --entrypoint sh "$image" -s <<'END-OF-LOOK'
export LC_ALL=C
for copy in /aside/*; do
  echo "== ${copy##*/}"
  echo "size=$(du -sk "$copy" | cut -f 1)"
  [ ! -e "$copy/PG_VERSION" ] || echo "pg_version=$(cat "$copy/PG_VERSION")"
  for file in standby.signal backup_label pgherd.unfinished postmaster.opts postgres.password replicator.password; do
    [ ! -e "$copy/$file" ] || echo "$file=1"
  done
  [ ! -e "$copy/global/pg_control" ] || pg_controldata "$copy" 2>&1
  for at in "$copy"/* "$copy"/pg_tblspc/*; do
    [ ! -L "$at" ] || printf 'link\t%s\t%s\n' "${at#"$copy"/}" "$(readlink "$at")"
  done
done
END-OF-LOOK
