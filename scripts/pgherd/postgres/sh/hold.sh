# Hold the data directory, and where its tablespaces lie, until the last process that this one begins has ended, or wait
# a second for who holds them. It is the kernel's lock, on the directory itself, by whatever path or container that is
# reached: PostgreSQL's own is blind between containers, where every server is process 1, and two servers on one directory
# destroy it.
# Where there is no flock, or the file system has no locks, it goes on without. copy.sh has the file descriptor 8.
fd=9
for place in "$PGDATA" ${tablespaces-}; do
  if command -v flock >/dev/null && (exec 9<"$place") 2>/dev/null; then
    eval "exec $fd<\"\$place\""
    tries=0
    until said=$(flock -n $fd 2>&1) || [ -n "$said" ]; do
      tries=$((tries + 1))
      [ $tries -lt 10 ] || { echo 'pgherd: another container has this data directory' >&2; exit 76; }
      sleep 0.1
    done
  fi
  [ $fd -lt 9 ] || fd=8
  fd=$((fd - 1))
done
