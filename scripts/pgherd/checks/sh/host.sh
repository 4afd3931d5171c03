# What a host is and has, for `invoke doctor`. Sections begin with a line `== NAME`; the lines of others' texts are
# indented, so that none of them looks like one. Changes nothing, and goes on whatever fails.
# $images: names of the group's image; $group and $home: whose containers; $volumes: look where Docker keeps volumes, too;
# $initdb: where the user's scripts for a new database are.
# Arguments: paths of data directories.
section() { printf '== %s\n' "$*"; }
indented() { sed 's/^/ /'; }

section system
uname -sm
section listeners
if command -v ss >/dev/null 2>&1; then ss -Hltnp 2>/dev/null; else lsof -nP -iTCP -sTCP:LISTEN 2>/dev/null; fi | indented
section addresses
ip -o address 2>/dev/null | awk '{ print $4 }'
section routes
ip -4 route 2>/dev/null | awk '{ print $1 }'
section kernel
for key in vm/overcommit_memory kernel/shmmax kernel/shmall fs/file-nr net/ipv4/ip_forward; do
  if [ -r "/proc/sys/$key" ]; then echo "$key $(cat "/proc/sys/$key")"; fi
done
section memory
grep -E '^(MemTotal|MemAvailable|SwapTotal|SwapFree|CommitLimit|Committed_AS):' /proc/meminfo 2>/dev/null
section selinux
cat /sys/fs/selinux/enforce 2>/dev/null
echo
section mounts
{ cat /proc/self/mounts 2>/dev/null || mount; } | indented

# look PATH: the directory, or the nearest above it that is there
look() {
  up=$1
  while [ ! -d "$up" ]; do up=$(dirname -- "$up"); done
  printf 'up %s\n' "$up"
  if [ -d "$1" ]; then
    if found=$(ls -A "$1" 2>/dev/null) && [ -z "$found" ]; then echo state empty; else echo state full; fi
    { stat -c 'stat %i %u %a' -- "$1" || stat -f 'stat %i %u %Lp' -- "$1"; } 2>/dev/null
  elif [ -e "$1" ] || [ -L "$1" ]; then echo state no directory
  else echo state absent; fi
  if [ -w "$up" ]; then echo writable; fi
  echo "owner $(id -u) $(id -g)"
  stat -c 'label %C' -- "$up" 2>/dev/null
  df -Pk -- "$up" 2>/dev/null | awk 'NR == 2 { print "df", $0 }'
  df -Pi -- "$up" 2>/dev/null | awk 'NR == 2 { print "inodes", $0 }'
  for part in "$1"_bk_*.part; do
    if [ -d "$part" ]; then printf 'part %s\n' "$part"; fi
  done
}
number=0
for data; do
  section "path $number"
  look "$data"
  number=$((number + 1))
done

section clones
[ -z "$initdb" ] || grep -lE '^[^#]*(pg_basebackup|pg_rewind)' "$initdb"/* 2>/dev/null | indented

section docker
{ said=$(docker info --format '{{json .}}' 2>&1 >&3 3>&-) && code=0 || code=$?; } 3>&1
section docker-said
printf '%s\n' "$said" | indented
[ "$code" = 0 ] || exit 0
if [ -n "$volumes" ]; then
  section "path $number"
  look "$(docker info --format '{{.DockerRootDir}}')"
fi
section endpoint
printf '%s\n' "${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null)}"
section client
docker version --format '{{.Client.Version}}' 2>/dev/null
there=
for image in $images; do
  if found=$(docker image inspect "$image" 2>/dev/null); then
    section "image $image"
    printf '%s\n' "$found"
    there=yes
    break
  fi
done
if [ -z "$there" ] && [ -n "$images" ]; then
  section registry
  bound=$(command -v timeout >/dev/null 2>&1 && echo 'timeout 10')
  if said=$($bound docker manifest inspect "${images%% *}" 2>&1 >/dev/null); then echo has; else
    printf 'lacks %s\n' "$said" | head -n 5
  fi
fi
section networks
ids=$(docker network ls --quiet 2>/dev/null)
[ -z "$ids" ] || docker network inspect --format '{{.Name}}{{range .IPAM.Config}} {{.Subnet}}{{end}}' $ids 2>/dev/null
section containers
names=$(docker ps --all --filter "label=pgherd.group=$group" --filter "label=pgherd.home=$home" \
  --filter label=pgherd.node --format '{{.Names}}' 2>/dev/null)
[ -z "$names" ] || docker container inspect --format '{{.Name}} {{.RestartCount}} {{.State.OOMKilled}} {{.HostConfig.ShmSize}} {{.HostConfig.NetworkMode}} {{json .Config.StopTimeout}} {{json .Config.Cmd}}' $names 2>/dev/null
for name in $names; do
  section "log $name"
  docker logs --tail 150 "$name" 2>&1 | cut -c 1-300 | indented
done
exit 0
