# Of a server that runs, by its files and processes: what can be known without a login.
setting() { postgres -D "$PGDATA" -C "$1" 2>/dev/null || :; }
control() { pg_controldata "$PGDATA" 2>/dev/null | sed -n "s/^$1: *//p"; }
echo "ready=$(pg_isready -q -t 3 && echo 0 || echo $?)"
echo "hot_standby=$(setting hot_standby)"
echo "conninfo=$(setting primary_conninfo)"
echo "slot=$(setting primary_slot_name)"
echo "waits_for=$(setting synchronous_standby_names)"
echo "delay=$(setting recovery_min_apply_delay)"
[ ! -s /tmp/pgherd.turn ] || echo "turn=$(cat /tmp/pgherd.turn)"
# Its title tells what a process of a server does. The brackets are for this command's own.
if cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\000' '\n' | grep -q 'walreceive[r] streaming'; then echo receives=1; fi
grep -nE '^[[:space:]]*local[[:space:]]' "$PGDATA/pg_hba.conf" 2>/dev/null | sed 's/^/hba=/'
# How far its WAL goes: from where it has replayed to at least, or from where a timeline starts that it came to since.
start=$(control 'Minimum recovery ending location')
[ "$start" != 0/0 ] || start=$(control "Latest checkpoint's REDO location")
newest=$(cd "$PGDATA/pg_wal" && ls | grep -E '^[0-9A-F]{24}$' | sort | tail -n 1 | cut -c 1-8)
if [ $((0x${newest:-0})) -gt "${timeline:-0}" ]; then
  timeline=$((0x$newest))
  first=$(cd "$PGDATA/pg_wal" && ls | grep -E "^$newest.{16}$" | sort | head -n 1 | cut -c 9-24)
  start=$(printf '%X/%X' $((0x${first%????????})) $((0x${first#????????} * $(control 'Bytes per WAL segment'))))
  echo "history=$(awk '/^[0-9]/ { printf "%s %s;", $1, $2 }' "$PGDATA/pg_wal/$newest.history" 2>/dev/null)"
fi
echo "timeline=$timeline"
echo "start=$start"
from=$start
pg_waldump() { timeout 10 pg_waldump "$@"; }
