# What follows is done only as long as it is the turn of this run: see take-turn.sh, which waits for its end.
exec 9>>/tmp/pgherd.turn.lock
flock -s 9
in_turn() { read -r now 2>/dev/null </tmp/pgherd.turn && [ "$now" = "$turn" ]; }
in_turn || fail 71 'it was called off: another run has taken its turn'
