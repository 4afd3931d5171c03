# lay FILE: what stdin holds becomes the file, in one rename; tells if that changed anything
lay() {
  cat >"$1.pgherd"
  if cmp -s "$1.pgherd" "$1"; then rm "$1.pgherd"; return; fi
  if [ "$(id -u)" = 0 ]; then chown postgres:postgres "$1.pgherd"; fi
  mv "$1.pgherd" "$1"
  echo "changed ${1##*/}"
}
