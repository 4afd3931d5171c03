# Take the turn in this container: what another run has begun here (in-turn.sh) and is not done yet gives up, also where
# it gets to run only later. When this is done nothing of it goes on any more, and what is now stays so.
echo "$turn" >/tmp/pgherd.turn
exec 9>>/tmp/pgherd.turn.lock
end=$(($(date +%s) + ${patience:-90}))
until flock -n 9; do
  [ "$(date +%s)" -lt "$end" ] || exit 75
  sleep 0.02
done
[ -n "$turn" ] || rm -f /tmp/pgherd.turn
exec 9>&-
