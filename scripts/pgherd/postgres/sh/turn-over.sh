rm -f /tmp/pgherd.turn
